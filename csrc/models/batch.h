/* SPDX-License-Identifier: Apache-2.0
 *
 * From a caller's padded tensors to ragged sequences, and back.
 *
 * Everything a caller can get wrong about a forward call is found here, before anything is computed.
 *
 * Three kinds of sequences: the computed tokens; the keys that they look at, which begin with those of earlier calls;
 * and an encoder's tokens, which cross-attention looks at.  Places are columns: of keys, past + t for token t.
 */
#ifndef QB_MODELS_BATCH_H
#define QB_MODELS_BATCH_H

#include "core/arena.h"
#include "layers/attention.h"
#include "layers/embeddings.h"
#include "models/bert_config.h"
#include "qdqbert/qdqbert.h"

/* Storage behind the constant pointers of one qb_sequences. */
typedef struct qb_sequence_arrays {
    int64_t *offsets, *lengths; /* (max sequences) */
    int64_t *places;            /* (max tokens) */
    float *mask;                /* (max tokens) */
} qb_sequence_arrays;

typedef struct qb_batch {
    int64_t batch, length;  /* B, T as the caller sees them */
    int64_t past;           /* columns of earlier keys */
    int64_t encoder_length; /* S of cross-attention; 0: left out */
    qb_sequences sequences; /* what is computed */
    qb_sequences keys;      /* what it looks at; with its masks */
    qb_sequences encoder;   /* what cross-attention looks at */
    const int64_t *rows;    /* (M) b * T + t of each computed token */
    const float *memory;    /* (encoder tokens, H) their hidden states; NULL: they are not projected */
    qb_embeddings_input tokens;
    /* storage */
    qb_sequence_arrays own, all_keys, of_encoder;
    int64_t *row_storage, *ids, *types, *positions; /* (max tokens) */
    float *memory_storage;                          /* (max encoder tokens, H); NULL: no cross-attention */
} qb_batch;

void qb_batch_plan(qb_batch *batch, qb_arena *arena, const qb_limits *limits, int64_t hidden);

/* Check the inputs against configuration and limits, and fill the batch, which borrows embeddings, earlier keys and
 * masks of rank 3.  Errors: as qb_session_forward; the sentence has argument, row, column and value. */
qb_status qb_batch_fill(qb_batch *batch, const qb_bert_config *config, const qb_session_options *limits,
                        const qb_forward_inputs *inputs, qb_error *error);
/* The checks of fill that need no batch. */
qb_status qb_batch_check(const qb_bert_config *config, const qb_session_options *limits,
                         const qb_forward_inputs *inputs, qb_error *error);
/* QB_ERR_VALUE if the first position of a sequence is not computed: then there is nothing to pool. */
qb_status qb_batch_check_first(const qb_batch *batch, qb_error *error);

/* y (B, T, features) = x (M, features) at its place, zero elsewhere. */
void qb_batch_scatter(const qb_batch *batch, const float *x, int64_t features, float *y);
/* x (M, features) = what stands in y (B, T, features) at each computed token's place. */
void qb_batch_gather(const qb_batch *batch, const float *y, int64_t features, float *x);
/* The same, added to x. */
void qb_batch_gather_accumulate(const qb_batch *batch, const qb_kernels *kernels, const float *y, int64_t features,
                                float *x);
/* y (B, N, T, width) = x, per sequence (N, T, S), at its place, zero elsewhere; keys is batch->keys or ->encoder. */
void qb_batch_scatter_pairs(const qb_batch *batch, const qb_sequences *keys, int64_t width, const float *x,
                            int64_t heads, float *y);
/* y (B, N, past + T, D): earlier (B, N, past, D) as it is, then x (M, N D) at its place, zero elsewhere. */
void qb_batch_scatter_keys(const qb_batch *batch, const float *earlier, const float *x, int64_t heads,
                           int64_t head_size, float *y);
/* y (B, N, S, D): x (encoder tokens, N D) at its place, zero elsewhere. */
void qb_batch_scatter_encoder_keys(const qb_batch *batch, const float *x, int64_t heads, int64_t head_size, float *y);

#endif
