/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Optimizer:
 *         def __new__(cls, model: Model, kind: str): ...      # "adamw", "sgd"
 *         def step(self, indices: int64, learning_rate, weight_decay, beta1, beta2, eps, momentum, is_nesterov, /): ...
 *         def state(self, index, /) -> tuple[ndarray, ndarray | None, int]: ...    # moments are writable views
 *         def set_steps(self, index, steps, /) -> None: ...
 */
#include "model_object.h"
#include "ndarray.h"
#include "state.h"

typedef struct optimizer_object {
    PyObject_HEAD
    qb_optimizer *optimizer; /* owned; constant after new, like the rest but busy */
    qb_py_model *model;      /* owned */
    qb_py_busy busy;
} optimizer_object;

static PyObject *
optimizer_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static const char *const names[] = {"model", "kind", NULL};
    PyObject *model_object = NULL;
    const char *kind = NULL;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "Os:Optimizer", qb_py_keywords(names), &model_object,
                                     &kind)) {
        return NULL;
    }
    qb_py_state *state = qb_py_state_of_type(type);
    qb_py_model *model = state ? qb_py_model_cast(state, model_object, "model") : NULL;
    if (!model) {
        return NULL;
    }
    const int is_adamw = strcmp(kind, "adamw") == 0;
    if (!is_adamw && strcmp(kind, "sgd") != 0) {
        return PyErr_Format(PyExc_ValueError, "kind: expected 'adamw' or 'sgd', got '%.100s'", kind);
    }
    optimizer_object *self = (optimizer_object *)type->tp_alloc(type, 0);
    if (!self) {
        return NULL;
    }
    self->model = (qb_py_model *)Py_NewRef(model);
    qb_error error;
    if (qb_optimizer_create(model->model, is_adamw ? QB_OPTIMIZER_ADAMW : QB_OPTIMIZER_SGD, &self->optimizer, &error) !=
        QB_OK) {
        Py_DECREF(self);
        return qb_py_raise(state, &error);
    }
    return (PyObject *)self;
}

static int
optimizer_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((optimizer_object *)self)->model);
    return 0;
}

static void
optimizer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    qb_optimizer_destroy(((optimizer_object *)self)->optimizer);
    Py_XDECREF(((optimizer_object *)self)->model);
    type->tp_free(self);
    Py_DECREF(type);
}

enum { INDICES, LEARNING_RATE, WEIGHT_DECAY, BETA1, BETA2, EPS, MOMENTUM, IS_NESTEROV, ARGUMENT_COUNT };

PyDoc_STRVAR(step_doc,
             "step($self, indices, learning_rate, weight_decay, beta1, beta2, eps, momentum, is_nesterov, /)\n--\n\n"
             "One step of some parameters; those without a gradient are left alone.\n\n"
             "Parameters\n----------\n"
             "indices : int64, shape (count,)\n"
             "    Places in the list of Model.parameters().\n"
             "learning_rate, weight_decay : float\n"
             "    At least 0.\n"
             "beta1, beta2, eps : float\n"
             "    Of AdamW.\n"
             "momentum : float\n"
             "is_nesterov : bool\n"
             "    Of SGD.\n\n"
             "Raises\n------\n"
             "IndexError, ValueError\n"
             "    If there is no such parameter, or a number is out of range; nothing is stepped.\n"
             "StateError\n"
             "    While a session runs.");

