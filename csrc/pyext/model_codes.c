/* SPDX-License-Identifier: Apache-2.0
 *
 * What a Model can do with weights that are kept as codes, one at a time, and the floats that others lend it:
 *
 *     def storages(self) -> list[tuple[str, tuple[int, ...], int, int, str | None]]: ...
 *     def read_codes(self, index, /) -> ndarray: ...               # int8
 *     def write_codes(self, index, codes, /) -> None: ...
 *     def values_of_codes(self, index, codes, /) -> ndarray: ...   # float32
 *     def seal(self) -> None: ...
 *     def epoch(self) -> int: ...
 *
 * Lent floats are borrowed buffers.  The C model gives them back when it is freed, which a tp_dealloc of ours does,
 * with the GIL.
 */
#include "model_object.h"

/* ---- how a new model stores its parameters ----------------------------------------------------------------------- */

/* What the C model holds on to. */
typedef struct lent_floats {
    Py_ssize_t count;
    qb_py_tensor *each;
} lent_floats;

static void
give_back(void *context)
{
    lent_floats *lent = context;
    for (Py_ssize_t i = 0; i < lent->count; ++i) {
        qb_py_give_back(&lent->each[i]);
    }
    PyMem_Free(lent->each);
    PyMem_Free(lent);
}

void
qb_py_storages_clear(qb_py_storages *storages)
{
    Py_CLEAR(storages->names);
    PyMem_Free(storages->list);
    if (storages->lent) {
        give_back(storages->lent);
    }
    *storages = (qb_py_storages){.names = NULL};
}

/* The name of storage `index`, kept alive by storages->names. */
static int
set_name(qb_py_storages *storages, Py_ssize_t index, PyObject *name, const char *argument)
{
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    if (!text) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "%s: expected names, got %.100s", argument, Py_TYPE(name)->tp_name);
        }
        return -1;
    }
    storages->list[index].name = text;
    return PyList_Append(storages->names, name);
}

static int
read_lent(qb_py_state *state, PyObject *items, Py_ssize_t first, qb_py_storages *storages)
{
    lent_floats *lent = storages->lent;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); ++i) {
        PyObject *pair = PyList_GET_ITEM(items, i);
        if (set_name(storages, first + i, PyTuple_GET_ITEM(pair, 0), "lent") < 0 ||
            qb_py_borrow(state, PyTuple_GET_ITEM(pair, 1), "lent", QB_PY_FLOAT32, &lent->each[i]) < 0) {
            return -1;
        }
        lent->count = i + 1;
        storages->list[first + i].storage = QB_STORAGE_LENT;
        storages->list[first + i].lent = lent->each[i].data;
    }
    return 0;
}

int
qb_py_storages_read(qb_py_state *state, PyObject *codes, PyObject *lent, qb_py_storages *storages)
{
    *storages = (qb_py_storages){.names = PyList_New(0)};
    if (lent && lent != Py_None && !PyDict_Check(lent)) {
        PyErr_Format(PyExc_TypeError, "lent: expected a dict of arrays, got %.100s", Py_TYPE(lent)->tp_name);
        return -1;
    }
    PyObject *coded = codes ? PySequence_Tuple(codes) : PyTuple_New(0);
    PyObject *items = NULL;
    if (coded) {
        items = lent && lent != Py_None ? PyDict_Items(lent) : PyList_New(0);
    }
    int result = -1;
    if (!storages->names || !coded || !items) {
        goto done;
    }
    const Py_ssize_t of_codes = PyTuple_GET_SIZE(coded);
    const Py_ssize_t of_lent = PyList_GET_SIZE(items);
    storages->count = of_codes + of_lent;
    storages->list = PyMem_Calloc((size_t)storages->count + 1, sizeof *storages->list);
    storages->lent = PyMem_Calloc(1, sizeof *storages->lent);
    if (storages->lent) {
        storages->lent->each = PyMem_Calloc((size_t)of_lent + 1, sizeof *storages->lent->each);
    }
    if (!storages->list || !storages->lent || !storages->lent->each) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < of_codes; ++i) {
        storages->list[i].storage = QB_STORAGE_CODES;
        if (set_name(storages, i, PyTuple_GET_ITEM(coded, i), "codes") < 0) {
            goto done;
        }
    }
    result = read_lent(state, items, of_codes, storages);
done:
    Py_XDECREF(coded);
    Py_XDECREF(items);
    return result;
}

void
qb_py_storages_apply(const qb_py_storages *storages, qb_model_options *options)
{
    options->storages = storages->list;
    options->storages_count = storages->count;
    options->release_lent = give_back;
    options->lent_context = storages->lent;
}

