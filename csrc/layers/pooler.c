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
