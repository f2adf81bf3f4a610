/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Session:
 *         def __new__(cls, model, *, max_sequences, max_length, max_tokens=0, keep_probabilities=False): ...
 *         max_sequences: int; max_length: int; max_tokens: int; keep_probabilities: bool
 *         def forward(self, input_ids, inputs_embeds, attention_mask, token_type_ids, position_ids, head_mask,
 *                     compute_padding, outputs, /):
 *             # outputs: sum of OUTPUT_* bits
 *             # -> (last_hidden_state, pooler_output, logits, hidden_states, attentions), None where not asked for
 *
 *     OUTPUT_LAST_HIDDEN_STATE = 1; OUTPUT_POOLER_OUTPUT = 2; OUTPUT_LOGITS = 4; OUTPUT_HIDDEN_STATES = 8
 *     OUTPUT_ATTENTIONS = 16
 *
 * Shapes are checked against each other here, so that C reads only what the buffers hold; ranges of ids and masks are
 * checked by the core.  Every output is a fresh array.
 */
#include "model_object.h"
#include "ndarray.h"

typedef struct session_object {
    PyObject_HEAD
    qb_session *session; /* owned; constant after new, like all but busy */
    qb_py_model *model;  /* owned */
    int64_t max_sequences;
    int64_t max_length;
    int64_t max_tokens;
    int keep_probabilities;
    qb_py_busy busy;
} session_object;

enum {
    INPUT_IDS,
    INPUTS_EMBEDS,
    ATTENTION_MASK,
    TOKEN_TYPE_IDS,
    POSITION_IDS,
    HEAD_MASK,
    INPUT_COUNT,
    COMPUTE_PADDING = INPUT_COUNT,
    OUTPUTS,
    ARGUMENT_COUNT
};

enum { LAST_HIDDEN_STATE, POOLER_OUTPUT, LOGITS, HIDDEN_STATES, ATTENTIONS, OUTPUT_COUNT };

static const struct {
    const char *name;
    qb_py_dtype dtype;
} input_facts[INPUT_COUNT] = {
    [INPUT_IDS] = {"input_ids", QB_PY_INT64},           [INPUTS_EMBEDS] = {"inputs_embeds", QB_PY_FLOAT32},
    [ATTENTION_MASK] = {"attention_mask", QB_PY_INT64}, [TOKEN_TYPE_IDS] = {"token_type_ids", QB_PY_INT64},
    [POSITION_IDS] = {"position_ids", QB_PY_INT64},     [HEAD_MASK] = {"head_mask", QB_PY_FLOAT32},
};

static PyObject *
session_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static const char *const names[] = {"model",      "max_sequences",      "max_length",
                                        "max_tokens", "keep_probabilities", NULL};
    PyObject *model_object = NULL;
    long long max_sequences = 0;
    long long max_length = 0;
    long long max_tokens = 0;
    int keep_probabilities = 0;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|$LLLp:Session", qb_py_keywords(names), &model_object,
                                     &max_sequences, &max_length, &max_tokens, &keep_probabilities)) {
        return NULL;
    }
    qb_py_state *state = qb_py_state_of_type(type);
    qb_py_model *model = state ? qb_py_model_cast(state, model_object, "model") : NULL;
    if (!model) {
        return NULL;
    }
    session_object *self = (session_object *)type->tp_alloc(type, 0);
    if (!self) {
        return NULL;
    }
    self->model = (qb_py_model *)Py_NewRef(model);
    self->max_sequences = max_sequences;
    self->max_length = max_length;
    self->max_tokens = max_tokens;
    self->keep_probabilities = keep_probabilities;
    qb_py_call call;
    const qb_session_options options = {
        .struct_size = sizeof options,
        .max_sequences = max_sequences,
        .max_length = max_length,
        .max_tokens = max_tokens,
        .keep_probabilities = keep_probabilities,
        .interrupt = &call.interrupt,
    };
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
    Py_VISIT(((session_object *)self)->model);
    return 0;
}

