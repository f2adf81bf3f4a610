/* SPDX-License-Identifier: Apache-2.0
 *
 * From qb_status to Python exceptions, in one switch, and the two things every call shares: the busy flag and the
 * signal poll.
 *
 * The poll runs on the thread that called into C.  It takes the GIL with the thread state that call_begin put away,
 * lets Python run its signal handlers and puts the state away again; an exception that a handler raised stays in that
 * thread state, so qb_py_raise has nothing to do but to let it through.
 */
#include "state.h"

static int
poll_signals(void *context)
{
    qb_py_call *call = context;
    PyEval_RestoreThread(call->thread);
    const int stop = PyErr_CheckSignals();
    call->thread = PyEval_SaveThread();
    return stop;
}

void
qb_py_call_begin(qb_py_call *call)
{
    call->interrupt.poll = poll_signals;
    call->interrupt.context = call;
    call->thread = PyEval_SaveThread();
}

void
qb_py_call_end(qb_py_call *call)
{
    PyEval_RestoreThread(call->thread);
}

int
qb_py_enter(const qb_py_state *state, qb_py_busy *busy, const char *what)
{
    int expected = 0;
    if (atomic_compare_exchange_strong(busy, &expected, 1)) {
        return 0;
    }
    PyErr_Format(state->state_error, "%s is in use by another thread", what);
    return -1;
}

void
qb_py_leave(qb_py_busy *busy)
{
    atomic_store(busy, 0);
}

static PyObject *
exception_of(const qb_py_state *state, qb_status status)
{
    switch (status) {
    case QB_ERR_NOMEM:
        return PyExc_MemoryError;
    case QB_ERR_SHAPE:
        return state->shape_error;
    case QB_ERR_VALUE:
        return PyExc_ValueError;
    case QB_ERR_INDEX:
        return PyExc_IndexError;
    case QB_ERR_STATE:
        return state->state_error;
    case QB_ERR_UNSUPPORTED:
        return state->unsupported_error;
    case QB_ERR_BACKEND:
        return state->backend_error;
    case QB_ERR_INTERRUPTED:
        return PyExc_KeyboardInterrupt;
    case QB_OK:
    case QB_ERR_INTERNAL:
        return PyExc_SystemError;
    }
    return PyExc_SystemError;
}

PyObject *
qb_py_raise(const qb_py_state *state, const qb_error *error)
{
    if (error->status == QB_ERR_INTERRUPTED && PyErr_Occurred()) {
        return NULL;
    }
    /* A sentence may be cut inside a UTF-8 sequence. */
    PyObject *text = PyUnicode_DecodeUTF8(error->message, (Py_ssize_t)strlen(error->message), "replace");
    if (text) {
        PyErr_SetObject(exception_of(state, error->status), text);
        Py_DECREF(text);
    }
    return NULL;
}
