/* SPDX-License-Identifier: Apache-2.0
 *
 * Classification or regression of whole sequences from the pooled output.
 *
 *   logits = pooled W' + b        pooled (B, H), logits (B, C)
 *
 * Source: QDQBertForSequenceClassification (REFERENCE 1.7).
 */
#include <string.h>

#include "models/heads.h"

static int64_t
rows(int64_t tokens, int64_t sequences)
{
    (void)tokens;
    return sequences;
}

static qb_status
forward(const qb_linear *layer, const qb_linear_work *work, const qb_run *run, const qb_head_inputs *inputs,
        float *logits)
{
    return qb_linear_forward(layer, work, run, inputs->pooled, inputs->batch->sequences.count, QB_ACTIVATION_NONE,
                             logits);
}

static void
store(const qb_batch *batch, const float *logits, int64_t classes, float *out)
{
    memcpy(out, logits, (size_t)(batch->batch * classes) * sizeof *out);
}

const qb_head_interface qb_head_sequence_classification = {
    .kind = QB_HEAD_SEQUENCE_CLASSIFICATION,
    .needs_pooler = 1,
    .layer_name = "classifier",
    .rows = rows,
    .forward = forward,
    .store = store,
};
