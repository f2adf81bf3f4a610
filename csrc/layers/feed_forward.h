/* SPDX-License-Identifier: Apache-2.0
 *
 * The second half of a block.
 *
 *   g = activation(x Wi' + bi)                          x (M, H), g (M, I); the activation is the product's epilogue
 *   y = LayerNorm(Ql(dropout(g Wo' + bo)) + Qr(x))      residual_norm.h
 *
 * Between two integer products g exists as codes of output.dense's input quantizer only, in the memory of its floats.
 *
 * Source: QDQBertIntermediate and QDQBertOutput (REFERENCE 1.5).
 */
#ifndef QB_LAYERS_FEED_FORWARD_H
#define QB_LAYERS_FEED_FORWARD_H

#include "layers/residual_norm.h"

typedef struct qb_feed_forward {
    qb_activation activation;
    qb_linear intermediate;
    qb_residual_norm output;
} qb_feed_forward;

typedef struct qb_feed_forward_work {
    qb_linear_work intermediate;
    qb_residual_norm_work output;
    float *g;   /* (M, I) lent; or its codes */
    float *x;   /* (M, H) the input, saved; NULL: nobody will ask for gradients */
    float *pre; /* (M, I) x W' + b, saved with it */
} qb_feed_forward_work;

void qb_feed_forward_init(qb_feed_forward *self, int64_t hidden, int64_t intermediate, qb_activation activation,
                          float eps);
void qb_feed_forward_clear(qb_feed_forward *self, qb_heap *heap);
/* The names begin at the block: "intermediate.dense", "output.dense", ... */
qb_status qb_feed_forward_visit(qb_feed_forward *self, const qb_visitor *visitor, const qb_path *path);
size_t qb_feed_forward_scratch_bytes(const qb_feed_forward *self, const qb_kernels *kernels);
/* codes (max tokens, H), values (max tokens, max(H, I)), local (max tokens, H) and g (max tokens, I) are lent by the
 * parent. */
void qb_feed_forward_plan(const qb_feed_forward *self, qb_feed_forward_work *work, qb_arena *arena, int8_t *codes,
                          float *values, float *local, float *g, qb_scratch *scratch);
qb_status qb_feed_forward_prepare(qb_feed_forward *self, const qb_run *run);
qb_status qb_feed_forward_observe_weights(qb_feed_forward *self, const qb_run *run);
/* The form in which x is wanted: an order of qb_coded_begin. */
void qb_feed_forward_want(const qb_feed_forward *self, const qb_feed_forward_work *work, qb_coded *x);
/* Tell of x, which comes `from` elsewhere, and of what is made here but y. */
void qb_feed_forward_visit_edges(const qb_feed_forward *self, const qb_edge_visitor *visitor, const qb_edge *from);

/* What one call brings besides x. */
typedef struct qb_feed_forward_inputs {
    const qb_dropout_node *dropout; /* NULL: nothing is dropped */
    const qb_coded *x;              /* what there is of x; NULL: its floats */
    qb_coded *y;                    /* what is wanted of the result, and is there on return; NULL: its floats */
} qb_feed_forward_inputs;

/* y (rows, H) holds x on entry and the result on return. */
qb_status qb_feed_forward_forward(const qb_feed_forward *self, const qb_feed_forward_work *work, const qb_run *run,
                                  const qb_feed_forward_inputs *inputs, int64_t rows, float *y);

/* Buffers of backward; one per session. */
typedef struct qb_feed_forward_gradient {
    float *g;  /* (M, I) */
    float *dg; /* (M, I) */
} qb_feed_forward_gradient;

void qb_feed_forward_gradient_plan(const qb_feed_forward *self, qb_feed_forward_gradient *gradient, qb_arena *arena,
                                   int64_t max_tokens);
void qb_feed_forward_gradient_sizes(const qb_feed_forward *self, const qb_kernels *kernels, int64_t rows,
                                    qb_gradient_sizes *sizes);
/* y (rows, H) holds dy on entry and dx on return; dropout is forward's. */
qb_status qb_feed_forward_backward(const qb_feed_forward *self, const qb_feed_forward_work *work,
                                   const qb_feed_forward_gradient *gradient, const qb_gradient_work *shared,
                                   const qb_run *run, const qb_dropout_node *dropout, int64_t rows, float *y);

#endif
