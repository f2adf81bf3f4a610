/* SPDX-License-Identifier: Apache-2.0
 *
 * qdqbert._core: multi-phase initialisation, and nothing else.
 *
 * Two interpreters in one process: NumPy's C interface does not support them, so the slot of Python 3.12 and later
 * says NOT_SUPPORTED.  Two module objects in one interpreter do work and share nothing.
 */
#include "ndarray.h"
#include "state.h"

static struct PyModuleDef core_module;

qb_py_state *
qb_py_state_of_module(PyObject *module)
{
    return PyModule_GetState(module);
}

qb_py_state *
qb_py_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &core_module);
    return module ? PyModule_GetState(module) : NULL;
}

int
qb_py_type_register(PyObject *module, PyType_Spec *spec, PyTypeObject **slot)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (!type) {
        return -1;
    }
    *slot = (PyTypeObject *)type;
    return PyModule_AddType(module, *slot);
}

static int
import_errors(qb_py_state *state)
{
    PyObject *errors = PyImport_ImportModule("qdqbert.errors");
    if (!errors) {
        return -1;
    }
    state->shape_error = PyObject_GetAttrString(errors, "ShapeError");
    state->state_error = PyObject_GetAttrString(errors, "StateError");
    state->backend_error = PyObject_GetAttrString(errors, "BackendError");
    state->unsupported_error = PyObject_GetAttrString(errors, "UnsupportedError");
    Py_DECREF(errors);
    return state->shape_error && state->state_error && state->backend_error && state->unsupported_error ? 0 : -1;
}

static int
core_exec(PyObject *module)
{
    qb_py_state *state = qb_py_state_of_module(module);
    if (qb_py_numpy_import() < 0 || import_errors(state) < 0) {
        return -1;
    }
    if (PyModule_AddStringConstant(module, "__version__", qb_version()) < 0) {
        return -1;
    }
    if (qb_py_device_register(module, state) < 0 || qb_py_observer_register(module, state) < 0 ||
        qb_py_quantizer_register(module, state) < 0 || qb_py_model_register(module, state) < 0 ||
        qb_py_session_register(module, state) < 0 || qb_py_change_register(module, state) < 0 ||
        qb_py_optimizer_register(module, state) < 0 || qb_py_undoing_register(module, state) < 0 ||
        qb_py_functional_register(module, state) < 0 || qb_py_range_finder_register(module, state) < 0 ||
        qb_py_loss_register(module, state) < 0) {
        return -1;
    }
    return 0;
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    qb_py_state *state = qb_py_state_of_module(module);
    Py_VISIT(state->device_type);
    Py_VISIT(state->model_type);
    Py_VISIT(state->session_type);
    Py_VISIT(state->quantizer_type);
    Py_VISIT(state->observer_type);
    Py_VISIT(state->change_type);
    Py_VISIT(state->optimizer_type);
    Py_VISIT(state->undoing_type);
    Py_VISIT(state->shape_error);
    Py_VISIT(state->state_error);
    Py_VISIT(state->backend_error);
    Py_VISIT(state->unsupported_error);
    return 0;
}

static int
core_clear(PyObject *module)
{
    qb_py_state *state = qb_py_state_of_module(module);
    Py_CLEAR(state->device_type);
    Py_CLEAR(state->model_type);
    Py_CLEAR(state->session_type);
    Py_CLEAR(state->quantizer_type);
    Py_CLEAR(state->observer_type);
    Py_CLEAR(state->change_type);
    Py_CLEAR(state->optimizer_type);
    Py_CLEAR(state->undoing_type);
    Py_CLEAR(state->shape_error);
    Py_CLEAR(state->state_error);
    Py_CLEAR(state->backend_error);
    Py_CLEAR(state->unsupported_error);
    return 0;
}

static void
core_free(void *module)
{
    core_clear(module);
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(core_doc, "The C core of qdqbert: devices, models, sessions, quantizers and observers.");

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT, .m_name = "qdqbert._core",   .m_doc = core_doc,     .m_size = sizeof(qb_py_state),
    .m_slots = core_slots, .m_traverse = core_traverse, .m_clear = core_clear, .m_free = core_free,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
