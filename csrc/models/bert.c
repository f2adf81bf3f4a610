/* SPDX-License-Identifier: Apache-2.0 */
#include "models/bert.h"

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
    for (int64_t i = 0; i < self->num_blocks; i++) {
        qb_block_init(&blocks[i], i, h, config->num_heads, config->intermediate_size, config->activation,
                      config->layer_norm_eps);
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

size_t
qb_bert_scratch_bytes(const qb_bert *self, const qb_kernels *kernels, const qb_limits *limits)
{
    const size_t block = qb_block_scratch_bytes(&self->blocks[0], kernels, limits);
    const size_t pooler = qb_linear_scratch_bytes(&self->pooler.dense, kernels);
    return block > pooler ? block : pooler;
}

void
qb_bert_plan(const qb_bert *self, qb_bert_work *work, qb_arena *arena, const qb_limits *limits, int64_t max_sequences,
             qb_scratch *scratch)
{
    const size_t h = (size_t)self->embeddings.features;
    *work = (qb_bert_work){.hidden = NULL};
    work->hidden = qb_arena_take(arena, limits->tokens, h * sizeof *work->hidden);
    qb_block_plan(&self->blocks[0], &work->block, arena, limits, scratch);
    if (self->has_pooler) {
        work->pooled = qb_arena_take(arena, max_sequences, h * sizeof *work->pooled);
        qb_pooler_plan(&self->pooler, &work->pooler, arena, max_sequences, scratch);
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
        if (qb_attention_keeps_probabilities(&self->blocks[i].attention)) {
            return 1;
        }
    }
    return 0;
}

/* Adds the layer's number to what attention hands out. */
typedef struct probabilities_relay {
    const qb_bert_inputs *inputs;
    int64_t layer;
} probabilities_relay;

static void
relay_probabilities(void *context, const float *probabilities)
{
    const probabilities_relay *relay = context;
    relay->inputs->on_probabilities(relay->inputs->context, relay->layer, probabilities);
}

qb_status
qb_bert_forward(const qb_bert *self, const qb_bert_work *work, const qb_run *run, const qb_bert_inputs *inputs)
{
    QB_TRY(qb_embeddings_forward(&self->embeddings, run, inputs->tokens, work->hidden));
    for (int64_t i = 0; i < self->num_blocks; i++) {
        const qb_block *block = &self->blocks[i];
        probabilities_relay relay = {.inputs = inputs, .layer = i};
        const qb_attention_inputs attention = {
            .sequences = inputs->sequences,
            .head_mask = inputs->head_mask == NULL ? NULL : inputs->head_mask + i * block->attention.heads,
            .reader = inputs->wants_probabilities ? relay_probabilities : NULL,
            .reader_context = &relay,
        };
        inputs->on_hidden(inputs->context, i, work->hidden);
        QB_TRY(qb_block_forward(block, &work->block, run, &attention, work->hidden));
    }
    inputs->on_hidden(inputs->context, self->num_blocks, work->hidden);
    if (inputs->wants_pooled) {
        QB_TRY(qb_pooler_forward(&self->pooler, &work->pooler, run, work->hidden, inputs->sequences, work->pooled));
    }
    return QB_OK;
}
