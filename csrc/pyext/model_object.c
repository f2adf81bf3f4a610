/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Model:
 *         def __new__(cls, device, *, vocab_size, hidden_size, num_layers, num_heads, intermediate_size,
 *                     max_positions, type_vocab_size, num_labels, layer_norm_eps, hidden_act, add_pooling_layer,
 *                     head, input_quantizer, weight_quantizer): ...    # head: "none", "question_answering", ...
 *         device: Device
 *         def parameters(self) -> list[tuple[str, ndarray]]: ...       # read-only views of the parameter block
 *         def parameter_write(self, index) -> ndarray: ...             # writable view; packed weights become stale
 *         def quantizers(self) -> list[tuple[str, Quantizer]]: ...
 *         def sites(self) -> list[tuple[str, str, str]]: ...           # (name, path, reason)
 *         def needs_probabilities(self) -> bool: ...
 *
 * Views and quantizers hold the model alive.  A writable view is for loaders: it is to be dropped before the next
 * forward, since only the call that made it told the model that the weights change.
 */
#include "model_object.h"
#include "ndarray.h"

static const struct {
    const char *name;
    qb_head head;
} heads[] = {
    {"none", QB_HEAD_NONE},
    {"question_answering", QB_HEAD_QUESTION_ANSWERING},
    {"sequence_classification", QB_HEAD_SEQUENCE_CLASSIFICATION},
};

qb_py_model *
qb_py_model_cast(qb_py_state *state, PyObject *object, const char *argument)
{
    if (!PyObject_TypeCheck(object, state->model_type)) {
        PyErr_Format(PyExc_TypeError, "%s: expected Model, got %.100s", argument, Py_TYPE(object)->tp_name);
        return NULL;
    }
    return (qb_py_model *)object;
}

static int
read_head(const char *name, qb_head *head)
{
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; ++i) {
        if (strcmp(name, heads[i].name) == 0) {
            *head = heads[i].head;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError,
                 "head: expected 'none', 'question_answering' or 'sequence_classification', got '%.100s'", name);
    return -1;
}

static int
read_options(PyObject *arguments, PyObject *keywords, PyObject **device, qb_model_options *options)
{
    static const char *const names[] = {"device",     "vocab_size",        "hidden_size",      "num_layers",
                                        "num_heads",  "intermediate_size", "max_positions",    "type_vocab_size",
                                        "num_labels", "layer_norm_eps",    "hidden_act",       "add_pooling_layer",
                                        "head",       "input_quantizer",   "weight_quantizer", NULL};
    const char *head = NULL;
    PyObject *input_quantizer = NULL;
    PyObject *weight_quantizer = NULL;
    int add_pooling_layer = 1;
    long long sizes[8] = {0};
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O$LLLLLLLLfspsOO:Model", qb_py_keywords(names), device,
                                     &sizes[0], &sizes[1], &sizes[2], &sizes[3], &sizes[4], &sizes[5], &sizes[6],
                                     &sizes[7], &options->layer_norm_eps, &options->hidden_act, &add_pooling_layer,
                                     &head, &input_quantizer, &weight_quantizer)) {
        return -1;
    }
    options->vocab_size = sizes[0];
    options->hidden_size = sizes[1];
    options->num_layers = sizes[2];
    options->num_heads = sizes[3];
    options->intermediate_size = sizes[4];
    options->max_positions = sizes[5];
    options->type_vocab_size = sizes[6];
    options->num_labels = sizes[7];
    options->add_pooling_layer = add_pooling_layer;
    options->input_quantizer = qb_py_quantizer_options_default();
    options->weight_quantizer = qb_py_quantizer_options_default();
    if (read_head(head, &options->head) < 0 ||
        qb_py_quantizer_options_read(input_quantizer, "input_quantizer", &options->input_quantizer) < 0 ||
        qb_py_quantizer_options_read(weight_quantizer, "weight_quantizer", &options->weight_quantizer) < 0) {
        return -1;
    }
    return 0;
}

static PyObject *
model_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    qb_py_state *state = qb_py_state_of_type(type);
    if (!state) {
        return NULL;
    }
    PyObject *device_object = NULL;
    qb_model_options options = {.struct_size = sizeof options};
    if (read_options(arguments, keywords, &device_object, &options) < 0) {
        return NULL;
    }
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    if (!device) {
        return NULL;
    }
    qb_py_model *self = (qb_py_model *)type->tp_alloc(type, 0);
    if (!self) {
        return NULL;
    }
    self->device = Py_NewRef(device_object);
    self->num_layers = options.num_layers;
    self->num_heads = options.num_heads;
    self->hidden_size = options.hidden_size;
    self->num_labels = options.num_labels;
    self->head = options.head;
    self->has_pooler =
        options.head == QB_HEAD_SEQUENCE_CLASSIFICATION || (options.head == QB_HEAD_NONE && options.add_pooling_layer);
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_model_create(device, &options, &self->model, &error);
    qb_py_call_end(&call);
    if (status != QB_OK) {
        Py_DECREF(self);
        return qb_py_raise(state, &error);
    }
    return (PyObject *)self;
}

