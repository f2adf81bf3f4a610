/* SPDX-License-Identifier: Apache-2.0
 *
 * The losses of the heads as functions of arrays:
 *
 *     def cross_entropy(logits: (rows, classes) float32, labels: (rows,) int64, ignore_index: int) -> float: ...
 *     def mean_squared_error(x: float32, y: float32) -> float: ...               # same shape
 *     def binary_cross_entropy(logits: float32, labels: float32) -> float: ...   # same shape
 *
 * and `factor` times their gradients with respect to the first argument, of its shape:
 *
 *     def cross_entropy_grad(logits, labels, ignore_index, factor: float) -> float32: ...
 *     def mean_squared_error_grad(x, y, factor: float) -> float32: ...
 *     def binary_cross_entropy_grad(logits, labels, factor: float) -> float32: ...
 */
#include "ndarray.h"
#include "state.h"

static int
require_arguments(const char *function, Py_ssize_t count, Py_ssize_t expected)
{
    if (count != expected) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, %zd given", function, expected, count);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(cross_entropy_doc, "cross_entropy($module, logits, labels, ignore_index, /)\n--\n\n"
                                "Mean cross-entropy of logits against the labels that count.\n\n"
                                "Parameters\n----------\n"
                                "logits : float32, shape (rows, classes)\n"
                                "labels : int64, shape (rows,)\n"
                                "    In [0, classes), or ignore_index.\n"
                                "ignore_index : int\n"
                                "    Label of rows that do not count.\n\n"
                                "Returns\n-------\n"
                                "float\n"
                                "    NaN if no row counts.\n\n"
                                "Raises\n------\n"
                                "ShapeError\n"
                                "    If the shapes do not fit each other.\n"
                                "IndexError\n"
                                "    If a label is out of range.");

/* What both functions of logits and labels take first; `logits` and `labels` are to be given back, whatever is
 * returned. */
static int
borrow_logits_and_labels(qb_py_state *state, PyObject *const *arguments, qb_py_tensor *logits, qb_py_tensor *labels,
                         long long *ignore_index)
{
    *ignore_index = PyLong_AsLongLong(arguments[2]);
    if ((*ignore_index == -1 && PyErr_Occurred()) ||
        qb_py_borrow(state, arguments[0], "logits", QB_PY_FLOAT32, logits) < 0 ||
        qb_py_borrow(state, arguments[1], "labels", QB_PY_INT64, labels) < 0) {
        return -1;
    }
    if (logits->rank != 2 || labels->rank != 1 || logits->shape[0] != labels->shape[0]) {
        char got_logits[QB_PY_SHAPE_TEXT];
        char got_labels[QB_PY_SHAPE_TEXT];
        PyErr_Format(state->shape_error, "labels: expected logits (rows, classes) and labels (rows,), got %s and %s",
                     qb_py_shape_text(got_logits, logits->rank, logits->shape),
                     qb_py_shape_text(got_labels, labels->rank, labels->shape));
        return -1;
    }
    return 0;
}

static PyObject *
cross_entropy(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_module(module);
    qb_py_tensor logits = {0};
    qb_py_tensor labels = {0};
    long long ignore_index;
    PyObject *result = NULL;
    if (require_arguments("cross_entropy", count, 3) < 0) {
        return NULL;
    }
    if (borrow_logits_and_labels(state, arguments, &logits, &labels, &ignore_index) == 0) {
        float loss = 0.0f;
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status =
            qb_cross_entropy(logits.data, logits.shape[0], logits.shape[1], labels.data, ignore_index, &loss, &error);
        qb_py_call_end(&call);
        result = status == QB_OK ? PyFloat_FromDouble((double)loss) : qb_py_raise(state, &error);
    }
    qb_py_give_back(&logits);
    qb_py_give_back(&labels);
    return result;
}

PyDoc_STRVAR(cross_entropy_grad_doc, "cross_entropy_grad($module, logits, labels, ignore_index, factor, /)\n--\n\n"
                                     "A multiple of the gradient of cross_entropy with respect to logits.\n\n"
                                     "Parameters\n----------\n"
                                     "logits : float32, shape (rows, classes)\n"
                                     "labels : int64, shape (rows,)\n"
                                     "    In [0, classes), or ignore_index.\n"
                                     "ignore_index : int\n"
                                     "    Label of rows that do not count.\n"
                                     "factor : float\n\n"
                                     "Returns\n-------\n"
                                     "ndarray, float32, shape (rows, classes)\n"
                                     "    Zeros in rows that do not count; NaN if no row counts.\n\n"
                                     "Raises\n------\n"
                                     "ShapeError\n"
                                     "    If the shapes do not fit each other.\n"
                                     "IndexError\n"
                                     "    If a label is out of range.");

