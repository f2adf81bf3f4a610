/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Model:
 *         def __new__(cls, device, *, vocab_size, hidden_size, num_layers, num_heads, intermediate_size,
 *                     max_positions, type_vocab_size, num_labels, layer_norm_eps, hidden_act, add_pooling_layer,
 *                     head, input_quantizer, weight_quantizer, position_embedding_type="absolute",
 *                     add_cross_attention=False, tie_word_embeddings=True, heads_of_layers=None,
 *                     padding_token=None, codes=(), lent=None): ...
 *             # head: "none", "question_answering", ...
 *         device: Device; dropout_count: int
 *         def parameters(self) -> list[tuple[str, ndarray | None]]: ...   # read-only views of the parameter block
 *         def parameter_write(self, index) -> ndarray: ...             # writable view; packed weights become stale
 *         def gradient(self, index) -> ndarray | None: ...             # writable view; backward adds to it
 *         def set_trainable(self, index, is_trainable) -> None: ...
 *         def zero_gradients(self, indices=None) -> None: ...
 *         def gradient_norm(self, indices=None) -> float: ...
 *         def scale_gradients(self, factor, indices=None) -> None: ...
 *         def quantizers(self) -> list[tuple[str, Quantizer]]: ...
 *         def needs_probabilities(self) -> bool: ...
 *         # and those of model_codes.c and model_sites.c
 *
 * Views and quantizers hold the model alive.  A writable view is for loaders: it is to be dropped before the next
 * forward, since only the call that made it told the model that the weights change.
 */
#include "model_object.h"
#include "ndarray.h"

qb_py_model *
qb_py_model_cast(qb_py_state *state, PyObject *object, const char *argument)
{
    if (!PyObject_TypeCheck(object, state->model_type)) {
        PyErr_Format(PyExc_TypeError, "%s: expected Model, got %.100s", argument, Py_TYPE(object)->tp_name);
        return NULL;
    }
    return (qb_py_model *)object;
}

/* A sequence of `count` integers, or None; *numbers stays NULL or is to be given to PyMem_Free, whatever is returned.
 */
static int
read_heads_of_layers(PyObject *object, long long count, int64_t **numbers)
{
    if (!object || object == Py_None) {
        return 0;
    }
    /* A tuple of its own: reading a number may run its owner's code, which may change a list. */
    PyObject *sequence = PySequence_Tuple(object);
    if (!sequence) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "heads_of_layers: expected a sequence of integers, got %.100s",
                         Py_TYPE(object)->tp_name);
        }
        return -1;
    }
    int result = -1;
    const Py_ssize_t given = PyTuple_GET_SIZE(sequence);
    if (given != count) {
        PyErr_Format(PyExc_ValueError, "heads_of_layers: expected one number for each of %lld layers, got %zd", count,
                     given);
        goto done;
    }
    *numbers = PyMem_New(int64_t, given + 1);
    if (!*numbers) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < given; ++i) {
        (*numbers)[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(sequence, i));
        if ((*numbers)[i] == -1 && PyErr_Occurred()) {
            goto done;
        }
    }
    result = 0;
done:
    Py_DECREF(sequence);
    return result;
}

/* device .. weight_quantizer */
#define REQUIRED_COUNT 15

