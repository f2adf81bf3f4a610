/* SPDX-License-Identifier: Apache-2.0
 *
 * Masked and causal language models: a score for every word at every token.
 *
 *   t = LayerNorm(activation(x W' + b))      x, t (M, H)
 *   logits = t E' + c                        E (V, H), c (V), logits (M, V) -> (B, T, V)
 *
 * E is the table of word embeddings itself (tied), or a parameter of its own.  c is called `bias` of the whole head;
 * the original's `decoder.bias` is the same tensor.  Logits are the largest tensor of the model by far, so they are
 * made in blocks of rows: straight in the caller's memory where a block's tokens are neighbours there, through a
 * buffer where padding lies between.
 *
 * A caller who needs few of them (the masked ones, the last one) names their positions, and the whole head runs on
 * those.
 *
 * Source: QDQBertLMPredictionHead (REFERENCE 1.7).
 */
#include <string.h>

#include "models/heads.h"

/* Enough rows to use a panel of the table many times while it is in the cache; a buffer of 15 MB for 30,522 words. */
#define BLOCK_ROWS 128

static void
init(qb_head_layers *self, const qb_bert_config *config, int64_t classes, const qb_parameter *words)
{
    *self = (qb_head_layers){.activation = config->activation};
    qb_linear_init(&self->transform, config->hidden_size, config->hidden_size, 0);
    qb_layer_norm_init(&self->norm, config->hidden_size, config->layer_norm_eps);
    qb_linear_init(&self->output, config->hidden_size, classes, 0);
    self->output.weight.tied_to = config->tie_word_embeddings ? words : NULL;
}

static qb_status
visit(qb_head_layers *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path dense = {path, "transform.dense"};
    const qb_path norm = {path, "transform.LayerNorm"};
    const qb_path decoder = {path, "decoder"};
    QB_TRY(qb_visit_parameter(visitor, path, "bias", &self->output.bias));
    QB_TRY(qb_linear_visit(&self->transform, visitor, &dense));
    QB_TRY(qb_layer_norm_visit(&self->norm, visitor, &norm));
    return qb_linear_visit_weight(&self->output, visitor, &decoder);
}

static void
plan(const qb_head_layers *self, qb_head_work *work, qb_arena *arena, const qb_limits *limits, qb_scratch *scratch)
{
    const int64_t m = limits->tokens;
    const size_t h = (size_t)self->transform.out_features;
    *work = (qb_head_work){.max_rows = m < BLOCK_ROWS ? m : BLOCK_ROWS};
    qb_linear_plan(&self->transform, &work->transform, arena, NULL, NULL, scratch);
    qb_linear_plan(&self->output, &work->output, arena, NULL, NULL, scratch);
    work->hidden = qb_arena_take(arena, m, h * sizeof *work->hidden);
    work->gathered = qb_arena_take(arena, work->max_rows, h * sizeof *work->gathered);
    work->logits = qb_arena_take(arena, work->max_rows, (size_t)self->output.out_features * sizeof *work->logits);
    if (limits->trains) {
        float **const saved[] = {&work->x, &work->pre, &work->activated, &work->dtransformed, &work->dx};
        for (size_t i = 0; i < sizeof saved / sizeof saved[0]; i++) {
            *saved[i] = qb_arena_take(arena, m, h * sizeof(float));
        }
        work->dlogits = qb_arena_take(arena, m, (size_t)self->output.out_features * sizeof *work->dlogits);
    }
}

static qb_status
prepare(qb_head_layers *self, const qb_run *run)
{
    const qb_path dense = {run->path, "transform.dense"};
    const qb_path decoder = {run->path, "decoder"};
    const qb_run at_dense = qb_run_enter(run, &dense);
    const qb_run at_decoder = qb_run_enter(run, &decoder);
    QB_TRY(qb_linear_prepare(&self->transform, &at_dense));
    return qb_linear_prepare(&self->output, &at_decoder);
}

typedef struct norm_job {
    const qb_head_layers *self;
    const qb_kernels *kernels;
    float *x;
} norm_job;

static void
normalize_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const norm_job *job = argument;
    const qb_layer_norm *norm = &job->self->norm;
    float *rows = job->x + begin * norm->features;
    (void)worker;
    job->kernels->layer_norm_f32(rows, (size_t)(end - begin), (size_t)norm->features, norm->weight.data,
                                 norm->bias.data, norm->eps, rows);
}

