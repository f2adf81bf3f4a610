/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Quantizer:
 *         def __new__(cls, device: Device, options: dict | None = None): ...
 *         def options(self) -> dict: ...                      # quantizer_options.c
 *         def set_options(self, options: dict) -> None: ...   # missing keys stay as they are
 *         stages: int                                         # STAGE_* bits, settable
 *         frozen_name: str | None                             # its name, if its layer's weight is frozen
 *         def amax(self) -> ndarray | None: ...               # copy
 *         def set_amax(self, values: float32 | None) -> None: ...
 *         def clip(self) -> tuple[float, float]: ...
 *         def set_clip(self, minimum: float, maximum: float) -> None: ...
 *         def clip_gradient(self) -> tuple[float, float]: ...
 *         def set_clip_gradient(self, minimum: float, maximum: float) -> None: ...
 *         def pre_quant_scale(self) -> ndarray | None: ...    # copy
 *         def set_pre_quant_scale(self, values: float32 | None) -> None: ...
 *         def set_observer(self, observer: Observer | None) -> None: ...
 *         def forward(self, x: float32) -> ndarray: ...
 *
 *     STAGE_DISABLED = 1; STAGE_QUANT = 2; STAGE_CLIP = 4; STAGE_CALIB = 8
 *
 * A Quantizer has one reference to a qb_quantizer, its own or one inside a model; several Quantizer objects may look
 * at the same one.  So the C side, not this object, refuses two threads at once.
 */
#include "ndarray.h"
#include "state.h"

typedef struct quantizer_object {
    PyObject_HEAD
    qb_quantizer *quantizer; /* constant after new */
} quantizer_object;

static qb_quantizer *
handle_of(PyObject *self)
{
    return ((quantizer_object *)self)->quantizer;
}

qb_quantizer *
qb_py_quantizer_handle(qb_py_state *state, PyObject *object, const char *argument)
{
    if (!PyObject_TypeCheck(object, state->quantizer_type)) {
        PyErr_Format(PyExc_TypeError, "%s: expected Quantizer, got %.100s", argument, Py_TYPE(object)->tp_name);
        return NULL;
    }
    return handle_of(object);
}

PyObject *
qb_py_quantizer_wrap(qb_py_state *state, qb_quantizer *quantizer)
{
    PyObject *self = state->quantizer_type->tp_alloc(state->quantizer_type, 0);
    if (self) {
        ((quantizer_object *)self)->quantizer = qb_quantizer_retain(quantizer);
    }
    return self;
}

static PyObject *
quantizer_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static const char *const names[] = {"device", "options", NULL};
    PyObject *device_object = NULL;
    PyObject *dict = NULL;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|O:Quantizer", qb_py_keywords(names), &device_object,
                                     &dict)) {
        return NULL;
    }
    qb_py_state *state = qb_py_state_of_type(type);
    qb_device *device = state ? qb_py_device_handle(state, device_object, "device") : NULL;
    if (!device) {
        return NULL;
    }
    qb_quantizer_options options = qb_py_quantizer_options_default();
    if (dict && dict != Py_None && qb_py_quantizer_options_read(dict, "options", &options) < 0) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (!self) {
        return NULL;
    }
    qb_error error;
    if (qb_quantizer_create(device, &options, &((quantizer_object *)self)->quantizer, &error) != QB_OK) {
        Py_DECREF(self);
        return qb_py_raise(state, &error);
    }
    return self;
}

static int
quantizer_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    (void)arg;
    return 0;
}

static void
quantizer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    qb_quantizer_release(handle_of(self));
    type->tp_free(self);
    Py_DECREF(type);
}

/* 0, or -1 with StateError: the setters without a sentence of their own fail for two reasons only. */
static int
check_idle(const qb_py_state *state, PyObject *self, qb_status status)
{
    if (status == QB_OK) {
        return 0;
    }
    const char *frozen = qb_quantizer_frozen_name(handle_of(self));
    if (frozen) {
        PyErr_Format(state->state_error,
                     "%s: cannot be changed, because the weight of its layer is frozen: its floats are gone; load the "
                     "checkpoint again",
                     frozen);
    }
    else {
        PyErr_SetString(state->state_error, "quantizer is in use by another thread or a running session");
    }
    return -1;
}

/* ---- options and stages ------------------------------------------------------------------------------------------ */

PyDoc_STRVAR(
    options_doc,
    "options($self, /)\n--\n\n"
    "Number format, range rules and axes as a new dict.\n\n"
    "Returns\n-------\n"
    "dict\n"
    "    \"num_bits\" (int or (4, 3)), \"axis\" (tuple of int or None), \"scale_amax\" (float or None), and the bools\n"
    "    \"unsigned\", \"narrow_range\", \"fake_quant\" and \"learn_amax\".");

