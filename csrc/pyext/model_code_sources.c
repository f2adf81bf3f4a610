/* SPDX-License-Identifier: Apache-2.0
 *
 * Codes of many weights at once, from memory or from an open file:
 *
 *     def write_all_codes(self, sources, /) -> None: ...
 *
 * A file is read on the threads that pack, into a buffer of each, so that codes are packed while they are in a cache.
 * It is not mapped: one that is cut meanwhile is an error, not the end of the process.
 */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* pread */
#endif

#include "model_object.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <unistd.h>

/* Codes in a file. */
typedef struct code_file {
    int descriptor;
    long long offset;     /* of the first row */
    int64_t columns;      /* bytes of a row */
    _Atomic int is_short; /* it ends inside the codes */
    _Atomic int failure;  /* errno of a read that failed, or 0 */
} code_file;

/* What is borrowed for a call. */
typedef struct code_sources {
    Py_ssize_t count;
    qb_codes_source *list;
    code_file *files;     /* (count), of those that are in one */
    qb_py_tensor *arrays; /* (count), of those that are in memory */
} code_sources;

static int
read_file(void *context, int64_t first, int64_t count, int8_t *codes)
{
    code_file *file = context;
    int64_t left = count * file->columns;
    off_t offset = (off_t)(file->offset + first * file->columns);
    while (left > 0) {
        const ssize_t done = pread(file->descriptor, codes, (size_t)left, offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            atomic_store_explicit(done == 0 ? &file->is_short : &file->failure, done == 0 ? 1 : errno,
                                  memory_order_relaxed);
            return -1;
        }
        codes += done;
        left -= done;
        offset += done;
    }
    return 0;
}

static int
read_place(PyObject *place, const qb_parameter_info *info, code_file *file)
{
    if (!PyArg_ParseTuple(place, "iL;a source in a file is a descriptor and an offset", &file->descriptor,
                          &file->offset)) {
        return -1;
    }
    if (file->descriptor < 0 || file->offset < 0) {
        PyErr_Format(PyExc_ValueError, "%s: descriptor and offset are %d and %lld, expected no negative ones",
                     info->name, file->descriptor, file->offset);
        return -1;
    }
    /* Every parameter has an axis; those that are no weights are refused by the model. */
    file->columns = info->shape[info->rank - 1];
    if (file->offset > LLONG_MAX - info->shape[0] * file->columns) {
        PyErr_Format(PyExc_ValueError, "%s: the offset is %lld, after which no file has room for codes", info->name,
                     file->offset);
        return -1;
    }
    atomic_init(&file->is_short, 0);
    atomic_init(&file->failure, 0);
    return 0;
}

static int
read_source(qb_py_state *state, PyObject *self, PyObject *item, Py_ssize_t i, code_sources *sources)
{
    PyObject *index = NULL;
    PyObject *codes = NULL;
    qb_parameter_info info;
    if (!PyTuple_Check(item) || !PyArg_ParseTuple(item, "OO;a source is an index and codes", &index, &codes)) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "sources: expected tuples, got %.100s", Py_TYPE(item)->tp_name);
        }
        return -1;
    }
    qb_codes_source *source = &sources->list[i];
    source->index = qb_py_model_parameter_index(self, index, &info);
    if (source->index < 0) {
        return -1;
    }
    if (PyTuple_Check(codes)) {
        source->read = read_file;
        source->context = &sources->files[i];
        return read_place(codes, &info, &sources->files[i]);
    }
    if (qb_py_model_borrow_codes(state, codes, &info, &sources->arrays[i]) < 0) {
        return -1;
    }
    source->codes = sources->arrays[i].data;
    return 0;
}

/* To be given back whatever is returned. */
static int
read_sources(qb_py_state *state, PyObject *self, PyObject *items, code_sources *sources)
{
    const size_t count = (size_t)PyTuple_GET_SIZE(items);
    sources->list = PyMem_Calloc(count + 1, sizeof *sources->list);
    sources->files = PyMem_Calloc(count + 1, sizeof *sources->files);
    sources->arrays = PyMem_Calloc(count + 1, sizeof *sources->arrays);
    if (!sources->list || !sources->files || !sources->arrays) {
        PyErr_NoMemory();
        return -1;
    }
    sources->count = (Py_ssize_t)count;
    for (Py_ssize_t i = 0; i < sources->count; ++i) {
        if (read_source(state, self, PyTuple_GET_ITEM(items, i), i, sources) < 0) {
            return -1;
        }
    }
    return 0;
}

static void
give_back(code_sources *sources)
{
    for (Py_ssize_t i = 0; i < sources->count; ++i) {
        qb_py_give_back(&sources->arrays[i]);
    }
    PyMem_Free(sources->list);
    PyMem_Free(sources->files);
    PyMem_Free(sources->arrays);
}

/* Set what went wrong with a file, if one is the cause. */
static int
raise_of_files(PyObject *self, const code_sources *sources)
{
    for (Py_ssize_t i = 0; i < sources->count; ++i) {
        const qb_codes_source *source = &sources->list[i];
        const char *name = qb_model_parameter(((qb_py_model *)self)->model, source->index).name;
        const int failure = atomic_load_explicit(&sources->files[i].failure, memory_order_relaxed);
        if (source->read && atomic_load_explicit(&sources->files[i].is_short, memory_order_relaxed)) {
            PyErr_Format(PyExc_EOFError, "%s: the file ends inside its codes", name);
            return 1;
        }
        if (source->read && failure != 0) {
            errno = failure;
            PyErr_SetFromErrnoWithFilename(PyExc_OSError, name);
            return 1;
        }
    }
    return 0;
}

const char qb_py_model_write_all_codes_doc[] =
    "write_all_codes($self, sources, /)\n--\n\n"
    "Pack the codes of weights that are kept as codes, on all threads at once.\n\n"
    "Parameters\n----------\n"
    "sources : sequence of (int, object)\n"
    "    Place in the list of parameters(), and the codes: int8, shape (out_features, in_features), or\n"
    "    (descriptor, offset) of an open file in which they lie row by row.  Not looked at after the call.\n\n"
    "Raises\n------\n"
    "IndexError\n"
    "    If there is no such parameter.\n"
    "ShapeError, TypeError\n"
    "    If codes are no such array.\n"
    "StateError\n"
    "    If a weight is not kept as codes, its quantizers do not multiply codes, or the model is sealed or runs a\n"
    "    forward.\n"
    "ValueError\n"
    "    If a code is none of the weight quantizer's, a weight is named twice, or an offset is negative or too large.\n"
    "EOFError, OSError\n"
    "    If a file ends before, or cannot be read; the weight is named.  All weights are as before then.";

PyObject *
qb_py_model_write_all_codes(PyObject *self, PyObject *argument)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    PyObject *items = state ? PySequence_Tuple(argument) : NULL;
    if (!items) {
        return NULL;
    }
    code_sources sources = {.count = 0};
    PyObject *result = NULL;
    if (read_sources(state, self, items, &sources) == 0) {
        qb_error error;
        qb_py_call call;
        qb_py_call_begin(&call);
        const qb_status status =
            qb_model_write_codes(((qb_py_model *)self)->model, sources.list, sources.count, &call.interrupt, &error);
        qb_py_call_end(&call);
        if (status == QB_OK) {
            result = Py_NewRef(Py_None);
        }
        else if (status != QB_ERR_BACKEND || !raise_of_files(self, &sources)) {
            (void)qb_py_raise(state, &error);
        }
    }
    give_back(&sources);
    Py_DECREF(items);
    return result;
}