/* The model is what the session needs to be destroyed, so it is let go in dealloc; a Model refers to nothing that
 * could lead back here, so leaving it out of clear keeps no cycle alive. */
static void
session_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    qb_session_destroy(((session_object *)self)->session);
    Py_XDECREF(((session_object *)self)->model);
    type->tp_free(self);
    Py_DECREF(type);
}

static int
fail_shape(const qb_py_state *state, const char *argument, const char *expected, const qb_py_tensor *tensor)
{
    char got[QB_PY_SHAPE_TEXT];
    PyErr_Format(state->shape_error, "%s: expected %s, got %s", argument, expected,
                 qb_py_shape_text(got, tensor->rank, tensor->shape));
    return -1;
}

/* Shape (batch, length), or when `or_square` also (batch, length, length). */
static int
require_batch_length(const qb_py_state *state, int index, const qb_py_tensor *tensor, const qb_forward_inputs *inputs,
                     int or_square)
{
    if (!tensor->data) {
        return 0;
    }
    const int64_t *shape = tensor->shape;
    if (tensor->rank >= 2 && shape[0] == inputs->batch && shape[1] == inputs->length &&
        (tensor->rank == 2 || (or_square && tensor->rank == 3 && shape[2] == inputs->length))) {
        return 0;
    }
    char expected[160];
    if (or_square) {
        PyOS_snprintf(expected, sizeof expected, "(batch, length) = (%lld, %lld) or (%lld, %lld, %lld)",
                      (long long)inputs->batch, (long long)inputs->length, (long long)inputs->batch,
                      (long long)inputs->length, (long long)inputs->length);
    }
    else {
        PyOS_snprintf(expected, sizeof expected, "(batch, length) = (%lld, %lld)", (long long)inputs->batch,
                      (long long)inputs->length);
    }
    return fail_shape(state, input_facts[index].name, expected, tensor);
}

static int
check_shapes(const qb_py_state *state, const qb_py_model *model, const qb_py_tensor tensors[INPUT_COUNT],
             qb_forward_inputs *inputs)
{
    const qb_py_tensor *ids = &tensors[INPUT_IDS];
    const qb_py_tensor *embeds = &tensors[INPUTS_EMBEDS];
    if (!ids->data == !embeds->data) {
        PyErr_SetString(PyExc_ValueError, ids->data ? "input_ids, inputs_embeds: expected one of the two, got both"
                                                    : "input_ids, inputs_embeds: expected one of the two, got neither");
        return -1;
    }
    if (ids->data && ids->rank != 2) {
        return fail_shape(state, "input_ids", "(batch, length)", ids);
    }
    if (embeds->data && (embeds->rank != 3 || embeds->shape[2] != model->hidden_size)) {
        char expected[96];
        PyOS_snprintf(expected, sizeof expected, "(batch, length, %lld)", (long long)model->hidden_size);
        return fail_shape(state, "inputs_embeds", expected, embeds);
    }
    const qb_py_tensor *first = ids->data ? ids : embeds;
    inputs->batch = first->shape[0];
    inputs->length = first->shape[1];
    if (inputs->batch == 0 || inputs->length == 0) {
        return fail_shape(state, ids->data ? "input_ids" : "inputs_embeds", "at least one sequence and one token",
                          first);
    }
    if (require_batch_length(state, ATTENTION_MASK, &tensors[ATTENTION_MASK], inputs, 1) < 0 ||
        require_batch_length(state, TOKEN_TYPE_IDS, &tensors[TOKEN_TYPE_IDS], inputs, 0) < 0 ||
        require_batch_length(state, POSITION_IDS, &tensors[POSITION_IDS], inputs, 0) < 0) {
        return -1;
    }
    const qb_py_tensor *head_mask = &tensors[HEAD_MASK];
    if (head_mask->data &&
        (head_mask->rank != 2 || head_mask->shape[0] != model->num_layers || head_mask->shape[1] != model->num_heads)) {
        char expected[96];
        PyOS_snprintf(expected, sizeof expected, "(layers, heads) = (%lld, %lld)", (long long)model->num_layers,
                      (long long)model->num_heads);
        return fail_shape(state, "head_mask", expected, head_mask);
    }
    return 0;
}