static PyObject *
quantizer_options(PyObject *self, PyObject *unused)
{
    (void)unused;
    const qb_quantizer_options options = qb_quantizer_get_options(handle_of(self));
    return qb_py_quantizer_options_dict(&options);
}

PyDoc_STRVAR(set_options_doc, "set_options($self, options, /)\n--\n\n"
                              "Change the options that a dict names.\n\n"
                              "Parameters\n----------\n"
                              "options : dict\n"
                              "    Some of those of options().\n\n"
                              "Raises\n------\n"
                              "TypeError, ValueError\n"
                              "    If a key is unknown or a value cannot be.\n"
                              "StateError\n"
                              "    If another thread or a running session uses the quantizer.");

static PyObject *
quantizer_set_options(PyObject *self, PyObject *dict)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    qb_quantizer_options options = qb_quantizer_get_options(handle_of(self));
    if (!state || qb_py_quantizer_options_read(dict, "options", &options) < 0) {
        return NULL;
    }
    qb_error error;
    if (qb_quantizer_set_options(handle_of(self), &options, &error) != QB_OK) {
        return qb_py_raise(state, &error);
    }
    Py_RETURN_NONE;
}

static PyObject *
quantizer_get_stages(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLong(qb_quantizer_stages(handle_of(self)));
}

static int
quantizer_set_stages(PyObject *self, PyObject *value, void *closure)
{
    const unsigned long known = QB_STAGE_DISABLED | QB_STAGE_QUANT | QB_STAGE_CLIP | QB_STAGE_CALIB;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    (void)closure;
    if (!state) {
        return -1;
    }
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "stages: cannot be deleted");
        return -1;
    }
    const unsigned long stages = PyLong_AsUnsignedLong(value);
    if (stages == (unsigned long)-1 && PyErr_Occurred()) {
        return -1;
    }
    if (stages & ~known) {
        PyErr_Format(PyExc_ValueError, "stages: expected a combination of the bits %lu, got %lu", known, stages);
        return -1;
    }
    return check_idle(state, self, qb_quantizer_set_stages(handle_of(self), (uint32_t)stages));
}

/* ---- ranges ------------------------------------------------------------------------------------------------------ */

typedef void get_small_tensor(const qb_quantizer *quantizer, const float **values, int32_t *rank,
                              const int64_t **shape);
typedef qb_status set_small_tensor(qb_quantizer *quantizer, const float *values, int32_t rank, const int64_t *shape,
                                   qb_error *error);

static PyObject *
copy_small_tensor(PyObject *self, get_small_tensor *get)
{
    const float *values = NULL;
    const int64_t *shape = NULL;
    int32_t rank = 0;
    get(handle_of(self), &values, &rank, &shape);
    if (!values) {
        Py_RETURN_NONE;
    }
    return qb_py_array_copy(QB_PY_FLOAT32, rank, shape, values);
}

static PyObject *
replace_small_tensor(PyObject *self, PyObject *argument, const char *name, set_small_tensor *set)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    qb_py_tensor values = {0};
    if (!state || qb_py_borrow_optional(state, argument, name, QB_PY_FLOAT32, &values) < 0) {
        return NULL;
    }
    qb_error error;
    const qb_status status = set(handle_of(self), values.data, values.rank, values.shape, &error);
    qb_py_give_back(&values);
    return status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
}

PyDoc_STRVAR(amax_doc, "amax($self, /)\n--\n\n"
                       "The range, as a new array.\n\n"
                       "Returns\n-------\n"
                       "ndarray, float32, or None\n"
                       "    None while the range is dynamic.");

static PyObject *
quantizer_amax(PyObject *self, PyObject *unused)
{
    (void)unused;
    return copy_small_tensor(self, qb_quantizer_amax);
}

PyDoc_STRVAR(set_amax_doc, "set_amax($self, values, /)\n--\n\n"
                           "Set the range.\n\n"
                           "Parameters\n----------\n"
                           "values : float32, any shape, or None\n"
                           "    At least 0, or NaN; None makes the range dynamic.\n\n"
                           "Raises\n------\n"
                           "ValueError\n"
                           "    If a value is negative.\n"
                           "StateError\n"
                           "    If another thread or a running session uses the quantizer.");

static PyObject *
quantizer_set_amax(PyObject *self, PyObject *argument)
{
    return replace_small_tensor(self, argument, "amax", qb_quantizer_set_amax);
}

PyDoc_STRVAR(pre_quant_scale_doc, "pre_quant_scale($self, /)\n--\n\n"
                                  "The factor on the input, as a new array.\n\n"
                                  "Returns\n-------\n"
                                  "ndarray, float32, or None");

