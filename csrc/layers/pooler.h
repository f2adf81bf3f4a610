/* SPDX-License-Identifier: Apache-2.0
 *
 * The pooled output: a dense layer with tanh on the first token of every sequence; never quantized.
 *
 *   y = tanh(x[first] W' + b)        y (B, H)
 *
 * Source: QDQBertPooler (REFERENCE 1.5).
 */
#ifndef QB_LAYERS_POOLER_H
#define QB_LAYERS_POOLER_H

#include "layers/linear.h"
#include "layers/sequences.h"

typedef struct qb_pooler {
    qb_linear dense;
} qb_pooler;

typedef struct qb_pooler_work {
    qb_linear_work dense;
    float *first; /* (max sequences, H) */
} qb_pooler_work;

void qb_pooler_init(qb_pooler *self, int64_t hidden);
void qb_pooler_clear(qb_pooler *self, qb_heap *heap);
qb_status qb_pooler_visit(qb_pooler *self, const qb_visitor *visitor, const qb_path *path);
void qb_pooler_plan(const qb_pooler *self, qb_pooler_work *work, qb_arena *arena, int64_t max_sequences,
                    qb_scratch *scratch);
qb_status qb_pooler_prepare(qb_pooler *self, const qb_run *run);
/* x (M, H), y (sequences, H). */
qb_status qb_pooler_forward(const qb_pooler *self, const qb_pooler_work *work, const qb_run *run, const float *x,
                            const qb_sequences *sequences, float *y);

void qb_pooler_gradient_sizes(const qb_pooler *self, const qb_kernels *kernels, int64_t sequences,
                              qb_gradient_sizes *sizes);
/* y (sequences, H) as forward gave it, dy (sequences, H), which is overwritten; dx (M, H) is added to at the first
 * token of each sequence. */
qb_status qb_pooler_backward_accumulate(const qb_pooler *self, const qb_pooler_work *work,
                                        const qb_gradient_work *gradient, const qb_run *run,
                                        const qb_sequences *sequences, const float *y, float *dy, float *dx);

#endif