static int
model_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((qb_py_model *)self)->device);
    return 0;
}

static int
model_clear(PyObject *self)
{
    Py_CLEAR(((qb_py_model *)self)->device);
    return 0;
}

static void
model_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    qb_model_release(((qb_py_model *)self)->model);
    model_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(model_parameters_doc, "parameters($self, /)\n--\n\n"
                                   "(name, read-only view) of every parameter, in the order of the block.");

static PyObject *
model_parameters(PyObject *self, PyObject *unused)
{
    (void)unused;
    const qb_model *model = ((qb_py_model *)self)->model;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list && i < qb_model_parameter_count(model); ++i) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        PyObject *view = qb_py_array_view(self, info.rank, info.shape, info.data, 0);
        PyObject *pair = view ? Py_BuildValue("(sN)", info.name, view) : NULL;
        if (!pair || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

PyDoc_STRVAR(model_parameter_write_doc, "parameter_write($self, index, /)\n--\n\n"
                                        "Writable view of one parameter, to be dropped before the next forward.\n\n"
                                        "Raises StateError while a session runs.");

static PyObject *
model_parameter_write(PyObject *self, PyObject *index_object)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return NULL;
    }
    const long long index = PyLong_AsLongLong(index_object);
    if (index == -1 && PyErr_Occurred()) {
        return NULL;
    }
    qb_model *model = ((qb_py_model *)self)->model;
    float *data = NULL;
    qb_error error;
    if (qb_model_parameter_write(model, index, &data, &error) != QB_OK) {
        return qb_py_raise(state, &error);
    }
    const qb_parameter_info info = qb_model_parameter(model, index);
    return qb_py_array_view(self, info.rank, info.shape, data, 1);
}

PyDoc_STRVAR(model_quantizers_doc, "quantizers($self, /)\n--\n\n"
                                   "(name, Quantizer) of every quantizer, in the order of named_modules.");

static PyObject *
model_quantizers(PyObject *self, PyObject *unused)
{
    (void)unused;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    qb_model *model = ((qb_py_model *)self)->model;
    PyObject *list = state ? PyList_New(0) : NULL;
    for (int64_t i = 0; list && i < qb_model_quantizer_count(model); ++i) {
        PyObject *quantizer = qb_py_quantizer_wrap(state, qb_model_quantizer(model, i));
        PyObject *pair = quantizer ? Py_BuildValue("(sN)", qb_model_quantizer_name(model, i), quantizer) : NULL;
        if (!pair || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

PyDoc_STRVAR(model_sites_doc, "sites($self, /)\n--\n\n"
                              "(name, 'integer' | 'float' | 'dequantized', reason) of every product.");

static PyObject *
model_sites(PyObject *self, PyObject *unused)
{
    (void)unused;
    const qb_model *model = ((qb_py_model *)self)->model;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list && i < qb_model_site_count(model); ++i) {
        const qb_site_info site = qb_model_site(model, i);
        PyObject *entry = Py_BuildValue("(sss)", site.name, site.path, site.reason);
        if (!entry || PyList_Append(list, entry) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(entry);
    }
    return list;
}

PyDoc_STRVAR(model_needs_probabilities_doc, "needs_probabilities($self, /)\n--\n\n"
                                            "Whether a session needs keep_probabilities, as the quantizers stand now.");

static PyObject *
model_needs_probabilities(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(qb_model_needs_probabilities(((qb_py_model *)self)->model));
}

static PyObject *
model_get_device(PyObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(((qb_py_model *)self)->device);
}

static PyMethodDef model_methods[] = {
    {"parameters", model_parameters, METH_NOARGS, model_parameters_doc},
    {"parameter_write", model_parameter_write, METH_O, model_parameter_write_doc},
    {"quantizers", model_quantizers, METH_NOARGS, model_quantizers_doc},
    {"sites", model_sites, METH_NOARGS, model_sites_doc},
    {"needs_probabilities", model_needs_probabilities, METH_NOARGS, model_needs_probabilities_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef model_properties[] = {
    {"device", model_get_device, NULL, "The Device that runs it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(model_doc, "Model(device, *, vocab_size, hidden_size, num_layers, num_heads, intermediate_size, "
                        "max_positions, type_vocab_size, num_labels, layer_norm_eps, hidden_act, "
                        "add_pooling_layer, head, input_quantizer, weight_quantizer)\n--\n\n"
                        "Parameters and quantizers of one BERT.");

static PyType_Slot model_slots[] = {
    {Py_tp_doc, (void *)model_doc},   {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},   {Py_tp_traverse, model_traverse},
    {Py_tp_clear, model_clear},       {Py_tp_methods, model_methods},
    {Py_tp_getset, model_properties}, {0, NULL},
};

static PyType_Spec model_spec = {
    .name = "qdqbert._core.Model",
    .basicsize = sizeof(qb_py_model),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = model_slots,
};

int
qb_py_model_register(PyObject *module, qb_py_state *state)
{
    return qb_py_type_register(module, &model_spec, &state->model_type);
}
