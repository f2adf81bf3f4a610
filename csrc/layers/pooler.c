/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/pooler.h"

#include <string.h>

void
qb_pooler_init(qb_pooler *self, int64_t hidden)
{
    qb_linear_init(&self->dense, hidden, hidden, 0);
}

void
qb_pooler_clear(qb_pooler *self, qb_heap *heap)
{
    qb_linear_clear(&self->dense, heap);
}

qb_status
qb_pooler_visit(qb_pooler *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path dense = {path, "pooler.dense"};
    return qb_linear_visit(&self->dense, visitor, &dense);
}

void
qb_pooler_plan(const qb_pooler *self, qb_pooler_work *work, qb_arena *arena, int64_t max_sequences, qb_scratch *scratch)
{
    work->first = qb_arena_take(arena, max_sequences, (size_t)self->dense.in_features * sizeof *work->first);
    qb_linear_plan(&self->dense, &work->dense, arena, NULL, NULL, scratch);
}

qb_status
qb_pooler_prepare(qb_pooler *self, const qb_run *run)
{
    const qb_path dense = {run->path, "pooler.dense"};
    const qb_run inner = qb_run_enter(run, &dense);
    return qb_linear_prepare(&self->dense, &inner);
}

qb_status
qb_pooler_forward(const qb_pooler *self, const qb_pooler_work *work, const qb_run *run, const float *x,
                  const qb_sequences *sequences, float *y)
{
    const qb_path dense = {run->path, "pooler.dense"};
    const qb_run inner = qb_run_enter(run, &dense);
    const int64_t h = self->dense.in_features;
    for (int64_t i = 0; i < sequences->count; i++) {
        memcpy(work->first + i * h, x + sequences->offsets[i] * h, (size_t)h * sizeof *x);
    }
    return qb_linear_forward(&self->dense, &work->dense, &inner, work->first, sequences->count, QB_ACTIVATION_TANH, y);
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

void
qb_pooler_gradient_sizes(const qb_pooler *self, const qb_kernels *kernels, int64_t sequences, qb_gradient_sizes *sizes)
{
    qb_linear_gradient_sizes(&self->dense, kernels, sequences, sizes);
    qb_gradient_need(&sizes->sums, (size_t)sequences, (size_t)self->dense.in_features, &sizes->overflowed);
}

qb_status
qb_pooler_backward_accumulate(const qb_pooler *self, const qb_pooler_work *work, const qb_gradient_work *gradient,
                              const qb_run *run, const qb_sequences *sequences, const float *y, float *dy, float *dx)
{
    const qb_path dense = {run->path, "pooler.dense"};
    const qb_run inner = qb_run_enter(run, &dense);
    const int64_t h = self->dense.in_features;
    const int64_t n = sequences->count * h;
    for (int64_t i = 0; i < n; i++) { /* tanh' = 1 - tanh^2 */
        dy[i] *= 1.0f - y[i] * y[i];
    }
    QB_TRY(qb_linear_backward(&self->dense, gradient, &inner, work->first, sequences->count, dy, gradient->sums));
    for (int64_t i = 0; i < sequences->count; i++) {
        float *first = dx + sequences->offsets[i] * h;
        run->kernels->add_f32(first, gradient->sums + i * h, (size_t)h, first);
    }
    return QB_OK;
}
