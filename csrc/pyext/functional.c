/* SPDX-License-Identifier: Apache-2.0
 *
 * Functions on tensors (float32, C-contiguous; results are new arrays):
 *
 *     def tensor_quant(device, x, amax, num_bits: int, unsigned: bool, narrow_range: bool) -> tuple[y, scale]: ...
 *     def fake_tensor_quant(device, x, amax, num_bits: int, unsigned: bool, narrow_range: bool) -> y: ...
 *     def tensor_quant_grad(device, x, amax, dy) -> dx: ...
 *     def scaled_e4m3(device, x, amax | None) -> y: ...
 *     def fake_affine(device, x, minimum: float, maximum: float, num_bits: int) -> y: ...
 *     def clip(device, x, minimum, maximum) -> y: ...
 *     def clip_grad(device, x, minimum, maximum, dy) -> tuple[dx, dminimum: float, dmaximum: float]: ...
 *     def reduce_amax(device, x, kept: tuple[int, ...]) -> y: ...      # keeps the rank
 *     def quant_linear(device, input_quantizer, weight_quantizer, x, weight, bias | None) -> y: ...
 */
#include "ndarray.h"
#include "state.h"

/* The tensors of one call, so that one exit path gives all of them back. */
typedef struct borrowed {
    qb_py_tensor x, amax, dy, minimum, maximum, weight, bias;
} borrowed;

static void
give_back_all(borrowed *tensors)
{
    qb_py_give_back(&tensors->x);
    qb_py_give_back(&tensors->amax);
    qb_py_give_back(&tensors->dy);
    qb_py_give_back(&tensors->minimum);
    qb_py_give_back(&tensors->maximum);
    qb_py_give_back(&tensors->weight);
    qb_py_give_back(&tensors->bias);
}

static PyObject *
new_like(const qb_py_tensor *tensor, void **data)
{
    return qb_py_array_new(QB_PY_FLOAT32, tensor->rank, tensor->shape, data);
}

static int
require_same_shape(const qb_py_state *state, const qb_py_tensor *x, const qb_py_tensor *dy)
{
    if (dy->rank == x->rank && memcmp(dy->shape, x->shape, (size_t)x->rank * sizeof x->shape[0]) == 0) {
        return 0;
    }
    char expected[QB_PY_SHAPE_TEXT];
    char got[QB_PY_SHAPE_TEXT];
    PyErr_Format(state->shape_error, "dy: expected the shape of x, %s, got %s",
                 qb_py_shape_text(expected, x->rank, x->shape), qb_py_shape_text(got, dy->rank, dy->shape));
    return -1;
}

/* `result` if the call succeeded; otherwise drops it and raises. */
static PyObject *
finish(const qb_py_state *state, qb_status status, const qb_error *error, PyObject *result)
{
    if (status == QB_OK) {
        return result;
    }
    Py_XDECREF(result);
    return qb_py_raise(state, error);
}

/* ---- integer quantization ---------------------------------------------------------------------------------------- */

static PyObject *
quantize(PyObject *module, PyObject *arguments, const char *format, int fake)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *device_object = NULL;
    PyObject *x = NULL;
    PyObject *amax = NULL;
    int num_bits = 0;
    int is_unsigned = 0;
    int narrow_range = 0;
    if (!PyArg_ParseTuple(arguments, format, &device_object, &x, &amax, &num_bits, &is_unsigned, &narrow_range)) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    borrowed tensors = {0};
    PyObject *y = NULL;
    PyObject *scale = NULL;
    PyObject *result = NULL;
    void *y_data = NULL;
    void *scale_data = NULL;
    if (!device || qb_py_borrow(state, x, "inputs", QB_PY_FLOAT32, &tensors.x) < 0 ||
        qb_py_borrow(state, amax, "amax", QB_PY_FLOAT32, &tensors.amax) < 0) {
        goto done;
    }
    y = new_like(&tensors.x, &y_data);
    scale = fake ? Py_NewRef(Py_None) : new_like(&tensors.amax, &scale_data);
    if (!y || !scale) {
        goto done;
    }
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_tensor_quant(device, qb_py_as_tensor(&tensors.x), qb_py_as_tensor(&tensors.amax),
                                             num_bits, is_unsigned, narrow_range, fake, y_data, scale_data, &error);
    qb_py_call_end(&call);
    if (status != QB_OK) {
        qb_py_raise(state, &error);
        goto done;
    }
    result = fake ? Py_NewRef(y) : PyTuple_Pack(2, y, scale);
