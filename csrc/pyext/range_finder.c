/* SPDX-License-Identifier: Apache-2.0
 *
 * From a histogram to a range: pure functions of counts (bins,) int64 and edges (bins + 1,) float32.
 *
 *     def amax_percentile(counts, edges, percentile: float) -> float: ...
 *     def amax_mse(device, counts, edges, num_bits: int, unsigned: bool, stride: int, start_bin: int) -> float: ...
 *     def amax_entropy(...) -> float: ...                              # arguments of amax_mse
 *
 * num_bits is 0 for E4M3.
 */
#include "ndarray.h"
#include "state.h"

typedef struct histogram {
    qb_py_tensor counts, edges;
} histogram;

static void
give_back_histogram(histogram *tensors)
{
    qb_py_give_back(&tensors->counts);
    qb_py_give_back(&tensors->edges);
}

static int
borrow_histogram(const qb_py_state *state, PyObject *counts, PyObject *edges, histogram *tensors)
{
    if (qb_py_borrow(state, counts, "counts", QB_PY_INT64, &tensors->counts) < 0 ||
        qb_py_borrow(state, edges, "edges", QB_PY_FLOAT32, &tensors->edges) < 0) {
        return -1;
    }
    if (tensors->counts.rank == 1 && tensors->edges.rank == 1 &&
        tensors->edges.shape[0] == tensors->counts.shape[0] + 1) {
        return 0;
    }
    char got_counts[QB_PY_SHAPE_TEXT];
    char got_edges[QB_PY_SHAPE_TEXT];
    PyErr_Format(state->shape_error, "edges: expected counts (bins,) and edges (bins + 1,), got %s and %s",
                 qb_py_shape_text(got_counts, tensors->counts.rank, tensors->counts.shape),
                 qb_py_shape_text(got_edges, tensors->edges.rank, tensors->edges.shape));
    return -1;
}

PyDoc_STRVAR(amax_percentile_doc, "amax_percentile($module, counts, edges, percentile, /)\n--\n\n"
                                  "Left edge of the bin in which the percentile falls.\n\n"
                                  "Parameters\n----------\n"
                                  "counts : int64, shape (bins,)\n"
                                  "    At least 0, not all of them.\n"
                                  "edges : float32, shape (bins + 1,)\n"
                                  "    Finite, not decreasing.\n"
                                  "percentile : float\n"
                                  "    In [0, 100].\n\n"
                                  "Returns\n-------\n"
                                  "float\n\n"
                                  "Raises\n------\n"
                                  "ShapeError\n"
                                  "    If counts and edges do not fit each other.\n"
                                  "StateError\n"
                                  "    If nothing was counted.\n"
                                  "ValueError\n"
                                  "    If another argument is out of range; it is named.");

static PyObject *
amax_percentile(PyObject *module, PyObject *arguments)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *counts = NULL;
    PyObject *edges = NULL;
    double percentile = 0.0;
    if (!PyArg_ParseTuple(arguments, "OOd:amax_percentile", &counts, &edges, &percentile)) {
        return NULL;
    }
    histogram tensors = {0};
    PyObject *result = NULL;
    if (borrow_histogram(state, counts, edges, &tensors) == 0) {
        float amax = 0.0f;
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = qb_amax_percentile(tensors.counts.data, tensors.edges.data, tensors.counts.count,
                                                    percentile, &amax, &error);
        qb_py_call_end(&call);
        result = status == QB_OK ? PyFloat_FromDouble((double)amax) : qb_py_raise(state, &error);
    }
    give_back_histogram(&tensors);
    return result;
}

typedef qb_status range_search(qb_device *device, const int64_t *counts, const float *edges, int64_t bins,
                               int32_t num_bits, int is_unsigned, int64_t stride, int64_t start_bin, float *amax,
                               qb_error *error);

