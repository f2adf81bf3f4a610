/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/block.h"

#include <inttypes.h>
#include <stdio.h>

void
qb_block_init(qb_block *self, int64_t index, const qb_block_shape *shape)
{
    *self = (qb_block){.has_cross_attention = shape->cross_heads > 0};
    (void)snprintf(self->name, sizeof self->name, "encoder.layer.%" PRId64, index);
    qb_attention_init(&self->attention, &shape->attention, shape->eps);
    if (self->has_cross_attention) {
        qb_attention_shape cross = shape->attention;
        cross.heads = shape->cross_heads;
        cross.is_cross = 1;
        qb_attention_init(&self->cross_attention, &cross, shape->eps);
    }
    qb_feed_forward_init(&self->feed_forward, shape->attention.hidden, shape->intermediate, shape->activation,
                         shape->eps);
}

void
qb_block_clear(qb_block *self, qb_heap *heap)
{
    qb_attention_clear(&self->attention, heap);
    qb_attention_clear(&self->cross_attention, heap);
    qb_feed_forward_clear(&self->feed_forward, heap);
}

qb_status
qb_block_visit(qb_block *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path block = {path, self->name};
    const qb_path attention = {&block, "attention"};
    const qb_path cross_attention = {&block, "crossattention"};
    QB_TRY(qb_attention_visit(&self->attention, visitor, &attention));
    if (self->has_cross_attention) {
        QB_TRY(qb_attention_visit(&self->cross_attention, visitor, &cross_attention));
    }
    return qb_feed_forward_visit(&self->feed_forward, visitor, &block);
}

size_t
qb_block_scratch_bytes(const qb_block *self, const qb_kernels *kernels, const qb_limits *limits)
{
    const int has_cross = self->has_cross_attention && limits->encoder_length > 0;
    const size_t attention = qb_attention_scratch_bytes(&self->attention, kernels, limits);
    const size_t cross = has_cross ? qb_attention_scratch_bytes(&self->cross_attention, kernels, limits) : 0;
    const size_t feed_forward = qb_feed_forward_scratch_bytes(&self->feed_forward, kernels);
    const size_t larger = attention > cross ? attention : cross;
    return larger > feed_forward ? larger : feed_forward;
}

/* After parts that share memory: the longest of them, which ends at `end`, stays taken. */
static void
reserve(qb_arena *arena, size_t end)
{
    if (qb_arena_mark(arena) < end) {
        (void)qb_arena_take(arena, (int64_t)(end - qb_arena_mark(arena)), 1);
    }
}

qb_block_lent
qb_block_lent_plan(const qb_block *self, qb_arena *arena, const qb_limits *limits)
{
    const int64_t encoder = limits->sequences * limits->encoder_length; /* 0 unless there is cross-attention */
    const int64_t rows = limits->tokens > encoder ? limits->tokens : encoder;
    const int64_t h = self->feed_forward.intermediate.in_features;
    const int64_t i = self->feed_forward.intermediate.out_features;
    const size_t widest = (size_t)(h > i ? h : i);
    qb_block_lent lent = {.codes = NULL};
    /* Inputs of query, key and value together, or of one other layer as wide as they are. */
    lent.codes = qb_arena_take(arena, rows, 3 * (size_t)h);
    lent.values = qb_arena_take(arena, rows, widest * sizeof *lent.values);
    if (!limits->trains) {
        return lent;
    }
    /* The three parts of a block run one after the other too. */
    const size_t mark = qb_arena_mark(arena);
    qb_attention_lent_plan(&self->attention, &lent.attention, arena, limits);
    size_t end = qb_arena_mark(arena);
    if (self->has_cross_attention && limits->encoder_length > 0) {
        qb_arena_release(arena, mark);
        qb_attention_lent_plan(&self->cross_attention, &lent.cross_attention, arena, limits);
        end = qb_arena_mark(arena) > end ? qb_arena_mark(arena) : end;
    }
    qb_arena_release(arena, mark);
    lent.g = qb_arena_take(arena, limits->tokens, (size_t)i * sizeof *lent.g);
    reserve(arena, end);
    return lent;
}

