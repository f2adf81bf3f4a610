/* SPDX-License-Identifier: Apache-2.0
 *
 * Layer normalization over the last axis; never quantized.
 *
 *   y = (x - mean) / sqrt(variance + eps) * w + b      x, y (M, H), w, b (H); variance with divisor H
 *
 * Order of operations: layer_norm_f32 in core/kernel_list.inc.  Ba, Kiros, Hinton 2016.
 */
#ifndef QB_LAYERS_LAYER_NORM_H
#define QB_LAYERS_LAYER_NORM_H

#include "core/run.h"
#include "layers/gradient.h"
#include "layers/visit.h"

typedef struct qb_layer_norm {
    int64_t features; /* H */
    float eps;
    qb_parameter weight; /* (H) */
    qb_parameter bias;   /* (H) */
} qb_layer_norm;

void qb_layer_norm_init(qb_layer_norm *self, int64_t features, float eps);
qb_status qb_layer_norm_visit(qb_layer_norm *self, const qb_visitor *visitor, const qb_path *path);
/* Its forward is one kernel call inside its owner's region: embeddings and residual_norm. */

/* What backward of up to `rows` rows needs, and work->sums and work->dsums, which are for owners to recompute x in and
 * to take dx. */
void qb_layer_norm_gradient_sizes(const qb_layer_norm *self, int64_t rows, qb_gradient_sizes *sizes);
/* x (rows, H) as forward normalized it, dy -> dx, and the parameters' gradients.  dx overlaps neither x nor dy.
 *
 *   h = (x - mean) rstd;  dw += sum_m dy h;  db += sum_m dy;  g = dy w
 *   dx = rstd (g - mean(g) - h mean(g h)) */
qb_status qb_layer_norm_backward(const qb_layer_norm *self, const qb_gradient_work *work, const qb_run *run,
                                 const float *x, int64_t rows, const float *dy, float *dx);

#endif
