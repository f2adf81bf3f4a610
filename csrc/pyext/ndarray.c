/* SPDX-License-Identifier: Apache-2.0
 *
 * The only unit with the NumPy C interface.  It reads no element and computes nothing.
 */
#include "ndarray.h"

#define NPY_NO_DEPRECATED_API NPY_1_23_API_VERSION
#define NPY_TARGET_VERSION NPY_1_23_API_VERSION
#include <numpy/arrayobject.h>

int
qb_py_numpy_import(void)
{
    import_array1(-1);
    return 0;
}

const char *
qb_py_shape_text(char *text, int32_t rank, const int64_t *shape)
{
    size_t used = 0;
    text[used++] = '(';
    for (int32_t axis = 0; axis < rank; ++axis) {
        used += (size_t)PyOS_snprintf(text + used, QB_PY_SHAPE_TEXT - used, axis ? ", %lld" : "%lld",
                                      (long long)shape[axis]);
    }
    PyOS_snprintf(text + used, QB_PY_SHAPE_TEXT - used, rank == 1 ? ",)" : ")");
    return text;
}

/* The one-letter native format codes of each type; the item size decides between 'l' and 'q'. */
static int
format_matches(const Py_buffer *view, qb_py_dtype dtype)
{
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=' || *format == (PY_LITTLE_ENDIAN ? '<' : '>')) {
        ++format;
    }
    if (format[0] == '\0' || format[1] != '\0') {
        return 0;
    }
    switch (dtype) {
    case QB_PY_FLOAT32:
        return format[0] == 'f' && view->itemsize == 4;
    case QB_PY_FLOAT64:
        return format[0] == 'd' && view->itemsize == 8;
    case QB_PY_INT64:
        return (format[0] == 'l' || format[0] == 'q') && view->itemsize == 8;
    case QB_PY_INT8:
        return format[0] == 'b' && view->itemsize == 1;
    }
    return 0;
}

static const char *
dtype_name(qb_py_dtype dtype)
{
    switch (dtype) {
    case QB_PY_FLOAT32:
        return "float32";
    case QB_PY_FLOAT64:
        return "float64";
    case QB_PY_INT64:
        return "int64";
    case QB_PY_INT8:
        return "int8";
    }
    return "?";
}

int
qb_py_borrow(const qb_py_state *state, PyObject *object, const char *argument, qb_py_dtype dtype, qb_py_tensor *tensor)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s: expected a C-contiguous buffer of %s, got %.100s", argument,
                     dtype_name(dtype), Py_TYPE(object)->tp_name);
        return -1;
    }
    const size_t alignment = dtype == QB_PY_INT8 ? 1 : dtype == QB_PY_FLOAT32 ? 4 : 8;
    if (!format_matches(&view, dtype)) {
        PyErr_Format(PyExc_TypeError, "%s: expected %s, got buffer format '%.20s'", argument, dtype_name(dtype),
                     view.format ? view.format : "B");
        PyBuffer_Release(&view);
        return -1;
    }
    if ((uintptr_t)view.buf % alignment != 0) {
        PyErr_Format(PyExc_TypeError, "%s: expected memory aligned to %zu bytes", argument, alignment);
        PyBuffer_Release(&view);
        return -1;
    }
    if (view.ndim > QB_MAX_RANK) {
        PyErr_Format(state->shape_error, "%s: expected at most %d dimensions, got %d", argument, QB_MAX_RANK,
                     view.ndim);
        PyBuffer_Release(&view);
        return -1;
    }
    tensor->view = view;
    tensor->data = view.buf;
    tensor->rank = view.ndim;
    tensor->count = view.len / view.itemsize;
    for (int axis = 0; axis < view.ndim; ++axis) {
        tensor->shape[axis] = view.shape[axis];
    }
    return 0;
}

int
qb_py_borrow_optional(const qb_py_state *state, PyObject *object, const char *argument, qb_py_dtype dtype,
                      qb_py_tensor *tensor)
{
    return object == Py_None || !object ? 0 : qb_py_borrow(state, object, argument, dtype, tensor);
}

void
qb_py_give_back(qb_py_tensor *tensor)
{
    tensor->data = NULL;
    if (tensor->view.obj) {
        PyBuffer_Release(&tensor->view);
    }
}