void
qb_block_plan(const qb_block *self, qb_block_work *work, qb_arena *arena, const qb_limits *limits, qb_scratch *scratch)
{
    const int64_t m = limits->tokens;
    const int64_t h = self->feed_forward.intermediate.in_features;
    const qb_block_lent lent = qb_block_lent_plan(self, arena, limits);
    float *local = qb_arena_take(arena, m, (size_t)h * sizeof *local);
    /* One for all parts and blocks: the codes of a layer's r make room for those of its y row by row. */
    int8_t *residual = qb_arena_take(arena, m, (size_t)h);
    const size_t mark = qb_arena_mark(arena);
    qb_attention_plan(&self->attention, &work->attention, arena, limits, lent.codes, lent.values, local, scratch);
    work->attention.output.residual = residual;
    size_t end = qb_arena_mark(arena);
    if (self->has_cross_attention && limits->encoder_length > 0) {
        qb_arena_release(arena, mark);
        qb_attention_plan(&self->cross_attention, &work->cross_attention, arena, limits, lent.codes, lent.values, local,
                          scratch);
        work->cross_attention.output.residual = residual;
        end = qb_arena_mark(arena) > end ? qb_arena_mark(arena) : end;
    }
    qb_arena_release(arena, mark);
    float *g = qb_arena_take(arena, m, (size_t)self->feed_forward.intermediate.out_features * sizeof *g);
    qb_feed_forward_plan(&self->feed_forward, &work->feed_forward, arena, lent.codes, lent.values, local, g, scratch);
    work->feed_forward.output.residual = residual;
    reserve(arena, end);
}

void
qb_block_plan_saved(const qb_block *self, qb_block_work *work, qb_arena *arena, const qb_limits *limits,
                    const qb_block_lent *lent, qb_scratch *scratch)
{
    const int64_t m = limits->tokens;
    const size_t h = (size_t)self->feed_forward.intermediate.in_features;
    float *local[3];
    for (size_t i = 0; i < 3; i++) {
        local[i] = i == 1 && !self->has_cross_attention ? NULL : qb_arena_take(arena, m, h * sizeof(float));
    }
    qb_attention_plan_lent(&self->attention, &work->attention, arena, limits, &lent->attention, lent->codes,
                           lent->values, local[0], scratch);
    work->attention.output.local_values = lent->values;
    if (self->has_cross_attention && limits->encoder_length > 0) {
        qb_attention_plan_lent(&self->cross_attention, &work->cross_attention, arena, limits, &lent->cross_attention,
                               lent->codes, lent->values, local[1], scratch);
        work->cross_attention.output.local_values = lent->values;
    }
    qb_feed_forward_plan(&self->feed_forward, &work->feed_forward, arena, lent->codes, lent->values, local[2], lent->g,
                         scratch);
    work->feed_forward.output.local_values = lent->values;
    work->feed_forward.x = qb_arena_take(arena, m, h * sizeof(float));
    work->feed_forward.pre =
        qb_arena_take(arena, m, (size_t)self->feed_forward.intermediate.out_features * sizeof(float));
}

qb_status
qb_block_prepare(qb_block *self, const qb_run *run)
{
    const qb_path block = {run->path, self->name};
    const qb_path attention = {&block, "attention"};
    const qb_path cross_attention = {&block, "crossattention"};
    const qb_run at_block = qb_run_enter(run, &block);
    const qb_run at_attention = qb_run_enter(run, &attention);
    const qb_run at_cross_attention = qb_run_enter(run, &cross_attention);
    QB_TRY(qb_attention_prepare(&self->attention, &at_attention));
    if (self->has_cross_attention) {
        QB_TRY(qb_attention_prepare(&self->cross_attention, &at_cross_attention));
    }
    return qb_feed_forward_prepare(&self->feed_forward, &at_block);
}

qb_status
qb_block_observe_weights(qb_block *self, const qb_run *run)
{
    const qb_path block = {run->path, self->name};
    const qb_path attention = {&block, "attention"};
    const qb_path cross_attention = {&block, "crossattention"};
    const qb_run at_block = qb_run_enter(run, &block);
    const qb_run at_attention = qb_run_enter(run, &attention);
    const qb_run at_cross_attention = qb_run_enter(run, &cross_attention);
    QB_TRY(qb_attention_observe_weights(&self->attention, &at_attention));
    if (self->has_cross_attention) {
        QB_TRY(qb_attention_observe_weights(&self->cross_attention, &at_cross_attention));
    }
    return qb_feed_forward_observe_weights(&self->feed_forward, &at_block);
}

void
qb_block_visit_edges(const qb_block *self, const qb_edge_visitor *visitor, const qb_edge *from)
{
    qb_edge attended = qb_residual_norm_origin(&self->attention.output);
    qb_attention_visit_edges(&self->attention, visitor, from);
    if (self->has_cross_attention) {
        qb_attention_visit_edges(&self->cross_attention, visitor, &attended);
        attended = qb_residual_norm_origin(&self->cross_attention.output);
    }
    qb_feed_forward_visit_edges(&self->feed_forward, visitor, &attended);
}

qb_edge
qb_block_origin(const qb_block *self)
{
    return qb_residual_norm_origin(&self->feed_forward.output);
}

