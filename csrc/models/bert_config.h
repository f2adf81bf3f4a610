/* SPDX-License-Identifier: Apache-2.0
 *
 * The configuration of a BERT, checked once: whoever holds a qb_bert_config need not ask again.
 */
#ifndef QB_MODELS_BERT_CONFIG_H
#define QB_MODELS_BERT_CONFIG_H

#include "core/kernel_types.h"
#include "layers/attention.h"
#include "qdqbert/qdqbert.h"

typedef struct qb_bert_config {
    int64_t vocab_size;        /* V */
    int64_t hidden_size;       /* H, a multiple of num_heads */
    int64_t num_layers;        /* L */
    int64_t num_heads;         /* N */
    int64_t intermediate_size; /* I */
    int64_t max_positions;     /* P */
    int64_t type_vocab_size;
    int64_t num_labels; /* C */
    float layer_norm_eps;
    qb_activation activation;
    qb_head head;
    int has_pooler;
    qb_positions positions;
    int has_cross_attention;
    int tie_word_embeddings;
    const int64_t *heads_of_layers; /* (L), or NULL: num_heads in each; the options' array, for the length of create */
    int64_t padding_token;          /* an id, or -1 */
    qb_quantizer_options input_quantizer, weight_quantizer;
} qb_bert_config;

/* Widest layer and longest sequence: every product of the model can then be one of codes. */
#define QB_MAX_FEATURES QB_DEPTH_MAX

/* Heads of layer `layer` that pruning has left. */
int64_t qb_bert_config_heads(const qb_bert_config *config, int64_t layer);

/* Check options (reading only struct_size bytes) and translate them.  The heads decide about the pooler; for
 * QB_HEAD_NONE the option does.  QB_ERR_VALUE names the option, what was expected and what came. */
qb_status qb_bert_config_init(qb_bert_config *config, const qb_model_options *options, qb_error *error);

#endif