/* Make the arrays that `wanted` (bit i: output i) asks for; results[i] stays NULL for the others. */
static int
make_outputs(const qb_py_model *model, const qb_forward_inputs *inputs, unsigned long wanted,
             PyObject *results[OUTPUT_COUNT], qb_forward_outputs *outputs)
{
    const int64_t batch = inputs->batch;
    const int64_t length = inputs->length;
    const int is_span = model->head == QB_HEAD_QUESTION_ANSWERING;
    const int64_t classes = model->num_labels;
    const struct {
        const char *name;
        int offered;
        int32_t rank;
        int64_t shape[5];
        float **data;
    } plan[OUTPUT_COUNT] = {
        [LAST_HIDDEN_STATE] =
            {"last_hidden_state", 1, 3, {batch, length, model->hidden_size}, &outputs->last_hidden_state},
        [POOLER_OUTPUT] = {"pooler_output", model->has_pooler, 2, {batch, model->hidden_size}, &outputs->pooler_output},
        [LOGITS] = {"logits",
                    model->head != QB_HEAD_NONE,
                    is_span ? 3 : 2,
                    {batch, is_span ? length : classes, classes},
                    &outputs->logits},
        [HIDDEN_STATES] = {"hidden_states",
                           1,
                           4,
                           {model->num_layers + 1, batch, length, model->hidden_size},
                           &outputs->hidden_states},
        [ATTENTIONS] =
            {"attentions", 1, 5, {model->num_layers, batch, model->num_heads, length, length}, &outputs->attentions},
    };
    for (int i = 0; i < OUTPUT_COUNT; ++i) {
        if (!(wanted & (1UL << i))) {
            continue;
        }
        if (!plan[i].offered) {
            PyErr_Format(PyExc_ValueError, "outputs: this model has no %s", plan[i].name);
            return -1;
        }
        void *data = NULL;
        results[i] = qb_py_array_new(QB_PY_FLOAT32, plan[i].rank, plan[i].shape, &data);
        if (!results[i]) {
            return -1;
        }
        *plan[i].data = data;
    }
    return 0;
}

static PyObject *
pack_results(PyObject *results[OUTPUT_COUNT])
{
    PyObject *tuple = PyTuple_New(OUTPUT_COUNT);
    for (int i = 0; tuple && i < OUTPUT_COUNT; ++i) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(results[i] ? results[i] : Py_None));
    }
    return tuple;
}

static qb_status
run_forward(session_object *self, const qb_forward_inputs *inputs, const qb_forward_outputs *outputs, qb_error *error)
{
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_session_forward(self->session, &call.interrupt, inputs, outputs, error);
    qb_py_call_end(&call);
    return status;
}

PyDoc_STRVAR(session_forward_doc,
             "forward($self, input_ids, inputs_embeds, attention_mask, token_type_ids, position_ids, head_mask, "
             "compute_padding, outputs, /)\n--\n\n"
             "(last_hidden_state, pooler_output, logits, hidden_states, attentions); None where not asked for.\n\n"
             "Ids and masks are int64, the rest float32; None leaves an input out.  `outputs` is a sum of OUTPUT_* "
             "constants.");

