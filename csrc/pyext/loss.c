/* SPDX-License-Identifier: Apache-2.0
 *
 * The losses of the heads as functions of arrays:
 *
 *     def cross_entropy(device, logits: (rows, classes), labels: (rows,) int64, ignore_index, label_smoothing): ...
 *     def kl_divergence(device, logits, teacher, labels: (rows,) int64 | None, ignore_index, temperature): ...
 *     def mean_squared_error(x: float32, y: float32) -> float: ...               # same shape
 *     def binary_cross_entropy(logits: float32, labels: float32) -> float: ...   # same shape
 *
 * and `<name>_grad` with one argument more, `factor`: so many times their gradient with respect to the first array, of
 * its shape.
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

/* ---- rows of logits ---------------------------------------------------------------------------------------------- */

/* The arguments of one call; its tensors are to be given back. */
typedef struct row_call {
    qb_device *device;
    qb_py_tensor logits, teacher, labels;
    long long ignore_index;
    double setting; /* label_smoothing or temperature */
    double factor;  /* of the gradients */
} row_call;

static void
give_back_rows(row_call *call)
{
    qb_py_give_back(&call->logits);
    qb_py_give_back(&call->teacher);
    qb_py_give_back(&call->labels);
}

static int
check_row_shapes(const qb_py_state *state, const row_call *call)
{
    const qb_py_tensor *logits = &call->logits;
    const qb_py_tensor *teacher = &call->teacher;
    const qb_py_tensor *labels = &call->labels;
    char got[QB_PY_SHAPE_TEXT];
    char expected[QB_PY_SHAPE_TEXT];
    if (logits->rank != 2 || (labels->data && (labels->rank != 1 || logits->shape[0] != labels->shape[0]))) {
        PyErr_Format(state->shape_error, "labels: expected logits (rows, classes) and labels (rows,), got %s and %s",
                     qb_py_shape_text(expected, logits->rank, logits->shape),
                     qb_py_shape_text(got, labels->rank, labels->shape));
        return -1;
    }
    if (teacher->data &&
        (teacher->rank != 2 || teacher->shape[0] != logits->shape[0] || teacher->shape[1] != logits->shape[1])) {
        PyErr_Format(state->shape_error, "teacher: expected the shape of logits, %s, got %s",
                     qb_py_shape_text(expected, logits->rank, logits->shape),
                     qb_py_shape_text(got, teacher->rank, teacher->shape));
        return -1;
    }
    return 0;
}

