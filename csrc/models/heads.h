/* SPDX-License-Identifier: Apache-2.0
 *
 * The head interface: what turns hidden states into logits.
 *
 * A head is a line in the table of heads.c: a name, the layer's name in checkpoints, whether it reads every token or
 * the pooled output, and the verbs that compute it.  Most heads are one linear layer (head_linear.c); one that is more
 * is a file with verbs of its own, not a new branch.
 *
 * Heads are float products: the original quantizes none of them.  Some drop out what they read.
 */
#ifndef QB_MODELS_HEADS_H
#define QB_MODELS_HEADS_H

#include "layers/dropout.h"
#include "layers/layer_norm.h"
#include "layers/linear.h"
#include "models/batch.h"
#include "models/bert_config.h"
#include "qdqbert/qdqbert.h"

/* What heads are made of; a kind uses the parts it needs. */
typedef struct qb_head_layers {
    qb_linear output;    /* (C, H) */
    qb_linear transform; /* (H, H), language models */
    qb_layer_norm norm;  /* (H), language models */
    qb_activation activation;
} qb_head_layers;

typedef struct qb_head_work { /* one per session */
    qb_linear_work output;
    qb_linear_work transform;
    float *hidden;    /* (max tokens, H), language models */
    float *gathered;  /* (max rows, H), language models */
    float *logits;    /* (max rows, C) */
    int64_t max_rows; /* of logits */
    /* What backward of language models needs; (max tokens, H) but for the last, (max tokens, C). */
    float *x, *pre, *activated, *dtransformed, *dx, *dlogits;
    /* What backward of heads that drop out needs: x after dropout, and for heads that read tokens dx; as large as x. */
    float *dropped, *ddropped;
} qb_head_work;

typedef struct qb_head_inputs {
    const qb_batch *batch;
    const float *hidden; /* (M, H) */
    const float *pooled; /* (B, H); NULL without pooler */
    const qb_dropout_node *dropout;
    const int64_t *positions; /* (positions_count) b * T + t: the only tokens to score; NULL: all */
    int64_t positions_count;
} qb_head_inputs;

typedef struct qb_head_interface qb_head_interface;

typedef struct qb_head_verbs {
    /* `words` is the table of word embeddings, for heads that share it. */
    void (*init)(qb_head_layers *self, const qb_bert_config *config, int64_t classes, const qb_parameter *words);
    qb_status (*visit)(qb_head_layers *self, const qb_visitor *visitor, const qb_path *path);
    void (*plan)(const qb_head_layers *self, qb_head_work *work, qb_arena *arena, const qb_limits *limits,
                 qb_scratch *scratch);
    qb_status (*prepare)(qb_head_layers *self, const qb_run *run);
    /* out: where the caller expects the logits, (B, T, C), (positions, C) or (B, C); tokens that were not computed
     * become zero. */
    qb_status (*forward)(const qb_head_layers *self, const qb_head_work *work, const qb_run *run,
                         const qb_head_inputs *inputs, float *out);
    void (*gradient_sizes)(const qb_head_layers *self, const qb_kernels *kernels, const qb_limits *limits,
                           qb_gradient_sizes *sizes);
    /* dlogits: of out's shape.  dhidden (M, H) is added to by heads that read tokens, dpooled (B, H) written by those
     * that do not. */
    qb_status (*backward)(const qb_head_layers *self, const qb_head_work *work, const qb_gradient_work *gradient,
                          const qb_run *run, const qb_head_inputs *inputs, const float *dlogits, float *dhidden,
                          float *dpooled);
} qb_head_verbs;

struct qb_head_interface {
    qb_head kind;
    const char *name;       /* "question_answering" */
    const char *layer_name; /* "qa_outputs" */
    int is_pooled;          /* reads the pooled output, and gives one row for each sequence */
    int drops_out;          /* has a dropout before its layer */
    const qb_head_verbs *verbs;
};

extern const qb_head_verbs qb_head_linear;
extern const qb_head_verbs qb_head_pooled_linear;
extern const qb_head_verbs qb_head_language_model;

/* NULL for QB_HEAD_NONE and for values that are no head. */
const qb_head_interface *qb_head_find(qb_head kind);
/* C: labels, 2 for next sentence, the vocabulary for language models. */
int64_t qb_head_classes(const qb_head_interface *head, const qb_bert_config *config);

void qb_head_layers_clear(qb_head_layers *self, qb_heap *heap);
size_t qb_head_layers_scratch_bytes(const qb_head_layers *self, const qb_kernels *kernels);

#endif
