/* SPDX-License-Identifier: Apache-2.0
 *
 * The Model object as session_object.c sees it.
 */
#ifndef QB_PYEXT_MODEL_OBJECT_H
#define QB_PYEXT_MODEL_OBJECT_H

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

/* Borrowed cast; NULL with TypeError naming `argument`. */
qb_py_model *qb_py_model_cast(qb_py_state *state, PyObject *object, const char *argument);

#endif