static PyObject *
session_forward(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    session_object *self = (session_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    if (!state) {
        return NULL;
    }
    if (count != ARGUMENT_COUNT) {
        PyErr_Format(PyExc_TypeError, "forward() takes %d arguments, %zd given", (int)ARGUMENT_COUNT, count);
        return NULL;
    }
    const unsigned long wanted = PyLong_AsUnsignedLong(arguments[OUTPUTS]);
    const int compute_padding = PyObject_IsTrue(arguments[COMPUTE_PADDING]);
    if (compute_padding < 0 || PyErr_Occurred()) {
        return NULL;
    }
    qb_py_tensor tensors[INPUT_COUNT] = {0};
    PyObject *results[OUTPUT_COUNT] = {NULL};
    PyObject *tuple = NULL;
    for (int i = 0; i < INPUT_COUNT; ++i) {
        if (qb_py_borrow_optional(state, arguments[i], input_facts[i].name, input_facts[i].dtype, &tensors[i]) < 0) {
            goto done;
        }
    }
    qb_forward_inputs inputs = {
        .struct_size = sizeof inputs,
        .input_ids = tensors[INPUT_IDS].data,
        .inputs_embeds = tensors[INPUTS_EMBEDS].data,
        .attention_mask = tensors[ATTENTION_MASK].data,
        .attention_mask_rank = tensors[ATTENTION_MASK].data ? tensors[ATTENTION_MASK].rank : 2,
        .token_type_ids = tensors[TOKEN_TYPE_IDS].data,
        .position_ids = tensors[POSITION_IDS].data,
        .head_mask = tensors[HEAD_MASK].data,
        .padding = compute_padding ? QB_PADDING_COMPUTE : QB_PADDING_SKIP,
    };
    qb_forward_outputs outputs = {.struct_size = sizeof outputs};
    if (check_shapes(state, self->model, tensors, &inputs) < 0 ||
        make_outputs(self->model, &inputs, wanted, results, &outputs) < 0 ||
        qb_py_enter(state, &self->busy, "session") < 0) {
        goto done;
    }
    qb_error error;
    const qb_status status = run_forward(self, &inputs, &outputs, &error);
    qb_py_leave(&self->busy);
    tuple = status == QB_OK ? pack_results(results) : qb_py_raise(state, &error);
done:
    for (int i = 0; i < INPUT_COUNT; ++i) {
        qb_py_give_back(&tensors[i]);
    }
    for (int i = 0; i < OUTPUT_COUNT; ++i) {
        Py_XDECREF(results[i]);
    }
    return tuple;
}

static PyObject *
session_get_max_sequences(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((session_object *)self)->max_sequences);
}

static PyObject *
session_get_max_length(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((session_object *)self)->max_length);
}

static PyObject *
session_get_max_tokens(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((session_object *)self)->max_tokens);
}

static PyObject *
session_get_keep_probabilities(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((session_object *)self)->keep_probabilities);
}

static PyMethodDef session_methods[] = {
    {"forward", (PyCFunction)(void (*)(void))session_forward, METH_FASTCALL, session_forward_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef session_properties[] = {
    {"max_sequences", session_get_max_sequences, NULL, "Largest batch.", NULL},
    {"max_length", session_get_max_length, NULL, "Longest sequence.", NULL},
    {"max_tokens", session_get_max_tokens, NULL, "Most computed tokens in one call; 0: no extra limit.", NULL},
    {"keep_probabilities", session_get_keep_probabilities, NULL, "Room for attention probabilities.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(session_doc, "Session(model, *, max_sequences, max_length, max_tokens=0, keep_probabilities=False)\n--\n\n"
                          "One caller's workspace; after this no forward within the limits allocates.");

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
    .basicsize = sizeof(session_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = session_slots,
};

int
qb_py_session_register(PyObject *module, qb_py_state *state)
{
    static const char *const names[OUTPUT_COUNT] = {
        [LAST_HIDDEN_STATE] = "OUTPUT_LAST_HIDDEN_STATE",
        [POOLER_OUTPUT] = "OUTPUT_POOLER_OUTPUT",
        [LOGITS] = "OUTPUT_LOGITS",
        [HIDDEN_STATES] = "OUTPUT_HIDDEN_STATES",
        [ATTENTIONS] = "OUTPUT_ATTENTIONS",
    };
    for (int i = 0; i < OUTPUT_COUNT; ++i) {
        if (PyModule_AddIntConstant(module, names[i], 1L << i) < 0) {
            return -1;
        }
    }
    return qb_py_type_register(module, &session_spec, &state->session_type);
}
