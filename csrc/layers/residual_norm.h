/* SPDX-License-Identifier: Apache-2.0
 *
 * The end of both halves of a block: a linear layer, dropout, the residual add behind its two quantizers, LayerNorm.
 *
 *   d = dropout(x W' + b)                         x (M, K), d (M, H)
 *   y = LayerNorm(Ql(d) + Qr(r))                  r, y (M, H)
 *
 * When both quantizers run on codes, one expression per element adds them,
 *   s = fma((float)code_r, step_r, (float)code_d * step_d),
 * and adding and normalizing are one pass over the codes: those of d come from the product, unless somebody needs d
 * itself, those of r may come with it, and others are made on the way, of rows that are still in the cache.  Otherwise
 * the values q / scale are added as floats.  From the rows of y, as long as they are in the cache, come the codes of
 * whoever reads it next; where those are all that is wanted, y is not written.
 *
 * Source: QDQBertSelfOutput and QDQBertOutput (REFERENCE 1.4, 1.5); NUMERICS section 1.
 */
#ifndef QB_LAYERS_RESIDUAL_NORM_H
#define QB_LAYERS_RESIDUAL_NORM_H

#include "layers/dropout.h"
#include "layers/layer_norm.h"
#include "layers/linear.h"

typedef struct qb_residual_norm {
    qb_linear dense;
    qb_quantizer *local;    /* add_local_input_quantizer, on d */
    qb_quantizer *residual; /* add_residual_input_quantizer, on r */
    qb_layer_norm norm;
} qb_residual_norm;

typedef struct qb_residual_norm_work {
    qb_linear_work dense;
    float *local;        /* (max tokens, H) d, or its codes; lent by the parent */
    int8_t *residual;    /* (max tokens, H) room for the codes of r, then of y, the next layer's r; lent; NULL: none */
    float *local_values; /* (max tokens, H) Ql(d) where they are floats; d itself, unless backward will ask for d */
} qb_residual_norm_work;

void qb_residual_norm_init(qb_residual_norm *self, int64_t in_features, int64_t features, float eps);
void qb_residual_norm_clear(qb_residual_norm *self, qb_heap *heap);
qb_status qb_residual_norm_visit(qb_residual_norm *self, const qb_visitor *visitor, const qb_path *path);
size_t qb_residual_norm_scratch_bytes(const qb_residual_norm *self, const qb_kernels *kernels);
void qb_residual_norm_plan(const qb_residual_norm *self, qb_residual_norm_work *work, qb_arena *arena, int8_t *codes,
                           float *values, float *local, qb_scratch *scratch);
/* Checks the two quantizers, packs the dense layer. */
qb_status qb_residual_norm_prepare(qb_residual_norm *self, const qb_run *run);

/* What one call brings besides x and r. */
typedef struct qb_residual_norm_inputs {
    const qb_dropout_node *dropout; /* NULL: nothing is dropped */
    qb_coded *x;                    /* what there is of x; NULL: its floats */
    const qb_coded *r;              /* what there is of r; NULL: its floats */
    qb_coded *y;                    /* what is wanted of y, and is there on return; NULL: its floats */
} qb_residual_norm_inputs;

/* The end of the edge on which r comes, and the beginning of those on which y goes. */
qb_edge qb_residual_norm_edge(const qb_residual_norm *self);
qb_edge qb_residual_norm_origin(const qb_residual_norm *self);
/* Tell of d. */
void qb_residual_norm_visit_edges(const qb_residual_norm *self, const qb_edge_visitor *visitor);
/* y (rows, H) holds r on entry and the result on return.  x must not overlap y.  Collecting quantizers of x and d are
 * shown them; r's, self->residual, is the caller's to show, together with the other quantizers of that tensor. */
qb_status qb_residual_norm_forward(const qb_residual_norm *self, const qb_residual_norm_work *work, const qb_run *run,
                                   const qb_residual_norm_inputs *inputs, const float *x, int64_t rows, float *y);

void qb_residual_norm_gradient_sizes(const qb_residual_norm *self, const qb_kernels *kernels, int64_t rows,
                                     qb_gradient_sizes *sizes);
/* dropout, x (rows, K) and r (rows, H) as forward got them, work->local as it left it, dy (rows, H) -> dx and dr.
 * dr may be dy; dx overlaps nothing. */
qb_status qb_residual_norm_backward(const qb_residual_norm *self, const qb_residual_norm_work *work,
                                    const qb_gradient_work *gradient, const qb_run *run, const qb_dropout_node *dropout,
                                    const float *x, const float *r, int64_t rows, const float *dy, float *dx,
                                    float *dr);

#endif
