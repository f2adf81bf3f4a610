/* SPDX-License-Identifier: Apache-2.0
 *
 * Scaled dot-product self-attention with several heads, behind its quantizers.  This comment is the specification.
 *
 *   q = x Wq' + bq,  k = x Wk' + bk,  v = x Wv' + bv           x, q, k, v (M, H), H = N D
 *
 * and for every sequence (T tokens, S = T keys) and head, with q, k, v its rows and columns:
 *
 *   s = Qq(q) Qk(k)' / sqrt(D) + mask                          (T, S)
 *   p = softmax(s) * head_mask                                 (T, S)
 *   c = Qa(p) Qv(v)                                            (T, D)
 *
 *   y = LayerNorm(Ql(c Wo' + bo) + Qr(x))                      residual_norm.h
 *
 * Quantizers see whole layers: one range for all sequences and heads.  Both products are sites (site.h):
 *
 *   scores   integer: s = fma((float)acc, step_q * step_k, +0) / sqrt(D);  float: acc / sqrt(D)
 *   context  integer: c = fma((float)acc, step_a * step_v, +0);            float: acc
 *
 * Work items are (sequence, head), cut by query rows when there are few of them.  An item packs its keys and values and
 * runs over blocks of query rows, so that the (B, N, T, S) tensor never exists: a block's scores stay in the cache from
 * the first product to the second.  When somebody asks for the probabilities (output_attentions, a collecting or
 * dynamic matmul_a quantizer, or one that does not fit codes), the same item code runs in two regions with the
 * probabilities of the whole layer kept in between.  Each row is computed by the same kernel calls either way, so both
 * give the same bits.
 *
 * A position with mask 0 gets probability exactly 0, because exp underflows; a row with all keys masked gets what the
 * original gives, the same probability for every key.
 *
 * Source: Vaswani et al. 2017, section 3.2; QDQBertSelfAttention (REFERENCE 1.4, 1.5).
 */
#ifndef QB_LAYERS_ATTENTION_H
#define QB_LAYERS_ATTENTION_H

#include "layers/linear.h"
#include "layers/residual_norm.h"
#include "layers/sequences.h"

typedef struct qb_attention { /* shared by all sessions; const while they run forward */
    int64_t heads;            /* N */
    int64_t head_size;        /* D */
    qb_linear query, key, value;
    qb_quantizer *matmul_q, *matmul_k, *matmul_v, *matmul_a;
    qb_residual_norm output;
} qb_attention;

/* The limits of a session, as layers need them. */
typedef struct qb_limits {
    int64_t tokens; /* most computed tokens of a call */
    int64_t length; /* longest sequence */
    int keep_probabilities;
} qb_limits;

typedef struct qb_attention_work { /* one per session; every pointer is bound by plan */
    qb_linear_work query, key, value;
    qb_residual_norm_work output;
    float *q, *k, *v;                    /* (M, H) */
    int8_t *q_codes, *k_codes, *v_codes; /* (M, H) */
    float *context;                      /* (M, H) */
    float *probabilities;                /* per sequence (N, T, S), one after the other; NULL: not planned */
    float *score_step;                   /* (max length) */
    float *context_step;                 /* (D) */
    qb_scratch *scratch;
} qb_attention_work;

/* What one call brings besides x. */
typedef struct qb_attention_inputs {
    const qb_sequences *sequences;
    const float *head_mask; /* (N) factors of the probabilities; NULL: ones */
    /* Called with the layer's probabilities, per sequence (N, T, S), before matmul_a; NULL: not wanted. */
    void (*reader)(void *context, const float *probabilities);
    void *reader_context;
} qb_attention_inputs;

void qb_attention_init(qb_attention *self, int64_t hidden, int64_t heads, float eps);
void qb_attention_clear(qb_attention *self, qb_heap *heap);
qb_status qb_attention_visit(qb_attention *self, const qb_visitor *visitor, const qb_path *path);
size_t qb_attention_scratch_bytes(const qb_attention *self, const qb_kernels *kernels, const qb_limits *limits);
/* codes (max tokens, 3 H), values (max tokens, H) and local (max tokens, H) are lent by the parent. */
void qb_attention_plan(const qb_attention *self, qb_attention_work *work, qb_arena *arena, const qb_limits *limits,
                       int8_t *codes, float *values, float *local, qb_scratch *scratch);
/* Checks quantizers and packs weights. */
qb_status qb_attention_prepare(qb_attention *self, const qb_run *run);
qb_status qb_attention_observe_weights(qb_attention *self, const qb_run *run);
/* 1 if matmul_a, as it stands, needs the probabilities of the whole layer at once. */
int qb_attention_keeps_probabilities(const qb_attention *self);

/* y (M, H) holds x on entry and the result on return.  QB_ERR_VALUE: a NaN or infinity at an integer or collecting
 * site, with its name.  Requires work->probabilities if a reader is given or qb_attention_keeps_probabilities. */
qb_status qb_attention_forward(const qb_attention *self, const qb_attention_work *work, const qb_run *run,
                               const qb_attention_inputs *inputs, float *y);

#endif
