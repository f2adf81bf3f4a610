/* SPDX-License-Identifier: Apache-2.0
 *
 * The dropouts of a model, by number: the embeddings', five for each block, the head's.
 */
#ifndef QB_MODELS_DROPOUT_NODES_H
#define QB_MODELS_DROPOUT_NODES_H

#include "layers/dropout.h"
#include "models/bert_config.h"
#include "models/heads.h"

/* Nodes of a block, in the order of their numbers. */
typedef enum qb_block_dropout {
    QB_DROPOUT_ATTENTION_PROBABILITIES = 0,
    QB_DROPOUT_ATTENTION_OUTPUT,
    QB_DROPOUT_CROSS_PROBABILITIES,
    QB_DROPOUT_CROSS_OUTPUT,
    QB_DROPOUT_OUTPUT,
    QB_DROPOUTS_OF_BLOCK
} qb_block_dropout;

/* 2 + QB_DROPOUTS_OF_BLOCK L */
int64_t qb_dropout_nodes_count(int64_t layers);

/* The nodes of a call; each function gives NULL for one that drops nothing, as all do for nodes == NULL. */
const qb_dropout_node *qb_dropout_of_embeddings(const qb_dropout_node *nodes);
const qb_dropout_node *qb_dropout_of_block(const qb_dropout_node *nodes, int64_t layer, qb_block_dropout which);
const qb_dropout_node *qb_dropout_of_head(const qb_dropout_node *nodes, int64_t layers);

/* Fill nodes (qb_dropout_nodes_count) for a call, whose sequences they keep; head may be NULL.  QB_ERR_VALUE: a
 * probability that is none, or of a dropout that the model does not have. */
qb_status qb_dropout_nodes_fill(qb_dropout_node *nodes, const qb_bert_config *config, const qb_head_interface *head,
                                const qb_forward_inputs *inputs, const qb_sequences *sequences, qb_error *error);

#endif
