/* SPDX-License-Identifier: Apache-2.0 */
#include "models/session.h"

#include <inttypes.h>
#include <string.h>

#include "core/shape.h"

/* ---- creation --------------------------------------------------------------------------------------------------- */

static qb_limits
limits_of(const qb_session *session)
{
    return (qb_limits){
        .sequences = session->options.max_sequences,
        .tokens = session->options.max_tokens,
        .length = session->options.max_length,
        .past = session->options.max_past,
        .encoder_length = session->options.max_encoder_length,
        .keep_probabilities = session->options.keep_probabilities != 0,
        .trains = session->options.trains != 0,
        .recomputes = session->options.recomputes != 0,
    };
}

/* What backward of the whole model needs; nothing if the session does not train. */
static qb_gradient_sizes
gradient_sizes(const qb_session *session)
{
    const qb_model *model = session->model;
    const qb_limits limits = limits_of(session);
    qb_gradient_sizes sizes = {.values = 0};
    if (limits.trains) {
        qb_bert_gradient_sizes(&model->bert, &model->device->kernels, &limits, &sizes);
        if (model->head != NULL) {
            model->head->verbs->gradient_sizes(&model->head_layers, &model->device->kernels, &limits, &sizes);
        }
    }
    return sizes;
}

static void
plan(qb_session *session, qb_arena *arena)
{
    const qb_model *model = session->model;
    const qb_limits limits = limits_of(session);
    const qb_gradient_sizes sizes = gradient_sizes(session);
    const size_t row = (size_t)model->config.hidden_size * sizeof(float);
    qb_batch_plan(&session->batch, arena, &limits, model->config.hidden_size);
    qb_bert_plan(&model->bert, &session->bert, arena, &limits, &sizes, &session->scratch);
    if (model->head != NULL) {
        model->head->verbs->plan(&model->head_layers, &session->head, arena, &limits, &session->scratch);
    }
    if (limits.trains) {
        session->dhidden = qb_arena_take(arena, limits.tokens, row);
        session->dpooled = qb_arena_take(arena, limits.sequences, row);
        session->dropouts =
            qb_arena_take(arena, qb_dropout_nodes_count(model->config.num_layers), sizeof *session->dropouts);
        if (limits.encoder_length > 0) {
            session->dmemory = qb_arena_take(arena, limits.sequences * limits.encoder_length, row);
        }
    }
}

static qb_status
create_block(qb_session *session, qb_error *error)
{
    qb_arena arena = qb_arena_measuring();
    plan(session, &arena);
    if (!qb_arena_ok(&arena)) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "the workspace does not fit the address space");
    }
    session->block = qb_heap_allocate(&session->model->device->heap, arena.used);
    if (session->block == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for %zu bytes of workspace", arena.used);
    }
    arena = qb_arena_bind(session->block, arena.used);
    plan(session, &arena);
    return QB_OK;
}

/* Scratch for the device's present number of threads. */
static qb_status
create_scratch(qb_session *session, qb_error *error)
{
    const qb_model *model = session->model;
    qb_heap *heap = &model->device->heap;
    const qb_limits limits = limits_of(session);
    const int32_t threads = qb_queue_threads(model->device->queue);
    size_t bytes = qb_bert_scratch_bytes(&model->bert, &model->device->kernels, &limits);
    if (model->head != NULL) {
        const size_t head = qb_head_layers_scratch_bytes(&model->head_layers, &model->device->kernels);
        bytes = head > bytes ? head : bytes;
    }
    const qb_gradient_sizes backward = gradient_sizes(session);
    bytes = backward.scratch > bytes ? backward.scratch : bytes;
    qb_scratch scratch;
    qb_arena arena = qb_arena_measuring();
    qb_scratch_plan(&scratch, &arena, threads, bytes);
    void *block = qb_arena_ok(&arena) ? qb_heap_allocate(heap, arena.used) : NULL;
    if (block == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for the scratch of %" PRId32 " threads", threads);
    }
    arena = qb_arena_bind(block, arena.used);
    qb_scratch_plan(&scratch, &arena, threads, bytes);
    qb_scratch_reset(&scratch);
    qb_heap_release(heap, session->scratch_block);
    session->scratch_block = block;
    session->scratch = scratch;
    return QB_OK;
}