/* device, logits, teacher if there is one, labels, ignore_index, setting, factor if it is a gradient. */
static int
read_row_call(qb_py_state *state, const char *function, int has_teacher, int is_gradient, PyObject *const *arguments,
              Py_ssize_t count, row_call *call)
{
    const int labels = 2 + has_teacher;
    if (require_arguments(function, count, labels + 3 + is_gradient) < 0) {
        return -1;
    }
    call->device = qb_py_device_handle(state, arguments[0], "device");
    if (!call->device) {
        return -1;
    }
    call->ignore_index = PyLong_AsLongLong(arguments[labels + 1]);
    if (call->ignore_index == -1 && PyErr_Occurred()) {
        return -1;
    }
    call->setting = PyFloat_AsDouble(arguments[labels + 2]);
    if (call->setting == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    call->factor = is_gradient ? PyFloat_AsDouble(arguments[labels + 3]) : 0.0;
    if (call->factor == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (qb_py_borrow(state, arguments[1], "logits", QB_PY_FLOAT32, &call->logits) < 0 ||
        (has_teacher && qb_py_borrow(state, arguments[2], "teacher", QB_PY_FLOAT32, &call->teacher) < 0)) {
        return -1;
    }
    const int is_read = has_teacher
                            ? qb_py_borrow_optional(state, arguments[labels], "labels", QB_PY_INT64, &call->labels)
                            : qb_py_borrow(state, arguments[labels], "labels", QB_PY_INT64, &call->labels);
    return is_read < 0 ? -1 : check_row_shapes(state, call);
}

static qb_status
compute_row_loss(const row_call *c, float *loss, qb_error *error)
{
    const int64_t *shape = c->logits.shape;
    return c->teacher.data ? qb_kl_divergence(c->device, c->logits.data, c->teacher.data, shape[0], shape[1],
                                              c->labels.data, c->ignore_index, c->setting, loss, error)
                           : qb_cross_entropy(c->device, c->logits.data, shape[0], shape[1], c->labels.data,
                                              c->ignore_index, c->setting, loss, error);
}

static qb_status
compute_row_gradient(const row_call *c, float *d, qb_error *error)
{
    const int64_t *shape = c->logits.shape;
    return c->teacher.data
               ? qb_kl_divergence_grad(c->device, c->logits.data, c->teacher.data, shape[0], shape[1], c->labels.data,
                                       c->ignore_index, c->setting, (float)c->factor, d, error)
               : qb_cross_entropy_grad(c->device, c->logits.data, shape[0], shape[1], c->labels.data, c->ignore_index,
                                       c->setting, (float)c->factor, d, error);
}

static PyObject *
call_row_loss(PyObject *module, const char *function, int has_teacher, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_module(module);
    row_call rows = {.device = NULL};
    PyObject *result = NULL;
    if (read_row_call(state, function, has_teacher, 0, arguments, count, &rows) == 0) {
        float loss = 0.0f;
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = compute_row_loss(&rows, &loss, &error);
        qb_py_call_end(&call);
        result = status == QB_OK ? PyFloat_FromDouble((double)loss) : qb_py_raise(state, &error);
    }
    give_back_rows(&rows);
    return result;
}

static PyObject *
call_row_gradient(PyObject *module, const char *function, int has_teacher, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_module(module);
    row_call rows = {.device = NULL};
    void *d = NULL;
    PyObject *result = NULL;
    if (read_row_call(state, function, has_teacher, 1, arguments, count, &rows) == 0) {
        result = qb_py_array_new(QB_PY_FLOAT32, 2, rows.logits.shape, &d);
    }
    if (result) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = compute_row_gradient(&rows, d, &error);
        qb_py_call_end(&call);
        if (status != QB_OK) {
            Py_CLEAR(result);
            qb_py_raise(state, &error);
        }
    }
    give_back_rows(&rows);
    return result;
}

#define ROW_ERRORS                                                                                                     \
    "Raises\n------\n"                                                                                                 \
    "ShapeError\n"                                                                                                     \
    "    If the shapes do not fit each other.\n"                                                                       \
    "IndexError\n"                                                                                                     \
    "    If a label is out of range.\n"                                                                                \
    "ValueError\n"                                                                                                     \
    "    If a number is out of range."

PyDoc_STRVAR(cross_entropy_doc,
             "cross_entropy($module, device, logits, labels, ignore_index, label_smoothing, /)\n--\n\n"
             "Mean cross-entropy of logits against the labels that count.\n\n"
             "Parameters\n----------\n"
             "device : Device\n"
             "logits : float32, shape (rows, classes)\n"
             "labels : int64, shape (rows,)\n"
             "    In [0, classes), or ignore_index.\n"
             "ignore_index : int\n"
             "    Label of rows that do not count.\n"
             "label_smoothing : float\n"
             "    Share of the target that is spread over all classes, 0 .. 1.\n\n"
             "Returns\n-------\n"
             "float\n"
             "    NaN if no row counts.\n\n" ROW_ERRORS);

static PyObject *
cross_entropy(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    return call_row_loss(module, "cross_entropy", 0, arguments, count);
}

PyDoc_STRVAR(cross_entropy_grad_doc,
             "cross_entropy_grad($module, device, logits, labels, ignore_index, label_smoothing, factor, /)\n--\n\n"
             "A multiple of the gradient of cross_entropy with respect to logits.\n\n"
             "Parameters\n----------\n"
             "device, logits, labels, ignore_index, label_smoothing\n"
             "    As in cross_entropy.\n"
             "factor : float\n\n"
             "Returns\n-------\n"
             "ndarray, float32, shape (rows, classes)\n"
             "    Zeros in rows that do not count; NaN if no row counts.\n\n" ROW_ERRORS);

static PyObject *
cross_entropy_grad(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    return call_row_gradient(module, "cross_entropy_grad", 0, arguments, count);
}

PyDoc_STRVAR(kl_divergence_doc,
             "kl_divergence($module, device, logits, teacher, labels, ignore_index, temperature, /)\n--\n\n"
             "Mean divergence of the probabilities of rows from a teacher's.\n\n"
             "Parameters\n----------\n"
             "device : Device\n"
             "logits, teacher : float32, shape (rows, classes)\n"
             "labels : int64, shape (rows,), or None\n"
             "    ignore_index where a row does not count; None: all do.\n"
             "ignore_index : int\n"
             "temperature : float\n"
             "    Above 0; logits of both are divided by it.\n\n"
             "Returns\n-------\n"
             "float\n"
             "    NaN if no row counts.\n\n" ROW_ERRORS);

static PyObject *
kl_divergence(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    return call_row_loss(module, "kl_divergence", 1, arguments, count);
}

PyDoc_STRVAR(
    kl_divergence_grad_doc,
    "kl_divergence_grad($module, device, logits, teacher, labels, ignore_index, temperature, factor, /)\n--\n\n"
    "A multiple of the gradient of kl_divergence with respect to logits.\n\n"
    "Parameters\n----------\n"
    "device, logits, teacher, labels, ignore_index, temperature\n"
    "    As in kl_divergence.\n"
    "factor : float\n\n"
    "Returns\n-------\n"
    "ndarray, float32, shape (rows, classes)\n"
    "    Zeros in rows that do not count; NaN if no row counts.\n\n" ROW_ERRORS);

static PyObject *
kl_divergence_grad(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    return call_row_gradient(module, "kl_divergence_grad", 1, arguments, count);
}

/* ---- elements ---------------------------------------------------------------------------------------------------- */

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
    {"kl_divergence", FAST(kl_divergence), METH_FASTCALL, kl_divergence_doc},
    {"kl_divergence_grad", FAST(kl_divergence_grad), METH_FASTCALL, kl_divergence_grad_doc},
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
