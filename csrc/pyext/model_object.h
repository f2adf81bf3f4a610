/* SPDX-License-Identifier: Apache-2.0
 *
 * The Model object as session_object.c sees it.
 */
#ifndef QB_PYEXT_MODEL_OBJECT_H
#define QB_PYEXT_MODEL_OBJECT_H

#include "ndarray.h"
#include "state.h"

typedef struct qb_py_model {
    PyObject_HEAD
    qb_model *model;  /* owned; everything here is constant after new */
    PyObject *device; /* owned */
    int64_t num_layers;
    int64_t num_heads;
    int64_t hidden_size;
    int has_cross_attention;
} qb_py_model;

/* How a new model stores its parameters, as Python says it: names of weights that it keeps as codes, and floats that
 * are lent to it by name.  Of model_codes.c. */
typedef struct qb_py_storages {
    PyObject *names; /* keeps the texts in `list` alive */
    qb_parameter_storage *list;
    Py_ssize_t count;
    struct lent_floats *lent; /* the C model's once it is created: then to be set to NULL */
} qb_py_storages;

/* `codes` is a sequence of names, `lent` a dict of names to float32 buffers; NULL or, of `lent`, None: none.  0, or
 * -1 with an exception; to be cleared whatever is returned. */
int qb_py_storages_read(qb_py_state *state, PyObject *codes, PyObject *lent, qb_py_storages *storages);
void qb_py_storages_clear(qb_py_storages *storages);
void qb_py_storages_apply(const qb_py_storages *storages, qb_model_options *options);
/* 0, or -1 with ShapeError: what is lent has not the shape of the parameter. */
int qb_py_storages_check(qb_py_state *state, const qb_model *model, const qb_py_storages *storages);

/* The place of a parameter, or -1 with IndexError, or whatever reading the number raises. */
int64_t qb_py_model_parameter_index(PyObject *self, PyObject *object, qb_parameter_info *info);
/* Codes for parameter `info`: 0, or -1 with an exception. */
int qb_py_model_borrow_codes(qb_py_state *state, PyObject *object, const qb_parameter_info *info, qb_py_tensor *codes);

/* Methods of model_codes.c, and one of model_code_sources.c. */
PyObject *qb_py_model_storages(PyObject *self, PyObject *unused);
PyObject *qb_py_model_read_codes(PyObject *self, PyObject *index_object);
PyObject *qb_py_model_write_codes(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *qb_py_model_write_all_codes(PyObject *self, PyObject *argument);
PyObject *qb_py_model_values_of_codes(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *qb_py_model_seal(PyObject *self, PyObject *unused);
PyObject *qb_py_model_epoch(PyObject *self, PyObject *unused);

extern const char qb_py_model_storages_doc[];
extern const char qb_py_model_read_codes_doc[];
extern const char qb_py_model_write_codes_doc[];
extern const char qb_py_model_write_all_codes_doc[];
extern const char qb_py_model_values_of_codes_doc[];
extern const char qb_py_model_seal_doc[];
extern const char qb_py_model_epoch_doc[];

/* Methods of model_sites.c. */
PyObject *qb_py_model_sites(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *qb_py_model_edges(PyObject *self, PyObject *const *arguments, Py_ssize_t count);

extern const char qb_py_model_sites_doc[];
extern const char qb_py_model_edges_doc[];

/* Borrowed cast; NULL with TypeError naming `argument`. */
qb_py_model *qb_py_model_cast(qb_py_state *state, PyObject *object, const char *argument);

#endif
