/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Session:
 *         def __new__(cls, model, *, max_sequences, max_length, max_tokens=0, keep_probabilities=False, max_past=0,
 *                     max_encoder_length=0, trains=False, recomputes=False, bf16_products=False): ...
 *         max_sequences: int; max_length: int; max_tokens: int; keep_probabilities: bool; max_past: int
 *         max_encoder_length: int; trains: bool; recomputes: bool; bf16_products: bool
 *         def forward(self, input_ids, inputs_embeds, attention_mask, token_type_ids, position_ids, head_mask,
 *                     compute_padding, is_causal, past_keys, past_values, encoder_hidden_states,
 *                     encoder_attention_mask, cross_keys, cross_values, outputs, logits_positions=None,
 *                     dropout=None, /):
 *             # -> a tuple of ten; see qb_py_session_forward_doc
 *         def backward(self, d_last_hidden_state, d_pooler_output, d_logits, wants_inputs, wants_encoder,
 *                      d_hidden_states=None, /):
 *             # -> a tuple of two; see qb_py_session_backward_doc
 *
 *     OUTPUT_LAST_HIDDEN_STATE = 1; OUTPUT_POOLER_OUTPUT = 2; OUTPUT_LOGITS = 4; OUTPUT_HIDDEN_STATES = 8
 *     OUTPUT_ATTENTIONS = 16; OUTPUT_CROSS_ATTENTIONS = 32; OUTPUT_CACHE = 64
 */
#include "session_object.h"
#include "session_results.h"

#include <stddef.h>

static PyObject *
session_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static const char *const names[] = {
        "model",    "max_sequences",      "max_length", "max_tokens", "keep_probabilities",
        "max_past", "max_encoder_length", "trains",     "recomputes", "bf16_products",
        NULL};
    PyObject *model_object = NULL;
    long long max_sequences = 0;
    long long max_length = 0;
    long long max_tokens = 0;
    long long max_past = 0;
    long long max_encoder_length = 0;
    int keep_probabilities = 0;
    int trains = 0;
    int recomputes = 0;
    int bf16_products = 0;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|$LLLpLLppp:Session", qb_py_keywords(names), &model_object,
                                     &max_sequences, &max_length, &max_tokens, &keep_probabilities, &max_past,
                                     &max_encoder_length, &trains, &recomputes, &bf16_products) ||
        qb_py_require_keywords(keywords, names, 1, 3, "Session") < 0) {
        return NULL;
    }
    qb_py_state *state = qb_py_state_of_type(type);
    qb_py_model *model = state ? qb_py_model_cast(state, model_object, "model") : NULL;
    if (!model) {
        return NULL;
    }
    qb_py_session *self = (qb_py_session *)type->tp_alloc(type, 0);
    if (!self) {
        return NULL;
    }
    self->model = (qb_py_model *)Py_NewRef(model);
    self->options = (qb_session_options){
        .struct_size = sizeof self->options,
        .max_sequences = max_sequences,
        .max_length = max_length,
        .max_tokens = max_tokens,
        .keep_probabilities = keep_probabilities,
        .max_past = max_past,
        .max_encoder_length = max_encoder_length,
        .trains = trains,
        .recomputes = recomputes,
        .bf16_products = bf16_products,
    };
    qb_py_call call;
    qb_session_options options = self->options;
    options.interrupt = &call.interrupt;
    qb_error error;
    qb_py_call_begin(&call);
    const qb_status status = qb_session_create(model->model, &options, &self->session, &error);
    qb_py_call_end(&call);
    if (status != QB_OK) {
        Py_DECREF(self);
        return qb_py_raise(state, &error);
    }
    return (PyObject *)self;
}

static int
session_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((qb_py_session *)self)->model);
    return 0;
}

/* The model is what the session needs to be destroyed, so it is let go in dealloc; a Model refers to nothing that
 * could lead back here, so leaving it out of clear keeps no cycle alive. */
static void
session_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    qb_session_destroy(((qb_py_session *)self)->session);
    qb_py_session_forget((qb_py_session *)self);
    Py_XDECREF(((qb_py_session *)self)->model);
    type->tp_free(self);
    Py_DECREF(type);
}

/* closure: the option's offset. */
static PyObject *
session_get_size(PyObject *self, void *closure)
{
    const char *options = (const char *)&((qb_py_session *)self)->options;
    int64_t value;
    memcpy(&value, options + (size_t)closure, sizeof value);
    return PyLong_FromLongLong(value);
}

