/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Change:
 *         def __new__(cls, owners: Sequence[Model | Quantizer]): ...
 *         def __enter__(self) -> Change: ...
 *         def __exit__(self, kind, exception, traceback, /) -> None: ...
 *
 * Several changes that no forward comes between.  Making the object begins, and leaving the `with` block ends; so does
 * dropping the object, which is all that an interrupt between its making and the block leaves to do.
 */
#include "model_object.h"
#include "state.h"

/* What is being changed: one of the two, retained. */
typedef struct change_owner {
    qb_model *model;
    qb_quantizer *quantizer;
} change_owner;

typedef struct change_object {
    PyObject_HEAD
    change_owner *owners; /* owned; NULL once ended */
    Py_ssize_t begun;     /* changes that are to be ended, the first of `owners` */
} change_object;

static void
end_all(change_object *self)
{
    while (self->begun > 0) {
        const change_owner owner = self->owners[--self->begun];
        if (owner.model) {
            qb_model_end_change(owner.model);
            qb_model_release(owner.model);
        }
        else {
            qb_quantizer_end_change(owner.quantizer);
            qb_quantizer_release(owner.quantizer);
        }
    }
    PyMem_Free(self->owners);
    self->owners = NULL;
}

/* 0, or -1 with an exception. */
static int
begin_one(qb_py_state *state, change_object *self, PyObject *object)
{
    qb_error error;
    if (PyObject_TypeCheck(object, state->model_type)) {
        qb_model *model = ((qb_py_model *)object)->model;
        if (qb_model_begin_change(model, &error) != QB_OK) {
            qb_py_raise(state, &error);
            return -1;
        }
        self->owners[self->begun++] = (change_owner){.model = qb_model_retain(model)};
        return 0;
    }
    if (!PyObject_TypeCheck(object, state->quantizer_type)) {
        PyErr_Format(PyExc_TypeError, "owners: expected Model or Quantizer, got %.100s", Py_TYPE(object)->tp_name);
        return -1;
    }
    qb_quantizer *quantizer = qb_py_quantizer_handle(state, object, "owners");
    if (qb_quantizer_begin_change(quantizer, &error) != QB_OK) {
        qb_py_raise(state, &error);
        return -1;
    }
    self->owners[self->begun++] = (change_owner){.quantizer = qb_quantizer_retain(quantizer)};
    return 0;
}

static PyObject *
change_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static const char *const names[] = {"owners", NULL};
    PyObject *owners = NULL;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O:Change", qb_py_keywords(names), &owners)) {
        return NULL;
    }
    qb_py_state *state = qb_py_state_of_type(type);
    PyObject *sequence = state ? PySequence_Tuple(owners) : NULL;
    PyObject *self = sequence ? type->tp_alloc(type, 0) : NULL;
    if (self) {
        change_object *change = (change_object *)self;
        const Py_ssize_t count = PyTuple_GET_SIZE(sequence);
        change->owners = PyMem_New(change_owner, (size_t)(count > 0 ? count : 1));
        int failed = change->owners ? 0 : -1;
        if (failed) {
            PyErr_NoMemory();
        }
        for (Py_ssize_t i = 0; !failed && i < count; ++i) {
            failed = begin_one(state, change, PyTuple_GET_ITEM(sequence, i));
        }
        if (failed) {
            Py_CLEAR(self); /* ends what was begun */
        }
    }
    Py_XDECREF(sequence);
    return self;
}

static int
change_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    (void)arg;
    return 0;
}

static void
change_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    end_all((change_object *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(change_enter_doc, "__enter__($self, /)\n--\n\nReturn the change, which began when it was made.");

static PyObject *
change_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(self);
}

PyDoc_STRVAR(change_exit_doc, "__exit__($self, kind, exception, traceback, /)\n--\n\n"
                              "End the change; forwards may begin again.");

static PyObject *
change_exit(PyObject *self, PyObject *const *exception, Py_ssize_t count)
{
    (void)exception;
    if (count != 3) {
        return PyErr_Format(PyExc_TypeError, "__exit__ expected 3 arguments, got %zd", count);
    }
    end_all((change_object *)self);
    Py_RETURN_NONE;
}

static PyMethodDef change_methods[] = {
    {"__enter__", change_enter, METH_NOARGS, change_enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))change_exit, METH_FASTCALL, change_exit_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(change_doc, "Change(owners)\n--\n\n"
                         "Several changes of models and quantizers that no forward comes between.\n\n"
                         "Forwards of the models, and of those that the quantizers are in, are refused until the\n"
                         "`with` block is left or the object is dropped. Changes nest. A quantizer that is in no\n"
                         "model is not held.\n\n"
                         "Parameters\n----------\n"
                         "owners : sequence of Model or Quantizer\n\n"
                         "Raises\n------\n"
                         "StateError\n"
                         "    While a session of one of the models runs; then nothing has begun.");

static PyType_Slot change_slots[] = {
    {Py_tp_doc, (void *)change_doc},   {Py_tp_new, change_new},         {Py_tp_dealloc, change_dealloc},
    {Py_tp_traverse, change_traverse}, {Py_tp_methods, change_methods}, {0, NULL},
};

static PyType_Spec change_spec = {
    .name = "qdqbert._core.Change",
    .basicsize = sizeof(change_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = change_slots,
};

int
qb_py_change_register(PyObject *module, qb_py_state *state)
{
    return qb_py_type_register(module, &change_spec, &state->change_type);
}