static qb_status
check_options(const qb_bert_config *config, qb_session_options *options, qb_error *error)
{
    if (options->max_sequences < 1) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "max_sequences is %" PRId64 ", expected at least 1",
                       options->max_sequences);
    }
    if (options->max_length < 1 || options->max_length > config->max_positions) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "max_length is %" PRId64 ", expected 1 .. %" PRId64 " positions",
                       options->max_length, config->max_positions);
    }
    /* Keys are the depth of the context product, whose sums of codes must stay exact. */
    const struct {
        const char *name;
        int64_t value, most;
    } keys[] = {{"max_past", options->max_past, QB_DEPTH_MAX - options->max_length},
                {"max_encoder_length", options->max_encoder_length, QB_DEPTH_MAX}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (keys[i].value < 0 || keys[i].value > keys[i].most) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "%s is %" PRId64 ", expected 0 .. %" PRId64, keys[i].name,
                           keys[i].value, keys[i].most);
        }
    }
    if (options->trains && options->max_past > 0) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "max_past is %" PRId64 ", expected 0: a session that trains takes no keys of earlier calls",
                       options->max_past);
    }
    if (options->recomputes && !options->trains) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "recomputes was given without trains: there is no backward");
    }
    if (options->bf16_products && !options->trains) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "bf16_products was given without trains: a forward alone has the arithmetic of the model");
    }
    if (options->max_encoder_length > 0 && !config->has_cross_attention) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "max_encoder_length is %" PRId64 ", but the model was made without cross-attention",
                       options->max_encoder_length);
    }
    const int64_t longest = options->max_length + options->max_past + options->max_encoder_length;
    if (options->max_sequences > INT64_MAX / longest) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "max_sequences is %" PRId64 ", which overflows times max_length",
                       options->max_sequences);
    }
    const int64_t most = options->max_sequences * options->max_length;
    if (options->max_tokens < 0) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "max_tokens is %" PRId64 ", expected 0 or more", options->max_tokens);
    }
    if (options->max_tokens == 0 || options->max_tokens > most) {
        options->max_tokens = most;
    }
    return QB_OK;
}

typedef struct preparation {
    qb_model *model;
    const qb_run *run;
} preparation;

static qb_status
prepare_model(void *context)
{
    const preparation *p = context;
    return qb_model_prepare(p->model, p->run);
}

qb_run
qb_session_run(const qb_session *session, const qb_interrupt *interrupt, qb_error *error)
{
    qb_run run = qb_device_run(session->model->device, interrupt, error);
    run.uses_bf16 = session->options.bf16_products != 0;
    return run;
}

qb_packing
qb_session_packing(const qb_session *session)
{
    return session->options.bf16_products ? QB_PACKING_BF16 : QB_PACKING_F32;
}

/* Enter a forward with packed weights that are up to date. */
static qb_status
begin_forward(const qb_session *session, const qb_run *run, int is_exclusive)
{
    preparation context = {session->model, run};
    return qb_guard_begin_forward(&session->model->guard, is_exclusive, qb_session_packing(session), prepare_model,
                                  &context, run->error);
}

/* Pack, so that the first forward allocates as little as the others.  A model that is busy collecting is left alone:
 * its session's first forward will see to it. */
static qb_status
pack_now(const qb_session *session, const qb_interrupt *interrupt, qb_error *error)
{
    qb_error reason = {.status = QB_OK};
    const qb_run run = qb_session_run(session, interrupt, &reason);
    const qb_status status = begin_forward(session, &run, 0);
    if (status == QB_OK) {
        qb_guard_end_forward(&session->model->guard);
    }
    if (status == QB_OK || status == QB_ERR_STATE) {
        return QB_OK;
    }
    if (error != NULL) {
        *error = reason;
    }
    return status;
}

