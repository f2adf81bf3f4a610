/* SPDX-License-Identifier: Apache-2.0 */
#include "models/dropout_nodes.h"

#include <inttypes.h>

int64_t
qb_dropout_nodes_count(int64_t layers)
{
    return 2 + QB_DROPOUTS_OF_BLOCK * layers;
}

static const qb_dropout_node *
node_at(const qb_dropout_node *nodes, int64_t index)
{
    return nodes != NULL && nodes[index].is_active ? &nodes[index] : NULL;
}

const qb_dropout_node *
qb_dropout_of_embeddings(const qb_dropout_node *nodes)
{
    return node_at(nodes, 0);
}

const qb_dropout_node *
qb_dropout_of_block(const qb_dropout_node *nodes, int64_t layer, qb_block_dropout which)
{
    return node_at(nodes, 1 + QB_DROPOUTS_OF_BLOCK * layer + which);
}

const qb_dropout_node *
qb_dropout_of_head(const qb_dropout_node *nodes, int64_t layers)
{
    return node_at(nodes, 1 + QB_DROPOUTS_OF_BLOCK * layers);
}

/* Why the model has no dropout of this number; NULL: it has. */
static const char *
absence(const qb_bert_config *config, const qb_head_interface *head, int64_t index)
{
    if (index == 0) {
        return NULL;
    }
    if (index == 1 + QB_DROPOUTS_OF_BLOCK * config->num_layers) {
        return head != NULL && head->drops_out ? NULL : "the model's head has no dropout";
    }
    const int64_t which = (index - 1) % QB_DROPOUTS_OF_BLOCK;
    const int is_cross = which == QB_DROPOUT_CROSS_PROBABILITIES || which == QB_DROPOUT_CROSS_OUTPUT;
    return is_cross && !config->has_cross_attention ? "the model was made without cross-attention" : NULL;
}

qb_status
qb_dropout_nodes_fill(qb_dropout_node *nodes, const qb_bert_config *config, const qb_head_interface *head,
                      const qb_forward_inputs *inputs, const qb_sequences *sequences, qb_error *error)
{
    const int64_t count = qb_dropout_nodes_count(config->num_layers);
    for (int64_t i = 0; i < count; i++) {
        const float p = inputs->dropout_probabilities[i];
        const char *reason = absence(config, head, i);
        if (!(p >= 0.0f && p <= 1.0f)) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "dropout_probabilities[%" PRId64 "] is %g, expected 0 .. 1", i,
                           (double)p);
        }
        if (p > 0.0f && reason != NULL) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "dropout_probabilities[%" PRId64 "] is %g, expected 0: %s", i,
                           (double)p, reason);
        }
        const int is_one_row = i == count - 1 && head != NULL && head->is_pooled;
        nodes[i] = qb_dropout_node_of(p, inputs->dropout_seed, inputs->dropout_step, (uint32_t)i, (uint32_t)count,
                                      is_one_row ? NULL : sequences);
    }
    return QB_OK;
}
