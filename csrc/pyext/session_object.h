/* SPDX-License-Identifier: Apache-2.0
 *
 * The Session object: session_object.c has the type, session_forward.c its one long method,
 * session_results.c what that hands back.
 */
#ifndef QB_PYEXT_SESSION_OBJECT_H
#define QB_PYEXT_SESSION_OBJECT_H

#include "model_object.h"

typedef struct qb_py_session {
    PyObject_HEAD
    qb_session *session; /* owned; constant after new, like all but busy */
    qb_py_model *model;  /* owned */
    qb_session_options options;
    qb_py_busy busy;
} qb_py_session;

PyObject *qb_py_session_forward(PyObject *object, PyObject *const *arguments, Py_ssize_t count);

extern const char qb_py_session_forward_doc[];

#endif