qb_status
qb_session_create(qb_model *model, const qb_session_options *options, qb_session **session, qb_error *error)
{
    qb_session_options known = {.struct_size = 0};
    const size_t given = options->struct_size;
    memcpy(&known, options, given < sizeof known ? given : sizeof known);
    QB_TRY(check_options(&model->config, &known, error));
    if (known.trains) {
        QB_TRY(qb_model_require_floats(model, "a session that trains", error));
    }
    if (known.bf16_products) {
        QB_TRY(qb_device_check_bf16(model->device, error));
    }
    qb_session *made = qb_heap_allocate_zero(&model->device->heap, sizeof *made);
    if (made == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for a session");
    }
    atomic_init(&made->is_busy, 0);
    made->model = qb_model_retain(model);
    made->options = known;
    made->options.interrupt = NULL; /* the caller's, for the length of this call */
    qb_status status = create_block(made, error);
    if (status == QB_OK && known.trains) {
        status = qb_model_make_gradients(model, error);
    }
    if (status == QB_OK) {
        status = create_scratch(made, error);
    }
    if (status == QB_OK) {
        status = pack_now(made, known.interrupt, error);
    }
    if (status != QB_OK) {
        qb_session_destroy(made);
        return status;
    }
    *session = made;
    return QB_OK;
}

void
qb_session_destroy(qb_session *session)
{
    if (session == NULL) {
        return;
    }
    qb_model *model = session->model;
    qb_heap_release(&model->device->heap, session->block);
    qb_heap_release(&model->device->heap, session->scratch_block);
    qb_heap_release(&model->device->heap, session);
    qb_model_release(model);
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

static void
store_hidden(void *context, int64_t index, const float *hidden)
{
    const qb_forward_call *call = context;
    qb_batch_scatter(&call->session->batch, hidden, call->session->model->config.hidden_size,
                     call->outputs.hidden_states[index]);
}

static void
store_probabilities(void *context, int64_t layer, const float *probabilities)
{
    const qb_forward_call *call = context;
    const qb_batch *batch = &call->session->batch;
    qb_batch_scatter_pairs(batch, &batch->keys, batch->past + batch->length, probabilities,
                           qb_model_heads(call->session->model, layer), call->outputs.attentions[layer]);
}

static void
store_cross_probabilities(void *context, int64_t layer, const float *probabilities)
{
    const qb_forward_call *call = context;
    const qb_batch *batch = &call->session->batch;
    qb_batch_scatter_pairs(batch, &batch->encoder, batch->encoder_length, probabilities,
                           call->session->model->config.num_heads, call->outputs.cross_attentions[layer]);
}

static void
store_keys(void *context, int64_t layer, const float *k, const float *v)
{
    const qb_forward_call *call = context;
    const qb_batch *batch = &call->session->batch;
    const qb_attention *attention = &call->session->model->bert.blocks[layer].attention;
    const int has_past = batch->past > 0;
    qb_batch_scatter_keys(batch, has_past ? call->inputs.past_keys[layer] : NULL, k, attention->heads,
                          attention->head_size, call->outputs.keys[layer]);
    qb_batch_scatter_keys(batch, has_past ? call->inputs.past_values[layer] : NULL, v, attention->heads,
                          attention->head_size, call->outputs.values[layer]);
}

static void
store_cross_keys(void *context, int64_t layer, const float *k, const float *v)
{
    const qb_forward_call *call = context;
    const qb_batch *batch = &call->session->batch;
    const qb_attention *attention = &call->session->model->bert.blocks[layer].cross_attention;
    qb_batch_scatter_encoder_keys(batch, k, attention->heads, attention->head_size, call->outputs.cross_keys[layer]);
    qb_batch_scatter_encoder_keys(batch, v, attention->heads, attention->head_size, call->outputs.cross_values[layer]);
}

static int
wants_pooled(const qb_forward_call *call)
{
    const qb_head_interface *head = call->session->model->head;
    return call->outputs.pooler_output != NULL || (head != NULL && head->is_pooled && call->outputs.logits != NULL);
}

/* Whoever offers arrays offers memory in each. */
static qb_status
check_output_arrays(const qb_forward_call *call)
{
    const qb_forward_outputs *out = &call->outputs;
    const int64_t layers = call->session->model->config.num_layers;
    const struct {
        const char *name;
        float *const *arrays;
        int64_t count;
    } all[] = {
        {"hidden_states", out->hidden_states, layers + 1},
        {"attentions", out->attentions, layers},
        {"cross_attentions", out->cross_attentions, layers},
        {"keys", out->keys, layers},
        {"values", out->values, layers},
        {"cross_keys", out->cross_keys, layers},
        {"cross_values", out->cross_values, layers},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        for (int64_t j = 0; all[i].arrays != NULL && j < all[i].count; j++) {
            if (all[i].arrays[j] == NULL) {
                return qb_fail(call->run->error, NULL, QB_ERR_VALUE,
                               "%s[%" PRId64 "] is NULL, expected memory for each of %" PRId64, all[i].name, j,
                               all[i].count);
            }
        }
    }
    return QB_OK;
}

static qb_status
check_outputs(const qb_forward_call *call)
{
    const qb_model *model = call->session->model;
    qb_error *error = call->run->error;
    if (call->outputs.pooler_output != NULL && !model->bert.has_pooler) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "pooler_output was asked for, but the model has no pooler");
    }
    if (call->outputs.logits != NULL && model->head == NULL) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "logits were asked for, but the model has no head");
    }
    if ((call->outputs.keys == NULL) != (call->outputs.values == NULL) ||
        (call->outputs.cross_keys == NULL) != (call->outputs.cross_values == NULL)) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "keys were asked for without values, or values without keys");
    }
    if (call->inputs.encoder_length == 0 && call->outputs.cross_attentions != NULL) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "cross_attentions were asked for, but there is no encoder to look at");
    }
    if (call->outputs.cross_keys != NULL && (call->inputs.encoder_length == 0 || call->inputs.cross_keys != NULL)) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "cross_keys were asked for, but no encoder states are projected");
    }
    if (call->session->options.keep_probabilities) {
        return QB_OK;
    }
    if (call->outputs.attentions != NULL || call->outputs.cross_attentions != NULL) {
        return qb_fail(error, NULL, QB_ERR_STATE,
                       "attentions were asked for, but the session was made without keep_probabilities");
    }
    if (qb_model_needs_probabilities(model)) {
        return qb_fail(error, NULL, QB_ERR_STATE,
                       "a matmul_a_input_quantizer needs whole layers of probabilities, but the session was made "
                       "without keep_probabilities");
    }
    return QB_OK;
}