static PyObject *
quantizer_pre_quant_scale(PyObject *self, PyObject *unused)
{
    (void)unused;
    return copy_small_tensor(self, qb_quantizer_pre_quant_scale);
}

PyDoc_STRVAR(set_pre_quant_scale_doc, "set_pre_quant_scale($self, values, /)\n--\n\n"
                                      "Set the factor on the input.\n\n"
                                      "Parameters\n----------\n"
                                      "values : float32, any shape, or None\n"
                                      "    None removes it.\n\n"
                                      "Raises\n------\n"
                                      "StateError\n"
                                      "    If another thread or a running session uses the quantizer.");

static PyObject *
quantizer_set_pre_quant_scale(PyObject *self, PyObject *argument)
{
    return replace_small_tensor(self, argument, "pre_quant_scale", qb_quantizer_set_pre_quant_scale);
}

PyDoc_STRVAR(clip_doc, "clip($self, /)\n--\n\n"
                       "The learned bounds.\n\n"
                       "Returns\n-------\n"
                       "tuple of (float, float)\n"
                       "    Minimum and maximum.");

static PyObject *
quantizer_clip(PyObject *self, PyObject *unused)
{
    float minimum = 0.0f;
    float maximum = 0.0f;
    (void)unused;
    qb_quantizer_clip(handle_of(self), &minimum, &maximum);
    return Py_BuildValue("(dd)", (double)minimum, (double)maximum);
}

PyDoc_STRVAR(set_clip_doc, "set_clip($self, minimum, maximum, /)\n--\n\n"
                           "Set the learned bounds.\n\n"
                           "Parameters\n----------\n"
                           "minimum, maximum : float\n\n"
                           "Raises\n------\n"
                           "StateError\n"
                           "    If another thread or a running session uses the quantizer.");

static PyObject *
quantizer_set_clip(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "set_clip() takes 2 arguments, %zd given", count);
        return NULL;
    }
    const double minimum = PyFloat_AsDouble(arguments[0]);
    const double maximum = PyErr_Occurred() ? 0.0 : PyFloat_AsDouble(arguments[1]);
    if (!state || PyErr_Occurred()) {
        return NULL;
    }
    qb_error error;
    if (qb_quantizer_set_clip(handle_of(self), (float)minimum, (float)maximum, &error) != QB_OK) {
        return qb_py_raise(state, &error);
    }
    Py_RETURN_NONE;
}

/* ---- observer and forward ---------------------------------------------------------------------------------------- */

PyDoc_STRVAR(set_observer_doc, "set_observer($self, observer, /)\n--\n\n"
                               "Set the observer that the calibration stage feeds.\n\n"
                               "Parameters\n----------\n"
                               "observer : Observer or None\n"
                               "    None removes it.\n\n"
                               "Raises\n------\n"
                               "StateError\n"
                               "    If another thread or a running session uses the quantizer.");

static PyObject *
quantizer_set_observer(PyObject *self, PyObject *argument)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return NULL;
    }
    qb_observer *observer = argument == Py_None ? NULL : qb_py_observer_handle(state, argument, "observer");
    if (!observer && argument != Py_None) {
        return NULL;
    }
    if (check_idle(state, self, qb_quantizer_set_observer(handle_of(self), observer)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(forward_doc, "forward($self, x, /)\n--\n\n"
                          "What the stages make of a tensor, as a new array.\n\n"
                          "Parameters\n----------\n"
                          "x : float32, C-contiguous, any shape\n\n"
                          "Returns\n-------\n"
                          "ndarray, shape of x, float32\n\n"
                          "Raises\n------\n"
                          "ShapeError\n"
                          "    If the range does not fit x.\n"
                          "ValueError\n"
                          "    If an element cannot be collected or quantized.\n"
                          "StateError\n"
                          "    If another thread or a running session uses the quantizer.");

static PyObject *
quantizer_forward(PyObject *self, PyObject *argument)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    qb_py_tensor x = {0};
    if (!state || qb_py_borrow(state, argument, "x", QB_PY_FLOAT32, &x) < 0) {
        return NULL;
    }
    void *y = NULL;
    PyObject *result = qb_py_array_new(QB_PY_FLOAT32, x.rank, x.shape, &y);
    if (result) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status =
            qb_quantizer_forward(handle_of(self), &call.interrupt, x.data, x.rank, x.shape, y, NULL, &error);
        qb_py_call_end(&call);
        if (status != QB_OK) {
            Py_CLEAR(result);
            qb_py_raise(state, &error);
        }
    }
    qb_py_give_back(&x);
    return result;
}