/* options->heads_of_layers is NULL or to be given to PyMem_Free, whatever is returned. */
static int
read_options(qb_py_state *state, PyObject *arguments, PyObject *keywords, PyObject **device, qb_model_options *options,
             qb_py_storages *storages)
{
    static const char *const names[] = {"device",
                                        "vocab_size",
                                        "hidden_size",
                                        "num_layers",
                                        "num_heads",
                                        "intermediate_size",
                                        "max_positions",
                                        "type_vocab_size",
                                        "num_labels",
                                        "layer_norm_eps",
                                        "hidden_act",
                                        "add_pooling_layer",
                                        "head",
                                        "input_quantizer",
                                        "weight_quantizer",
                                        "position_embedding_type",
                                        "add_cross_attention",
                                        "tie_word_embeddings",
                                        "heads_of_layers",
                                        "padding_token",
                                        "codes",
                                        "lent",
                                        NULL};
    const char *head = NULL;
    PyObject *input_quantizer = NULL;
    PyObject *weight_quantizer = NULL;
    PyObject *heads_of_layers = NULL;
    PyObject *padding_token = NULL;
    PyObject *codes = NULL;
    PyObject *lent = NULL;
    int add_pooling_layer = 1;
    int add_cross_attention = 0;
    int tie_word_embeddings = 1;
    long long sizes[8] = {0};
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|$LLLLLLLLfspsOOsppOOOO:Model", qb_py_keywords(names),
                                     device, &sizes[0], &sizes[1], &sizes[2], &sizes[3], &sizes[4], &sizes[5],
                                     &sizes[6], &sizes[7], &options->layer_norm_eps, &options->hidden_act,
                                     &add_pooling_layer, &head, &input_quantizer, &weight_quantizer,
                                     &options->position_embedding_type, &add_cross_attention, &tie_word_embeddings,
                                     &heads_of_layers, &padding_token, &codes, &lent) ||
        qb_py_require_keywords(keywords, names, 1, REQUIRED_COUNT, "Model") < 0) {
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
    options->add_cross_attention = add_cross_attention;
    options->tie_word_embeddings = tie_word_embeddings;
    options->input_quantizer = qb_py_quantizer_options_default();
    options->weight_quantizer = qb_py_quantizer_options_default();
    qb_error error;
    if (qb_head_from_name(head, &options->head, &error) != QB_OK) {
        qb_py_raise(state, &error);
        return -1;
    }
    int64_t *heads = NULL;
    const int is_read =
        qb_py_quantizer_options_read(input_quantizer, "input_quantizer", &options->input_quantizer) == 0 &&
        qb_py_quantizer_options_read(weight_quantizer, "weight_quantizer", &options->weight_quantizer) == 0 &&
        read_heads_of_layers(heads_of_layers, options->num_layers, &heads) == 0 &&
        qb_py_storages_read(state, codes, lent, storages) == 0;
    options->heads_of_layers = heads;
    if (is_read && padding_token && padding_token != Py_None) {
        const long long token = PyLong_AsLongLong(padding_token);
        if (token == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (token < 0 || token >= options->vocab_size) {
            PyErr_Format(PyExc_ValueError, "padding_token: expected 0 .. %lld or None, got %lld",
                         (long long)options->vocab_size - 1, token);
            return -1;
        }
        options->padding_token = token + 1;
    }
    return is_read ? 0 : -1;
}

static PyObject *
make_model(PyTypeObject *type, qb_py_state *state, PyObject *device_object, const qb_model_options *options,
           qb_py_storages *storages)
{
    qb_device *device = qb_py_device_handle(state, device_object, "device");
    qb_py_model *self = device ? (qb_py_model *)type->tp_alloc(type, 0) : NULL;
    if (!self) {
        return NULL;
    }
    self->device = Py_NewRef(device_object);
    self->num_layers = options->num_layers;
    self->num_heads = options->num_heads;
    self->hidden_size = options->hidden_size;
    self->has_cross_attention = options->add_cross_attention;
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_model_create(device, options, &self->model, &error);
    qb_py_call_end(&call);
    if (status != QB_OK) {
        Py_DECREF(self);
        return qb_py_raise(state, &error);
    }
    const int fits = qb_py_storages_check(state, self->model, storages) == 0;
    storages->lent = NULL; /* the model's */
    if (!fits) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyObject *
model_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    qb_py_state *state = qb_py_state_of_type(type);
    if (!state) {
        return NULL;
    }
    PyObject *device = NULL;
    qb_model_options options = {.struct_size = sizeof options};
    qb_py_storages storages = {.names = NULL};
    PyObject *self = NULL;
    if (read_options(state, arguments, keywords, &device, &options, &storages) == 0) {
        qb_py_storages_apply(&storages, &options);
        self = make_model(type, state, device, &options, &storages);
    }
    qb_py_storages_clear(&storages);
    PyMem_Free((void *)options.heads_of_layers);
    return self;
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
                                   "(name, read-only view) of every parameter, in the order of the block.\n\n"
                                   "Returns\n-------\n"
                                   "list of (str, ndarray or None)\n"
                                   "    float32; a tied table is there once, under the name of the embedding.  None\n"
                                   "    for a weight that is kept as codes.");

static PyObject *
model_parameters(PyObject *self, PyObject *unused)
{
    (void)unused;
    const qb_model *model = ((qb_py_model *)self)->model;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list && i < qb_model_parameter_count(model); ++i) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        PyObject *view = info.data ? qb_py_array_view(self, info.rank, info.shape, info.data, 0) : Py_NewRef(Py_None);
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
                                        "Parameters\n----------\n"
                                        "index : int\n"
                                        "    Place in the list of parameters().\n\n"
                                        "Returns\n-------\n"
                                        "ndarray, float32\n\n"
                                        "Raises\n------\n"
                                        "IndexError\n"
                                        "    If there is no such parameter.\n"
                                        "StateError\n"
                                        "    While a session runs.");

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