int
qb_py_storages_check(qb_py_state *state, const qb_model *model, const qb_py_storages *storages)
{
    const Py_ssize_t first = storages->count - storages->lent->count;
    for (int64_t i = 0; i < qb_model_parameter_count(model); ++i) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        for (Py_ssize_t j = first; j < storages->count; ++j) {
            const qb_py_tensor *tensor = &storages->lent->each[j - first];
            if (strcmp(storages->list[j].name, info.name) != 0) {
                continue;
            }
            int is_equal = tensor->rank == info.rank;
            for (int32_t axis = 0; is_equal && axis < info.rank; ++axis) {
                is_equal = tensor->shape[axis] == info.shape[axis];
            }
            if (!is_equal) {
                char expected[QB_PY_SHAPE_TEXT];
                char found[QB_PY_SHAPE_TEXT];
                PyErr_Format(state->shape_error, "lent: %s: expected shape %s, got %s", info.name,
                             qb_py_shape_text(expected, info.rank, info.shape),
                             qb_py_shape_text(found, tensor->rank, tensor->shape));
                return -1;
            }
        }
    }
    return 0;
}

/* ---- methods ----------------------------------------------------------------------------------------------------- */

static qb_model *
model_of(PyObject *self)
{
    return ((qb_py_model *)self)->model;
}

int64_t
qb_py_model_parameter_index(PyObject *self, PyObject *object, qb_parameter_info *info)
{
    const long long index = PyLong_AsLongLong(object);
    if (index == -1 && PyErr_Occurred()) {
        return -1;
    }
    *info = qb_model_parameter(model_of(self), index);
    if (!info->name) {
        PyErr_Format(PyExc_IndexError, "parameter index is %lld, expected 0 .. %lld", index,
                     (long long)qb_model_parameter_count(model_of(self)) - 1);
        return -1;
    }
    return index;
}

int
qb_py_model_borrow_codes(qb_py_state *state, PyObject *object, const qb_parameter_info *info, qb_py_tensor *codes)
{
    if (qb_py_borrow(state, object, "codes", QB_PY_INT8, codes) < 0) {
        return -1;
    }
    int is_equal = codes->rank == info->rank;
    for (int32_t axis = 0; is_equal && axis < info->rank; ++axis) {
        is_equal = codes->shape[axis] == info->shape[axis];
    }
    if (!is_equal) {
        char expected[QB_PY_SHAPE_TEXT];
        char found[QB_PY_SHAPE_TEXT];
        PyErr_Format(state->shape_error, "%s: expected codes of shape %s, got %s", info->name,
                     qb_py_shape_text(expected, info->rank, info->shape),
                     qb_py_shape_text(found, codes->rank, codes->shape));
        qb_py_give_back(codes);
        return -1;
    }
    return 0;
}

const char qb_py_model_storages_doc[] =
    "storages($self, /)\n--\n\n"
    "Where the numbers of every parameter are, in the order of parameters().\n\n"
    "Returns\n-------\n"
    "list of (str, tuple of int, int, int, str or None)\n"
    "    \"floats\" in the model, \"codes\" that are packed, or \"lent\" floats; the shape; bytes of floats in the\n"
    "    model; bytes of what products read instead, as far as it has been made, of layers with quantizers; and why\n"
    "    its codes are not all that products need, or None.";

PyObject *
qb_py_model_storages(PyObject *self, PyObject *unused)
{
    static const char *const names[] = {
        [QB_STORAGE_FLOATS] = "floats", [QB_STORAGE_CODES] = "codes", [QB_STORAGE_LENT] = "lent"};
    (void)unused;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list && i < qb_model_parameter_count(model_of(self)); ++i) {
        const qb_parameter_info info = qb_model_parameter(model_of(self), i);
        PyObject *shape = PyTuple_New(info.rank);
        for (int32_t axis = 0; shape && axis < info.rank; ++axis) {
            PyObject *size = PyLong_FromLongLong(info.shape[axis]);
            if (!size) {
                Py_CLEAR(shape);
                break;
            }
            PyTuple_SET_ITEM(shape, axis, size);
        }
        PyObject *entry = shape ? Py_BuildValue("(sNnnz)", names[info.storage], shape, (Py_ssize_t)info.bytes,
                                                (Py_ssize_t)info.packed_bytes, info.codes_reason)
                                : NULL;
        if (!entry || PyList_Append(list, entry) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(entry);
    }
    return list;
}

const char qb_py_model_read_codes_doc[] = "read_codes($self, index, /)\n--\n\n"
                                          "The codes of a weight, whether it is kept as codes or as floats.\n\n"
                                          "Parameters\n----------\n"
                                          "index : int\n"
                                          "    Place in the list of parameters().\n\n"
                                          "Returns\n-------\n"
                                          "ndarray, shape (out_features, in_features), int8\n\n"
                                          "Raises\n------\n"
                                          "IndexError\n"
                                          "    If there is no such parameter.\n"
                                          "StateError\n"
                                          "    If it is not multiplied as codes; the message says why.  Or if the\n"
                                          "    model is being changed or collects statistics.\n"
                                          "ValueError\n"
                                          "    If it has a NaN or an infinity.";

