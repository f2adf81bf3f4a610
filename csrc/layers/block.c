/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/block.h"

#include <inttypes.h>
#include <stdio.h>

void
qb_block_init(qb_block *self, int64_t index, int64_t hidden, int64_t heads, int64_t intermediate,
              qb_activation activation, float eps)
{
    (void)snprintf(self->name, sizeof self->name, "encoder.layer.%" PRId64, index);
    qb_attention_init(&self->attention, hidden, heads, eps);
    qb_feed_forward_init(&self->feed_forward, hidden, intermediate, activation, eps);
}

void
qb_block_clear(qb_block *self, qb_heap *heap)
{
    qb_attention_clear(&self->attention, heap);
    qb_feed_forward_clear(&self->feed_forward, heap);
}

qb_status
qb_block_visit(qb_block *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path block = {path, self->name};
    const qb_path attention = {&block, "attention"};
    QB_TRY(qb_attention_visit(&self->attention, visitor, &attention));
    return qb_feed_forward_visit(&self->feed_forward, visitor, &block);
}

size_t
qb_block_scratch_bytes(const qb_block *self, const qb_kernels *kernels, const qb_limits *limits)
{
    const size_t attention = qb_attention_scratch_bytes(&self->attention, kernels, limits);
    const size_t feed_forward = qb_feed_forward_scratch_bytes(&self->feed_forward, kernels);
    return attention > feed_forward ? attention : feed_forward;
}

void
qb_block_plan(const qb_block *self, qb_block_work *work, qb_arena *arena, const qb_limits *limits, qb_scratch *scratch)
{
    const int64_t m = limits->tokens;
    const int64_t h = self->feed_forward.intermediate.in_features;
    const int64_t i = self->feed_forward.intermediate.out_features;
    const size_t widest = (size_t)(h > i ? h : i);
    /* Inputs of one linear layer at a time, or of query, key and value together. */
    int8_t *codes = qb_arena_take(arena, m, widest > 3 * (size_t)h ? widest : 3 * (size_t)h);
    float *values = qb_arena_take(arena, m, widest * sizeof *values);
    float *local = qb_arena_take(arena, m, (size_t)h * sizeof *local);
    const size_t mark = qb_arena_mark(arena);
    qb_attention_plan(&self->attention, &work->attention, arena, limits, codes, values, local, scratch);
    const size_t end_of_attention = qb_arena_mark(arena);
    qb_arena_release(arena, mark);
    qb_feed_forward_plan(&self->feed_forward, &work->feed_forward, arena, m, codes, values, local, scratch);
    if (qb_arena_mark(arena) < end_of_attention) { /* the longer of the two halves stays reserved */
        (void)qb_arena_take(arena, (int64_t)(end_of_attention - qb_arena_mark(arena)), 1);
    }
}

qb_status
qb_block_prepare(qb_block *self, const qb_run *run)
{
    const qb_path block = {run->path, self->name};
    const qb_path attention = {&block, "attention"};
    const qb_run at_block = qb_run_enter(run, &block);
    const qb_run at_attention = qb_run_enter(run, &attention);
    QB_TRY(qb_attention_prepare(&self->attention, &at_attention));
    return qb_feed_forward_prepare(&self->feed_forward, &at_block);
}

qb_status
qb_block_observe_weights(qb_block *self, const qb_run *run)
{
    const qb_path block = {run->path, self->name};
    const qb_path attention = {&block, "attention"};
    const qb_run at_block = qb_run_enter(run, &block);
    const qb_run at_attention = qb_run_enter(run, &attention);
    QB_TRY(qb_attention_observe_weights(&self->attention, &at_attention));
    return qb_feed_forward_observe_weights(&self->feed_forward, &at_block);
}

qb_status
qb_block_forward(const qb_block *self, const qb_block_work *work, const qb_run *run, const qb_attention_inputs *inputs,
                 float *y)
{
    const qb_path block = {run->path, self->name};
    const qb_path attention = {&block, "attention"};
    const qb_run at_block = qb_run_enter(run, &block);
    const qb_run at_attention = qb_run_enter(run, &attention);
    QB_TRY(qb_attention_forward(&self->attention, &work->attention, &at_attention, inputs, y));
    return qb_feed_forward_forward(&self->feed_forward, &work->feed_forward, &at_block, inputs->sequences->tokens, y);
}
