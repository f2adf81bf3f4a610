/* SPDX-License-Identifier: Apache-2.0
 *
 * Session.forward: shapes are checked against each other here, so that C reads only what the buffers hold; ranges of
 * ids and masks are checked by the core.  Every output is a fresh array.
 */
#include "ndarray.h"
#include "session_object.h"
#include "session_results.h"

/* ---- arguments -------------------------------------------------------------------------------------------------- */

enum {
    INPUT_IDS,
    INPUTS_EMBEDS,
    ATTENTION_MASK,
    TOKEN_TYPE_IDS,
    POSITION_IDS,
    HEAD_MASK,
    COMPUTE_PADDING,
    IS_CAUSAL,
    PAST_KEYS,
    PAST_VALUES,
    ENCODER_HIDDEN_STATES,
    ENCODER_ATTENTION_MASK,
    CROSS_KEYS,
    CROSS_VALUES,
    OUTPUTS,
    LOGITS_POSITIONS,
    DROPOUT,
    ARGUMENT_COUNT
};

typedef enum argument_kind { ONE_INT64, ONE_FLOAT32, FLOAT32_PER_LAYER, SEED_STEP_FLOAT32, SCALAR } argument_kind;

static const struct {
    const char *name;
    argument_kind kind;
} facts[ARGUMENT_COUNT] = {
    [INPUT_IDS] = {"input_ids", ONE_INT64},
    [INPUTS_EMBEDS] = {"inputs_embeds", ONE_FLOAT32},
    [ATTENTION_MASK] = {"attention_mask", ONE_INT64},
    [TOKEN_TYPE_IDS] = {"token_type_ids", ONE_INT64},
    [POSITION_IDS] = {"position_ids", ONE_INT64},
    [HEAD_MASK] = {"head_mask", ONE_FLOAT32},
    [COMPUTE_PADDING] = {"compute_padding", SCALAR},
    [IS_CAUSAL] = {"is_causal", SCALAR},
    [PAST_KEYS] = {"past_keys", FLOAT32_PER_LAYER},
    [PAST_VALUES] = {"past_values", FLOAT32_PER_LAYER},
    [ENCODER_HIDDEN_STATES] = {"encoder_hidden_states", ONE_FLOAT32},
    [ENCODER_ATTENTION_MASK] = {"encoder_attention_mask", ONE_INT64},
    [CROSS_KEYS] = {"cross_keys", FLOAT32_PER_LAYER},
    [CROSS_VALUES] = {"cross_values", FLOAT32_PER_LAYER},
    [OUTPUTS] = {"outputs", SCALAR},
    [LOGITS_POSITIONS] = {"logits_positions", ONE_INT64},
    [DROPOUT] = {"dropout", SEED_STEP_FLOAT32},
};

/* What was borrowed for one argument: one tensor, or one for each layer. */
typedef struct forward_argument {
    qb_py_tensor one;
    qb_py_tensors per_layer;
    uint64_t seed, step; /* of dropout, whose probabilities are `one` */
} forward_argument;

static void
give_back(forward_argument *argument)
{
    qb_py_give_back(&argument->one);
    qb_py_give_back_each(&argument->per_layer);
}

static int
read_uint64(PyObject *object, const char *name, uint64_t *value)
{
    *value = PyLong_AsUnsignedLongLong(object);
    if (*value != (uint64_t)-1 || !PyErr_Occurred()) {
        return 0;
    }
    if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Format(PyExc_ValueError, "%s: expected 0 .. 2**64 - 1, got %R", name, object);
    }
    else if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Format(PyExc_TypeError, "%s: expected an integer, got %.100s", name, Py_TYPE(object)->tp_name);
    }
    return -1;
}

