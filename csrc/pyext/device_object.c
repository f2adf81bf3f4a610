/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Device:
 *         def __new__(cls, isa: str | None = None, num_threads: int = 0): ...
 *         isa: str                                    # read-only
 *         num_threads: int                            # settable; 0 restores the default
 *         def check_bf16(self) -> None: ...           # raises where there are no bf16 products
 *         def kernels(self) -> list[tuple[str, str]]: ...         # (kernel, variant in use)
 *         def memory_statistics(self) -> dict[str, int]: ...
 *         def __copy__(self) -> Device: ...                       # itself
 *         def __deepcopy__(self, memo) -> Device: ...             # itself
 *
 *     def variants() -> list[tuple[str, bool]]: ...               # (name, this CPU can run it), weakest first
 *
 * A device may be used by any number of threads; the C side orders changes of the thread count.
 */
#include "state.h"

typedef struct device_object {
    PyObject_HEAD
    qb_device *device; /* constant after new */
} device_object;

qb_device *
qb_py_device_handle(qb_py_state *state, PyObject *object, const char *argument)
{
    if (!PyObject_TypeCheck(object, state->device_type)) {
        PyErr_Format(PyExc_TypeError, "%s: expected Device, got %.100s", argument, Py_TYPE(object)->tp_name);
        return NULL;
    }
    return ((device_object *)object)->device;
}

static PyObject *
device_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static const char *const names[] = {"isa", "num_threads", NULL};
    const char *isa = NULL;
    int num_threads = 0;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "|zi:Device", qb_py_keywords(names), &isa, &num_threads)) {
        return NULL;
    }
    qb_py_state *state = qb_py_state_of_type(type);
    if (!state) {
        return NULL;
    }
    device_object *self = (device_object *)type->tp_alloc(type, 0);
    if (!self) {
        return NULL;
    }
    const qb_device_options options = {
        .struct_size = sizeof options,
        .isa = isa,
        .num_threads = num_threads,
    };
    qb_error error;
    if (qb_device_open(&options, &self->device, &error) != QB_OK) {
        Py_DECREF(self);
        return qb_py_raise(state, &error);
    }
    return (PyObject *)self;
}

static int
device_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    (void)arg;
    return 0;
}

static void
device_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    qb_device_close(((device_object *)self)->device);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
device_repr(PyObject *self)
{
    const qb_device *device = ((device_object *)self)->device;
    return PyUnicode_FromFormat("Device(isa='%s', num_threads=%d)", qb_device_isa(device),
                                (int)qb_device_num_threads(device));
}

static PyObject *
device_get_isa(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(qb_device_isa(((device_object *)self)->device));
}

static PyObject *
device_get_num_threads(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(qb_device_num_threads(((device_object *)self)->device));
}

