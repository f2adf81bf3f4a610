/* SPDX-License-Identifier: Apache-2.0 */
#include "models/bert.h"

#include "core/shape.h"

qb_status
qb_bert_init(qb_bert *self, const qb_bert_config *config, qb_heap *heap, qb_error *error)
{
    const int64_t h = config->hidden_size;
    qb_block *blocks = qb_heap_allocate_zero(heap, (size_t)config->num_layers * sizeof *blocks);
    if (blocks == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for %lld layers", (long long)config->num_layers);
    }
    *self = (qb_bert){.blocks = blocks, .num_blocks = config->num_layers, .has_pooler = config->has_pooler};
    qb_embeddings_init(&self->embeddings, config->vocab_size, config->max_positions, config->type_vocab_size, h,
                       config->layer_norm_eps);
    self->embeddings.padding_token = config->padding_token;
    self->embeddings.adds_positions = config->positions == QB_POSITIONS_ABSOLUTE;
    for (int64_t i = 0; i < self->num_blocks; i++) {
        const qb_block_shape shape = {
            .attention = {.hidden = h,
                          .heads = qb_bert_config_heads(config, i),
                          .head_size = h / config->num_heads,
                          .positions = config->positions,
                          .max_positions = config->max_positions},
            .cross_heads = config->has_cross_attention ? config->num_heads : 0,
            .intermediate = config->intermediate_size,
            .activation = config->activation,
            .eps = config->layer_norm_eps,
        };
        qb_block_init(&blocks[i], i, &shape);
    }
    qb_pooler_init(&self->pooler, h);
    return QB_OK;
}

void
qb_bert_clear(qb_bert *self, qb_heap *heap)
{
    for (int64_t i = 0; i < self->num_blocks; i++) {
        qb_block_clear(&self->blocks[i], heap);
    }
    qb_pooler_clear(&self->pooler, heap);
    qb_heap_release(heap, self->blocks);
    self->blocks = NULL;
    self->num_blocks = 0;
}

qb_status
qb_bert_visit(qb_bert *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path embeddings = {path, "embeddings"};
    QB_TRY(qb_embeddings_visit(&self->embeddings, visitor, &embeddings));
    for (int64_t i = 0; i < self->num_blocks; i++) {
        QB_TRY(qb_block_visit(&self->blocks[i], visitor, path));
    }
    return self->has_pooler ? qb_pooler_visit(&self->pooler, visitor, path) : QB_OK;
}

/* Blocks run one after the other in the memory of the widest; they differ in heads only. */
static const qb_block *
widest_block(const qb_bert *self)
{
    const qb_block *widest = &self->blocks[0];
    for (int64_t i = 1; i < self->num_blocks; i++) {
        widest = self->blocks[i].attention.heads > widest->attention.heads ? &self->blocks[i] : widest;
    }
    return widest;
}

size_t
qb_bert_scratch_bytes(const qb_bert *self, const qb_kernels *kernels, const qb_limits *limits)
{
    const size_t block = qb_block_scratch_bytes(widest_block(self), kernels, limits);
    const size_t pooler = qb_linear_scratch_bytes(&self->pooler.dense, kernels);
    const size_t embeddings = qb_embeddings_scratch_bytes(&self->embeddings);
    const size_t larger = block > pooler ? block : pooler;
    return larger > embeddings ? larger : embeddings;
}

/* A work struct for every block, or one for all and the inputs of each.  While the arena measures there is no memory
 * for the structs yet, and one that is thrown away serves all. */