done:
    Py_XDECREF(y);
    Py_XDECREF(scale);
    give_back_all(&tensors);
    return result;
}

PyDoc_STRVAR(tensor_quant_doc, "tensor_quant($module, device, x, amax, num_bits, unsigned, narrow_range, /)\n--\n\n"
                               "Integer values of a tensor, as float32, and their scale.\n\n"
                               "Parameters\n----------\n"
                               "device : Device\n"
                               "x : float32, C-contiguous, any shape\n"
                               "amax : float32, a shape that broadcasts to that of x\n"
                               "    At least 0, or NaN.\n"
                               "num_bits : int\n"
                               "    0 .. 16.\n"
                               "unsigned : bool\n"
                               "    Whether codes start at 0; then a negative element is an error.\n"
                               "narrow_range : bool\n"
                               "    Whether the lowest signed code is minus the highest.\n\n"
                               "Returns\n-------\n"
                               "tuple of (ndarray, ndarray), float32\n"
                               "    Codes of the shape of x; codes per unit, of the shape of amax.\n\n"
                               "Raises\n------\n"
                               "ShapeError\n"
                               "    If amax does not broadcast to x.\n"
                               "ValueError\n"
                               "    If amax is negative, or an argument or element out of range.");

static PyObject *
tensor_quant(PyObject *module, PyObject *arguments)
{
    return quantize(module, arguments, "OOOipp:tensor_quant", 0);
}

PyDoc_STRVAR(fake_tensor_quant_doc,
             "fake_tensor_quant($module, device, x, amax, num_bits, unsigned, narrow_range, /)\n--\n\n"
             "A tensor quantized and dequantized.\n\n"
             "Parameters\n----------\n"
             "device : Device\n"
             "x : float32, C-contiguous, any shape\n"
             "amax : float32, a shape that broadcasts to that of x\n"
             "    At least 0, or NaN.\n"
             "num_bits : int\n"
             "    0 .. 16.\n"
             "unsigned : bool\n"
             "    Whether codes start at 0; then a negative element is an error.\n"
             "narrow_range : bool\n"
             "    Whether the lowest signed code is minus the highest.\n\n"
             "Returns\n-------\n"
             "ndarray, shape of x, float32\n\n"
             "Raises\n------\n"
             "ShapeError\n"
             "    If amax does not broadcast to x.\n"
             "ValueError\n"
             "    If amax is negative, or an argument or element out of range.");

static PyObject *
fake_tensor_quant(PyObject *module, PyObject *arguments)
{
    return quantize(module, arguments, "OOOipp:fake_tensor_quant", 1);
}

PyDoc_STRVAR(tensor_quant_grad_doc, "tensor_quant_grad($module, device, x, amax, dy, /)\n--\n\n"
                                    "Gradient of (fake) quantization: dy where |x| <= amax, otherwise 0.\n\n"
                                    "Parameters\n----------\n"
                                    "device : Device\n"
                                    "x : float32, C-contiguous, any shape\n"
                                    "amax : float32, a shape that broadcasts to that of x\n"
                                    "dy : float32, shape of x\n\n"
                                    "Returns\n-------\n"
                                    "ndarray, shape of x, float32\n\n"
                                    "Raises\n------\n"
                                    "ShapeError\n"
                                    "    If the shapes do not fit each other.");