static int
device_set_num_threads(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return -1;
    }
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "num_threads: cannot be deleted");
        return -1;
    }
    const long count = PyLong_AsLong(value);
    if (count == -1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Format(PyExc_ValueError, "num_threads: expected 0 .. 1024, got %R", value);
        }
        return -1;
    }
    if (count < INT32_MIN || count > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "num_threads: expected 0 .. 1024, got %ld", count);
        return -1;
    }
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_device_set_num_threads(((device_object *)self)->device, (int32_t)count, &error);
    qb_py_call_end(&call);
    if (status != QB_OK) {
        qb_py_raise(state, &error);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(device_kernels_doc, "kernels($self, /)\n--\n\n"
                                 "(name, variant in use) of every kernel.\n\n"
                                 "Returns\n-------\n"
                                 "list of (str, str)\n"
                                 "    In the order of core/kernel_list.inc.");

static PyObject *
device_kernels(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < qb_kernel_count(); ++i) {
        PyObject *pair =
            Py_BuildValue("(ss)", qb_kernel_name(i), qb_device_kernel_variant(((device_object *)self)->device, i));
        if (!pair || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

PyDoc_STRVAR(device_memory_statistics_doc,
             "memory_statistics($self, /)\n--\n\n"
             "Count what the core has allocated on this device.\n\n"
             "Returns\n-------\n"
             "dict of str to int\n"
             "    \"allocations\" so far, \"live_blocks\", \"live_bytes\" and \"peak_bytes\".");

static PyObject *
device_memory_statistics(PyObject *self, PyObject *unused)
{
    (void)unused;
    const qb_memory_statistics statistics = qb_device_memory_statistics(((device_object *)self)->device);
    return Py_BuildValue("{sK sK sK sK}", "allocations", (unsigned long long)statistics.allocations, "live_blocks",
                         (unsigned long long)statistics.live_blocks, "live_bytes",
                         (unsigned long long)statistics.live_bytes, "peak_bytes",
                         (unsigned long long)statistics.peak_bytes);
}

PyDoc_STRVAR(device_check_bf16_doc,
             "check_bf16($self, /)\n--\n\n"
             "Find out whether the device has products of bfloat16 operands.\n\n"
             "The first call tries them, on some ten thousand sums, against the reference.\n\n"
             "Raises\n------\n"
             "UnsupportedError\n"
             "    If its kernels have none, or one that differs in a bit from what is documented.\n"
             "MemoryError\n"
             "    If there is not enough memory to try them.");

static PyObject *
device_check_bf16(PyObject *self, PyObject *unused)
{
    (void)unused;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return NULL;
    }
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_device_check_bf16(((device_object *)self)->device, &error);
    qb_py_call_end(&call);
    if (status != QB_OK) {
        return qb_py_raise(state, &error);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(device_copy_doc, "__copy__($self, /)\n--\n\n"
                              "Return this device: what runs on it and its copy run on one.");

static PyObject *
device_copy(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(self);
}

PyDoc_STRVAR(device_deepcopy_doc, "__deepcopy__($self, memo, /)\n--\n\n"
                                  "Return this device: what runs on it and its copy run on one.\n\n"
                                  "Parameters\n----------\n"
                                  "memo : dict\n"
                                  "    Not looked at.");

static PyMethodDef device_methods[] = {
    {"__copy__", device_copy, METH_NOARGS, device_copy_doc},
    {"__deepcopy__", device_copy, METH_O, device_deepcopy_doc},
    {"check_bf16", device_check_bf16, METH_NOARGS, device_check_bf16_doc},
    {"kernels", device_kernels, METH_NOARGS, device_kernels_doc},
    {"memory_statistics", device_memory_statistics, METH_NOARGS, device_memory_statistics_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef device_properties[] = {
    {"isa", device_get_isa, NULL, "Strongest kernel variant in use.", NULL},
    {"num_threads", device_get_num_threads, device_set_num_threads,
     "Threads that share one call's work; results do not depend on it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    device_doc,
    "Device(isa=None, num_threads=0)\n--\n\n"
    "Kernels, threads and memory of this CPU.\n\n"
    "Parameters\n----------\n"
    "isa : str, optional\n"
    "    Strongest kernel variant to use, such as \"ref\" or \"avx2\"; without it what the environment variable\n"
    "    QDQBERT_CPU_ISA says, and without that the best one that the CPU has.\n"
    "num_threads : int\n"
    "    Threads that share one call's work, 1 .. 1024; 0: as many as this process may use.\n\n"
    "Raises\n------\n"
    "ValueError\n"
    "    If isa names no variant or num_threads is out of range.\n"
    "UnsupportedError\n"
    "    If this CPU lacks the variant.\n\n"
    "Notes\n-----\n"
    "Results depend on neither of the two.");

static PyType_Slot device_slots[] = {
    {Py_tp_doc, (void *)device_doc},   {Py_tp_new, device_new},
    {Py_tp_dealloc, device_dealloc},   {Py_tp_traverse, device_traverse},
    {Py_tp_repr, device_repr},         {Py_tp_methods, device_methods},
    {Py_tp_getset, device_properties}, {0, NULL},
};

static PyType_Spec device_spec = {
    .name = "qdqbert._core.Device",
    .basicsize = sizeof(device_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = device_slots,
};

PyDoc_STRVAR(variants_doc, "variants($module, /)\n--\n\n"
                           "(name, this CPU can run it) of every kernel variant compiled in, weakest first.\n\n"
                           "Returns\n-------\n"
                           "list of (str, bool)");

static PyObject *
variants(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < qb_variant_count(); ++i) {
        PyObject *pair = Py_BuildValue("(sN)", qb_variant_name(i), PyBool_FromLong(qb_variant_is_supported(i)));
        if (!pair || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

static PyMethodDef device_functions[] = {
    {"variants", variants, METH_NOARGS, variants_doc},
    {NULL, NULL, 0, NULL},
};

int
qb_py_device_register(PyObject *module, qb_py_state *state)
{
    if (qb_py_type_register(module, &device_spec, &state->device_type) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, device_functions);
}