void
qb_block_want(const qb_block *self, const qb_block_work *work, qb_coded *x)
{
    qb_attention_want(&self->attention, &work->attention, x);
}

qb_status
qb_block_forward(const qb_block *self, const qb_block_work *work, const qb_run *run, const qb_block_inputs *inputs,
                 float *y)
{
    const qb_path block = {run->path, self->name};
    const qb_path attention = {&block, "attention"};
    const qb_path cross_attention = {&block, "crossattention"};
    const qb_run at_block = qb_run_enter(run, &block);
    const qb_run at_attention = qb_run_enter(run, &attention);
    const qb_run at_cross_attention = qb_run_enter(run, &cross_attention);
    qb_attention_inputs of_attention = inputs->attention;
    qb_attention_inputs of_cross_attention = inputs->cross_attention;
    qb_coded after_attention = qb_coded_begin();
    qb_coded before_feed_forward = qb_coded_begin();
    qb_feed_forward_want(&self->feed_forward, &work->feed_forward, &before_feed_forward);
    of_attention.x = inputs->x;
    of_attention.y = &before_feed_forward;
    if (inputs->has_cross_attention) {
        qb_attention_want(&self->cross_attention, &work->cross_attention, &after_attention);
        of_attention.y = &after_attention;
        of_cross_attention.x = &after_attention;
        of_cross_attention.y = &before_feed_forward;
    }
    QB_TRY(qb_attention_forward(&self->attention, &work->attention, &at_attention, &of_attention, y));
    if (inputs->has_cross_attention) {
        QB_TRY(qb_attention_forward(&self->cross_attention, &work->cross_attention, &at_cross_attention,
                                    &of_cross_attention, y));
    }
    const qb_feed_forward_inputs of_feed_forward = {
        .dropout = inputs->dropout, .x = &before_feed_forward, .y = inputs->y};
    return qb_feed_forward_forward(&self->feed_forward, &work->feed_forward, &at_block, &of_feed_forward,
                                   inputs->attention.sequences->tokens, y);
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

void
qb_block_gradient_plan(const qb_block *self, qb_block_gradient *gradient, qb_arena *arena, const qb_limits *limits)
{
    /* The three parts run one after the other, in the memory of the longest. */
    const size_t mark = qb_arena_mark(arena);
    qb_attention_gradient_plan(&self->attention, &gradient->attention, arena, limits);
    size_t end = qb_arena_mark(arena);
    if (self->has_cross_attention && limits->encoder_length > 0) {
        qb_arena_release(arena, mark);
        qb_attention_gradient_plan(&self->cross_attention, &gradient->cross_attention, arena, limits);
        end = qb_arena_mark(arena) > end ? qb_arena_mark(arena) : end;
    }
    qb_arena_release(arena, mark);
    qb_feed_forward_gradient_plan(&self->feed_forward, &gradient->feed_forward, arena, limits->tokens);
    reserve(arena, end);
}

void
qb_block_gradient_sizes(const qb_block *self, const qb_kernels *kernels, const qb_limits *limits,
                        qb_gradient_sizes *sizes)
{
    qb_attention_gradient_sizes(&self->attention, kernels, limits, sizes);
    if (self->has_cross_attention && limits->encoder_length > 0) {
        qb_attention_gradient_sizes(&self->cross_attention, kernels, limits, sizes);
    }
    qb_feed_forward_gradient_sizes(&self->feed_forward, kernels, limits->tokens, sizes);
}

qb_status
qb_block_backward(const qb_block *self, const qb_block_work *work, const qb_block_gradient *gradient,
                  const qb_gradient_work *shared, const qb_run *run, const qb_block_inputs *inputs, float *y,
                  float *dmemory)
{
    const qb_path block = {run->path, self->name};
    const qb_path attention = {&block, "attention"};
    const qb_path cross_attention = {&block, "crossattention"};
    const qb_run at_block = qb_run_enter(run, &block);
    const qb_run at_attention = qb_run_enter(run, &attention);
    const qb_run at_cross_attention = qb_run_enter(run, &cross_attention);
    QB_TRY(qb_feed_forward_backward(&self->feed_forward, &work->feed_forward, &gradient->feed_forward, shared,
                                    &at_block, inputs->dropout, inputs->attention.sequences->tokens, y));
    if (inputs->has_cross_attention) {
        QB_TRY(qb_attention_backward(&self->cross_attention, &work->cross_attention, &gradient->cross_attention, shared,
                                     &at_cross_attention, &inputs->cross_attention, y, dmemory));
    }
    return qb_attention_backward(&self->attention, &work->attention, &gradient->attention, shared, &at_attention,
                                 &inputs->attention, y, NULL);
}