/* t of x (rows, H), in work->hidden. */
static qb_status
transform(const qb_head_layers *self, const qb_head_work *work, const qb_run *run, const float *x, int64_t rows)
{
    const qb_path dense = {run->path, "transform.dense"};
    const qb_run at_dense = qb_run_enter(run, &dense);
    norm_job job = {.self = self, .kernels = run->kernels, .x = work->hidden};
    QB_TRY(qb_linear_forward(&self->transform, &work->transform, &at_dense, x, rows, self->activation, work->hidden));
    return qb_run_parallel(run, rows, 16, normalize_rows, &job);
}

/* The computed token at a position, or -1: rows increase. */
static int64_t
token_at(const qb_batch *batch, int64_t position)
{
    int64_t low = 0;
    int64_t high = batch->sequences.tokens;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (batch->rows[middle] < position) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low < batch->sequences.tokens && batch->rows[low] == position ? low : -1;
}

/* Only the tokens that were asked for: gathered, then the whole head, a block at a time. */
static qb_status
forward_positions(const qb_head_layers *self, const qb_head_work *work, const qb_run *run, const qb_head_inputs *inputs,
                  float *out)
{
    const qb_path decoder = {run->path, "decoder"};
    const qb_run at_decoder = qb_run_enter(run, &decoder);
    const int64_t h = self->norm.features;
    const int64_t v = self->output.out_features;
    for (int64_t first = 0; first < inputs->positions_count; first += work->max_rows) {
        const int64_t left = inputs->positions_count - first;
        const int64_t rows = left < work->max_rows ? left : work->max_rows;
        for (int64_t i = 0; i < rows; i++) {
            const int64_t token = token_at(inputs->batch, inputs->positions[first + i]);
            float *row = work->gathered + i * h;
            if (token < 0) {
                memset(row, 0, (size_t)h * sizeof *row);
            }
            else {
                memcpy(row, inputs->hidden + token * h, (size_t)h * sizeof *row);
            }
        }
        QB_TRY(transform(self, work, run, work->gathered, rows));
        QB_TRY(qb_linear_forward(&self->output, &work->output, &at_decoder, work->hidden, rows, QB_ACTIVATION_NONE,
                                 out + first * v));
        for (int64_t i = 0; i < rows; i++) {
            if (token_at(inputs->batch, inputs->positions[first + i]) < 0) {
                memset(out + (first + i) * v, 0, (size_t)v * sizeof *out);
            }
        }
    }
    return QB_OK;
}

