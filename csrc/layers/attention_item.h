/* SPDX-License-Identifier: Apache-2.0
 *
 * The two products and the softmax of one (sequence, head): the part of attention that runs inside a parallel region.
 */
#ifndef QB_LAYERS_ATTENTION_ITEM_H
#define QB_LAYERS_ATTENTION_ITEM_H

#include <stdatomic.h>

#include "core/kernels.h"
#include "layers/attention.h"

typedef struct qb_attention_job {
    const qb_kernels *kernels;
    qb_scratch *scratch;
    const qb_attention *layer;
    const qb_sequences *sequences; /* of the queries */
    const qb_sequences *keys;
    int is_causal;
    int64_t row_splits; /* parts that each (sequence, head) is cut in, by query rows */
    qb_arithmetic scores_arithmetic, context_arithmetic;
    const float *q, *k, *v;                     /* (M, N D), (keys, N D): floats, or values */
    const float *unquantized_q, *unquantized_k; /* the same before their quantizers */
    const int8_t *q_codes, *k_codes, *v_codes;
    qb_epilogue scores, context;
    const qb_dropout_node *dropout;
    const float *head_mask;      /* (N) or NULL */
    int quantizes_probabilities; /* 1: to codes or values, by context_arithmetic, with this range */
    qb_quant_range probability_range;
    float *probabilities;  /* kept, per sequence (N, T, S); NULL: they live in scratch */
    float *context_rows;   /* (M, N D) */
    int8_t *context_codes; /* (M, N D) the codes of the context, made in its stead; NULL: the context is made */
    qb_quant_range context_range;
    int computes_scores; /* scores and softmax; otherwise they are read from probabilities */
    int computes_context;
    _Atomic int failed;               /* a probability was NaN or infinite where codes are needed */
    _Atomic int is_context_nonfinite; /* so is the context, and its codes are worth nothing */
} qb_attention_job;

/* Scratch of one item of sequences with up to `keys` keys. */
size_t qb_attention_item_bytes(const qb_kernels *kernels, const qb_attention *layer, int64_t keys);
/* Row splits that keep `threads` busy. */
int64_t qb_attention_row_splits(const qb_sequences *sequences, int64_t heads, int32_t threads);
int64_t qb_attention_item_count(const qb_attention_job *job);
/* Elements of the kept probabilities. */
int64_t qb_attention_probability_count(const qb_sequences *queries, const qb_sequences *keys, int64_t heads);

/* What there is of q, k and v in a work struct: floats, or the codes. */
typedef struct qb_attention_operands {
    qb_coded q, k, v;
} qb_attention_operands;

/* Quantize q, k and v of `work`, as far as that is not done, and describe the layer's items.  *v_step is the step of
 * v's codes. */
qb_status qb_attention_prepare_job(const qb_attention *self, const qb_attention_work *work, const qb_run *run,
                                   const qb_attention_inputs *inputs, const qb_attention_operands *operands,
                                   qb_attention_job *job, float *v_step);
/* p (T, S): the softmax of one (sequence, head), with forward's bits and before dropout.  `job` is set up for scores;
 * `arena` is the scratch of qb_attention_item_bytes, which is free again afterwards. */
void qb_attention_item_probabilities(const qb_attention_job *job, int64_t sequence, int64_t head, qb_arena arena,
                                     float *p);

/* A qb_range_function over items; argument is a qb_attention_job. */
void qb_attention_compute_items(void *argument, int64_t begin, int64_t end, int32_t worker);

#endif