static void
settle_journals(qb_model *model, int64_t count, void (*settle)(qb_quantizer *))
{
    for (int64_t i = 0; i < count; i++) {
        settle(model->quantizers[i]);
    }
}

static qb_status
open_journals(qb_model *model, const qb_run *run)
{
    for (int64_t i = 0; i < model->quantizer_names.count; i++) {
        qb_run inner = *run;
        const qb_status status = qb_quantizer_begin(model->quantizers[i], &inner);
        if (status != QB_OK) {
            settle_journals(model, i, qb_quantizer_rollback);
            return status;
        }
    }
    return QB_OK;
}

/* What self-attention looks at: the computed tokens, and the keys of earlier calls. */
static qb_bert_keys
self_keys(const qb_forward_call *call)
{
    const qb_batch *batch = &call->session->batch;
    const qb_forward_inputs *in = &call->inputs;
    return (qb_bert_keys){
        .keys = {.sequences = batch->keys, .projected = batch->sequences.tokens, .earlier_width = batch->past},
        .earlier_keys = batch->past > 0 ? in->past_keys : NULL,
        .earlier_values = batch->past > 0 ? in->past_values : NULL,
        .is_causal = in->is_causal,
        .on_probabilities = call->outputs.attentions == NULL ? NULL : store_probabilities,
        .on_keys = call->outputs.keys == NULL ? NULL : store_keys,
    };
}

/* What cross-attention looks at: an encoder's states, or what an earlier call projected them to. */
static qb_bert_keys
cross_keys(const qb_forward_call *call)
{
    const qb_batch *batch = &call->session->batch;
    const qb_forward_inputs *in = &call->inputs;
    const int is_projected = batch->memory != NULL;
    return (qb_bert_keys){
        .keys = {.sequences = batch->encoder,
                 .memory = batch->memory,
                 .projected = is_projected ? batch->encoder.tokens : 0,
                 .earlier_width = is_projected ? 0 : batch->encoder_length},
        .earlier_keys = is_projected ? NULL : in->cross_keys,
        .earlier_values = is_projected ? NULL : in->cross_values,
        .on_probabilities = call->outputs.cross_attentions == NULL ? NULL : store_cross_probabilities,
        .on_keys = call->outputs.cross_keys == NULL ? NULL : store_cross_keys,
    };
}

