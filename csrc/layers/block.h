/* SPDX-License-Identifier: Apache-2.0
 *
 * One layer: self-attention, cross-attention in decoders that have it, feed-forward, each with its residual add and
 * LayerNorm.
 *
 * The parts run one after the other, so their buffers share one region of the session's arena.
 */
#ifndef QB_LAYERS_BLOCK_H
#define QB_LAYERS_BLOCK_H

#include "layers/attention.h"
#include "layers/feed_forward.h"

typedef struct qb_block {
    char name[32]; /* "encoder.layer.3" */
    qb_attention attention;
    int has_cross_attention;
    qb_attention cross_attention;
    qb_feed_forward feed_forward;
} qb_block;

typedef struct qb_block_work { /* one per session, planned for the block with the most heads: blocks run one after the
                                  other */
    qb_attention_work attention;
    qb_attention_work cross_attention;
    qb_feed_forward_work feed_forward;
} qb_block_work;

typedef struct qb_block_shape {
    qb_attention_shape attention;
    int64_t cross_heads; /* N of cross-attention; 0: there is none */
    int64_t intermediate;
    qb_activation activation;
    float eps;
} qb_block_shape;

void qb_block_init(qb_block *self, int64_t index, const qb_block_shape *shape);
void qb_block_clear(qb_block *self, qb_heap *heap);
/* path is the model's ("bert" or the root); the block adds its own name. */
qb_status qb_block_visit(qb_block *self, const qb_visitor *visitor, const qb_path *path);
size_t qb_block_scratch_bytes(const qb_block *self, const qb_kernels *kernels, const qb_limits *limits);
void qb_block_plan(const qb_block *self, qb_block_work *work, qb_arena *arena, const qb_limits *limits,
                   qb_scratch *scratch);

/* What blocks that run one after the other share although each keeps its own. */
typedef struct qb_block_lent {
    int8_t *codes;
    float *values;
    qb_attention_lent attention, cross_attention; /* of sessions that train, like g */
    float *g;
} qb_block_lent;

qb_block_lent qb_block_lent_plan(const qb_block *self, qb_arena *arena, const qb_limits *limits);
/* As qb_block_plan, for one that keeps what backward needs. */
void qb_block_plan_saved(const qb_block *self, qb_block_work *work, qb_arena *arena, const qb_limits *limits,
                         const qb_block_lent *lent, qb_scratch *scratch);
qb_status qb_block_prepare(qb_block *self, const qb_run *run);
qb_status qb_block_observe_weights(qb_block *self, const qb_run *run);
/* What one call brings besides x. */
typedef struct qb_block_inputs {
    const qb_coded *x;                   /* what there is of x; NULL: its floats */
    qb_coded *y;                         /* what is wanted of the output, and is there on return; NULL: its floats */
    qb_attention_inputs attention;       /* without x and y, which are the block's to set */
    qb_attention_inputs cross_attention; /* the same */
    int has_cross_attention;             /* 0: it is left out */
    const qb_dropout_node *dropout;      /* of the feed-forward half */
} qb_block_inputs;

/* Tell of the block's input, which comes `from` elsewhere, and of what is made here but its output; attends to an
 * encoder if it can. */
void qb_block_visit_edges(const qb_block *self, const qb_edge_visitor *visitor, const qb_edge *from);
/* The beginning of the edges on which the output goes. */
qb_edge qb_block_origin(const qb_block *self);
/* The form in which the block wants its input: an order of qb_coded_begin. */
void qb_block_want(const qb_block *self, const qb_block_work *work, qb_coded *x);
/* y (M, H) holds the block's input on entry and its output on return. */
qb_status qb_block_forward(const qb_block *self, const qb_block_work *work, const qb_run *run,
                           const qb_block_inputs *inputs, float *y);

/* Buffers of backward; one per session. */
typedef struct qb_block_gradient {
    qb_attention_gradient attention;
    qb_attention_gradient cross_attention;
    qb_feed_forward_gradient feed_forward;
} qb_block_gradient;

void qb_block_gradient_plan(const qb_block *self, qb_block_gradient *gradient, qb_arena *arena,
                            const qb_limits *limits);
void qb_block_gradient_sizes(const qb_block *self, const qb_kernels *kernels, const qb_limits *limits,
                             qb_gradient_sizes *sizes);
/* y (M, H) holds dy on entry and dx on return; `work` is planned with qb_block_plan_saved, and the rest is forward's.
 * dmemory is as in qb_attention_backward. */
qb_status qb_block_backward(const qb_block *self, const qb_block_work *work, const qb_block_gradient *gradient,
                            const qb_gradient_work *shared, const qb_run *run, const qb_block_inputs *inputs, float *y,
                            float *dmemory);

#endif
