/* SPDX-License-Identifier: Apache-2.0
 *
 * Scaled dot-product attention with several heads, behind its quantizers.  This comment is the specification.
 *
 *   q = x Wq' + bq,  k = z Wk' + bk,  v = z Wv' + bv           x (M, H), q (M, N D), k, v (keys, N D)
 *
 * z is x itself (self-attention) or the hidden states of an encoder (cross-attention).  Keys and values of earlier
 * calls stand before those of this call.  For every sequence (T tokens, S keys) and head, with q, k, v its rows and
 * columns:
 *
 *   s = (Qq(q) Qk(k)' + r) / sqrt(D) + mask                    (T, S)
 *   p = dropout(softmax(s)) * head_mask                        (T, S)
 *   c = Qa(p) Qv(v)                                            (T, D)
 *
 *   y = LayerNorm(Ql(dropout(c Wo' + bo)) + Qr(x))             residual_norm.h
 *
 * Relative positions, for a query at place i of its row and a key at place j, with a table E (2 P - 1, D):
 *
 *   relative_key         r = q . E[i - j + P - 1]
 *   relative_key_query   r = q . E[i - j + P - 1] + k . E[i - j + P - 1]
 *
 * of q and k before their quantizers.  Absolute positions: r is absent.  Causal: a query sees the keys up to its own
 * place.  N may be smaller than H / D once heads were pruned.
 *
 * Quantizers see whole layers: one range for all sequences and heads.  Both products are sites (site.h):
 *
 *   scores   integer: s = (fma((float)acc, step_q * step_k, +0) + r) / sqrt(D);  float: (acc + r) / sqrt(D);
 *            r of relative_key_query is added term by term, first q's
 *   context  integer: c = fma((float)acc, step_a * step_v, +0);            float: acc
 *
 * Operands that nobody needs as floats are made as codes at once (site.h, qb_edge): q, k and v by their products,
 * c by the items.
 *
 * Work items are (sequence, head), cut by query rows when there are few of them.  An item packs its keys and values and
 * runs over blocks of query rows, so that the (B, N, T, S) tensor never exists: a block's scores stay in the cache from
 * the first product to the second.  When somebody asks for the probabilities (output_attentions, a collecting or
 * dynamic matmul_a quantizer, or one that does not fit codes), the same item code runs in two regions with the
 * probabilities of the whole layer kept in between.  Otherwise their codes are made with them, where the context is
 * integer and neither dropout nor the head mask comes in between.  Kernels that give the same bits compute each row in
 * either way.
 *
 * A position with mask 0 gets probability exactly 0, because exp underflows; a row with all keys masked gets what the
 * original gives, the same probability for every key.  A key that a causal query does not see has probability 0 too, so
 * a token has the same bits whether its predecessors are computed with it or come from an earlier call.
 *
 * Backward, for every sequence and head, from dc (T, D):
 *
 *   dv  = Qa(p)' dc                          where |v| <= amax_v, else 0
 *   dp  = (dc Qv(v)') head_mask              where |p| <= amax_a, else 0
 *   dp  = dropout(dp)                        with forward's mask
 *   ds  = softmax(s) (dp - sum_j dp softmax(s)) / sqrt(D)
 *   dq  = ds Qk(k)                           where |q| <= amax_q, else 0
 *   dk  = ds' Qq(q)                          where |k| <= amax_k, else 0
 *
 * and with relative positions, whose r is of unquantized q and k:
 *
 *   dq[i] += sum_j ds[i,j] E[i - j + P - 1],  dE[i - j + P - 1] += ds[i,j] q[i],  and the same of k
 *
 * Probabilities are recomputed, not kept.  Where the whole layer's are needed at once (as forward does), three tensors
 * of them exist for one layer at a time.
 *
 * Source: Vaswani et al. 2017, section 3.2; Shaw et al. 2018 and Huang et al. 2020 for relative positions;
 * QDQBertSelfAttention (REFERENCE 1.4, 1.5).
 */
#ifndef QB_LAYERS_ATTENTION_H
#define QB_LAYERS_ATTENTION_H

#include "layers/linear.h"
#include "layers/residual_norm.h"
#include "layers/sequences.h"