/* The call's nodes, filled; NULL: nothing is dropped. */
static const qb_dropout_node *
dropouts_of(const qb_forward_call *call)
{
    return call->inputs.dropout_probabilities == NULL ? NULL : call->session->dropouts;
}

void
qb_forward_call_resolve(qb_forward_call *call, qb_bert_call *bert)
{
    const qb_session *session = call->session;
    bert->of_self = self_keys(call);
    bert->of_cross = cross_keys(call);
    bert->inputs = (qb_bert_inputs){
        .tokens = &session->batch.tokens,
        .sequences = &session->batch.sequences,
        .head_mask = call->inputs.head_mask,
        .dropouts = dropouts_of(call),
        .wants_pooled = wants_pooled(call),
        .self_keys = &bert->of_self,
        .cross_keys = session->batch.encoder_length > 0 ? &bert->of_cross : NULL,
        .on_hidden = call->outputs.hidden_states == NULL ? NULL : store_hidden,
        .context = call,
    };
}

qb_head_inputs
qb_forward_call_head_inputs(const qb_forward_call *call)
{
    return (qb_head_inputs){
        .batch = &call->session->batch,
        .hidden = call->session->bert.hidden,
        .pooled = call->session->bert.pooled,
        .dropout = qb_dropout_of_head(dropouts_of(call), call->session->model->config.num_layers),
        .positions = call->inputs.logits_positions,
        .positions_count = call->inputs.logits_count,
    };
}

static qb_status
compute(qb_forward_call *call)
{
    qb_session *session = call->session;
    const qb_model *model = session->model;
    const qb_path root = qb_model_root(model);
    const qb_run at_root = qb_run_enter(call->run, &root);
    qb_bert_call bert;
    qb_forward_call_resolve(call, &bert);
    QB_TRY(qb_bert_forward(&model->bert, &session->bert, &at_root, &bert.inputs));
    if (model->head == NULL || call->outputs.logits == NULL) {
        return QB_OK;
    }
    const qb_path head = {NULL, model->head->layer_name};
    const qb_run at_head = qb_run_enter(call->run, &head);
    const qb_head_inputs of_head = qb_forward_call_head_inputs(call);
    return model->head->verbs->forward(&model->head_layers, &session->head, &at_head, &of_head, call->outputs.logits);
}

static void
store_results(const qb_forward_call *call)
{
    const qb_session *session = call->session;
    const qb_model *model = session->model;
    const int64_t h = model->config.hidden_size;
    if (call->outputs.last_hidden_state != NULL) {
        qb_batch_scatter(&session->batch, session->bert.hidden, h, call->outputs.last_hidden_state);
    }
    if (call->outputs.pooler_output != NULL) {
        memcpy(call->outputs.pooler_output, session->bert.pooled,
               (size_t)(session->batch.batch * h) * sizeof *session->bert.pooled);
    }
}

/* Between begin_forward and qb_guard_end_forward. */
static qb_status
compute_and_settle(qb_forward_call *call, int collects)
{
    qb_model *model = call->session->model;
    /* Only from here on the quantizers stay as they are. */
    if (qb_model_collects(model) != collects) {
        return qb_fail(call->run->error, NULL, QB_ERR_STATE,
                       "quantizers were switched while the forward began, expected the model settled");
    }
    QB_TRY(check_outputs(call));
    QB_TRY(check_output_arrays(call));
    if (!collects) {
        return compute(call);
    }
    const qb_path root = qb_model_root(model);
    const qb_run at_root = qb_run_enter(call->run, &root);
    QB_TRY(open_journals(model, call->run));
    qb_status status = qb_bert_observe_weights(&model->bert, &at_root);
    if (status == QB_OK) {
        status = compute(call);
    }
    settle_journals(model, model->quantizer_names.count, status == QB_OK ? qb_quantizer_commit : qb_quantizer_rollback);
    return status;
}