PyObject *
qb_py_model_read_codes(PyObject *self, PyObject *index_object)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    qb_parameter_info info;
    const int64_t index = state ? qb_py_model_parameter_index(self, index_object, &info) : -1;
    if (index < 0) {
        return NULL;
    }
    void *codes = NULL;
    PyObject *array = qb_py_array_new(QB_PY_INT8, info.rank, info.shape, &codes);
    if (!array) {
        return NULL;
    }
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_model_read_codes(model_of(self), index, codes, &call.interrupt, &error);
    qb_py_call_end(&call);
    if (status != QB_OK) {
        Py_DECREF(array);
        return qb_py_raise(state, &error);
    }
    return array;
}

const char qb_py_model_write_codes_doc[] = "write_codes($self, index, codes, /)\n--\n\n"
                                           "Pack the codes of a weight that is kept as codes.\n\n"
                                           "Parameters\n----------\n"
                                           "index : int\n"
                                           "    Place in the list of parameters().\n"
                                           "codes : int8, shape (out_features, in_features)\n"
                                           "    Not looked at after the call.\n\n"
                                           "Raises\n------\n"
                                           "IndexError\n"
                                           "    If there is no such parameter.\n"
                                           "ShapeError, TypeError\n"
                                           "    If they are no such array.\n"
                                           "StateError\n"
                                           "    If the weight is not kept as codes, its quantizers do not multiply\n"
                                           "    codes, or the model is sealed or runs a forward.\n"
                                           "ValueError\n"
                                           "    If a code is none of the weight quantizer's.";

PyObject *
qb_py_model_write_codes(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return NULL;
    }
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "write_codes() takes 2 arguments, %zd given", count);
    }
    qb_parameter_info info;
    qb_py_tensor codes = {0};
    const int64_t index = qb_py_model_parameter_index(self, arguments[0], &info);
    if (index < 0 || qb_py_model_borrow_codes(state, arguments[1], &info, &codes) < 0) {
        return NULL;
    }
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_codes_source source = {.index = index, .codes = codes.data};
    const qb_status status = qb_model_write_codes(model_of(self), &source, 1, &call.interrupt, &error);
    qb_py_call_end(&call);
    qb_py_give_back(&codes);
    return status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
}

const char qb_py_model_values_of_codes_doc[] =
    "values_of_codes($self, index, codes, /)\n--\n\n"
    "What codes of a weight mean: code / scale, of its quantizer's range.\n\n"
    "Parameters\n----------\n"
    "index : int\n"
    "    Place in the list of parameters().\n"
    "codes : int8, shape (out_features, in_features)\n\n"
    "Returns\n-------\n"
    "ndarray, shape (out_features, in_features), float32\n"
    "    Whose codes are these again.\n\n"
    "Raises\n------\n"
    "IndexError, ShapeError, TypeError, StateError, ValueError\n"
    "    As write_codes.";

PyObject *
qb_py_model_values_of_codes(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return NULL;
    }
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "values_of_codes() takes 2 arguments, %zd given", count);
    }
    qb_parameter_info info;
    qb_py_tensor codes = {0};
    const int64_t index = qb_py_model_parameter_index(self, arguments[0], &info);
    if (index < 0 || qb_py_model_borrow_codes(state, arguments[1], &info, &codes) < 0) {
        return NULL;
    }
    void *values = NULL;
    PyObject *array = qb_py_array_new(QB_PY_FLOAT32, info.rank, info.shape, &values);
    qb_error error;
    qb_status status = QB_OK;
    if (array) {
        qb_py_call call;
        qb_py_call_begin(&call);
        status = qb_model_values_of_codes(model_of(self), index, codes.data, values, &call.interrupt, &error);
        qb_py_call_end(&call);
    }
    qb_py_give_back(&codes);
    if (status != QB_OK) {
        Py_DECREF(array);
        return qb_py_raise(state, &error);
    }
    return array;
}

const char qb_py_model_seal_doc[] = "seal($self, /)\n--\n\n"
                                    "Fix the quantizers of all weights that are kept as codes.\n\n"
                                    "Raises\n------\n"
                                    "StateError\n"
                                    "    If a weight has no codes yet, or its quantizers have changed since; if the\n"
                                    "    model is sealed already, or runs a forward.";

PyObject *
qb_py_model_seal(PyObject *self, PyObject *unused)
{
    (void)unused;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return NULL;
    }
    qb_error error;
    return qb_model_seal(model_of(self), &error) == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
}

const char qb_py_model_epoch_doc[] = "epoch($self, /)\n--\n\n"
                                     "How often the model has been changed, its quantizers included.\n\n"
                                     "Returns\n-------\n"
                                     "int\n\n"
                                     "Raises\n------\n"
                                     "StateError\n"
                                     "    While a change is under way.";

PyObject *
qb_py_model_epoch(PyObject *self, PyObject *unused)
{
    (void)unused;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return NULL;
    }
    uint64_t epoch = 0;
    qb_error error;
    return qb_model_epoch(model_of(self), &epoch, &error) == QB_OK ? PyLong_FromUnsignedLongLong(epoch)
                                                                   : qb_py_raise(state, &error);
}