static PyObject *
tensor_quant_grad(PyObject *module, PyObject *arguments)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *device_object = NULL;
    PyObject *x = NULL;
    PyObject *amax = NULL;
    PyObject *dy = NULL;
    if (!PyArg_ParseTuple(arguments, "OOOO:tensor_quant_grad", &device_object, &x, &amax, &dy)) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    borrowed tensors = {0};
    PyObject *dx = NULL;
    void *data = NULL;
    if (device && qb_py_borrow(state, x, "inputs", QB_PY_FLOAT32, &tensors.x) == 0 &&
        qb_py_borrow(state, amax, "amax", QB_PY_FLOAT32, &tensors.amax) == 0 &&
        qb_py_borrow(state, dy, "dy", QB_PY_FLOAT32, &tensors.dy) == 0 &&
        require_same_shape(state, &tensors.x, &tensors.dy) == 0 && (dx = new_like(&tensors.x, &data))) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = qb_tensor_quant_grad(device, qb_py_as_tensor(&tensors.x),
                                                      qb_py_as_tensor(&tensors.amax), tensors.dy.data, data, &error);
        qb_py_call_end(&call);
        dx = finish(state, status, &error, dx);
    }
    give_back_all(&tensors);
    return dx;
}

/* ---- other formats ----------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(scaled_e4m3_doc, "scaled_e4m3($module, device, x, amax, /)\n--\n\n"
                              "A tensor rounded to the 8-bit floating-point format E4M3.\n\n"
                              "Parameters\n----------\n"
                              "device : Device\n"
                              "x : float32, C-contiguous, any shape\n"
                              "amax : float32, a shape that broadcasts to that of x, or None\n"
                              "    Scales by 448 / amax before and back after; None: not at all.\n\n"
                              "Returns\n-------\n"
                              "ndarray, shape of x, float32\n\n"
                              "Raises\n------\n"
                              "ShapeError\n"
                              "    If amax does not broadcast to x.\n"
                              "ValueError\n"
                              "    If amax is negative.");

static PyObject *
scaled_e4m3(PyObject *module, PyObject *arguments)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *device_object = NULL;
    PyObject *x = NULL;
    PyObject *amax = NULL;
    if (!PyArg_ParseTuple(arguments, "OOO:scaled_e4m3", &device_object, &x, &amax)) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    borrowed tensors = {0};
    PyObject *y = NULL;
    void *data = NULL;
    if (device && qb_py_borrow(state, x, "inputs", QB_PY_FLOAT32, &tensors.x) == 0 &&
        qb_py_borrow_optional(state, amax, "amax", QB_PY_FLOAT32, &tensors.amax) == 0 &&
        (y = new_like(&tensors.x, &data))) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status =
            qb_scaled_e4m3(device, qb_py_as_tensor(&tensors.x), qb_py_as_tensor(&tensors.amax), data, &error);
        qb_py_call_end(&call);
        y = finish(state, status, &error, y);
    }
    give_back_all(&tensors);
    return y;
}

PyDoc_STRVAR(fake_affine_doc,
             "fake_affine($module, device, x, minimum, maximum, num_bits, /)\n--\n\n"
             "A tensor quantized with a zero point so that [minimum, maximum] fits, and dequantized.\n\n"
             "Parameters\n----------\n"
             "device : Device\n"
             "x : float32, C-contiguous, any shape\n"
             "minimum, maximum : float\n"
             "    The range that the codes cover.\n"
             "num_bits : int\n"
             "    1 .. 16.\n\n"
             "Returns\n-------\n"
             "ndarray, shape of x, float32\n\n"
             "Raises\n------\n"
             "ValueError\n"
             "    If num_bits is out of range.");

static PyObject *
fake_affine(PyObject *module, PyObject *arguments)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *device_object = NULL;
    PyObject *x = NULL;
    float minimum = 0.0f;
    float maximum = 0.0f;
    int num_bits = 0;
    if (!PyArg_ParseTuple(arguments, "OOffi:fake_affine", &device_object, &x, &minimum, &maximum, &num_bits)) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    borrowed tensors = {0};
    PyObject *y = NULL;
    void *data = NULL;
    if (device && qb_py_borrow(state, x, "inputs", QB_PY_FLOAT32, &tensors.x) == 0 &&
        (y = new_like(&tensors.x, &data))) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status =
            qb_fake_affine(device, qb_py_as_tensor(&tensors.x), minimum, maximum, num_bits, data, &error);
        qb_py_call_end(&call);
        y = finish(state, status, &error, y);
    }
    give_back_all(&tensors);
    return y;
}

/* ---- clip -------------------------------------------------------------------------------------------------------- */

