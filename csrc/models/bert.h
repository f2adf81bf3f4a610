/* SPDX-License-Identifier: Apache-2.0
 *
 * BERT's encoder: embeddings, blocks, pooler.
 *
 *   x_0 = embeddings(tokens);  x_i = block_i(x_{i-1});  pooled = pooler(x_L)
 *
 * Devlin et al. 2018; module tree: REFERENCE 1.3.
 */
#ifndef QB_MODELS_BERT_H
#define QB_MODELS_BERT_H

#include "layers/block.h"
#include "layers/embeddings.h"
#include "layers/pooler.h"
#include "models/bert_config.h"
#include "models/dropout_nodes.h"

typedef struct qb_bert {
    qb_embeddings embeddings;
    qb_block *blocks; /* (L); owned */
    int64_t num_blocks;
    int has_pooler;
    qb_pooler pooler;
} qb_bert;

typedef struct qb_bert_work {
    qb_block_work block;   /* of all blocks, one after the other; with what backward needs, if inputs are kept */
    qb_block_work *blocks; /* (L) of each block, with what backward needs; NULL: block serves all */
    float *inputs;         /* (L, M, H) of each block, which backward runs again; NULL: not kept */
    float *again;          /* (M, H) the hidden states of such a run */
    qb_block_gradient block_gradient;
    qb_gradient_work gradient;
    qb_pooler_work pooler;
    float *hidden; /* (M, H) */
    float *pooled; /* (B, H) */
    qb_scratch *scratch;
} qb_bert_work;

/* What one kind of attention, self or cross, looks at in a call. */
typedef struct qb_bert_keys {
    qb_attention_keys keys;             /* earlier_keys and earlier_values are set for each layer */
    const float *const *earlier_keys;   /* (L) or NULL */
    const float *const *earlier_values; /* (L) or NULL */
    int is_causal;
    /* Called with the probabilities of layer 0, 1, ...; NULL: not wanted. */
    void (*on_probabilities)(void *context, int64_t layer, const float *probabilities);
    /* Called with the projected keys and values of layer 0, 1, ...; NULL: not wanted. */
    void (*on_keys)(void *context, int64_t layer, const float *k, const float *v);
} qb_bert_keys;

/* What a forward is asked for on the way. */
typedef struct qb_bert_inputs {
    const qb_embeddings_input *tokens;
    const qb_sequences *sequences;
    const float *head_mask;          /* the heads of layer 0, then of layer 1, ...; or NULL */
    const qb_dropout_node *dropouts; /* (qb_dropout_nodes_count); NULL: nothing is dropped */
    int wants_pooled;                /* work->pooled is to be filled */
    const qb_bert_keys *self_keys;
    const qb_bert_keys *cross_keys; /* NULL: cross-attention is left out */
    /* Called with x_0, x_1, ... x_L (M, H); NULL: nobody looks at them. */
    void (*on_hidden)(void *context, int64_t index, const float *hidden);
    void *context; /* of all that is called */
} qb_bert_inputs;

/* QB_ERR_NOMEM leaves nothing behind. */
qb_status qb_bert_init(qb_bert *self, const qb_bert_config *config, qb_heap *heap, qb_error *error);
void qb_bert_clear(qb_bert *self, qb_heap *heap);
qb_status qb_bert_visit(qb_bert *self, const qb_visitor *visitor, const qb_path *path);
size_t qb_bert_scratch_bytes(const qb_bert *self, const qb_kernels *kernels, const qb_limits *limits);
/* `sizes` are what backward needs, the head's share included; NULL unless limits->trains. */
void qb_bert_plan(const qb_bert *self, qb_bert_work *work, qb_arena *arena, const qb_limits *limits,
                  const qb_gradient_sizes *sizes, qb_scratch *scratch);
/* Tell of everything between the embeddings and what the encoder gives. */
void qb_bert_visit_edges(const qb_bert *self, const qb_edge_visitor *visitor);
qb_status qb_bert_prepare(qb_bert *self, const qb_run *run);
qb_status qb_bert_observe_weights(qb_bert *self, const qb_run *run);
/* 1 if a matmul_a quantizer needs the probabilities of its whole layer. */
int qb_bert_keeps_probabilities(const qb_bert *self);
qb_status qb_bert_forward(const qb_bert *self, const qb_bert_work *work, const qb_run *run,
                          const qb_bert_inputs *inputs);

void qb_bert_gradient_sizes(const qb_bert *self, const qb_kernels *kernels, const qb_limits *limits,
                            qb_gradient_sizes *sizes);

typedef struct qb_bert_gradients {
    float *dhidden; /* (M, H) the gradient of x_L on entry, that of the embeddings' sum on return */
    float *dpooled; /* (B, H) of work->pooled, overwritten; NULL: none */
    float *dmemory; /* (encoder tokens, H) added to; NULL: not wanted */
    /* Called with the gradients of x_L, ... x_1, x_0 (M, H), to which it may add. */
    void (*on_dhidden)(void *context, int64_t index, float *dhidden);
    void *context;
} qb_bert_gradients;

/* `inputs` are those of forward. */
qb_status qb_bert_backward(const qb_bert *self, const qb_bert_work *work, const qb_run *run,
                           const qb_bert_inputs *inputs, const qb_bert_gradients *gradients);

#endif
