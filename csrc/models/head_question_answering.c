/* SPDX-License-Identifier: Apache-2.0
 *
 * Extractive question answering: C logits for every token, the first for "the answer starts here", the second for
 * "it ends here".
 *
 *   logits = hidden W' + b        hidden (M, H), logits (M, C) -> (B, T, C)
 *
 * Source: QDQBertForQuestionAnswering (REFERENCE 1.7).
 */
#include "models/heads.h"

static int64_t
rows(int64_t tokens, int64_t sequences)
{
    (void)sequences;
    return tokens;
}

static qb_status
forward(const qb_linear *layer, const qb_linear_work *work, const qb_run *run, const qb_head_inputs *inputs,
        float *logits)
{
    return qb_linear_forward(layer, work, run, inputs->hidden, inputs->batch->sequences.tokens, QB_ACTIVATION_NONE,
                             logits);
}

static void
store(const qb_batch *batch, const float *logits, int64_t classes, float *out)
{
    qb_batch_scatter(batch, logits, classes, out);
}

const qb_head_interface qb_head_question_answering = {
    .kind = QB_HEAD_QUESTION_ANSWERING,
    .needs_pooler = 0,
    .layer_name = "qa_outputs",
    .rows = rows,
    .forward = forward,
    .store = store,
};