static int
borrow_clip(const qb_py_state *state, PyObject *const objects[3], borrowed *tensors)
{
    return qb_py_borrow(state, objects[0], "inputs", QB_PY_FLOAT32, &tensors->x) < 0 ||
                   qb_py_borrow(state, objects[1], "clip_value_min", QB_PY_FLOAT32, &tensors->minimum) < 0 ||
                   qb_py_borrow(state, objects[2], "clip_value_max", QB_PY_FLOAT32, &tensors->maximum) < 0
               ? -1
               : 0;
}

PyDoc_STRVAR(clip_doc, "clip($module, device, x, minimum, maximum, /)\n--\n\n"
                       "Every element limited to a range: max(min(x, maximum), minimum).\n\n"
                       "Parameters\n----------\n"
                       "device : Device\n"
                       "x : float32, C-contiguous, any shape\n"
                       "minimum, maximum : float32, shapes that broadcast to that of x\n\n"
                       "Returns\n-------\n"
                       "ndarray, shape of x, float32\n\n"
                       "Raises\n------\n"
                       "ShapeError\n"
                       "    If a bound does not broadcast to x.");

static PyObject *
clip(PyObject *module, PyObject *arguments)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *device_object = NULL;
    PyObject *objects[3] = {NULL, NULL, NULL};
    if (!PyArg_ParseTuple(arguments, "OOOO:clip", &device_object, &objects[0], &objects[1], &objects[2])) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    borrowed tensors = {0};
    PyObject *y = NULL;
    void *data = NULL;
    if (device && borrow_clip(state, objects, &tensors) == 0 && (y = new_like(&tensors.x, &data))) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status = qb_clip(device, qb_py_as_tensor(&tensors.x), qb_py_as_tensor(&tensors.minimum),
                                         qb_py_as_tensor(&tensors.maximum), data, &error);
        qb_py_call_end(&call);
        y = finish(state, status, &error, y);
    }
    give_back_all(&tensors);
    return y;
}

PyDoc_STRVAR(clip_grad_doc, "clip_grad($module, device, x, minimum, maximum, dy, /)\n--\n\n"
                            "Gradients of clip with bounds of one element.\n\n"
                            "Parameters\n----------\n"
                            "device : Device\n"
                            "x : float32, C-contiguous, any shape\n"
                            "minimum, maximum : float32, one element\n"
                            "dy : float32, shape of x\n\n"
                            "Returns\n-------\n"
                            "tuple of (ndarray, float, float)\n"
                            "    dx of the shape of x, dminimum, dmaximum.\n\n"
                            "Raises\n------\n"
                            "ShapeError\n"
                            "    If the shapes do not fit each other.\n"
                            "ValueError\n"
                            "    If a bound has more than one element.");

static PyObject *
clip_grad(PyObject *module, PyObject *arguments)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *device_object = NULL;
    PyObject *objects[3] = {NULL, NULL, NULL};
    PyObject *dy = NULL;
    if (!PyArg_ParseTuple(arguments, "OOOOO:clip_grad", &device_object, &objects[0], &objects[1], &objects[2], &dy)) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    borrowed tensors = {0};
    PyObject *dx = NULL;
    PyObject *result = NULL;
    void *data = NULL;
    if (device && borrow_clip(state, objects, &tensors) == 0 &&
        qb_py_borrow(state, dy, "dy", QB_PY_FLOAT32, &tensors.dy) == 0 &&
        require_same_shape(state, &tensors.x, &tensors.dy) == 0 && (dx = new_like(&tensors.x, &data))) {
        float dminimum = 0.0f;
        float dmaximum = 0.0f;
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status =
            qb_clip_grad(device, qb_py_as_tensor(&tensors.x), qb_py_as_tensor(&tensors.minimum),
                         qb_py_as_tensor(&tensors.maximum), tensors.dy.data, data, &dminimum, &dmaximum, &error);
        qb_py_call_end(&call);
        dx = finish(state, status, &error, dx);
        result = dx ? Py_BuildValue("(Ndd)", dx, (double)dminimum, (double)dmaximum) : NULL;
    }
    give_back_all(&tensors);
    return result;
}