PyDoc_STRVAR(clip_gradient_doc, "clip_gradient($self, /)\n--\n\n"
                                "The gradients of the two learned bounds.\n\n"
                                "Returns\n-------\n"
                                "tuple of float");

static PyObject *
quantizer_clip_gradient(PyObject *self, PyObject *unused)
{
    (void)unused;
    float minimum;
    float maximum;
    qb_quantizer_clip_gradient(handle_of(self), &minimum, &maximum);
    return Py_BuildValue("(dd)", (double)minimum, (double)maximum);
}

PyDoc_STRVAR(set_clip_gradient_doc, "set_clip_gradient($self, minimum, maximum, /)\n--\n\n"
                                    "Set the gradients of the two learned bounds, to which backward adds.\n\n"
                                    "Parameters\n----------\n"
                                    "minimum, maximum : float");

static PyObject *
quantizer_set_clip_gradient(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "set_clip_gradient() takes 2 arguments, %zd given", count);
    }
    const double minimum = PyFloat_AsDouble(arguments[0]);
    const double maximum = PyErr_Occurred() ? 0.0 : PyFloat_AsDouble(arguments[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    qb_quantizer_set_clip_gradient(handle_of(self), (float)minimum, (float)maximum);
    Py_RETURN_NONE;
}

/* ---- type -------------------------------------------------------------------------------------------------------- */

static PyMethodDef quantizer_methods[] = {
    {"options", quantizer_options, METH_NOARGS, options_doc},
    {"set_options", quantizer_set_options, METH_O, set_options_doc},
    {"amax", quantizer_amax, METH_NOARGS, amax_doc},
    {"set_amax", quantizer_set_amax, METH_O, set_amax_doc},
    {"clip", quantizer_clip, METH_NOARGS, clip_doc},
    {"set_clip", (PyCFunction)(void (*)(void))quantizer_set_clip, METH_FASTCALL, set_clip_doc},
    {"clip_gradient", quantizer_clip_gradient, METH_NOARGS, clip_gradient_doc},
    {"set_clip_gradient", (PyCFunction)(void (*)(void))quantizer_set_clip_gradient, METH_FASTCALL,
     set_clip_gradient_doc},
    {"pre_quant_scale", quantizer_pre_quant_scale, METH_NOARGS, pre_quant_scale_doc},
    {"set_pre_quant_scale", quantizer_set_pre_quant_scale, METH_O, set_pre_quant_scale_doc},
    {"set_observer", quantizer_set_observer, METH_O, set_observer_doc},
    {"forward", quantizer_forward, METH_O, forward_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *
quantizer_get_frozen_name(PyObject *self, void *closure)
{
    (void)closure;
    const char *name = qb_quantizer_frozen_name(handle_of(self));
    return name ? PyUnicode_FromString(name) : Py_NewRef(Py_None);
}

static PyGetSetDef quantizer_properties[] = {
    {"frozen_name", quantizer_get_frozen_name, NULL,
     "Its name in a model that keeps its layer's weight as codes, so that it cannot be changed; None: it can.", NULL},
    {"stages", quantizer_get_stages, quantizer_set_stages, "STAGE_* bits that say what forward does.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    quantizer_doc,
    "Quantizer(device, options=None)\n--\n\n"
    "One tensor quantizer: options, stages, range.\n\n"
    "Parameters\n----------\n"
    "device : Device\n"
    "options : dict, optional\n"
    "    See Quantizer.options; what is left out is as in QuantDescriptor: 8 bits, signed, full range, fake, per\n"
    "    tensor.\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    If a key is unknown or a value cannot be.");

static PyType_Slot quantizer_slots[] = {
    {Py_tp_doc, (void *)quantizer_doc},
    {Py_tp_new, quantizer_new},
    {Py_tp_dealloc, quantizer_dealloc},
    {Py_tp_traverse, quantizer_traverse},
    {Py_tp_methods, quantizer_methods},
    {Py_tp_getset, quantizer_properties},
    {0, NULL},
};

static PyType_Spec quantizer_spec = {
    .name = "qdqbert._core.Quantizer",
    .basicsize = sizeof(quantizer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = quantizer_slots,
};

int
qb_py_quantizer_register(PyObject *module, qb_py_state *state)
{
    if (qb_py_type_register(module, &quantizer_spec, &state->quantizer_type) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "STAGE_DISABLED", QB_STAGE_DISABLED) < 0 ||
                   PyModule_AddIntConstant(module, "STAGE_QUANT", QB_STAGE_QUANT) < 0 ||
                   PyModule_AddIntConstant(module, "STAGE_CLIP", QB_STAGE_CLIP) < 0 ||
                   PyModule_AddIntConstant(module, "STAGE_CALIB", QB_STAGE_CALIB) < 0
               ? -1
               : 0;
}