static qb_status
check_positions(const qb_forward_call *call)
{
    const qb_forward_inputs *in = &call->inputs;
    if (in->logits_positions == NULL) {
        return QB_OK;
    }
    if (call->session->model->config.head != QB_HEAD_LANGUAGE_MODEL) {
        return qb_fail(call->run->error, NULL, QB_ERR_VALUE,
                       "logits_positions were given, but only a language model takes them");
    }
    if (in->logits_count < 0) {
        return qb_fail(call->run->error, NULL, QB_ERR_VALUE, "logits_count is %" PRId64 ", expected 0 or more",
                       in->logits_count);
    }
    for (int64_t i = 0; i < in->logits_count; i++) {
        if (in->logits_positions[i] < 0 || in->logits_positions[i] >= in->batch * in->length) {
            return qb_fail(call->run->error, NULL, QB_ERR_INDEX,
                           "logits_positions[%" PRId64 "] is %" PRId64 ", expected 0 .. batch * length - 1 = %" PRId64,
                           i, in->logits_positions[i], in->batch * in->length - 1);
        }
    }
    return QB_OK;
}

static qb_status
fill_dropouts(const qb_forward_call *call)
{
    const qb_session *session = call->session;
    if (call->inputs.dropout_probabilities == NULL) {
        return QB_OK;
    }
    if (!session->options.trains) {
        return qb_fail(call->run->error, NULL, QB_ERR_STATE,
                       "dropout_probabilities were given, but the session was made without trains");
    }
    return qb_dropout_nodes_fill(session->dropouts, &session->model->config, session->model->head, &call->inputs,
                                 &session->batch.sequences, call->run->error);
}

/* Cross-attention has all its heads, and takes the factors of the layer's self-attention. */
static qb_status
check_head_mask(const qb_forward_call *call)
{
    const qb_model *model = call->session->model;
    if (call->inputs.head_mask == NULL || call->inputs.encoder_length == 0) {
        return QB_OK;
    }
    for (int64_t i = 0; i < model->config.num_layers; i++) {
        if (qb_model_heads(model, i) != model->config.num_heads) {
            return qb_fail(call->run->error, NULL, QB_ERR_VALUE,
                           "head_mask was given with encoder states, but heads of layer %" PRId64
                           " are pruned, so its cross-attention would have no factors of its own",
                           i);
        }
    }
    return QB_OK;
}

static qb_status
forward(qb_forward_call *call)
{
    qb_session *session = call->session;
    qb_model *model = session->model;
    qb_error *error = call->run->error;
    session->has_forward = 0;
    QB_TRY(qb_batch_fill(&session->batch, &model->config, &session->options, &call->inputs, error));
    QB_TRY(check_positions(call));
    QB_TRY(check_head_mask(call));
    QB_TRY(fill_dropouts(call));
    if (wants_pooled(call)) {
        QB_TRY(qb_batch_check_first(&session->batch, error));
    }
    if (qb_queue_threads(model->device->queue) > session->scratch.count) {
        QB_TRY(create_scratch(session, error));
    }
    const int collects = qb_model_collects(model);
    QB_TRY(begin_forward(session, call->run, collects));
    const qb_status status = compute_and_settle(call, collects);
    const uint64_t epoch = model->guard.epoch; /* nothing changes while a forward runs */
    qb_guard_end_forward(&model->guard);
    if (status == QB_OK) {
        store_results(call);
        session->has_forward = session->options.trains != 0;
        session->epoch = epoch;
        session->last_inputs = call->inputs;
        session->last_pooled = wants_pooled(call);
        session->last_logits = call->outputs.logits != NULL;
    }
    return status;
}

qb_status
qb_session_forward(qb_session *session, const qb_interrupt *interrupt, const qb_forward_inputs *inputs,
                   const qb_forward_outputs *outputs, qb_error *error)
{
    const qb_run run = qb_session_run(session, interrupt, error);
    qb_forward_call call = {.session = session, .run = &run};
    size_t given = inputs->struct_size;
    memcpy(&call.inputs, inputs, given < sizeof call.inputs ? given : sizeof call.inputs);
    given = outputs->struct_size;
    memcpy(&call.outputs, outputs, given < sizeof call.outputs ? given : sizeof call.outputs);
    if (atomic_exchange(&session->is_busy, 1) != 0) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the session runs a forward in another thread");
    }
    const qb_status status = forward(&call);
    atomic_store(&session->is_busy, 0);
    return status;
}
