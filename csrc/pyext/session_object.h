/* SPDX-License-Identifier: Apache-2.0
 *
 * The Session object: session_object.c has the type, session_forward.c its one long method,
 * session_results.c what that hands back.
 */
#ifndef QB_PYEXT_SESSION_OBJECT_H
#define QB_PYEXT_SESSION_OBJECT_H

#include "model_object.h"

/* Shapes that gradients must have. */
typedef struct qb_py_shapes {
    int64_t batch, length, encoder_length, hidden;
    int32_t logits_rank; /* 0: there are none */
    int64_t logits[3];
} qb_py_shapes;

typedef struct qb_py_session {
    PyObject_HEAD
    qb_session *session; /* owned; constant after new, like all but busy */
    qb_py_model *model;  /* owned */
    qb_session_options options;
    qb_py_busy busy;
    void *kept;          /* what the last forward was given, if the session trains; session_forward.c's */
    qb_py_shapes shapes; /* of the outputs that the last forward gave, if the session trains */
} qb_py_session;

PyObject *qb_py_session_forward(PyObject *object, PyObject *const *arguments, Py_ssize_t count);

PyObject *qb_py_session_backward(PyObject *object, PyObject *const *arguments, Py_ssize_t count);
/* Give back what the last forward was given. */
void qb_py_session_forget(qb_py_session *self);

extern const char qb_py_session_forward_doc[];
extern const char qb_py_session_backward_doc[];

#endif
