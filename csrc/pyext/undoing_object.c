/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Undoing:
 *         def __new__(cls): ...
 *         def __enter__(self) -> Undoing: ...
 *         def __exit__(self, kind, exception, traceback, /) -> None: ...
 *
 * Base of context managers whose `undo` runs to its end although a signal arrives.  The interpreter raises
 * KeyboardInterrupt wherever a function of Python begins, so one that is an `__enter__` can fail before the block has
 * begun and one that is an `__exit__` before its first line.  Functions of C have no such place.
 */
#include "state.h"

/* Put the exception that is set in *kept if that is empty, and drop it otherwise. */
static void
keep_first(PyObject **kept)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    if (*kept) {
        Py_XDECREF(value);
    }
    else {
        *kept = value;
    }
}

PyDoc_STRVAR(undoing_enter_doc, "__enter__($self, /)\n--\n\nReturn itself.");

static PyObject *
undoing_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(self);
}

PyDoc_STRVAR(undoing_exit_doc, "__exit__($self, kind, exception, traceback, /)\n--\n\n"
                               "Call `undo`, again if it was interrupted; then raise the first interrupt.");

static PyObject *
undoing_exit(PyObject *self, PyObject *const *exception, Py_ssize_t count)
{
    PyObject *interrupt = NULL;
    (void)exception;
    if (count != 3) {
        return PyErr_Format(PyExc_TypeError, "__exit__ expected 3 arguments, got %zd", count);
    }
    PyObject *result = PyObject_CallMethod(self, "undo", NULL);
    /* KeyboardInterrupt, or SystemExit from a handler of another signal: nothing that `undo` says itself. */
    while (!result && !PyErr_ExceptionMatches(PyExc_Exception)) {
        keep_first(&interrupt);
        result = PyObject_CallMethod(self, "undo", NULL);
    }
    if (result && interrupt) {
        Py_CLEAR(result);
        PyErr_SetObject((PyObject *)Py_TYPE(interrupt), interrupt);
    }
    Py_XDECREF(interrupt);
    if (!result) {
        return NULL;
    }
    Py_DECREF(result);
    Py_RETURN_NONE;
}

static int
undoing_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    (void)arg;
    return 0;
}

static PyMethodDef undoing_methods[] = {
    {"__enter__", undoing_enter, METH_NOARGS, undoing_enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))undoing_exit, METH_FASTCALL, undoing_exit_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(undoing_doc, "Undoing()\n--\n\n"
                          "Base of context managers whose `undo` runs to its end although a signal arrives.\n\n"
                          "A subclass has a method `undo` without arguments, which may be called again after it\n"
                          "was interrupted.");

static PyType_Slot undoing_slots[] = {
    {Py_tp_doc, (void *)undoing_doc},
    {Py_tp_traverse, undoing_traverse},
    {Py_tp_methods, undoing_methods},
    {0, NULL},
};

static PyType_Spec undoing_spec = {
    .name = "qdqbert._core.Undoing",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE,
    .slots = undoing_slots,
};

int
qb_py_undoing_register(PyObject *module, qb_py_state *state)
{
    return qb_py_type_register(module, &undoing_spec, &state->undoing_type);
}
