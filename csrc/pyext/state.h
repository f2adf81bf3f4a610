/* SPDX-License-Identifier: Apache-2.0
 *
 * What the units of the extension share: the module state, errors, busy flags, and calls without the GIL.
 *
 * Everything that would be a global lives in `qb_py_state`, one per module object, so that the module can be loaded
 * twice.  Each unit registers its types or functions through one `qb_py_<unit>_register` that module.c's exec slot
 * calls; exec may stop anywhere, because the module's clear function releases whatever was filled.
 *
 * Shape of an entry point, in this order: parse arguments; borrow buffers (ndarray.h); enter the handle
 * (qb_py_enter); qb_py_call_begin, one call into the public C interface, qb_py_call_end; leave the handle and
 * translate the status; give back every buffer on one exit path.
 */
#ifndef QB_PYEXT_STATE_H
#define QB_PYEXT_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>

#include "qdqbert/qdqbert.h"

typedef struct qb_py_state {
    PyTypeObject *device_type;
    PyTypeObject *model_type;
    PyTypeObject *session_type;
    PyTypeObject *quantizer_type;
    PyTypeObject *observer_type;
    PyTypeObject *change_type;
    PyTypeObject *optimizer_type;
    PyTypeObject *undoing_type;
    PyObject *shape_error; /* qdqbert.errors.ShapeError, and so on: the classes that C raises */
    PyObject *state_error;
    PyObject *backend_error;
    PyObject *unsupported_error;
} qb_py_state;

/* The state of a module object, and of the module that made a heap type (or a base of it). */
qb_py_state *qb_py_state_of_module(PyObject *module);
/* NULL with TypeError set when `type` does not come from this module. */
qb_py_state *qb_py_state_of_type(PyTypeObject *type);

/* ---- registration: 0, or -1 with an exception ----------------------------------------------------------------- */

int qb_py_device_register(PyObject *module, qb_py_state *state);
int qb_py_model_register(PyObject *module, qb_py_state *state);
int qb_py_session_register(PyObject *module, qb_py_state *state);
int qb_py_change_register(PyObject *module, qb_py_state *state);
int qb_py_optimizer_register(PyObject *module, qb_py_state *state);
int qb_py_undoing_register(PyObject *module, qb_py_state *state);
int qb_py_quantizer_register(PyObject *module, qb_py_state *state); /* quantizer_object.c fills state->quantizer_type */
int qb_py_observer_register(PyObject *module, qb_py_state *state);  /* observer_object.c fills state->observer_type */
int qb_py_functional_register(PyObject *module, qb_py_state *state); /* functional.c: PyModule_AddFunctions */
int qb_py_range_finder_register(PyObject *module, qb_py_state *state);
int qb_py_loss_register(PyObject *module, qb_py_state *state);

/* Make a heap type from `spec`, add it to `module` under its name and store a new reference in *slot. */
int qb_py_type_register(PyObject *module, PyType_Spec *spec, PyTypeObject **slot);

/* ---- handles of other units: borrowed; NULL with TypeError naming `argument` if `object` is of another type ------ */

qb_device *qb_py_device_handle(qb_py_state *state, PyObject *object, const char *argument);
qb_observer *qb_py_observer_handle(qb_py_state *state, PyObject *object, const char *argument);
qb_quantizer *qb_py_quantizer_handle(qb_py_state *state, PyObject *object, const char *argument);

/* New Quantizer object around a quantizer that lives in a model; the callee retains it. */
PyObject *qb_py_quantizer_wrap(qb_py_state *state, qb_quantizer *quantizer);

/* ---- quantizer options as a dict (quantizer_options.c) ---------------------------------------------------------- */

/* Read {"num_bits": int or (4, 3), "unsigned", "narrow_range", "fake_quant", "learn_amax": bool, "scale_amax": float
 * or None, "axis": None or tuple of int}; a missing key keeps what *options holds, an unknown one is TypeError.
 * `argument` names the dict in messages.  0, or -1 with an exception and *options as it was. */
int qb_py_quantizer_options_read(PyObject *dict, const char *argument, qb_quantizer_options *options);
/* QuantDescriptor's defaults: 8 bits, signed, full range, fake, per tensor. */
qb_quantizer_options qb_py_quantizer_options_default(void);
/* The same dict, complete.  New reference. */
PyObject *qb_py_quantizer_options_dict(const qb_quantizer_options *options);

/* ---- arguments -------------------------------------------------------------------------------------------------- */

/* Names of keyword arguments for PyArg_ParseTupleAndKeywords, which before Python 3.13 forgot to say const. */
static inline char **
qb_py_keywords(const char *const *names)
{
    return (char **)(uintptr_t)names;
}

/* 0, or -1 with TypeError unless names[first] .. names[end - 1] are keys of `keywords` (NULL: an empty dict).  The
 * parser itself cannot ask for keyword-only arguments that stand before optional ones. */
static inline int
qb_py_require_keywords(PyObject *keywords, const char *const *names, size_t first, size_t end, const char *function)
{
    for (size_t i = first; i < end; ++i) {
        if (!keywords || !PyDict_GetItemString(keywords, names[i])) {
            PyErr_Format(PyExc_TypeError, "%s() missing required keyword-only argument: '%s'", function, names[i]);
            return -1;
        }
    }
    return 0;
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

/* Raise what `error` says; always returns NULL.  QB_ERR_INTERRUPTED keeps the exception that the poll left. */
PyObject *qb_py_raise(const qb_py_state *state, const qb_error *error);

/* ---- busy flags ------------------------------------------------------------------------------------------------- */

/* One flag per handle that must not be entered twice.  Zero means free. */
typedef atomic_int qb_py_busy;

/* 0, or -1 with StateError "<what> is in use by another thread". */
int qb_py_enter(const qb_py_state *state, qb_py_busy *busy, const char *what);
void qb_py_leave(qb_py_busy *busy);

/* ---- calls without the GIL -------------------------------------------------------------------------------------- */

/* Lives on the stack of one call.  Between begin and end no Python interface may be used; `interrupt` takes the GIL
 * for the moment in which it asks for signals. */
typedef struct qb_py_call {
    PyThreadState *thread;
    qb_interrupt interrupt;
} qb_py_call;

void qb_py_call_begin(qb_py_call *call);
void qb_py_call_end(qb_py_call *call);

#endif