PyDoc_STRVAR(model_gradient_doc, "gradient($self, index, /)\n--\n\n"
                                 "Writable view of the gradient of one parameter, or None.\n\n"
                                 "Parameters\n----------\n"
                                 "index : int\n"
                                 "    Place in the list of parameters().\n\n"
                                 "Returns\n-------\n"
                                 "ndarray, float32, or None\n"
                                 "    None while no session trains, and for a parameter that is not trained.\n\n"
                                 "Raises\n------\n"
                                 "IndexError\n"
                                 "    If there is no such parameter.");

static PyObject *
model_gradient(PyObject *self, PyObject *index_object)
{
    const long long index = PyLong_AsLongLong(index_object);
    if (index == -1 && PyErr_Occurred()) {
        return NULL;
    }
    qb_model *model = ((qb_py_model *)self)->model;
    const qb_parameter_info info = qb_model_parameter(model, index);
    if (!info.name) {
        return PyErr_Format(PyExc_IndexError, "parameter index is %lld, expected 0 .. %lld", index,
                            (long long)qb_model_parameter_count(model) - 1);
    }
    float *gradient = qb_model_gradient(model, index);
    if (!gradient) {
        Py_RETURN_NONE;
    }
    return qb_py_array_view(self, info.rank, info.shape, gradient, 1);
}

PyDoc_STRVAR(model_set_trainable_doc, "set_trainable($self, index, is_trainable, /)\n--\n\n"
                                      "Say whether backward computes a parameter's gradient.\n\n"
                                      "Parameters\n----------\n"
                                      "index : int\n"
                                      "    Place in the list of parameters().\n"
                                      "is_trainable : bool\n\n"
                                      "Raises\n------\n"
                                      "IndexError\n"
                                      "    If there is no such parameter.\n"
                                      "StateError\n"
                                      "    While a session runs.");

static PyObject *
model_set_trainable(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    if (!state) {
        return NULL;
    }
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "set_trainable() takes 2 arguments, %zd given", count);
    }
    const long long index = PyLong_AsLongLong(arguments[0]);
    const int is_trainable = index == -1 && PyErr_Occurred() ? -1 : PyObject_IsTrue(arguments[1]);
    if (is_trainable < 0) {
        return NULL;
    }
    qb_error error;
    if (qb_model_set_trainable(((qb_py_model *)self)->model, index, is_trainable, &error) != QB_OK) {
        return qb_py_raise(state, &error);
    }
    Py_RETURN_NONE;
}

static int
require_count(const char *function, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most)
{
    if (count < least || count > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd or %zd arguments, %zd given", function, least, most, count);
        return -1;
    }
    return 0;
}

/* An int64 array of places in the list of parameters(), or None (also if it is left out): all of them. */
static int
borrow_indices(qb_py_state *state, PyObject *object, qb_py_tensor *indices)
{
    return object ? qb_py_borrow_optional(state, object, "indices", QB_PY_INT64, indices) : 0;
}

PyDoc_STRVAR(model_zero_gradients_doc, "zero_gradients($self, indices=None, /)\n--\n\n"
                                       "Make gradients of parameters zero.\n\n"
                                       "Parameters\n----------\n"
                                       "indices : int64, shape (count,), or None\n"
                                       "    Places in the list of parameters(); None: all, and the learned bounds.\n\n"
                                       "Raises\n------\n"
                                       "IndexError\n"
                                       "    If there is no such parameter.\n"
                                       "StateError\n"
                                       "    While a backward runs.");