typedef enum qb_positions {
    QB_POSITIONS_ABSOLUTE = 0,
    QB_POSITIONS_RELATIVE_KEY,
    QB_POSITIONS_RELATIVE_KEY_QUERY
} qb_positions;

typedef struct qb_attention_shape {
    int64_t hidden;    /* H */
    int64_t heads;     /* N */
    int64_t head_size; /* D */
    qb_positions positions;
    int64_t max_positions; /* P; used by relative positions */
    int is_cross;          /* keys and values come from an encoder */
} qb_attention_shape;

typedef struct qb_attention { /* shared by all sessions; const while they run forward */
    int64_t heads;            /* N */
    int64_t head_size;        /* D */
    qb_positions positions;
    int is_cross;
    qb_linear query, key, value;
    qb_linear distance; /* E as a layer without bias; relative positions only */
    qb_quantizer *matmul_q, *matmul_k, *matmul_v, *matmul_a;
    qb_residual_norm output;
} qb_attention;

/* The limits of a session, as layers need them. */
typedef struct qb_limits {
    int64_t sequences;
    int64_t tokens;         /* most computed tokens of a call */
    int64_t length;         /* longest sequence */
    int64_t past;           /* most keys of earlier calls in a sequence */
    int64_t encoder_length; /* longest sequence of an encoder; 0: no cross-attention */
    int keep_probabilities;
    int trains;     /* work structs keep what backward needs; past is 0 then */
    int recomputes; /* those of one layer serve all, since it runs again in backward */
} qb_limits;

/* Most keys of all sequences together, and of one. */
int64_t qb_attention_key_tokens(const qb_attention *self, const qb_limits *limits);
int64_t qb_attention_key_length(const qb_attention *self, const qb_limits *limits);

typedef struct qb_attention_work { /* one per session; every pointer is bound by plan */
    qb_linear_work query, key, value;
    qb_residual_norm_work output;
    float *q, *k, *v;                    /* (M, N D), (keys, N D) */
    float *new_k, *new_v;                /* (M, N D) before they join earlier ones; NULL: there are none */
    float *q_values, *k_values;          /* quantized q and k where r needs them unquantized; otherwise q and k */
    float *v_values;                     /* quantized v; v itself unless backward will ask for it */
    float *x;                            /* (M, H) the input, saved; NULL: nobody will ask for gradients */
    int8_t *q_codes, *k_codes, *v_codes; /* as q, k, v */
    float *context;                      /* (M, N D), or its codes */
    float *probabilities;                /* per sequence (N, T, S), one after the other; NULL: not planned */
    float *score_step;                   /* (max keys) */
    float *context_step;                 /* (D) */
    qb_scratch *scratch;
} qb_attention_work;

/* What is looked at.  Each sequence has its earlier keys first, at the columns that places says, then the projected
 * ones; cross-attention has keys of one kind only. */
typedef struct qb_attention_keys {
    qb_sequences sequences;
    const float *memory;                        /* (projected, H) z; NULL: x */
    int64_t projected;                          /* tokens of z; 0: every key is an earlier one */
    int64_t earlier_width;                      /* columns of the two below; 0: every key is projected */
    const float *earlier_keys, *earlier_values; /* (count, N, earlier_width, D) */
} qb_attention_keys;

/* What one call brings besides x. */
typedef struct qb_attention_inputs {
    const qb_coded *x; /* what there is of x; NULL: its floats */
    qb_coded *y;       /* what is wanted of the result, and is there on return; NULL: its floats */
    const qb_sequences *sequences;
    const qb_attention_keys *keys;
    int is_causal;                         /* self-attention only: a mask of rank 3 says more and is obeyed instead */
    const float *head_mask;                /* (N) factors of the probabilities; NULL: ones */
    const qb_dropout_node *dropout;        /* of the probabilities */
    const qb_dropout_node *output_dropout; /* of the dense layer's output */
    int64_t layer;                         /* what the readers are told */
    /* Called with the layer's probabilities, per sequence (N, T, S), before matmul_a; NULL: not wanted. */
    void (*reader)(void *context, int64_t layer, const float *probabilities);
    /* Called with the projected keys and values (projected, N D) before their quantizers; NULL: not wanted. */
    void (*key_reader)(void *context, int64_t layer, const float *k, const float *v);
    void *reader_context; /* of both */
} qb_attention_inputs;

