/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/feed_forward.h"

void
qb_feed_forward_init(qb_feed_forward *self, int64_t hidden, int64_t intermediate, qb_activation activation, float eps)
{
    *self = (qb_feed_forward){.activation = activation};
    qb_linear_init(&self->intermediate, hidden, intermediate, 1);
    qb_residual_norm_init(&self->output, intermediate, hidden, eps);
}

void
qb_feed_forward_clear(qb_feed_forward *self, qb_heap *heap)
{
    qb_linear_clear(&self->intermediate, heap);
    qb_residual_norm_clear(&self->output, heap);
}

qb_status
qb_feed_forward_visit(qb_feed_forward *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path intermediate = {path, "intermediate.dense"};
    const qb_path output = {path, "output"};
    QB_TRY(qb_linear_visit(&self->intermediate, visitor, &intermediate));
    return qb_residual_norm_visit(&self->output, visitor, &output);
}

size_t
qb_feed_forward_scratch_bytes(const qb_feed_forward *self, const qb_kernels *kernels)
{
    const size_t intermediate = qb_linear_scratch_bytes(&self->intermediate, kernels);
    const size_t output = qb_residual_norm_scratch_bytes(&self->output, kernels);
    return intermediate > output ? intermediate : output;
}

void
qb_feed_forward_plan(const qb_feed_forward *self, qb_feed_forward_work *work, qb_arena *arena, int64_t max_tokens,
                     int8_t *codes, float *values, float *local, qb_scratch *scratch)
{
    *work = (qb_feed_forward_work){.g = NULL};
    work->g = qb_arena_take(arena, max_tokens, (size_t)self->intermediate.out_features * sizeof *work->g);
    qb_linear_plan(&self->intermediate, &work->intermediate, arena, codes, values, scratch);
    qb_residual_norm_plan(&self->output, &work->output, arena, codes, values, local, scratch);
}

qb_status
qb_feed_forward_prepare(qb_feed_forward *self, const qb_run *run)
{
    const qb_path intermediate = {run->path, "intermediate.dense"};
    const qb_path output = {run->path, "output"};
    const qb_run at_intermediate = qb_run_enter(run, &intermediate);
    const qb_run at_output = qb_run_enter(run, &output);
    QB_TRY(qb_linear_prepare(&self->intermediate, &at_intermediate));
    return qb_residual_norm_prepare(&self->output, &at_output);
}

qb_status
qb_feed_forward_observe_weights(qb_feed_forward *self, const qb_run *run)
{
    const qb_path intermediate = {run->path, "intermediate.dense"};
    const qb_path output = {run->path, "output.dense"};
    const qb_run at_intermediate = qb_run_enter(run, &intermediate);
    const qb_run at_output = qb_run_enter(run, &output);
    QB_TRY(qb_linear_observe_weight(&self->intermediate, &at_intermediate));
    return qb_linear_observe_weight(&self->output.dense, &at_output);
}

qb_status
qb_feed_forward_forward(const qb_feed_forward *self, const qb_feed_forward_work *work, const qb_run *run, int64_t rows,
                        float *y)
{
    const qb_path intermediate = {run->path, "intermediate.dense"};
    const qb_path input = {&intermediate, "_input_quantizer"};
    const qb_path output = {run->path, "output"};
    const qb_run at_intermediate = qb_run_enter(run, &intermediate);
    const qb_run at_input = qb_run_enter(run, &input);
    const qb_run at_output = qb_run_enter(run, &output);
    qb_quantizer *const of_x[] = {self->intermediate.input_quantizer, self->output.residual};
    qb_linear_call call;
    QB_TRY(qb_site_observe(of_x, 2, &at_input, y, rows, self->intermediate.in_features));
    QB_TRY(qb_linear_begin(&self->intermediate, &work->intermediate, &at_intermediate, y, rows, self->activation,
                           work->g, NULL, &call));
    QB_TRY(qb_linear_finish(&at_intermediate, &call, 1, work->intermediate.scratch));
    return qb_residual_norm_forward(&self->output, &work->output, &at_output, work->g, rows, y);
}