static void
plan_saved(const qb_bert *self, qb_bert_work *work, qb_arena *arena, const qb_limits *limits, qb_scratch *scratch)
{
    const qb_block *widest = widest_block(self);
    const qb_block_lent lent = qb_block_lent_plan(widest, arena, limits);
    qb_block_gradient_plan(widest, &work->block_gradient, arena, limits);
    if (limits->recomputes) {
        const size_t row = (size_t)self->embeddings.features * sizeof *work->inputs;
        size_t of_token = 0;
        arena->failed |= !qb_size_multiply((size_t)self->num_blocks, row, &of_token);
        work->inputs = qb_arena_take(arena, limits->tokens, of_token);
        work->again = qb_arena_take(arena, limits->tokens, row);
        qb_block_plan_saved(widest, &work->block, arena, limits, &lent, scratch);
        return;
    }
    qb_block_work *blocks = qb_arena_take(arena, self->num_blocks, sizeof *blocks);
    for (int64_t i = 0; i < self->num_blocks; i++) {
        qb_block_work measured;
        qb_block_plan_saved(&self->blocks[i], blocks == NULL ? &measured : &blocks[i], arena, limits, &lent, scratch);
    }
    work->blocks = blocks;
}

void
qb_bert_plan(const qb_bert *self, qb_bert_work *work, qb_arena *arena, const qb_limits *limits,
             const qb_gradient_sizes *sizes, qb_scratch *scratch)
{
    const size_t h = (size_t)self->embeddings.features;
    *work = (qb_bert_work){.scratch = scratch};
    work->hidden = qb_arena_take(arena, limits->tokens, h * sizeof *work->hidden);
    if (limits->trains) {
        plan_saved(self, work, arena, limits, scratch);
        qb_gradient_plan(sizes, &work->gradient, arena, scratch);
    }
    else {
        qb_block_plan(widest_block(self), &work->block, arena, limits, scratch);
    }
    if (self->has_pooler) {
        work->pooled = qb_arena_take(arena, limits->sequences, h * sizeof *work->pooled);
        qb_pooler_plan(&self->pooler, &work->pooler, arena, limits->sequences, scratch);
    }
}

qb_status
qb_bert_prepare(qb_bert *self, const qb_run *run)
{
    for (int64_t i = 0; i < self->num_blocks; i++) {
        QB_TRY(qb_block_prepare(&self->blocks[i], run));
    }
    return self->has_pooler ? qb_pooler_prepare(&self->pooler, run) : QB_OK;
}

qb_status
qb_bert_observe_weights(qb_bert *self, const qb_run *run)
{
    for (int64_t i = 0; i < self->num_blocks; i++) {
        QB_TRY(qb_block_observe_weights(&self->blocks[i], run));
    }
    return QB_OK;
}

int
qb_bert_keeps_probabilities(const qb_bert *self)
{
    for (int64_t i = 0; i < self->num_blocks; i++) {
        const qb_block *block = &self->blocks[i];
        if (qb_attention_keeps_probabilities(&block->attention) ||
            (block->has_cross_attention && qb_attention_keeps_probabilities(&block->cross_attention))) {
            return 1;
        }
    }
    return 0;
}

/* The inputs of one layer's attention; `keys` is filled for it to point to, and `of_dropout` says whose dropout it is.
 */
static qb_attention_inputs
attention_inputs(const qb_bert_inputs *inputs, const qb_bert_keys *of, qb_block_dropout of_dropout, int64_t layer,
                 const float *head_mask, qb_attention_keys *keys)
{
    *keys = of->keys;
    if (of->earlier_keys != NULL) {
        keys->earlier_keys = of->earlier_keys[layer];
        keys->earlier_values = of->earlier_values[layer];
    }
    return (qb_attention_inputs){
        .sequences = inputs->sequences,
        .keys = keys,
        .is_causal = of->is_causal,
        .head_mask = head_mask,
        .dropout = qb_dropout_of_block(inputs->dropouts, layer, of_dropout),
        .output_dropout = qb_dropout_of_block(inputs->dropouts, layer, of_dropout + 1),
        .layer = layer,
        .reader = of->on_probabilities,
        .key_reader = of->on_keys,
        .reader_context = inputs->context,
    };
}

