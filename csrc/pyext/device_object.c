/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Device:
 *         def __new__(cls, isa: str | None = None, num_threads: int = 0): ...
 *         isa: str                                    # read-only
 *         num_threads: int                            # settable; 0 restores the default
 *         def check_bf16(self) -> None: ...           # raises where there are no bf16 products
 *         def kernels(self) -> list[tuple[str, str]]: ...         # (kernel, variant in use)
 *         def memory_statistics(self) -> dict[str, int]: ...
 *         def peak(self, operands: str, rounds: int, /) -> int: ...       # operations of the products' roof
 *         def time_product(self, operands: str, rows: int, n: int, k: int, weights: int, repeats: int, /)
 *             -> NDArray[np.float64]: ...                                 # seconds of each
 *         def __copy__(self) -> Device: ...                       # itself
 *         def __deepcopy__(self, memo) -> Device: ...             # itself
 *
 *     def cpu_limits() -> dict[str, int]: ...                     # "online", "affinity", "quota", "threads"
 *     def variants() -> list[tuple[str, bool]]: ...               # (name, this CPU can run it), weakest first
 *
 * A device may be used by any number of threads; the C side orders changes of the thread count.
 */
#include "ndarray.h"
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

/* 1 for "qs8", 0 for "f32", -1 with ValueError. */
static int
read_operands(const char *operands)
{
    if (strcmp(operands, "qs8") == 0 || strcmp(operands, "f32") == 0) {
        return operands[0] == 'q';
    }
    PyErr_Format(PyExc_ValueError, "operands: expected 'f32' or 'qs8', got '%.100s'", operands);
    return -1;
}

PyDoc_STRVAR(device_peak_doc,
             "peak($self, operands, rounds, /)\n--\n\n"
             "Run the inner loop of a product on registers alone, in the calling thread, without the GIL.\n\n"
             "Parameters\n----------\n"
             "operands : {\"f32\", \"qs8\"}\n"
             "    Floats or int8 codes.\n"
             "rounds : int\n"
             "    Turns of the loop, each some dozens or hundreds of multiply-adds.\n\n"
             "Returns\n-------\n"
             "int\n"
             "    Operations done, 2 for each multiply-add.\n\n"
             "Raises\n------\n"
             "ValueError\n"
             "    If `operands` is another.");

static PyObject *
device_peak(PyObject *self, PyObject *arguments)
{
    const char *operands = NULL;
    long long rounds = 0;
    if (!PyArg_ParseTuple(arguments, "sL:peak", &operands, &rounds)) {
        return NULL;
    }
    const int is_integer = read_operands(operands);
    if (is_integer < 0) {
        return NULL;
    }
    int64_t operations;
    Py_BEGIN_ALLOW_THREADS
    operations = qb_device_peak(((device_object *)self)->device, is_integer, (int64_t)rounds);
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(operations);
}

PyDoc_STRVAR(device_time_product_doc,
             "time_product($self, operands, rows, n, k, weights, repeats, /)\n--\n\n"
             "Time products y (rows, n) = a (rows, k) b' with packed b on all threads of the device.\n\n"
             "Parameters\n----------\n"
             "operands : {\"f32\", \"qs8\"}\n"
             "    Floats or int8 codes.\n"
             "rows, n, k : int\n"
             "    1 .. 65,536.\n"
             "weights : int\n"
             "    Different b that take turns, as those of a model's layers do, 1 .. 1,024.\n"
             "repeats : int\n"
             "    Products that are timed, after one that is not, 1 .. 1,000,000.\n\n"
             "Returns\n-------\n"
             "ndarray, shape (repeats,), float64\n"
             "    Seconds that each took.\n\n"
             "Raises\n------\n"
             "ValueError\n"
             "    If `operands` is another, or a number is out of range.\n"
             "MemoryError\n"
             "    If there is no room for the operands.");

static PyObject *
device_time_product(PyObject *self, PyObject *arguments)
{
    const char *operands = NULL;
    long long rows = 0;
    long long n = 0;
    long long k = 0;
    long long weights = 0;
    long long repeats = 0;
    if (!PyArg_ParseTuple(arguments, "sLLLLL:time_product", &operands, &rows, &n, &k, &weights, &repeats)) {
        return NULL;
    }
    const int is_integer = read_operands(operands);
    qb_py_state *state = is_integer < 0 ? NULL : qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return NULL;
    }
    const qb_product_trial trial = {.struct_size = sizeof trial,
                                    .is_integer = is_integer,
                                    .rows = rows,
                                    .n = n,
                                    .k = k,
                                    .weights = weights,
                                    .repeats = repeats};
    void *seconds = NULL;
    const int64_t count = repeats > 0 && repeats <= 1000000 ? repeats : 1; /* C says what is wrong with others */
    PyObject *array = qb_py_array_new(QB_PY_FLOAT64, 1, &count, &seconds);
    if (!array) {
        return NULL;
    }
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status =
        qb_device_time_product(((device_object *)self)->device, &trial, &call.interrupt, seconds, &error);
    qb_py_call_end(&call);
    if (status != QB_OK) {
        Py_DECREF(array);
        return qb_py_raise(state, &error);
    }
    return array;
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
    {"peak", device_peak, METH_VARARGS, device_peak_doc},
    {"time_product", device_time_product, METH_VARARGS, device_time_product_doc},
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

PyDoc_STRVAR(cpu_limits_doc,
             "cpu_limits($module, /)\n--\n\n"
             "Read how many CPUs there are, and how many this process may use.\n\n"
             "Returns\n-------\n"
             "dict of str to int\n"
             "    \"online\" CPUs, those in the \"affinity\" mask, what the \"quota\" of the cgroup is worth (0: no\n"
             "    limit), and the \"threads\" of a device by default.");

static PyObject *
cpu_limits(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    const qb_cpu_limits limits = qb_cpu_limits_read();
    return Py_BuildValue("{si si si si}", "online", (int)limits.online, "affinity", (int)limits.affinity, "quota",
                         (int)limits.quota, "threads", (int)limits.threads);
}

static PyMethodDef device_functions[] = {
    {"cpu_limits", cpu_limits, METH_NOARGS, cpu_limits_doc},
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
