/* SPDX-License-Identifier: Apache-2.0
 *
 * From a caller's padded tensors to a ragged batch, and back.
 *
 * Everything a caller can get wrong about a forward call is found here, before anything is computed.
 */
#ifndef QB_MODELS_BATCH_H
#define QB_MODELS_BATCH_H

#include "core/arena.h"
#include "layers/embeddings.h"
#include "layers/sequences.h"
#include "models/bert_config.h"
#include "qdqbert/qdqbert.h"

typedef struct qb_batch {
    int64_t batch, length;  /* B, T as the caller sees them */
    qb_sequences sequences; /* what is computed */
    qb_embeddings_input tokens;
    int64_t *rows; /* (M) b * T + t of each computed token */
    /* storage behind the constant pointers above */
    int64_t *offsets, *lengths;       /* (max sequences) */
    int64_t *ids, *types, *positions; /* (max tokens) */
    float *mask;                      /* (max tokens) */
} qb_batch;

void qb_batch_plan(qb_batch *batch, qb_arena *arena, int64_t max_sequences, int64_t max_tokens);

/* Check the inputs against configuration and limits, and fill the batch, which borrows embeddings and rank-3 masks.
 * Errors: as qb_session_forward; the sentence has argument, row, column and value. */
qb_status qb_batch_fill(qb_batch *batch, const qb_bert_config *config, const qb_session_options *limits,
                        const qb_forward_inputs *inputs, qb_error *error);

/* QB_ERR_VALUE if the first position of a sequence is not computed: then there is nothing to pool. */
qb_status qb_batch_check_first(const qb_batch *batch, qb_error *error);

/* y (B, T, features) = x (M, features) at its place, zero elsewhere. */
void qb_batch_scatter(const qb_batch *batch, const float *x, int64_t features, float *y);
/* y (B, N, T, T) = x, per sequence (N, S, S), at its place, zero elsewhere. */
void qb_batch_scatter_pairs(const qb_batch *batch, const float *x, int64_t heads, float *y);

#endif