/* ---- reductions and products ---------------------------------------------------------------------------------------
 */

PyDoc_STRVAR(reduce_amax_doc, "reduce_amax($module, device, x, kept, /)\n--\n\n"
                              "Largest magnitude over every axis that is not kept.\n\n"
                              "Parameters\n----------\n"
                              "device : Device\n"
                              "x : float32, C-contiguous, any shape\n"
                              "kept : tuple of int\n"
                              "    Axes that keep their length, each in [0, rank of x).\n\n"
                              "Returns\n-------\n"
                              "ndarray, float32\n"
                              "    With the rank of x; reduced axes have length 1.\n\n"
                              "Raises\n------\n"
                              "IndexError, ValueError\n"
                              "    If there is no such axis, or there are too many.");

static PyObject *
reduce_amax(PyObject *module, PyObject *arguments)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *device_object = NULL;
    PyObject *x = NULL;
    PyObject *kept_object = NULL;
    int32_t kept[QB_MAX_RANK];
    int64_t shape[QB_MAX_RANK];
    if (!PyArg_ParseTuple(arguments, "OOO!:reduce_amax", &device_object, &x, &PyTuple_Type, &kept_object)) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    borrowed tensors = {0};
    PyObject *y = NULL;
    void *data = NULL;
    if (!device || qb_py_borrow(state, x, "input", QB_PY_FLOAT32, &tensors.x) < 0) {
        return NULL;
    }
    const Py_ssize_t kept_count = PyTuple_GET_SIZE(kept_object);
    if (kept_count > tensors.x.rank) {
        PyErr_Format(PyExc_ValueError, "kept: expected at most %d axes, got %zd", (int)tensors.x.rank, kept_count);
        goto done;
    }
    for (int32_t axis = 0; axis < tensors.x.rank; ++axis) {
        shape[axis] = 1;
    }
    for (Py_ssize_t i = 0; i < kept_count; ++i) {
        const long axis = PyLong_AsLong(PyTuple_GET_ITEM(kept_object, i));
        if (axis == -1 && PyErr_Occurred()) {
            goto done;
        }
        if (axis < 0 || axis >= tensors.x.rank) {
            PyErr_Format(PyExc_IndexError, "kept: axis %ld of a tensor with %d dimensions", axis, (int)tensors.x.rank);
            goto done;
        }
        kept[i] = (int32_t)axis;
        shape[axis] = tensors.x.shape[axis];
    }
    y = qb_py_array_new(QB_PY_FLOAT32, tensors.x.rank, shape, &data);
    if (y) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status =
            qb_reduce_amax(device, qb_py_as_tensor(&tensors.x), (int32_t)kept_count, kept, data, &error);
        qb_py_call_end(&call);
        y = finish(state, status, &error, y);
    }
done:
    give_back_all(&tensors);
    return y;
}