/* The inputs of one layer, which point to keys. */
static qb_block_inputs
block_inputs(const qb_bert *self, const qb_bert_inputs *inputs, int64_t layer, const float *head_mask,
             qb_attention_keys keys[2])
{
    qb_block_inputs made = {
        .attention =
            attention_inputs(inputs, inputs->self_keys, QB_DROPOUT_ATTENTION_PROBABILITIES, layer, head_mask, &keys[0]),
        .has_cross_attention = self->blocks[layer].has_cross_attention && inputs->cross_keys != NULL,
        .dropout = qb_dropout_of_block(inputs->dropouts, layer, QB_DROPOUT_OUTPUT),
    };
    if (made.has_cross_attention) {
        made.cross_attention =
            attention_inputs(inputs, inputs->cross_keys, QB_DROPOUT_CROSS_PROBABILITIES, layer, head_mask, &keys[1]);
    }
    return made;
}

/* The tokens, and whether their embeddings drop out. */
static qb_embeddings_input
embeddings_input(const qb_bert_inputs *inputs)
{
    qb_embeddings_input tokens = *inputs->tokens;
    tokens.dropout = qb_dropout_of_embeddings(inputs->dropouts);
    return tokens;
}

/* Who needs x_i as floats, besides the block that reads it. */
static const char *
onlooker_of(const qb_bert *self, int64_t i, int hands_out)
{
    if (i == self->num_blocks) {
        return "the last layer's result leaves the encoder";
    }
    return hands_out ? "hidden states are handed out" : NULL;
}

void
qb_bert_visit_edges(const qb_bert *self, const qb_edge_visitor *visitor)
{
    qb_edge from = {.origin = "embeddings"};
    for (int64_t i = 0; i <= self->num_blocks; i++) {
        const qb_edge seen = {.onlooker = onlooker_of(self, i, (visitor->asked & QB_ASKED_HIDDEN_STATES) != 0)};
        if (seen.onlooker != NULL) {
            qb_edge_tell(visitor, &from, &seen);
        }
        if (i < self->num_blocks) {
            qb_block_visit_edges(&self->blocks[i], visitor, &from);
            from = qb_block_origin(&self->blocks[i]);
        }
    }
}

/* The form in which x_i is wanted: codes for the block that reads it, unless somebody looks on. */
static qb_coded
wanted_of(const qb_bert *self, const qb_bert_work *work, const qb_bert_inputs *inputs, int64_t i)
{
    qb_coded wanted = qb_coded_begin();
    if (i < self->num_blocks) {
        qb_block_want(&self->blocks[i], work->blocks == NULL ? &work->block : &work->blocks[i], &wanted);
    }
    const qb_edge seen = {.onlooker = onlooker_of(self, i, inputs->on_hidden != NULL)};
    if (seen.onlooker != NULL) {
        qb_coded_want(&wanted, &seen, NULL);
    }
    return wanted;
}

static void
show_hidden(const qb_bert_work *work, const qb_bert_inputs *inputs, int64_t i)
{
    if (inputs->on_hidden != NULL) {
        inputs->on_hidden(inputs->context, i, work->hidden);
    }
}