static PyObject *
session_get_keep_probabilities(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((qb_py_session *)self)->options.keep_probabilities);
}

static PyObject *
session_get_trains(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((qb_py_session *)self)->options.trains);
}

static PyObject *
session_get_recomputes(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((qb_py_session *)self)->options.recomputes);
}

static PyObject *
session_get_bf16_products(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((qb_py_session *)self)->options.bf16_products);
}

static PyMethodDef session_methods[] = {
    {"forward", (PyCFunction)(void (*)(void))qb_py_session_forward, METH_FASTCALL, qb_py_session_forward_doc},
    {"backward", (PyCFunction)(void (*)(void))qb_py_session_backward, METH_FASTCALL, qb_py_session_backward_doc},
    {NULL, NULL, 0, NULL},
};

#define OPTION(name) ((void *)offsetof(qb_session_options, name))

static PyGetSetDef session_properties[] = {
    {"max_sequences", session_get_size, NULL, "Largest batch.", OPTION(max_sequences)},
    {"max_length", session_get_size, NULL, "Longest sequence.", OPTION(max_length)},
    {"max_tokens", session_get_size, NULL, "Most computed tokens in one call; 0: no extra limit.", OPTION(max_tokens)},
    {"max_past", session_get_size, NULL, "Most keys of earlier calls in a sequence.", OPTION(max_past)},
    {"max_encoder_length", session_get_size, NULL, "Longest sequence of encoder states.", OPTION(max_encoder_length)},
    {"keep_probabilities", session_get_keep_probabilities, NULL, "Room for attention probabilities.", NULL},
    {"trains", session_get_trains, NULL, "Keeps what backward needs.", NULL},
    {"recomputes", session_get_recomputes, NULL, "Keeps each layer's input only, and computes the rest again.", NULL},
    {"bf16_products", session_get_bf16_products, NULL, "Rounds the operands of linear layers' float products.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(session_doc,
             "Session(model, *, max_sequences, max_length, max_tokens=0, keep_probabilities=False, max_past=0, "
             "max_encoder_length=0, trains=False, recomputes=False, bf16_products=False)\n--\n\n"
             "One caller's workspace; after this no forward within the limits allocates.\n\n"
             "Parameters\n----------\n"
             "model : Model\n"
             "max_sequences : int\n"
             "    Largest batch, at least 1.\n"
             "max_length : int\n"
             "    Longest sequence, 1 .. positions of the model.\n"
             "max_tokens : int\n"
             "    Most computed tokens in one call; 0: no extra limit.\n"
             "keep_probabilities : bool\n"
             "    Room for the attention probabilities of a whole layer.\n"
             "max_past : int\n"
             "    Most keys of earlier calls in a sequence.\n"
             "max_encoder_length : int\n"
             "    Longest sequence of encoder states.\n"
             "trains : bool\n"
             "    Keep what backward needs.\n"
             "recomputes : bool\n"
             "    Keep each layer's input only and compute the rest again in backward, with equal bits: gradient\n"
             "    checkpointing.  Needs trains.\n"
             "bf16_products : bool\n"
             "    Round the operands of linear layers' float products, forward and backward, to bfloat16; sums are\n"
             "    float32.  Needs trains.\n\n"
             "Raises\n------\n"
             "ValueError\n"
             "    If a limit is out of range, or a weight that is to become codes has a NaN.\n"
             "UnsupportedError\n"
             "    If the axes of a quantizer cannot be served; it is named.  If the device has no bf16 products.\n"
             "MemoryError\n"
             "    If there is not enough memory.");

static PyType_Slot session_slots[] = {
    {Py_tp_doc, (void *)session_doc},
    {Py_tp_new, session_new},
    {Py_tp_dealloc, session_dealloc},
    {Py_tp_traverse, session_traverse},
    {Py_tp_methods, session_methods},
    {Py_tp_getset, session_properties},
    {0, NULL},
};

static PyType_Spec session_spec = {
    .name = "qdqbert._core.Session",
    .basicsize = sizeof(qb_py_session),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = session_slots,
};

int
qb_py_session_register(PyObject *module, qb_py_state *state)
{
    if (qb_py_results_register(module) < 0) {
        return -1;
    }
    return qb_py_type_register(module, &session_spec, &state->session_type);
}