static int
check_linear(const qb_py_state *state, const borrowed *tensors)
{
    char got[QB_PY_SHAPE_TEXT];
    if (tensors->weight.rank != 2) {
        PyErr_Format(state->shape_error, "weight: expected (out_features, in_features), got %s",
                     qb_py_shape_text(got, tensors->weight.rank, tensors->weight.shape));
        return -1;
    }
    if (tensors->x.rank < 1 || tensors->x.shape[tensors->x.rank - 1] != tensors->weight.shape[1]) {
        PyErr_Format(state->shape_error, "input: expected (..., %lld), got %s", (long long)tensors->weight.shape[1],
                     qb_py_shape_text(got, tensors->x.rank, tensors->x.shape));
        return -1;
    }
    if (tensors->bias.data && (tensors->bias.rank != 1 || tensors->bias.shape[0] != tensors->weight.shape[0])) {
        PyErr_Format(state->shape_error, "bias: expected (%lld,), got %s", (long long)tensors->weight.shape[0],
                     qb_py_shape_text(got, tensors->bias.rank, tensors->bias.shape));
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(quant_linear_doc,
             "quant_linear($module, device, input_quantizer, weight_quantizer, x, weight, bias, /)\n--\n\n"
             "Q(x) Q(weight)^T + bias, as integers where the quantizers allow it.\n\n"
             "Parameters\n----------\n"
             "device : Device\n"
             "input_quantizer, weight_quantizer : Quantizer\n"
             "x : float32, shape (..., in)\n"
             "weight : float32, shape (out, in)\n"
             "bias : float32, shape (out,), or None\n\n"
             "Returns\n-------\n"
             "ndarray, shape (..., out), float32\n\n"
             "Raises\n------\n"
             "ShapeError\n"
             "    If the shapes do not fit each other.\n"
             "ValueError\n"
             "    If a tensor to be collected or multiplied as integers has a NaN or an infinity.");

static PyObject *
quant_linear(PyObject *module, PyObject *arguments)
{
    qb_py_state *state = qb_py_state_of_module(module);
    PyObject *objects[6] = {NULL, NULL, NULL, NULL, NULL, NULL};
    if (!PyArg_ParseTuple(arguments, "OOOOOO:quant_linear", &objects[0], &objects[1], &objects[2], &objects[3],
                          &objects[4], &objects[5])) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, objects[0], "device");
    qb_quantizer *input_quantizer = device ? qb_py_quantizer_handle(state, objects[1], "input_quantizer") : NULL;
    qb_quantizer *weight_quantizer =
        input_quantizer ? qb_py_quantizer_handle(state, objects[2], "weight_quantizer") : NULL;
    borrowed tensors = {0};
    PyObject *y = NULL;
    if (weight_quantizer && qb_py_borrow(state, objects[3], "input", QB_PY_FLOAT32, &tensors.x) == 0 &&
        qb_py_borrow(state, objects[4], "weight", QB_PY_FLOAT32, &tensors.weight) == 0 &&
        qb_py_borrow_optional(state, objects[5], "bias", QB_PY_FLOAT32, &tensors.bias) == 0 &&
        check_linear(state, &tensors) == 0) {
        int64_t shape[QB_MAX_RANK];
        void *data = NULL;
        memcpy(shape, tensors.x.shape, sizeof shape);
        shape[tensors.x.rank - 1] = tensors.weight.shape[0];
        y = qb_py_array_new(QB_PY_FLOAT32, tensors.x.rank, shape, &data);
        if (y) {
            qb_error error;
            qb_py_call call;
            qb_py_call_begin(&call);
            const qb_status status =
                qb_quant_linear(device, input_quantizer, weight_quantizer, qb_py_as_tensor(&tensors.x),
                                qb_py_as_tensor(&tensors.weight), tensors.bias.data, data, &error);
            qb_py_call_end(&call);
            y = finish(state, status, &error, y);
        }
    }
    give_back_all(&tensors);
    return y;
}

/* ---- table ------------------------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"tensor_quant", tensor_quant, METH_VARARGS, tensor_quant_doc},
    {"fake_tensor_quant", fake_tensor_quant, METH_VARARGS, fake_tensor_quant_doc},
    {"tensor_quant_grad", tensor_quant_grad, METH_VARARGS, tensor_quant_grad_doc},
    {"scaled_e4m3", scaled_e4m3, METH_VARARGS, scaled_e4m3_doc},
    {"fake_affine", fake_affine, METH_VARARGS, fake_affine_doc},
    {"clip", clip, METH_VARARGS, clip_doc},
    {"clip_grad", clip_grad, METH_VARARGS, clip_grad_doc},
    {"reduce_amax", reduce_amax, METH_VARARGS, reduce_amax_doc},
    {"quant_linear", quant_linear, METH_VARARGS, quant_linear_doc},
    {NULL, NULL, 0, NULL},
};

int
qb_py_functional_register(PyObject *module, qb_py_state *state)
{
    (void)state;
    return PyModule_AddFunctions(module, functions);
}