static PyObject *
model_zero_gradients(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    qb_py_tensor indices = {0};
    if (!state || require_count("zero_gradients", count, 0, 1) < 0 ||
        borrow_indices(state, count > 0 ? arguments[0] : NULL, &indices) < 0) {
        return NULL;
    }
    qb_error error;
    const qb_status status = qb_model_zero_gradients(((qb_py_model *)self)->model, indices.data, indices.count, &error);
    qb_py_give_back(&indices);
    return status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
}

PyDoc_STRVAR(model_gradient_norm_doc, "gradient_norm($self, indices=None, /)\n--\n\n"
                                      "The length of gradients together, in float64; 0 while there are none.\n\n"
                                      "Parameters\n----------\n"
                                      "indices : int64, shape (count,), or None\n"
                                      "    Places in the list of parameters(); None: all.\n\n"
                                      "Returns\n-------\n"
                                      "float\n\n"
                                      "Raises\n------\n"
                                      "IndexError\n"
                                      "    If there is no such parameter.");

static PyObject *
model_gradient_norm(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    qb_py_tensor indices = {0};
    if (!state || require_count("gradient_norm", count, 0, 1) < 0 ||
        borrow_indices(state, count > 0 ? arguments[0] : NULL, &indices) < 0) {
        return NULL;
    }
    double norm = 0.0;
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status =
        qb_model_gradient_norm(((qb_py_model *)self)->model, indices.data, indices.count, &norm, &error);
    qb_py_call_end(&call);
    qb_py_give_back(&indices);
    return status == QB_OK ? PyFloat_FromDouble(norm) : qb_py_raise(state, &error);
}

PyDoc_STRVAR(model_scale_gradients_doc, "scale_gradients($self, factor, indices=None, /)\n--\n\n"
                                        "Multiply gradients of parameters.\n\n"
                                        "Parameters\n----------\n"
                                        "factor : float\n"
                                        "indices : int64, shape (count,), or None\n"
                                        "    Places in the list of parameters(); None: all.\n\n"
                                        "Raises\n------\n"
                                        "IndexError\n"
                                        "    If there is no such parameter.\n"
                                        "StateError\n"
                                        "    While a backward runs.");

static PyObject *
model_scale_gradients(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    qb_py_tensor indices = {0};
    if (!state || require_count("scale_gradients", count, 1, 2) < 0) {
        return NULL;
    }
    const double factor = PyFloat_AsDouble(arguments[0]);
    if ((factor == -1.0 && PyErr_Occurred()) || borrow_indices(state, count > 1 ? arguments[1] : NULL, &indices) < 0) {
        return NULL;
    }
    qb_error error;
    const qb_status status =
        qb_model_scale_gradients(((qb_py_model *)self)->model, (float)factor, indices.data, indices.count, &error);
    qb_py_give_back(&indices);
    return status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
}

PyDoc_STRVAR(model_quantizers_doc, "quantizers($self, /)\n--\n\n"
                                   "(name, Quantizer) of every quantizer, in the order of named_modules.\n\n"
                                   "Returns\n-------\n"
                                   "list of (str, Quantizer)");

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

PyDoc_STRVAR(model_needs_probabilities_doc,
             "needs_probabilities($self, /)\n--\n\n"
             "Whether a session needs keep_probabilities, as the quantizers stand now.\n\n"
             "Returns\n-------\n"
             "bool");

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

static PyObject *
model_get_dropout_count(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(qb_model_dropout_count(((qb_py_model *)self)->model));
}