static PyObject *
cross_entropy_grad(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_module(module);
    qb_py_tensor logits = {0};
    qb_py_tensor labels = {0};
    long long ignore_index;
    void *d = NULL;
    PyObject *result = NULL;
    if (require_arguments("cross_entropy_grad", count, 4) < 0) {
        return NULL;
    }
    const double factor = PyFloat_AsDouble(arguments[3]);
    if (factor == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (borrow_logits_and_labels(state, arguments, &logits, &labels, &ignore_index) == 0) {
        result = qb_py_array_new(QB_PY_FLOAT32, 2, logits.shape, &d);
    }
    if (result) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = qb_cross_entropy_grad(logits.data, logits.shape[0], logits.shape[1], labels.data,
                                                       ignore_index, (float)factor, d, &error);
        qb_py_call_end(&call);
        if (status != QB_OK) {
            Py_CLEAR(result);
            qb_py_raise(state, &error);
        }
    }
    qb_py_give_back(&logits);
    qb_py_give_back(&labels);
    return result;
}

typedef qb_status elementwise_loss(const float *x, const float *y, int64_t count, float *loss, qb_error *error);

typedef qb_status elementwise_gradient(const float *x, const float *y, int64_t count, float factor, float *dx,
                                       qb_error *error);

/* `x` and `y` are to be given back, whatever is returned. */
static int
borrow_pair(qb_py_state *state, PyObject *const *arguments, const char *const names[3], qb_py_tensor *x,
            qb_py_tensor *y)
{
    if (qb_py_borrow(state, arguments[0], names[1], QB_PY_FLOAT32, x) < 0 ||
        qb_py_borrow(state, arguments[1], names[2], QB_PY_FLOAT32, y) < 0) {
        return -1;
    }
    if (x->rank != y->rank || memcmp(x->shape, y->shape, (size_t)x->rank * sizeof x->shape[0]) != 0) {
        char got_x[QB_PY_SHAPE_TEXT];
        char got_y[QB_PY_SHAPE_TEXT];
        PyErr_Format(state->shape_error, "%s: expected the shape of %s, %s, got %s", names[2], names[1],
                     qb_py_shape_text(got_x, x->rank, x->shape), qb_py_shape_text(got_y, y->rank, y->shape));
        return -1;
    }
    return 0;
}

static PyObject *
call_elementwise(PyObject *module, PyObject *const *arguments, Py_ssize_t count, const char *const names[3],
                 elementwise_loss *function)
{
    qb_py_state *state = qb_py_state_of_module(module);
    qb_py_tensor x = {0};
    qb_py_tensor y = {0};
    PyObject *result = NULL;
    if (require_arguments(names[0], count, 2) < 0) {
        return NULL;
    }
    if (borrow_pair(state, arguments, names, &x, &y) == 0) {
        float loss = 0.0f;
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = function(x.data, y.data, x.count, &loss, &error);
        qb_py_call_end(&call);
        result = status == QB_OK ? PyFloat_FromDouble((double)loss) : qb_py_raise(state, &error);
    }
    qb_py_give_back(&x);
    qb_py_give_back(&y);
    return result;
}

static PyObject *
call_elementwise_gradient(PyObject *module, PyObject *const *arguments, Py_ssize_t count, const char *const names[3],
                          elementwise_gradient *function)
{
    qb_py_state *state = qb_py_state_of_module(module);
    qb_py_tensor x = {0};
    qb_py_tensor y = {0};
    void *dx = NULL;
    PyObject *result = NULL;
    if (require_arguments(names[0], count, 3) < 0) {
        return NULL;
    }
    const double factor = PyFloat_AsDouble(arguments[2]);
    if (factor == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (borrow_pair(state, arguments, names, &x, &y) == 0) {
        result = qb_py_array_new(QB_PY_FLOAT32, x.rank, x.shape, &dx);
    }
    if (result) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = function(x.data, y.data, x.count, (float)factor, dx, &error);
        qb_py_call_end(&call);
        if (status != QB_OK) {
            Py_CLEAR(result);
            qb_py_raise(state, &error);
        }
    }
    qb_py_give_back(&x);
    qb_py_give_back(&y);
    return result;
}