static qb_status
forward(const qb_head_layers *self, const qb_head_work *work, const qb_run *run, const qb_head_inputs *inputs,
        float *out)
{
    if (inputs->positions != NULL) {
        return forward_positions(self, work, run, inputs, out);
    }
    const qb_path decoder = {run->path, "decoder"};
    const qb_run at_decoder = qb_run_enter(run, &decoder);
    const qb_batch *batch = inputs->batch;
    const int64_t tokens = batch->sequences.tokens;
    const int64_t h = self->norm.features;
    const int64_t v = self->output.out_features;
    const size_t row_bytes = (size_t)v * sizeof *out;
    QB_TRY(transform(self, work, run, inputs->hidden, tokens));
    int64_t next = 0; /* row of out */
    for (int64_t m = 0; m < tokens; m += work->max_rows) {
        const int64_t rows = tokens - m < work->max_rows ? tokens - m : work->max_rows;
        const int64_t *places = batch->rows + m;
        const int is_dense = places[rows - 1] - places[0] == rows - 1;
        float *y = is_dense ? out + places[0] * v : work->logits;
        QB_TRY(qb_linear_forward(&self->output, &work->output, &at_decoder, work->hidden + m * h, rows,
                                 QB_ACTIVATION_NONE, y));
        for (int64_t i = 0; i < rows; i++) {
            memset(out + next * v, 0, (size_t)(places[i] - next) * row_bytes);
            if (!is_dense) {
                memcpy(out + places[i] * v, work->logits + i * v, row_bytes);
            }
            next = places[i] + 1;
        }
    }
    memset(out + next * v, 0, (size_t)(batch->batch * batch->length - next) * row_bytes);
    return QB_OK;
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

static void
gradient_sizes(const qb_head_layers *self, const qb_kernels *kernels, const qb_limits *limits, qb_gradient_sizes *sizes)
{
    qb_linear_gradient_sizes(&self->output, kernels, limits->tokens, sizes);
    qb_layer_norm_gradient_sizes(&self->norm, limits->tokens, sizes);
    qb_linear_gradient_sizes(&self->transform, kernels, limits->tokens, sizes);
}

/* Rows of hidden states and of the gradient, as the head saw them; *rows becomes their count. */
static qb_status
gather(const qb_head_work *work, const qb_run *run, const qb_head_inputs *inputs, int64_t h, int64_t v,
       const float *dlogits, int64_t *rows)
{
    const qb_batch *batch = inputs->batch;
    const int64_t tokens = batch->sequences.tokens;
    if (inputs->positions == NULL) {
        *rows = tokens;
        qb_batch_gather(batch, dlogits, v, work->dlogits);
        return qb_gradient_copy(run, inputs->hidden, tokens * h, work->x);
    }
    *rows = 0;
    for (int64_t i = 0; i < inputs->positions_count; i++) {
        const int64_t token = token_at(batch, inputs->positions[i]);
        if (token < 0) {
            continue;
        }
        if (*rows == tokens) {
            return qb_fail(run->error, run->path, QB_ERR_VALUE,
                           "logits_positions name more places than there are tokens, expected each once at most");
        }
        memcpy(work->x + *rows * h, inputs->hidden + token * h, (size_t)h * sizeof(float));
        memcpy(work->dlogits + *rows * v, dlogits + i * v, (size_t)v * sizeof(float));
        (*rows)++;
    }
    return QB_OK;
}

static void
scatter_accumulate(const qb_head_work *work, const qb_run *run, const qb_head_inputs *inputs, int64_t h, float *dhidden)
{
    const int64_t count = inputs->positions == NULL ? inputs->batch->sequences.tokens : inputs->positions_count;
    int64_t row = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t token = inputs->positions == NULL ? i : token_at(inputs->batch, inputs->positions[i]);
        if (token >= 0) {
            float *at = dhidden + token * h;
            run->kernels->add_f32(at, work->dx + row * h, (size_t)h, at);
            row++;
        }
    }
}

static qb_status
backward(const qb_head_layers *self, const qb_head_work *work, const qb_gradient_work *gradient, const qb_run *run,
         const qb_head_inputs *inputs, const float *dlogits, float *dhidden, float *dpooled)
{
    const qb_path dense = {run->path, "transform.dense"};
    const qb_path decoder = {run->path, "decoder"};
    const qb_run at_dense = qb_run_enter(run, &dense);
    const qb_run at_decoder = qb_run_enter(run, &decoder);
    const int64_t h = self->norm.features;
    int64_t rows = 0;
    (void)dpooled;
    QB_TRY(gather(work, run, inputs, h, self->output.out_features, dlogits, &rows));
    if (rows == 0) {
        return QB_OK;
    }
    const size_t n = (size_t)(rows * h);
    norm_job job = {.self = self, .kernels = run->kernels, .x = work->hidden};
    QB_TRY(
        qb_linear_forward(&self->transform, &work->transform, &at_dense, work->x, rows, QB_ACTIVATION_NONE, work->pre));
    run->kernels->activation_f32(self->activation, work->pre, n, work->activated);
    QB_TRY(qb_gradient_copy(run, work->activated, rows * h, work->hidden));
    QB_TRY(qb_run_parallel(run, rows, 16, normalize_rows, &job));
    QB_TRY(qb_linear_backward(&self->output, gradient, &at_decoder, work->hidden, rows, work->dlogits,
                              work->dtransformed));
    QB_TRY(
        qb_layer_norm_backward(&self->norm, gradient, run, work->activated, rows, work->dtransformed, gradient->dsums));
    run->kernels->activation_grad_f32(self->activation, work->pre, gradient->dsums, n, work->dtransformed);
    QB_TRY(qb_linear_backward(&self->transform, gradient, &at_dense, work->x, rows, work->dtransformed, work->dx));
    scatter_accumulate(work, run, inputs, h, dhidden);
    return QB_OK;
}

const qb_head_verbs qb_head_language_model = {.init = init,
                                              .visit = visit,
                                              .plan = plan,
                                              .prepare = prepare,
                                              .forward = forward,
                                              .gradient_sizes = gradient_sizes,
                                              .backward = backward};