static PyMethodDef model_methods[] = {
    {"parameters", model_parameters, METH_NOARGS, model_parameters_doc},
    {"parameter_write", model_parameter_write, METH_O, model_parameter_write_doc},
    {"gradient", model_gradient, METH_O, model_gradient_doc},
    {"set_trainable", (PyCFunction)(void (*)(void))model_set_trainable, METH_FASTCALL, model_set_trainable_doc},
    {"zero_gradients", (PyCFunction)(void (*)(void))model_zero_gradients, METH_FASTCALL, model_zero_gradients_doc},
    {"gradient_norm", (PyCFunction)(void (*)(void))model_gradient_norm, METH_FASTCALL, model_gradient_norm_doc},
    {"scale_gradients", (PyCFunction)(void (*)(void))model_scale_gradients, METH_FASTCALL, model_scale_gradients_doc},
    {"quantizers", model_quantizers, METH_NOARGS, model_quantizers_doc},
    {"sites", (PyCFunction)(void (*)(void))qb_py_model_sites, METH_FASTCALL, qb_py_model_sites_doc},
    {"edges", (PyCFunction)(void (*)(void))qb_py_model_edges, METH_FASTCALL, qb_py_model_edges_doc},
    {"needs_probabilities", model_needs_probabilities, METH_NOARGS, model_needs_probabilities_doc},
    {"storages", qb_py_model_storages, METH_NOARGS, qb_py_model_storages_doc},
    {"read_codes", qb_py_model_read_codes, METH_O, qb_py_model_read_codes_doc},
    {"write_codes", (PyCFunction)(void (*)(void))qb_py_model_write_codes, METH_FASTCALL, qb_py_model_write_codes_doc},
    {"write_all_codes", qb_py_model_write_all_codes, METH_O, qb_py_model_write_all_codes_doc},
    {"values_of_codes", (PyCFunction)(void (*)(void))qb_py_model_values_of_codes, METH_FASTCALL,
     qb_py_model_values_of_codes_doc},
    {"seal", qb_py_model_seal, METH_NOARGS, qb_py_model_seal_doc},
    {"epoch", qb_py_model_epoch, METH_NOARGS, qb_py_model_epoch_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef model_properties[] = {
    {"device", model_get_device, NULL, "The Device that runs it.", NULL},
    {"dropout_count", model_get_dropout_count, NULL, "Probabilities that Session.forward's dropout has.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(model_doc,
             "Model(device, *, vocab_size, hidden_size, num_layers, num_heads, intermediate_size, max_positions, "
             "type_vocab_size, num_labels, layer_norm_eps, hidden_act, add_pooling_layer, head, input_quantizer, "
             "weight_quantizer, position_embedding_type='absolute', add_cross_attention=False, "
             "tie_word_embeddings=True, heads_of_layers=None, padding_token=None, codes=(), lent=None)\n--\n\n"
             "Parameters and quantizers of one BERT; parameters are zero.\n\n"
             "Parameters\n----------\n"
             "device : Device\n"
             "vocab_size, hidden_size, num_layers, num_heads, intermediate_size, max_positions, type_vocab_size : int\n"
             "    At least 1; num_heads divides hidden_size.\n"
             "num_labels : int\n"
             "    Rows of a classifier.\n"
             "layer_norm_eps : float\n"
             "hidden_act : str\n"
             "    A name of transformers, such as \"gelu\".\n"
             "add_pooling_layer : bool\n"
             "    Counts for the head \"none\" only.\n"
             "head : str\n"
             "    \"none\", \"question_answering\", \"sequence_classification\", \"token_classification\", "
             "\"next_sentence\" or\n"
             "    \"language_model\".\n"
             "input_quantizer, weight_quantizer : dict\n"
             "    What every quantizer of the kind starts as; see Quantizer.options.\n"
             "position_embedding_type : {'absolute', 'relative_key', 'relative_key_query'}\n"
             "add_cross_attention : bool\n"
             "    Whether each layer also attends to encoder states, when they are given.\n"
             "tie_word_embeddings : bool\n"
             "    Whether a language model scores with the table of word embeddings.\n"
             "heads_of_layers : sequence of int, optional\n"
             "    Self-attention heads left in each layer; num_heads everywhere if left out.\n"
             "padding_token : int, optional\n"
             "    The id whose word vector gets no gradient as an input.\n"
             "codes : sequence of str\n"
             "    Weights that are kept as codes: write_codes, then seal.\n"
             "lent : dict of str to float32\n"
             "    Parameters whose numbers are these arrays, which nobody may change meanwhile.\n\n"
             "Raises\n------\n"
             "ValueError\n"
             "    If an option cannot be; it is named.\n"
             "MemoryError\n"
             "    If there is not enough memory.");

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