void
qb_py_give_back_each(qb_py_tensors *tensors)
{
    for (int64_t i = 0; tensors->each && i < tensors->count; ++i) {
        qb_py_give_back(&tensors->each[i]);
    }
    PyMem_Free(tensors->each);
    PyMem_Free((void *)tensors->data);
    *tensors = (qb_py_tensors){.count = 0};
}

int
qb_py_borrow_each(const qb_py_state *state, PyObject *object, const char *argument, int64_t count, const char *what,
                  int optional, qb_py_tensors *tensors)
{
    /* A tuple of its own: borrowing a buffer may run the exporter's code, which may change a list. */
    PyObject *sequence = PySequence_Tuple(object);
    if (!sequence) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "%s: expected a sequence of arrays, got %.100s", argument,
                         Py_TYPE(object)->tp_name);
        }
        return -1;
    }
    int result = -1;
    if (PyTuple_GET_SIZE(sequence) != count) {
        PyErr_Format(state->shape_error, "%s: expected %s for each of %lld %s, got %zd", argument,
                     optional ? "an array or None" : "one array", (long long)count, what, PyTuple_GET_SIZE(sequence));
        goto done;
    }
    tensors->count = count;
    tensors->each = PyMem_Calloc((size_t)count, sizeof *tensors->each);
    tensors->data = PyMem_Calloc((size_t)count, sizeof *tensors->data);
    if (!tensors->each || !tensors->data) {
        PyErr_NoMemory();
        goto done;
    }
    for (int64_t i = 0; i < count; ++i) {
        PyObject *item = PyTuple_GET_ITEM(sequence, i);
        if (optional ? qb_py_borrow_optional(state, item, argument, QB_PY_FLOAT32, &tensors->each[i]) < 0
                     : qb_py_borrow(state, item, argument, QB_PY_FLOAT32, &tensors->each[i]) < 0) {
            goto done;
        }
        tensors->data[i] = tensors->each[i].data;
    }
    result = 0;
done:
    Py_DECREF(sequence);
    return result;
}

qb_tensor
qb_py_as_tensor(const qb_py_tensor *tensor)
{
    return (qb_tensor){.data = tensor->data, .rank = tensor->rank, .shape = tensor->shape};
}

static int
type_number(qb_py_dtype dtype)
{
    switch (dtype) {
    case QB_PY_FLOAT32:
        return NPY_FLOAT32;
    case QB_PY_FLOAT64:
        return NPY_FLOAT64;
    case QB_PY_INT64:
        return NPY_INT64;
    case QB_PY_INT8:
        return NPY_INT8;
    }
    return NPY_NOTYPE;
}

PyObject *
qb_py_array_new(qb_py_dtype dtype, int32_t rank, const int64_t *shape, void **data)
{
    npy_intp dimensions[QB_MAX_RANK];
    for (int32_t axis = 0; axis < rank; ++axis) {
        dimensions[axis] = (npy_intp)shape[axis];
    }
    PyObject *array = PyArray_SimpleNew(rank, dimensions, type_number(dtype));
    if (array && data) {
        *data = PyArray_DATA((PyArrayObject *)array);
    }
    return array;
}

PyObject *
qb_py_array_copy(qb_py_dtype dtype, int32_t rank, const int64_t *shape, const void *data)
{
    void *target = NULL;
    PyObject *array = qb_py_array_new(dtype, rank, shape, &target);
    if (array) {
        memcpy(target, data, (size_t)PyArray_NBYTES((PyArrayObject *)array));
    }
    return array;
}

PyObject *
qb_py_array_view(PyObject *owner, int32_t rank, const int64_t *shape, const float *data, int writable)
{
    npy_intp dimensions[QB_MAX_RANK];
    for (int32_t axis = 0; axis < rank; ++axis) {
        dimensions[axis] = (npy_intp)shape[axis];
    }
    const int flags = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | (writable ? NPY_ARRAY_WRITEABLE : 0);
    PyObject *array =
        PyArray_New(&PyArray_Type, rank, dimensions, NPY_FLOAT32, NULL, (void *)(uintptr_t)data, 0, flags, NULL);
    if (!array) {
        return NULL;
    }
    Py_INCREF(owner);
    if (PyArray_SetBaseObject((PyArrayObject *)array, owner) < 0) {
        Py_DECREF(array);
        return NULL;
    }
    return array;
}