static int
borrow_dropout(const qb_py_state *state, PyObject *object, forward_argument *argument)
{
    if (object == Py_None) {
        return 0;
    }
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 3) {
        PyErr_Format(PyExc_TypeError, "dropout: expected a tuple (seed, step, probabilities), got %.100s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    return read_uint64(PyTuple_GET_ITEM(object, 0), "dropout seed", &argument->seed) < 0 ||
                   read_uint64(PyTuple_GET_ITEM(object, 1), "dropout step", &argument->step) < 0
               ? -1
               : qb_py_borrow(state, PyTuple_GET_ITEM(object, 2), "dropout", QB_PY_FLOAT32, &argument->one);
}

static int
borrow(const qb_py_state *state, PyObject *object, int index, int64_t layers, forward_argument *argument)
{
    switch (facts[index].kind) {
    case ONE_INT64:
        return qb_py_borrow_optional(state, object, facts[index].name, QB_PY_INT64, &argument->one);
    case ONE_FLOAT32:
        return qb_py_borrow_optional(state, object, facts[index].name, QB_PY_FLOAT32, &argument->one);
    case FLOAT32_PER_LAYER:
        return object == Py_None
                   ? 0
                   : qb_py_borrow_each(state, object, facts[index].name, layers, "layers", 0, &argument->per_layer);
    case SEED_STEP_FLOAT32:
        return borrow_dropout(state, object, argument);
    case SCALAR:
        return 0;
    }
    return 0;
}

/* ---- shapes ----------------------------------------------------------------------------------------------------- */

static int
fail_shape(const qb_py_state *state, int index, const char *expected, const qb_py_tensor *tensor)
{
    char got[QB_PY_SHAPE_TEXT];
    PyErr_Format(state->shape_error, "%s: expected %s, got %s", facts[index].name, expected,
                 qb_py_shape_text(got, tensor->rank, tensor->shape));
    return -1;
}

/* Shape (batch, columns), or with rows > 0 also (batch, rows, columns). */
static int
require_mask(const qb_py_state *state, int index, const qb_py_tensor *tensor, int64_t batch, int64_t rows,
             int64_t columns)
{
    const int64_t *shape = tensor->shape;
    if (!tensor->data || (tensor->rank == 2 && shape[0] == batch && shape[1] == columns) ||
        (rows > 0 && tensor->rank == 3 && shape[0] == batch && shape[1] == rows && shape[2] == columns)) {
        return 0;
    }
    char expected[192];
    const char *names = index == ENCODER_ATTENTION_MASK ? "(batch, encoder length)"
                        : index == ATTENTION_MASK       ? "(batch, past + length)"
                                                        : "(batch, length)";
    if (rows > 0) {
        PyOS_snprintf(expected, sizeof expected, "%s = (%lld, %lld) or (%lld, %lld, %lld)", names, (long long)batch,
                      (long long)columns, (long long)batch, (long long)rows, (long long)columns);
    }
    else {
        PyOS_snprintf(expected, sizeof expected, "%s = (%lld, %lld)", names, (long long)batch, (long long)columns);
    }
    return fail_shape(state, index, expected, tensor);
}

/* Arrays (batch, heads of the layer, *length, head size), one for each layer; *length < 0: the first one's. */
static int
require_keys(const qb_py_state *state, const qb_py_model *model, int index, const forward_argument *argument,
             int is_cross, int64_t batch, int64_t *length)
{
    const int64_t head_size = model->hidden_size / model->num_heads;
    for (int64_t i = 0; argument->per_layer.each && i < argument->per_layer.count; ++i) {
        const qb_py_tensor *tensor = &argument->per_layer.each[i];
        const int64_t heads = is_cross ? model->num_heads : qb_model_heads(model->model, i);
        if (tensor->rank == 4 && *length < 0) {
            *length = tensor->shape[2];
        }
        if (tensor->rank != 4 || tensor->shape[0] != batch || tensor->shape[1] != heads ||
            tensor->shape[2] != *length || tensor->shape[3] != head_size || *length == 0) {
            char expected[160];
            PyOS_snprintf(expected, sizeof expected, "(batch, heads, keys, head size) = (%lld, %lld, %lld, %lld)",
                          (long long)batch, (long long)heads, (long long)(*length < 1 ? 1 : *length),
                          (long long)head_size);
            return fail_shape(state, index, expected, tensor);
        }
    }
    return 0;
}

static int
require_pair(const forward_argument arguments[ARGUMENT_COUNT], int keys, int values)
{
    if (!arguments[keys].per_layer.each == !arguments[values].per_layer.each) {
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "%s, %s: expected both or none", facts[keys].name, facts[values].name);
    return -1;
}

static int
check_words(const qb_py_state *state, const qb_py_model *model, const forward_argument arguments[ARGUMENT_COUNT],
            qb_forward_inputs *inputs)
{
    const qb_py_tensor *ids = &arguments[INPUT_IDS].one;
    const qb_py_tensor *embeds = &arguments[INPUTS_EMBEDS].one;
    if (!ids->data == !embeds->data) {
        PyErr_SetString(PyExc_ValueError, ids->data ? "input_ids, inputs_embeds: expected one of the two, got both"
                                                    : "input_ids, inputs_embeds: expected one of the two, got neither");
        return -1;
    }
    if (ids->data && ids->rank != 2) {
        return fail_shape(state, INPUT_IDS, "(batch, length)", ids);
    }
    if (embeds->data && (embeds->rank != 3 || embeds->shape[2] != model->hidden_size)) {
        char expected[96];
        PyOS_snprintf(expected, sizeof expected, "(batch, length, %lld)", (long long)model->hidden_size);
        return fail_shape(state, INPUTS_EMBEDS, expected, embeds);
    }
    const qb_py_tensor *first = ids->data ? ids : embeds;
    inputs->batch = first->shape[0];
    inputs->length = first->shape[1];
    if (inputs->batch == 0 || inputs->length == 0) {
        return fail_shape(state, ids->data ? INPUT_IDS : INPUTS_EMBEDS, "at least one sequence and one token", first);
    }
    return 0;
}

static int
check_encoder(const qb_py_state *state, const qb_py_model *model, const forward_argument arguments[ARGUMENT_COUNT],
              qb_forward_inputs *inputs)
{
    const qb_py_tensor *states = &arguments[ENCODER_HIDDEN_STATES].one;
    int64_t length = -1;
    if (require_pair(arguments, CROSS_KEYS, CROSS_VALUES) < 0 ||
        require_keys(state, model, CROSS_KEYS, &arguments[CROSS_KEYS], 1, inputs->batch, &length) < 0 ||
        require_keys(state, model, CROSS_VALUES, &arguments[CROSS_VALUES], 1, inputs->batch, &length) < 0) {
        return -1;
    }
    if (states->data && (states->rank != 3 || states->shape[0] != inputs->batch || states->shape[1] == 0 ||
                         states->shape[2] != model->hidden_size)) {
        char expected[96];
        PyOS_snprintf(expected, sizeof expected, "(%lld, encoder length, %lld)", (long long)inputs->batch,
                      (long long)model->hidden_size);
        return fail_shape(state, ENCODER_HIDDEN_STATES, expected, states);
    }
    if (states->data && length > 0 && states->shape[1] != length) {
        char expected[96];
        PyOS_snprintf(expected, sizeof expected, "(%lld, %lld, %lld), as long as cross_keys", (long long)inputs->batch,
                      (long long)length, (long long)model->hidden_size);
        return fail_shape(state, ENCODER_HIDDEN_STATES, expected, states);
    }
    inputs->encoder_length = length > 0 ? length : states->data ? states->shape[1] : 0;
    if (inputs->encoder_length == 0 && arguments[ENCODER_ATTENTION_MASK].one.data) {
        PyErr_SetString(PyExc_ValueError, "encoder_attention_mask: given without encoder states");
        return -1;
    }
    return require_mask(state, ENCODER_ATTENTION_MASK, &arguments[ENCODER_ATTENTION_MASK].one, inputs->batch,
                        inputs->length, inputs->encoder_length);
}

static int
check_shapes(const qb_py_state *state, const qb_py_model *model, const forward_argument arguments[ARGUMENT_COUNT],
             qb_forward_inputs *inputs)
{
    int64_t past = -1;
    int64_t heads = 0;
    if (check_words(state, model, arguments, inputs) < 0 || require_pair(arguments, PAST_KEYS, PAST_VALUES) < 0 ||
        require_keys(state, model, PAST_KEYS, &arguments[PAST_KEYS], 0, inputs->batch, &past) < 0 ||
        require_keys(state, model, PAST_VALUES, &arguments[PAST_VALUES], 0, inputs->batch, &past) < 0) {
        return -1;
    }
    inputs->past_length = past > 0 ? past : 0;
    if (require_mask(state, ATTENTION_MASK, &arguments[ATTENTION_MASK].one, inputs->batch, inputs->length,
                     inputs->past_length + inputs->length) < 0 ||
        require_mask(state, TOKEN_TYPE_IDS, &arguments[TOKEN_TYPE_IDS].one, inputs->batch, 0, inputs->length) < 0 ||
        require_mask(state, POSITION_IDS, &arguments[POSITION_IDS].one, inputs->batch, 0, inputs->length) < 0 ||
        check_encoder(state, model, arguments, inputs) < 0) {
        return -1;
    }
    for (int64_t i = 0; i < model->num_layers; ++i) {
        heads += qb_model_heads(model->model, i);
    }
    const qb_py_tensor *head_mask = &arguments[HEAD_MASK].one;
    if (head_mask->data && head_mask->count != heads) {
        char expected[96];
        PyOS_snprintf(expected, sizeof expected, "one factor for each head of each layer, %lld", (long long)heads);
        return fail_shape(state, HEAD_MASK, expected, head_mask);
    }
    const qb_py_tensor *dropout = &arguments[DROPOUT].one;
    const int64_t dropouts = qb_model_dropout_count(model->model);
    if (dropout->data && (dropout->rank != 1 || dropout->count != dropouts)) {
        char expected[96];
        PyOS_snprintf(expected, sizeof expected, "a probability for each of %lld dropouts", (long long)dropouts);
        return fail_shape(state, DROPOUT, expected, dropout);
    }
    return 0;
}

/* ---- the call --------------------------------------------------------------------------------------------------- */

static qb_forward_inputs
inputs_of(const forward_argument arguments[ARGUMENT_COUNT], int compute_padding, int is_causal)
{
    const qb_py_tensor *mask = &arguments[ATTENTION_MASK].one;
    const qb_py_tensor *encoder_mask = &arguments[ENCODER_ATTENTION_MASK].one;
    return (qb_forward_inputs){
        .struct_size = sizeof(qb_forward_inputs),
        .input_ids = arguments[INPUT_IDS].one.data,
        .inputs_embeds = arguments[INPUTS_EMBEDS].one.data,
        .attention_mask = mask->data,
        .attention_mask_rank = mask->data ? mask->rank : 2,
        .token_type_ids = arguments[TOKEN_TYPE_IDS].one.data,
        .position_ids = arguments[POSITION_IDS].one.data,
        .head_mask = arguments[HEAD_MASK].one.data,
        .padding = compute_padding ? QB_PADDING_COMPUTE : QB_PADDING_SKIP,
        .is_causal = is_causal,
        .past_keys = arguments[PAST_KEYS].per_layer.data,
        .past_values = arguments[PAST_VALUES].per_layer.data,
        .encoder_hidden_states = arguments[ENCODER_HIDDEN_STATES].one.data,
        .encoder_attention_mask = encoder_mask->data,
        .encoder_attention_mask_rank = encoder_mask->data ? encoder_mask->rank : 2,
        .cross_keys = arguments[CROSS_KEYS].per_layer.data,
        .cross_values = arguments[CROSS_VALUES].per_layer.data,
        .logits_positions = arguments[LOGITS_POSITIONS].one.data,
        .logits_count = arguments[LOGITS_POSITIONS].one.data ? arguments[LOGITS_POSITIONS].one.count : 0,
        .dropout_probabilities = arguments[DROPOUT].one.data,
        .dropout_seed = arguments[DROPOUT].seed,
        .dropout_step = arguments[DROPOUT].step,
    };
}

static qb_status
run_forward(qb_py_session *self, const qb_forward_inputs *inputs, const qb_forward_outputs *outputs, qb_error *error)
{
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_session_forward(self->session, &call.interrupt, inputs, outputs, error);
    qb_py_call_end(&call);
    return status;
}

/* Backward reads the arrays again: take them over, so that the caller may drop or change its own names of them. */
static int
keep(qb_py_session *self, const qb_forward_inputs *inputs, forward_argument borrowed[ARGUMENT_COUNT])
{
    forward_argument *kept = PyMem_Malloc(sizeof(forward_argument) * ARGUMENT_COUNT);
    if (!kept) {
        PyErr_NoMemory();
        return -1;
    }
    for (int i = 0; i < ARGUMENT_COUNT; ++i) {
        kept[i] = borrowed[i];
        borrowed[i] = (forward_argument){.seed = 0};
    }
    self->kept = kept;
    self->shapes = (qb_py_shapes){.batch = inputs->batch,
                                  .length = inputs->length,
                                  .encoder_length = inputs->encoder_length,
                                  .hidden = self->model->hidden_size};
    self->shapes.logits_rank =
        qb_model_logits_shape(self->model->model, inputs->batch, inputs->length, self->shapes.logits);
    if (inputs->logits_positions) {
        self->shapes.logits_rank = 2;
        self->shapes.logits[0] = inputs->logits_count;
        self->shapes.logits[1] = self->shapes.logits[2];
    }
    return 0;
}

void
qb_py_session_forget(qb_py_session *self)
{
    forward_argument *kept = self->kept;
    for (int i = 0; kept && i < ARGUMENT_COUNT; ++i) {
        give_back(&kept[i]);
    }
    PyMem_Free(kept);
    self->kept = NULL;
}

const char qb_py_session_forward_doc[] =
    "forward($self, input_ids, inputs_embeds, attention_mask, token_type_ids, position_ids, head_mask, "
    "compute_padding, is_causal, past_keys, past_values, encoder_hidden_states, encoder_attention_mask, "
    "cross_keys, cross_values, outputs, logits_positions=None, dropout=None, /)\n--\n\n"
    "Run the model on a batch.\n\n"
    "Parameters\n----------\n"
    "input_ids : int64, shape (batch, length), or None\n"
    "inputs_embeds : float32, shape (batch, length, hidden), or None\n"
    "    One of the two.\n"
    "attention_mask : int64, shape (batch, past + length) or (batch, length, past + length), or None\n"
    "    Of 0 and 1; None: ones.\n"
    "token_type_ids : int64, shape (batch, length), or None\n"
    "    None: zeros.\n"
    "position_ids : int64, shape (batch, length), or None\n"
    "    None: past .. past + length - 1 in each row.\n"
    "head_mask : float32, shape (heads,), or None\n"
    "    The heads of layer 0, then of layer 1, ...\n"
    "compute_padding : bool\n"
    "    Whether positions whose mask is 0 are computed.\n"
    "is_causal : bool\n"
    "    Whether tokens see no later ones.\n"
    "past_keys, past_values : sequence of float32, shape (batch, heads, past, head size), or None\n"
    "    One for each layer.\n"
    "encoder_hidden_states : float32, shape (batch, encoder length, hidden), or None\n"
    "encoder_attention_mask : int64, shape (batch, encoder length) or (batch, length, encoder length), or None\n"
    "cross_keys, cross_values : sequence of float32, shape (batch, heads, encoder length, head size), or None\n"
    "    What an earlier call made of the encoder states, one for each layer.\n"
    "outputs : int\n"
    "    Sum of OUTPUT_* constants.\n"
    "logits_positions : int64, shape (positions,), or None\n"
    "    The only tokens that a language model scores, as b * length + t in any order; the logits then are\n"
    "    (positions, vocabulary).\n"
    "dropout : (seed, step, probabilities), or None\n"
    "    Two integers of 64 bits from which follows what is dropped, and float32, shape (Model.dropout_count,): the\n"
    "    embeddings'; for each layer those of the attention probabilities, the attention's output, the\n"
    "    cross-attention's probabilities and output, the feed-forward output; the head's.  None: nothing is\n"
    "    dropped.  Only of a session that trains.\n\n"
    "Returns\n-------\n"
    "tuple\n"
    "    last_hidden_state, pooler_output, logits, and tuples with one array for each layer: hidden_states (one\n"
    "    more), attentions, cross_attentions, keys, values, cross_keys, cross_values.  None where not asked for;\n"
    "    the last two come with OUTPUT_CACHE when encoder states were projected.\n\n"
    "Raises\n------\n"
    "ShapeError, IndexError, ValueError\n"
    "    For arguments of a wrong shape or range; the argument is named.\n"
    "StateError\n"
    "    If another thread uses the session, it was made without keep_probabilities and needs them, or without\n"
    "    trains and there is dropout.";

PyObject *
qb_py_session_forward(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_session *self = (qb_py_session *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    if (!state) {
        return NULL;
    }
    if (count < LOGITS_POSITIONS || count > ARGUMENT_COUNT) {
        PyErr_Format(PyExc_TypeError, "forward() takes %d .. %d arguments, %zd given", (int)LOGITS_POSITIONS,
                     (int)ARGUMENT_COUNT, count);
        return NULL;
    }
    const unsigned long wanted = PyLong_AsUnsignedLong(arguments[OUTPUTS]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    const int compute_padding = PyObject_IsTrue(arguments[COMPUTE_PADDING]);
    const int is_causal = compute_padding < 0 ? -1 : PyObject_IsTrue(arguments[IS_CAUSAL]);
    if (is_causal < 0) {
        return NULL;
    }
    const int64_t layers = self->model->num_layers;
    forward_argument borrowed[ARGUMENT_COUNT] = {{.seed = 0}};
    qb_py_results made = {.objects = {NULL}};
    PyObject *tuple = NULL;
    for (int i = 0; i < count; ++i) {
        if (borrow(state, arguments[i], i, layers, &borrowed[i]) < 0) {
            goto done;
        }
    }
    qb_forward_inputs inputs = inputs_of(borrowed, compute_padding, is_causal);
    if (check_shapes(state, self->model, borrowed, &inputs) < 0 ||
        qb_py_results_make(self->model, &inputs, wanted, &made) < 0 || qb_py_enter(state, &self->busy, "session") < 0) {
        goto done;
    }
    const qb_forward_outputs outputs = qb_py_results_outputs(&made);
    qb_error error;
    qb_py_session_forget(self);
    const qb_status status = run_forward(self, &inputs, &outputs, &error);
    if (status == QB_OK && self->options.trains && keep(self, &inputs, borrowed) < 0) {
        qb_py_leave(&self->busy);
        goto done;
    }
    qb_py_leave(&self->busy);
    tuple = status == QB_OK ? qb_py_results_pack(&made) : qb_py_raise(state, &error);
done:
    for (int i = 0; i < ARGUMENT_COUNT; ++i) {
        give_back(&borrowed[i]);
    }
    qb_py_results_free(&made);
    return tuple;
}