void qb_attention_init(qb_attention *self, const qb_attention_shape *shape, float eps);
void qb_attention_clear(qb_attention *self, qb_heap *heap);
qb_status qb_attention_visit(qb_attention *self, const qb_visitor *visitor, const qb_path *path);
size_t qb_attention_scratch_bytes(const qb_attention *self, const qb_kernels *kernels, const qb_limits *limits);

/* What is made and used up within one call of one layer: layers that run one after the other may share it. */
typedef struct qb_attention_lent {
    float *q_values, *k_values, *v_values; /* NULL: q, k and v may be overwritten */
    int8_t *q_codes, *k_codes, *v_codes;
    float *probabilities; /* NULL: not planned */
} qb_attention_lent;

void qb_attention_lent_plan(const qb_attention *self, qb_attention_lent *lent, qb_arena *arena,
                            const qb_limits *limits);
/* As qb_attention_plan, with all of that lent by the parent. */
void qb_attention_plan_lent(const qb_attention *self, qb_attention_work *work, qb_arena *arena, const qb_limits *limits,
                            const qb_attention_lent *lent, int8_t *codes, float *values, float *local,
                            qb_scratch *scratch);
/* codes (rows, 3 H), values (rows, H) and local (max tokens, H) are lent by the parent; rows is the larger of the
 * tokens and the encoder's tokens. */
void qb_attention_plan(const qb_attention *self, qb_attention_work *work, qb_arena *arena, const qb_limits *limits,
                       int8_t *codes, float *values, float *local, qb_scratch *scratch);
/* Checks quantizers and packs weights. */
qb_status qb_attention_prepare(qb_attention *self, const qb_run *run);
qb_status qb_attention_observe_weights(qb_attention *self, const qb_run *run);
/* 1 if matmul_a, as it stands, needs the probabilities of the whole layer at once. */
int qb_attention_keeps_probabilities(const qb_attention *self);

/* The form in which x is wanted: an order of qb_coded_begin. */
void qb_attention_want(const qb_attention *self, const qb_attention_work *work, qb_coded *x);
/* Tell of x, which comes `from` elsewhere, of z, and of what is made here but y: in a forward without keys of earlier
 * calls. */
void qb_attention_visit_edges(const qb_attention *self, const qb_edge_visitor *visitor, const qb_edge *from);

/* work->k and work->v from the earlier keys and values and, if any were projected, work->new_k and work->new_v. */
qb_status qb_attention_join_keys(const qb_attention *self, const qb_attention_work *work, const qb_run *run,
                                 const qb_sequences *queries, const qb_attention_keys *keys);

/* y (M, H) holds x on entry and the result on return.  QB_ERR_VALUE: a NaN or infinity at an integer or collecting
 * site, with its name.  Requires work->probabilities if a reader is given or qb_attention_keeps_probabilities. */
qb_status qb_attention_forward(const qb_attention *self, const qb_attention_work *work, const qb_run *run,
                               const qb_attention_inputs *inputs, float *y);

/* Buffers of backward; one per session. */
typedef struct qb_attention_gradient {
    float *dcontext;    /* (M, N D) */
    float *dq;          /* (M, N D) */
    float *dk, *dv;     /* (keys, N D) */
    float *softmax;     /* per sequence (N, T, S); NULL: not planned, nor the two below */
    float *head_masked; /* the same after dropout and times head_mask */
    float *dscores;     /* the values that are multiplied, then dp, then ds */
} qb_attention_gradient;

void qb_attention_gradient_plan(const qb_attention *self, qb_attention_gradient *gradient, qb_arena *arena,
                                const qb_limits *limits);
void qb_attention_gradient_sizes(const qb_attention *self, const qb_kernels *kernels, const qb_limits *limits,
                                 qb_gradient_sizes *sizes);
/* y (M, H) holds dy on entry and dx on return.  dmemory (projected, H) is added to, in cross-attention; NULL: not
 * wanted.  `inputs` are those of forward, whose head_mask and keys must still be there. */
qb_status qb_attention_backward(const qb_attention *self, const qb_attention_work *work,
                                const qb_attention_gradient *gradient, const qb_gradient_work *shared,
                                const qb_run *run, const qb_attention_inputs *inputs, float *y, float *dmemory);

#endif