static PyObject *
search_range(PyObject *module, PyObject *arguments, const char *format, range_search *search)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *device_object = NULL;
    PyObject *counts = NULL;
    PyObject *edges = NULL;
    int num_bits = 0;
    int is_unsigned = 0;
    long long stride = 0;
    long long start_bin = 0;
    if (!PyArg_ParseTuple(arguments, format, &device_object, &counts, &edges, &num_bits, &is_unsigned, &stride,
                          &start_bin)) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    histogram tensors = {0};
    PyObject *result = NULL;
    if (device && borrow_histogram(state, counts, edges, &tensors) == 0) {
        float amax = 0.0f;
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = search(device, tensors.counts.data, tensors.edges.data, tensors.counts.count, num_bits,
                                        is_unsigned, stride, start_bin, &amax, &error);
        qb_py_call_end(&call);
        result = status == QB_OK ? PyFloat_FromDouble((double)amax) : qb_py_raise(state, &error);
    }
    give_back_histogram(&tensors);
    return result;
}

PyDoc_STRVAR(amax_mse_doc, "amax_mse($module, device, counts, edges, num_bits, unsigned, stride, start_bin, /)\n--\n\n"
                           "Bin center with the smallest mean squared quantization error.\n\n"
                           "Parameters\n----------\n"
                           "device : Device\n"
                           "counts : int64, shape (bins,)\n"
                           "    At least 0, not all of them.\n"
                           "edges : float32, shape (bins + 1,)\n"
                           "    Finite, not decreasing.\n"
                           "num_bits : int\n"
                           "    1 .. 16, or 0 for E4M3.\n"
                           "unsigned : bool\n"
                           "    Whether codes start at 0.\n"
                           "stride : int\n"
                           "    Only every `stride`-th candidate is tried; at least 1.\n"
                           "start_bin : int\n"
                           "    The first candidate, in [0, bins).\n\n"
                           "Returns\n-------\n"
                           "float\n\n"
                           "Raises\n------\n"
                           "ShapeError\n"
                           "    If counts and edges do not fit each other.\n"
                           "StateError\n"
                           "    If nothing was counted.\n"
                           "ValueError\n"
                           "    If another argument is out of range; it is named.");

static PyObject *
amax_mse(PyObject *module, PyObject *arguments)
{
    return search_range(module, arguments, "OOOipLL:amax_mse", qb_amax_mse);
}

PyDoc_STRVAR(amax_entropy_doc,
             "amax_entropy($module, device, counts, edges, num_bits, unsigned, stride, start_bin, /)\n--\n\n"
             "Bin edge with the smallest divergence between the histogram and its quantized form.\n\n"
             "Parameters\n----------\n"
             "device : Device\n"
             "counts : int64, shape (bins,)\n"
             "    At least 0, not all of them.\n"
             "edges : float32, shape (bins + 1,)\n"
             "    Finite, not decreasing.\n"
             "num_bits : int\n"
             "    1 .. 16.\n"
             "unsigned : bool\n"
             "    Whether codes start at 0.\n"
             "stride : int\n"
             "    Only every `stride`-th candidate is tried; at least 1.\n"
             "start_bin : int\n"
             "    The first candidate, in [1, bins].\n\n"
             "Returns\n-------\n"
             "float\n\n"
             "Raises\n------\n"
             "ShapeError\n"
             "    If counts and edges do not fit each other.\n"
             "StateError\n"
             "    If nothing was counted.\n"
             "ValueError\n"
             "    If another argument is out of range; it is named.");

static PyObject *
amax_entropy(PyObject *module, PyObject *arguments)
{
    return search_range(module, arguments, "OOOipLL:amax_entropy", qb_amax_entropy);
}

static PyMethodDef functions[] = {
    {"amax_percentile", amax_percentile, METH_VARARGS, amax_percentile_doc},
    {"amax_mse", amax_mse, METH_VARARGS, amax_mse_doc},
    {"amax_entropy", amax_entropy, METH_VARARGS, amax_entropy_doc},
    {NULL, NULL, 0, NULL},
};

int
qb_py_range_finder_register(PyObject *module, qb_py_state *state)
{
    (void)state;
    return PyModule_AddFunctions(module, functions);
}
