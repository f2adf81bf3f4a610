/* SPDX-License-Identifier: Apache-2.0
 *
 * Heads that are one linear layer:
 *
 *   logits = dropout(x) W' + b      x: every token's hidden state (M, H) -> (B, T, C), or
 *                                      the pooled output (B, H) -> (B, C)
 *
 * Extractive question answering (C = 2: "the answer starts here", "it ends here") and token classification read
 * tokens; sequence classification, regression, multiple choice (C = 1, one sequence for each choice) and next-sentence
 * prediction read the pooled output.  Question answering and next-sentence prediction have no dropout.
 *
 * Source: QDQBertForQuestionAnswering, ...TokenClassification, ...SequenceClassification, ...MultipleChoice,
 * ...NextSentencePrediction (REFERENCE 1.7).
 */
#include "models/heads.h"

static void
init(qb_head_layers *self, const qb_bert_config *config, int64_t classes, const qb_parameter *words)
{
    (void)words;
    *self = (qb_head_layers){.activation = QB_ACTIVATION_NONE};
    qb_linear_init(&self->output, config->hidden_size, classes, 0);
}

static qb_status
visit(qb_head_layers *self, const qb_visitor *visitor, const qb_path *path)
{
    return qb_linear_visit(&self->output, visitor, path);
}

static void
plan_tokens(const qb_head_layers *self, qb_head_work *work, qb_arena *arena, const qb_limits *limits,
            qb_scratch *scratch)
{
    *work = (qb_head_work){.max_rows = limits->tokens};
    qb_linear_plan(&self->output, &work->output, arena, NULL, NULL, scratch);
    work->logits = qb_arena_take(arena, limits->tokens, (size_t)self->output.out_features * sizeof *work->logits);
    if (limits->trains) {
        const size_t row = (size_t)self->output.in_features * sizeof *work->dropped;
        work->dropped = qb_arena_take(arena, limits->tokens, row);
        work->ddropped = qb_arena_take(arena, limits->tokens, row);
    }
}

static void
plan_pooled(const qb_head_layers *self, qb_head_work *work, qb_arena *arena, const qb_limits *limits,
            qb_scratch *scratch)
{
    *work = (qb_head_work){.max_rows = 0};
    qb_linear_plan(&self->output, &work->output, arena, NULL, NULL, scratch);
    if (limits->trains) {
        const size_t row = (size_t)self->output.in_features * sizeof *work->dropped;
        work->dropped = qb_arena_take(arena, limits->sequences, row);
    }
}

static qb_status
prepare(qb_head_layers *self, const qb_run *run)
{
    return qb_linear_prepare(&self->output, run);
}

/* *dropped is x (rows, H) itself where nothing is dropped. */
static qb_status
drop(const qb_head_layers *self, const qb_head_work *work, const qb_run *run, const qb_head_inputs *inputs,
     const float *x, int64_t rows, const float **dropped)
{
    *dropped = inputs->dropout == NULL ? x : work->dropped;
    return inputs->dropout == NULL
               ? QB_OK
               : qb_dropout_apply(run, inputs->dropout, x, rows, self->output.in_features, work->dropped);
}

static qb_status
forward_tokens(const qb_head_layers *self, const qb_head_work *work, const qb_run *run, const qb_head_inputs *inputs,
               float *out)
{
    const int64_t rows = inputs->batch->sequences.tokens;
    const float *x;
    QB_TRY(drop(self, work, run, inputs, inputs->hidden, rows, &x));
    QB_TRY(qb_linear_forward(&self->output, &work->output, run, x, rows, QB_ACTIVATION_NONE, work->logits));
    qb_batch_scatter(inputs->batch, work->logits, self->output.out_features, out);
    return QB_OK;
}

static qb_status
forward_pooled(const qb_head_layers *self, const qb_head_work *work, const qb_run *run, const qb_head_inputs *inputs,
               float *out)
{
    const int64_t rows = inputs->batch->sequences.count;
    const float *x;
    QB_TRY(drop(self, work, run, inputs, inputs->pooled, rows, &x));
    return qb_linear_forward(&self->output, &work->output, run, x, rows, QB_ACTIVATION_NONE, out);
}

static void
gradient_sizes_tokens(const qb_head_layers *self, const qb_kernels *kernels, const qb_limits *limits,
                      qb_gradient_sizes *sizes)
{
    qb_linear_gradient_sizes(&self->output, kernels, limits->tokens, sizes);
}

static void
gradient_sizes_pooled(const qb_head_layers *self, const qb_kernels *kernels, const qb_limits *limits,
                      qb_gradient_sizes *sizes)
{
    qb_linear_gradient_sizes(&self->output, kernels, limits->sequences, sizes);
}

static qb_status
backward_tokens(const qb_head_layers *self, const qb_head_work *work, const qb_gradient_work *gradient,
                const qb_run *run, const qb_head_inputs *inputs, const float *dlogits, float *dhidden, float *dpooled)
{
    const int64_t rows = inputs->batch->sequences.tokens;
    const int64_t h = self->output.in_features;
    (void)dpooled;
    qb_batch_gather(inputs->batch, dlogits, self->output.out_features, work->logits);
    if (inputs->dropout == NULL) {
        return qb_linear_backward_accumulate(&self->output, gradient, run, inputs->hidden, rows, work->logits, dhidden);
    }
    QB_TRY(qb_linear_backward(&self->output, gradient, run, work->dropped, rows, work->logits, work->ddropped));
    QB_TRY(qb_dropout_apply(run, inputs->dropout, work->ddropped, rows, h, work->ddropped));
    return qb_gradient_add(run, work->ddropped, rows * h, dhidden);
}

static qb_status
backward_pooled(const qb_head_layers *self, const qb_head_work *work, const qb_gradient_work *gradient,
                const qb_run *run, const qb_head_inputs *inputs, const float *dlogits, float *dhidden, float *dpooled)
{
    const int64_t rows = inputs->batch->sequences.count;
    const float *x = inputs->dropout == NULL ? inputs->pooled : work->dropped;
    (void)dhidden;
    QB_TRY(qb_linear_backward(&self->output, gradient, run, x, rows, dlogits, dpooled));
    return qb_dropout_apply(run, inputs->dropout, dpooled, rows, self->output.in_features, dpooled);
}

const qb_head_verbs qb_head_linear = {.init = init,
                                      .visit = visit,
                                      .plan = plan_tokens,
                                      .prepare = prepare,
                                      .forward = forward_tokens,
                                      .gradient_sizes = gradient_sizes_tokens,
                                      .backward = backward_tokens};

const qb_head_verbs qb_head_pooled_linear = {.init = init,
                                             .visit = visit,
                                             .plan = plan_pooled,
                                             .prepare = prepare,
                                             .forward = forward_pooled,
                                             .gradient_sizes = gradient_sizes_pooled,
                                             .backward = backward_pooled};