qb_status
qb_bert_forward(const qb_bert *self, const qb_bert_work *work, const qb_run *run, const qb_bert_inputs *inputs)
{
    const float *head_mask = inputs->head_mask;
    const qb_embeddings_input tokens = embeddings_input(inputs);
    qb_coded hidden = wanted_of(self, work, inputs, 0);
    QB_TRY(qb_embeddings_forward(&self->embeddings, run, &tokens, work->scratch, work->hidden, &hidden));
    for (int64_t i = 0; i < self->num_blocks; i++) {
        const qb_block *block = &self->blocks[i];
        const qb_block_work *of_block = work->blocks == NULL ? &work->block : &work->blocks[i];
        qb_attention_keys keys[2];
        qb_block_inputs of_layer = block_inputs(self, inputs, i, head_mask, keys);
        qb_coded next = wanted_of(self, work, inputs, i + 1);
        of_layer.x = &hidden;
        of_layer.y = &next;
        show_hidden(work, inputs, i);
        if (work->inputs != NULL) {
            const int64_t n = inputs->sequences->tokens * self->embeddings.features;
            QB_TRY(qb_gradient_copy(run, work->hidden, n, work->inputs + i * n));
        }
        QB_TRY(qb_block_forward(block, of_block, run, &of_layer, work->hidden));
        hidden = next;
        head_mask = head_mask == NULL ? NULL : head_mask + block->attention.heads;
    }
    show_hidden(work, inputs, self->num_blocks);
    if (inputs->wants_pooled) {
        QB_TRY(qb_pooler_forward(&self->pooler, &work->pooler, run, work->hidden, inputs->sequences, work->pooled));
    }
    return QB_OK;
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

void
qb_bert_gradient_sizes(const qb_bert *self, const qb_kernels *kernels, const qb_limits *limits,
                       qb_gradient_sizes *sizes)
{
    qb_embeddings_gradient_sizes(&self->embeddings, limits->tokens, sizes);
    for (int64_t i = 0; i < self->num_blocks; i++) {
        qb_block_gradient_sizes(&self->blocks[i], kernels, limits, sizes);
    }
    if (self->has_pooler) {
        qb_pooler_gradient_sizes(&self->pooler, kernels, limits->sequences, sizes);
    }
}

/* Heads of the blocks before one. */
static int64_t
heads_before(const qb_bert *self, int64_t layer)
{
    int64_t heads = 0;
    for (int64_t i = 0; i < layer; i++) {
        heads += self->blocks[i].attention.heads;
    }
    return heads;
}

/* Run a block again, so that work->block holds what backward needs of it.  Quantizers that collect have seen it all. */
static qb_status
run_again(const qb_bert *self, const qb_bert_work *work, const qb_run *run, const qb_block_inputs *inputs,
          int64_t layer)
{
    const int64_t n = inputs->attention.sequences->tokens * self->embeddings.features;
    qb_run again = *run;
    again.is_again = 1;
    QB_TRY(qb_gradient_copy(run, work->inputs + layer * n, n, work->again));
    return qb_block_forward(&self->blocks[layer], &work->block, &again, inputs, work->again);
}

qb_status
qb_bert_backward(const qb_bert *self, const qb_bert_work *work, const qb_run *run, const qb_bert_inputs *inputs,
                 const qb_bert_gradients *gradients)
{
    const qb_gradient_work *shared = &work->gradient;
    float *dhidden = gradients->dhidden;
    gradients->on_dhidden(gradients->context, self->num_blocks, dhidden);
    if (gradients->dpooled != NULL) {
        QB_TRY(qb_pooler_backward_accumulate(&self->pooler, &work->pooler, shared, run, inputs->sequences, work->pooled,
                                             gradients->dpooled, dhidden));
    }
    for (int64_t i = self->num_blocks - 1; i >= 0; i--) {
        const qb_block *block = &self->blocks[i];
        const float *head_mask = inputs->head_mask == NULL ? NULL : inputs->head_mask + heads_before(self, i);
        qb_attention_keys keys[2];
        const qb_block_inputs of_layer = block_inputs(self, inputs, i, head_mask, keys);
        if (work->inputs != NULL) {
            QB_TRY(run_again(self, work, run, &of_layer, i));
        }
        const qb_block_work *of_block = work->blocks == NULL ? &work->block : &work->blocks[i];
        QB_TRY(qb_block_backward(block, of_block, &work->block_gradient, shared, run, &of_layer, dhidden,
                                 gradients->dmemory));
        gradients->on_dhidden(gradients->context, i, dhidden);
    }
    const qb_embeddings_input tokens = embeddings_input(inputs);
    return qb_embeddings_backward(&self->embeddings, shared, run, &tokens, dhidden);
}
