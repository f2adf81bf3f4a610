/* SPDX-License-Identifier: Apache-2.0
 *
 * Dropout: y = x * mask / (1 - p), with a mask that is never stored (qb_dropout, core/kernel_types.h).
 *
 * Every place of a model that drops out is a node with a number, every sequence of a batch has random words of its own,
 * and within them an element is numbered by where it stands among the computed tokens of its sequence:
 *
 *   activations (tokens, features)     element = token * features + feature
 *   probabilities (N, T, S)            element = (query * N + head) * 2^17 + key
 *   one row for each sequence          element = feature
 *
 * So a mask depends on the place of a sequence in the batch, but neither on the other sequences, nor on padding, nor on
 * how work is split; and backward has the mask of forward by calling the same function on the gradient.  2^17 is above
 * QB_DEPTH_MAX, the most keys there can be.  Elements 2^34 apart share a word.
 */
#ifndef QB_LAYERS_DROPOUT_H
#define QB_LAYERS_DROPOUT_H

#include "core/run.h"
#include "layers/sequences.h"

/* One node in one call.  Layers get a pointer, NULL where nothing is dropped. */
typedef struct qb_dropout_node {
    int is_active;                 /* 0: nothing is dropped, and nobody reads the rest */
    qb_dropout dropout;            /* of the first sequence; sequence b has the node number dropout.node + b * nodes */
    uint32_t nodes;                /* of the model */
    const qb_sequences *sequences; /* of the rows; NULL: each row is a sequence of its own */
} qb_dropout_node;

/* Set probability (0 .. 1) and numbers; 1 drops everything. */
qb_dropout_node qb_dropout_node_of(float probability, uint64_t seed, uint64_t step, uint32_t node, uint32_t nodes,
                                   const qb_sequences *sequences);

/* Rows begin .. end - 1 of x and y (rows, features), from inside a parallel region; y may be x. */
void qb_dropout_rows(const qb_kernels *kernels, const qb_dropout_node *node, int64_t features, int64_t begin,
                     int64_t end, const float *x, float *y);
/* All of x and y (rows, features), whatever `node`: a copy if it is NULL, unless y is x. */
qb_status qb_dropout_apply(const qb_run *run, const qb_dropout_node *node, const float *x, int64_t rows,
                           int64_t features, float *y);

/* Probabilities x and y (rows, keys) of the queries first_query .. of one head; y may be x. */
void qb_dropout_probabilities(const qb_kernels *kernels, const qb_dropout_node *node, int64_t sequence, int64_t heads,
                              int64_t head, int64_t first_query, int64_t rows, int64_t keys, const float *x, float *y);

#endif