static PyObject *
optimizer_step(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    optimizer_object *self = (optimizer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    if (!state) {
        return NULL;
    }
    if (count != ARGUMENT_COUNT) {
        return PyErr_Format(PyExc_TypeError, "step() takes %d arguments, %zd given", (int)ARGUMENT_COUNT, count);
    }
    double numbers[ARGUMENT_COUNT] = {0.0};
    for (int i = LEARNING_RATE; i < IS_NESTEROV; ++i) {
        numbers[i] = PyFloat_AsDouble(arguments[i]);
        if (numbers[i] == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
    }
    const int is_nesterov = PyObject_IsTrue(arguments[IS_NESTEROV]);
    qb_py_tensor indices = {0};
    if (is_nesterov < 0 || qb_py_borrow(state, arguments[INDICES], "indices", QB_PY_INT64, &indices) < 0) {
        return NULL;
    }
    const qb_optimizer_settings settings = {.struct_size = sizeof settings,
                                            .learning_rate = numbers[LEARNING_RATE],
                                            .weight_decay = numbers[WEIGHT_DECAY],
                                            .beta1 = numbers[BETA1],
                                            .beta2 = numbers[BETA2],
                                            .eps = numbers[EPS],
                                            .momentum = numbers[MOMENTUM],
                                            .is_nesterov = is_nesterov};
    PyObject *result = NULL;
    if (qb_py_enter(state, &self->busy, "optimizer") == 0) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = qb_optimizer_step(self->optimizer, indices.data, indices.count, &settings, &error);
        qb_py_call_end(&call);
        qb_py_leave(&self->busy);
        result = status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
    }
    qb_py_give_back(&indices);
    return result;
}

PyDoc_STRVAR(state_doc, "state($self, index, /)\n--\n\n"
                        "The moments of one parameter, as writable views, and how often it was stepped.\n\n"
                        "Parameters\n----------\n"
                        "index : int\n"
                        "    Place in the list of Model.parameters().\n\n"
                        "Returns\n-------\n"
                        "tuple of (ndarray, ndarray or None, int)\n"
                        "    SGD has one moment.\n\n"
                        "Raises\n------\n"
                        "IndexError\n"
                        "    If there is no such parameter.");

static PyObject *
optimizer_state(PyObject *object, PyObject *index_object)
{
    optimizer_object *self = (optimizer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    const long long index = state ? PyLong_AsLongLong(index_object) : -1;
    if (!state || (index == -1 && PyErr_Occurred())) {
        return NULL;
    }
    float *first;
    float *second;
    int64_t steps;
    qb_error error;
    if (qb_optimizer_state(self->optimizer, index, &first, &second, &steps, &error) != QB_OK) {
        return qb_py_raise(state, &error);
    }
    const qb_parameter_info info = qb_model_parameter(self->model->model, index);
    PyObject *views[2] = {qb_py_array_view(object, info.rank, info.shape, first, 1), NULL};
    views[1] = second ? qb_py_array_view(object, info.rank, info.shape, second, 1) : Py_NewRef(Py_None);
    PyObject *tuple = views[0] && views[1] ? Py_BuildValue("(OOL)", views[0], views[1], (long long)steps) : NULL;
    Py_XDECREF(views[0]);
    Py_XDECREF(views[1]);
    return tuple;
}

PyDoc_STRVAR(set_steps_doc, "set_steps($self, index, steps, /)\n--\n\n"
                            "Say how often a parameter was stepped.\n\n"
                            "Parameters\n----------\n"
                            "index : int\n"
                            "    Place in the list of Model.parameters().\n"
                            "steps : int\n"
                            "    At least 0.\n\n"
                            "Raises\n------\n"
                            "IndexError, ValueError\n"
                            "    If there is no such parameter, or steps is negative.");

static PyObject *
optimizer_set_steps(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    if (!state) {
        return NULL;
    }
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "set_steps() takes 2 arguments, %zd given", count);
    }
    const long long index = PyLong_AsLongLong(arguments[0]);
    const long long steps = index == -1 && PyErr_Occurred() ? -1 : PyLong_AsLongLong(arguments[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    qb_error error;
    if (qb_optimizer_set_steps(((optimizer_object *)object)->optimizer, index, steps, &error) != QB_OK) {
        return qb_py_raise(state, &error);
    }
    Py_RETURN_NONE;
}

static PyMethodDef optimizer_methods[] = {
    {"step", (PyCFunction)(void (*)(void))optimizer_step, METH_FASTCALL, step_doc},
    {"state", optimizer_state, METH_O, state_doc},
    {"set_steps", (PyCFunction)(void (*)(void))optimizer_set_steps, METH_FASTCALL, set_steps_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(optimizer_doc, "Optimizer(model, kind)\n--\n\n"
                            "Moments of a model's parameters, and the steps that use them.\n\n"
                            "Parameters\n----------\n"
                            "model : Model\n"
                            "kind : {'adamw', 'sgd'}\n"
                            "    As torch.optim.AdamW, or torch.optim.SGD with dampening 0.\n\n"
                            "Raises\n------\n"
                            "ValueError\n"
                            "    If there is no such kind.\n"
                            "MemoryError\n"
                            "    If there is not enough memory.");

static PyType_Slot optimizer_slots[] = {
    {Py_tp_doc, (void *)optimizer_doc},   {Py_tp_new, optimizer_new},         {Py_tp_dealloc, optimizer_dealloc},
    {Py_tp_traverse, optimizer_traverse}, {Py_tp_methods, optimizer_methods}, {0, NULL},
};

static PyType_Spec optimizer_spec = {
    .name = "qdqbert._core.Optimizer",
    .basicsize = sizeof(optimizer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = optimizer_slots,
};

int
qb_py_optimizer_register(PyObject *module, qb_py_state *state)
{
    return qb_py_type_register(module, &optimizer_spec, &state->optimizer_type);
}
