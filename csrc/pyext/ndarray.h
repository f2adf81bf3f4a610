/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors across the border.  Inputs are borrowed through the buffer protocol from any exporter; outputs are fresh
 * NumPy arrays or views whose base object owns the memory.  ndarray.c is the only unit that includes NumPy.
 */
#ifndef QB_PYEXT_NDARRAY_H
#define QB_PYEXT_NDARRAY_H

#include "state.h"

int qb_py_numpy_import(void);

typedef enum qb_py_dtype { QB_PY_FLOAT32, QB_PY_FLOAT64, QB_PY_INT64, QB_PY_INT8 } qb_py_dtype;

/* A borrowed buffer.  Zero-initialise it; `data` stays NULL until borrowed. */
typedef struct qb_py_tensor {
    Py_buffer view;
    const void *data; /* C-contiguous, aligned to its element */
    int32_t rank;
    int64_t shape[QB_MAX_RANK];
    int64_t count; /* product of shape */
} qb_py_tensor;

/* Borrow `object`.  -1 with TypeError (no buffer, wrong element type, not contiguous) or ShapeError (more than
 * QB_MAX_RANK dimensions), each naming `argument`. */
int qb_py_borrow(const qb_py_state *state, PyObject *object, const char *argument, qb_py_dtype dtype,
                 qb_py_tensor *tensor);
/* The same, but None leaves the tensor empty (data NULL) and succeeds. */
int qb_py_borrow_optional(const qb_py_state *state, PyObject *object, const char *argument, qb_py_dtype dtype,
                          qb_py_tensor *tensor);
/* Allowed on a zero-initialised or already given back tensor. */
void qb_py_give_back(qb_py_tensor *tensor);

/* Borrowed float32 tensors, one for each of something.  Zero-initialise it. */
typedef struct qb_py_tensors {
    int64_t count;
    qb_py_tensor *each; /* (count), or NULL: nothing was borrowed */
    const float **data; /* (count) their memory, as C takes it; NULL for None */
} qb_py_tensors;

/* Borrow a sequence of `count` tensors, which may be None if `optional`; -1 with TypeError or ShapeError that names
 * `argument` and says of what (such as "layers") there are so many.  To be given back whatever is returned. */
int qb_py_borrow_each(const qb_py_state *state, PyObject *object, const char *argument, int64_t count, const char *what,
                      int optional, qb_py_tensors *tensors);
void qb_py_give_back_each(qb_py_tensors *tensors);

/* For the functions of the public interface that take a qb_tensor. */
qb_tensor qb_py_as_tensor(const qb_py_tensor *tensor);

/* New uninitialised array; *data is its memory. */
PyObject *qb_py_array_new(qb_py_dtype dtype, int32_t rank, const int64_t *shape, void **data);
/* New array with a copy of `data`. */
PyObject *qb_py_array_copy(qb_py_dtype dtype, int32_t rank, const int64_t *shape, const void *data);
/* View of float32 memory that `owner` keeps alive. */
PyObject *qb_py_array_view(PyObject *owner, int32_t rank, const int64_t *shape, const float *data, int writable);

/* "(2, 7, 64)" for messages; `text` has room for QB_PY_SHAPE_TEXT bytes. */
#define QB_PY_SHAPE_TEXT 192
const char *qb_py_shape_text(char *text, int32_t rank, const int64_t *shape);

#endif