PyDoc_STRVAR(mean_squared_error_doc, "mean_squared_error($module, x, y, /)\n--\n\n"
                                     "Mean of (x - y)^2 over all elements.\n\n"
                                     "Parameters\n----------\n"
                                     "x, y : float32, of one shape\n\n"
                                     "Returns\n-------\n"
                                     "float\n\n"
                                     "Raises\n------\n"
                                     "ShapeError\n"
                                     "    If the shapes differ.");

static PyObject *
mean_squared_error(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    static const char *const names[3] = {"mean_squared_error", "x", "y"};
    return call_elementwise(module, arguments, count, names, qb_mean_squared_error);
}

PyDoc_STRVAR(binary_cross_entropy_doc, "binary_cross_entropy($module, logits, labels, /)\n--\n\n"
                                       "Mean binary cross-entropy of logits against labels.\n\n"
                                       "Parameters\n----------\n"
                                       "logits : float32, any shape\n"
                                       "labels : float32, shape of logits\n"
                                       "    In [0, 1].\n\n"
                                       "Returns\n-------\n"
                                       "float\n\n"
                                       "Raises\n------\n"
                                       "ShapeError\n"
                                       "    If the shapes differ.");

static PyObject *
binary_cross_entropy(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    static const char *const names[3] = {"binary_cross_entropy", "logits", "labels"};
    return call_elementwise(module, arguments, count, names, qb_binary_cross_entropy);
}

PyDoc_STRVAR(mean_squared_error_grad_doc, "mean_squared_error_grad($module, x, y, factor, /)\n--\n\n"
                                          "A multiple of the gradient of mean_squared_error with respect to x.\n\n"
                                          "Parameters\n----------\n"
                                          "x, y : float32, of one shape\n"
                                          "factor : float\n\n"
                                          "Returns\n-------\n"
                                          "ndarray, float32, shape of x\n\n"
                                          "Raises\n------\n"
                                          "ShapeError\n"
                                          "    If the shapes differ.");

static PyObject *
mean_squared_error_grad(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    static const char *const names[3] = {"mean_squared_error_grad", "x", "y"};
    return call_elementwise_gradient(module, arguments, count, names, qb_mean_squared_error_grad);
}

PyDoc_STRVAR(binary_cross_entropy_grad_doc,
             "binary_cross_entropy_grad($module, logits, labels, factor, /)\n--\n\n"
             "A multiple of the gradient of binary_cross_entropy with respect to logits.\n\n"
             "Parameters\n----------\n"
             "logits : float32, any shape\n"
             "labels : float32, shape of logits\n"
             "factor : float\n\n"
             "Returns\n-------\n"
             "ndarray, float32, shape of logits\n\n"
             "Raises\n------\n"
             "ShapeError\n"
             "    If the shapes differ.");

static PyObject *
binary_cross_entropy_grad(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    static const char *const names[3] = {"binary_cross_entropy_grad", "logits", "labels"};
    return call_elementwise_gradient(module, arguments, count, names, qb_binary_cross_entropy_grad);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef functions[] = {
    {"cross_entropy_grad", FAST(cross_entropy_grad), METH_FASTCALL, cross_entropy_grad_doc},
    {"mean_squared_error_grad", FAST(mean_squared_error_grad), METH_FASTCALL, mean_squared_error_grad_doc},
    {"binary_cross_entropy_grad", FAST(binary_cross_entropy_grad), METH_FASTCALL, binary_cross_entropy_grad_doc},
    {"cross_entropy", FAST(cross_entropy), METH_FASTCALL, cross_entropy_doc},
    {"mean_squared_error", FAST(mean_squared_error), METH_FASTCALL, mean_squared_error_doc},
    {"binary_cross_entropy", FAST(binary_cross_entropy), METH_FASTCALL, binary_cross_entropy_doc},
    {NULL, NULL, 0, NULL},
};

int
qb_py_loss_register(PyObject *module, qb_py_state *state)
{
    (void)state;
    return PyModule_AddFunctions(module, functions);
}
