/* SPDX-License-Identifier: Apache-2.0
 *
 * qb_quantizer_options as a dict with QuantDescriptor's names, in both directions.
 *
 * Only types are checked here; whether bits, axes and ranges make sense is for qb_quantizer_create to say.
 */
#include "state.h"

qb_quantizer_options
qb_py_quantizer_options_default(void)
{
    return (qb_quantizer_options){
        .struct_size = sizeof(qb_quantizer_options),
        .format = QB_FORMAT_INTEGER,
        .num_bits = 8,
        .fake_quant = 1,
        .axis_count = -1,
    };
}

static int
read_int32(PyObject *value, const char *argument, const char *key, int32_t *result)
{
    if (!PyLong_Check(value) || PyBool_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s['%s']: expected int, got %.100s", argument, key, Py_TYPE(value)->tp_name);
        return -1;
    }
    const long number = PyLong_AsLong(value);
    if ((number == -1 && PyErr_Occurred()) || number < INT32_MIN || number > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s['%s']: %R does not fit 32 bits", argument, key, value);
        return -1;
    }
    *result = (int32_t)number;
    return 0;
}

static int
read_num_bits(PyObject *value, const char *argument, qb_quantizer_options *options)
{
    if (!PyTuple_Check(value)) {
        options->format = QB_FORMAT_INTEGER;
        return read_int32(value, argument, "num_bits", &options->num_bits);
    }
    int exponent = 0;
    int mantissa = 0;
    if (!PyArg_ParseTuple(value, "ii", &exponent, &mantissa) || exponent != 4 || mantissa != 3) {
        PyErr_Format(PyExc_TypeError, "%s['num_bits']: expected int or (4, 3), got %R", argument, value);
        return -1;
    }
    options->format = QB_FORMAT_E4M3;
    options->num_bits = 8;
    return 0;
}

static int
read_axis(PyObject *value, const char *argument, qb_quantizer_options *options)
{
    if (value == Py_None) {
        options->axis_count = -1;
        return 0;
    }
    if (!PyTuple_Check(value) || PyTuple_GET_SIZE(value) > QB_MAX_RANK) {
        PyErr_Format(PyExc_TypeError, "%s['axis']: expected None or a tuple of at most %d ints, got %R", argument,
                     QB_MAX_RANK, value);
        return -1;
    }
    options->axis_count = (int32_t)PyTuple_GET_SIZE(value);
    for (int32_t i = 0; i < options->axis_count; ++i) {
        if (read_int32(PyTuple_GET_ITEM(value, i), argument, "axis", &options->axes[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
read_flag(PyObject *value, int32_t *flag)
{
    const int truth = PyObject_IsTrue(value);
    *flag = truth > 0;
    return truth < 0 ? -1 : 0;
}

static int
read_scale_amax(PyObject *value, const char *argument, qb_quantizer_options *options)
{
    if (value == Py_None) {
        options->scale_amax = 0.0f;
        return 0;
    }
    const double number = PyFloat_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred()) {
        PyErr_Format(PyExc_TypeError, "%s['scale_amax']: expected float or None, got %.100s", argument,
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    options->scale_amax = (float)number;
    return 0;
}

static int
read_entry(const char *key, PyObject *value, const char *argument, qb_quantizer_options *options)
{
    if (strcmp(key, "num_bits") == 0) {
        return read_num_bits(value, argument, options);
    }
    if (strcmp(key, "axis") == 0) {
        return read_axis(value, argument, options);
    }
    if (strcmp(key, "scale_amax") == 0) {
        return read_scale_amax(value, argument, options);
    }
    if (strcmp(key, "unsigned") == 0) {
        return read_flag(value, &options->is_unsigned);
    }
    if (strcmp(key, "narrow_range") == 0) {
        return read_flag(value, &options->narrow_range);
    }
    if (strcmp(key, "fake_quant") == 0) {
        return read_flag(value, &options->fake_quant);
    }
    if (strcmp(key, "learn_amax") == 0) {
        return read_flag(value, &options->learn_amax);
    }
    PyErr_Format(PyExc_TypeError, "%s: unknown key '%.100s'", argument, key);
    return -1;
}

int
qb_py_quantizer_options_read(PyObject *dict, const char *argument, qb_quantizer_options *options)
{
    if (!PyDict_Check(dict)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a dict of quantizer options, got %.100s", argument,
                     Py_TYPE(dict)->tp_name);
        return -1;
    }
    qb_quantizer_options result = *options;
    PyObject *key = NULL;
    PyObject *value = NULL;
    Py_ssize_t position = 0;
    while (PyDict_Next(dict, &position, &key, &value)) {
        const char *name = PyUnicode_Check(key) ? PyUnicode_AsUTF8(key) : NULL;
        if (!name) {
            PyErr_Format(PyExc_TypeError, "%s: keys must be str, got %R", argument, key);
            return -1;
        }
        if (read_entry(name, value, argument, &result) < 0) {
            return -1;
        }
    }
    *options = result;
    return 0;
}

PyObject *
qb_py_quantizer_options_dict(const qb_quantizer_options *options)
{
    PyObject *axis = NULL;
    if (options->axis_count < 0) {
        axis = Py_NewRef(Py_None);
    }
    else {
        axis = PyTuple_New(options->axis_count);
        for (int32_t i = 0; axis && i < options->axis_count; ++i) {
            PyObject *item = PyLong_FromLong(options->axes[i]);
            if (!item) {
                Py_CLEAR(axis);
                break;
            }
            PyTuple_SET_ITEM(axis, i, item);
        }
    }
    PyObject *num_bits =
        options->format == QB_FORMAT_E4M3 ? Py_BuildValue("(ii)", 4, 3) : PyLong_FromLong(options->num_bits);
    PyObject *scale =
        options->scale_amax == 0.0f ? Py_NewRef(Py_None) : PyFloat_FromDouble((double)options->scale_amax);
    if (!axis || !num_bits || !scale) {
        Py_XDECREF(axis);
        Py_XDECREF(num_bits);
        Py_XDECREF(scale);
        return NULL;
    }
    return Py_BuildValue("{sN sN sN sN sN sN sN}", "num_bits", num_bits, "axis", axis, "scale_amax", scale, "unsigned",
                         PyBool_FromLong(options->is_unsigned), "narrow_range", PyBool_FromLong(options->narrow_range),
                         "fake_quant", PyBool_FromLong(options->fake_quant), "learn_amax",
                         PyBool_FromLong(options->learn_amax));
}
