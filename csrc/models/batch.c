/* SPDX-License-Identifier: Apache-2.0 */
#include "models/batch.h"

#include <float.h>
#include <inttypes.h>
#include <string.h>

#include "core/status.h"

void
qb_batch_plan(qb_batch *batch, qb_arena *arena, int64_t max_sequences, int64_t max_tokens)
{
    *batch = (qb_batch){.batch = 0};
    batch->offsets = qb_arena_take(arena, max_sequences, sizeof *batch->offsets);
    batch->lengths = qb_arena_take(arena, max_sequences, sizeof *batch->lengths);
    batch->rows = qb_arena_take(arena, max_tokens, sizeof *batch->rows);
    batch->ids = qb_arena_take(arena, max_tokens, sizeof *batch->ids);
    batch->types = qb_arena_take(arena, max_tokens, sizeof *batch->types);
    batch->positions = qb_arena_take(arena, max_tokens, sizeof *batch->positions);
    batch->mask = qb_arena_take(arena, max_tokens, sizeof *batch->mask);
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

static qb_status
check_limits(const qb_bert_config *config, const qb_session_options *limits, const qb_forward_inputs *in,
             qb_error *error)
{
    if (in->batch < 1 || in->batch > limits->max_sequences) {
        return qb_fail(error, NULL, QB_ERR_SHAPE, "batch is %" PRId64 ", expected 1 .. max_sequences %" PRId64,
                       in->batch, limits->max_sequences);
    }
    if (in->length > config->max_positions) {
        return qb_fail(error, NULL, QB_ERR_SHAPE,
                       "length is %" PRId64 " tokens, more than the model's %" PRId64 " positions", in->length,
                       config->max_positions);
    }
    if (in->length < 1 || in->length > limits->max_length) {
        return qb_fail(error, NULL, QB_ERR_SHAPE, "length is %" PRId64 ", expected 1 .. max_length %" PRId64,
                       in->length, limits->max_length);
    }
    if ((in->input_ids == NULL) == (in->inputs_embeds == NULL)) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "%s were given, expected one of them",
                       in->input_ids == NULL ? "neither input_ids nor inputs_embeds"
                                             : "both input_ids and inputs_embeds");
    }
    if (in->padding != QB_PADDING_SKIP && in->padding != QB_PADDING_COMPUTE) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "padding is %d, expected a value of qb_padding", (int)in->padding);
    }
    if (in->attention_mask != NULL && in->attention_mask_rank != 2 && in->attention_mask_rank != 3) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "attention_mask has rank %d, expected 2 or 3",
                       (int)in->attention_mask_rank);
    }
    if (in->attention_mask != NULL && in->attention_mask_rank == 3 && in->padding != QB_PADDING_COMPUTE) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "attention_mask has rank 3, which needs padding that is computed, not skipped");
    }
    return QB_OK;
}

/* Every element of x (rows, columns) lies in [0, limit). */
static qb_status
check_ids(const char *name, const int64_t *x, int64_t rows, int64_t columns, int64_t limit, qb_error *error)
{
    for (int64_t i = 0; x != NULL && i < rows * columns; i++) {
        if (x[i] < 0 || x[i] >= limit) {
            return qb_fail(error, NULL, QB_ERR_INDEX,
                           "%s[%" PRId64 ", %" PRId64 "] is %" PRId64 ", expected 0 .. %" PRId64, name, i / columns,
                           i % columns, x[i], limit - 1);
        }
    }
    return QB_OK;
}

static qb_status
check_mask(const qb_forward_inputs *in, qb_error *error)
{
    const int64_t *mask = in->attention_mask;
    const int64_t t = in->length;
    const int is_rank_3 = in->attention_mask_rank == 3;
    const int64_t count = in->batch * t * (is_rank_3 ? t : 1);
    for (int64_t i = 0; mask != NULL && i < count; i++) {
        if (mask[i] == 0 || mask[i] == 1) {
            continue;
        }
        if (is_rank_3) {
            return qb_fail(error, NULL, QB_ERR_VALUE,
                           "attention_mask[%" PRId64 ", %" PRId64 ", %" PRId64 "] is %" PRId64 ", expected 0 or 1",
                           i / t / t, i / t % t, i % t, mask[i]);
        }
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "attention_mask[%" PRId64 ", %" PRId64 "] is %" PRId64 ", expected 0 or 1", i / t, i % t,
                       mask[i]);
    }
    return QB_OK;
}

/* ---- filling ---------------------------------------------------------------------------------------------------- */

static qb_status
fail_changed(const char *name, qb_error *error)
{
    return qb_fail(error, NULL, QB_ERR_VALUE, "%s changed while the call was reading it", name);
}

/* Takes each value once and checks what it took: the arrays are the caller's, and a thread of theirs that writes into
 * them must not lead out of the tables. */
static qb_status
add_token(qb_batch *batch, const qb_bert_config *config, const qb_forward_inputs *in, int64_t b, int64_t t,
          int is_masked, qb_error *error)
{
    const int64_t at = b * in->length + t;
    const int64_t m = batch->sequences.tokens++;
    batch->rows[m] = at;
    batch->ids[m] = in->input_ids == NULL ? 0 : in->input_ids[at];
    batch->types[m] = in->token_type_ids == NULL ? 0 : in->token_type_ids[at];
    batch->positions[m] = in->position_ids == NULL ? t : in->position_ids[at];
    batch->mask[m] = is_masked ? -FLT_MAX : 0.0f;
    if (batch->ids[m] < 0 || batch->ids[m] >= config->vocab_size) {
        return fail_changed("input_ids", error);
    }
    if (batch->types[m] < 0 || batch->types[m] >= config->type_vocab_size) {
        return fail_changed("token_type_ids", error);
    }
    if (batch->positions[m] < 0 || batch->positions[m] >= config->max_positions) {
        return fail_changed("position_ids", error);
    }
    return QB_OK;
}

static qb_status
check_count(const qb_forward_inputs *in, const qb_session_options *limits, qb_error *error)
{
    int64_t tokens = 0;
    const int skips = in->padding == QB_PADDING_SKIP && in->attention_mask != NULL;
    for (int64_t b = 0; b < in->batch; b++) {
        int64_t length = 0;
        for (int64_t t = 0; t < in->length; t++) {
            length += !skips || in->attention_mask[b * in->length + t] != 0;
        }
        if (length == 0) {
            return qb_fail(error, NULL, QB_ERR_VALUE,
                           "attention_mask[%" PRId64 "] is all zero: the sequence has nothing to compute", b);
        }
        tokens += length;
    }
    if (tokens > limits->max_tokens) {
        return qb_fail(error, NULL, QB_ERR_SHAPE,
                       "%" PRId64 " tokens are to be computed, expected at most max_tokens %" PRId64, tokens,
                       limits->max_tokens);
    }
    return QB_OK;
}

qb_status
qb_batch_fill(qb_batch *batch, const qb_bert_config *config, const qb_session_options *limits,
              const qb_forward_inputs *inputs, qb_error *error)
{
    const qb_forward_inputs *in = inputs;
    QB_TRY(check_limits(config, limits, in, error));
    QB_TRY(check_ids("input_ids", in->input_ids, in->batch, in->length, config->vocab_size, error));
    QB_TRY(check_ids("token_type_ids", in->token_type_ids, in->batch, in->length, config->type_vocab_size, error));
    QB_TRY(check_ids("position_ids", in->position_ids, in->batch, in->length, config->max_positions, error));
    QB_TRY(check_mask(in, error));
    QB_TRY(check_count(in, limits, error));
    const int is_rank_2 = in->attention_mask != NULL && in->attention_mask_rank == 2;
    const int skips = in->padding == QB_PADDING_SKIP && is_rank_2;
    int has_masked = 0;
    batch->batch = in->batch;
    batch->length = in->length;
    batch->sequences = (qb_sequences){
        .count = in->batch,
        .offsets = batch->offsets,
        .lengths = batch->lengths,
        .mask_3d = in->attention_mask != NULL && in->attention_mask_rank == 3 ? in->attention_mask : NULL,
    };
    for (int64_t b = 0; b < in->batch; b++) {
        batch->offsets[b] = batch->sequences.tokens;
        for (int64_t t = 0; t < in->length; t++) {
            const int is_masked = is_rank_2 && in->attention_mask[b * in->length + t] == 0;
            if (is_masked && skips) {
                continue;
            }
            if (batch->sequences.tokens == limits->max_tokens) {
                return fail_changed("attention_mask", error);
            }
            has_masked |= is_masked;
            QB_TRY(add_token(batch, config, in, b, t, is_masked, error));
        }
        batch->lengths[b] = batch->sequences.tokens - batch->offsets[b];
        if (batch->lengths[b] == 0) {
            return fail_changed("attention_mask", error);
        }
        if (batch->lengths[b] > batch->sequences.max_length) {
            batch->sequences.max_length = batch->lengths[b];
        }
    }
    batch->sequences.mask = has_masked ? batch->mask : NULL;
    batch->tokens = (qb_embeddings_input){
        .tokens = batch->sequences.tokens,
        .ids = in->input_ids == NULL ? NULL : batch->ids,
        .vectors = in->inputs_embeds,
        .rows = batch->rows,
        .types = batch->types,
        .positions = batch->positions,
    };
    return QB_OK;
}

qb_status
qb_batch_check_first(const qb_batch *batch, qb_error *error)
{
    for (int64_t b = 0; b < batch->batch; b++) {
        if (batch->rows[batch->offsets[b]] != b * batch->length) {
            return qb_fail(error, NULL, QB_ERR_VALUE,
                           "attention_mask[%" PRId64 ", 0] is 0, but the first position is pooled: pad on the right, "
                           "or have the padding computed",
                           b);
        }
    }
    return QB_OK;
}

/* ---- back ------------------------------------------------------------------------------------------------------- */

void
qb_batch_scatter(const qb_batch *batch, const float *x, int64_t features, float *y)
{
    const int64_t rows = batch->batch * batch->length;
    const size_t bytes = (size_t)features * sizeof *y;
    int64_t next = 0;
    for (int64_t m = 0; m < batch->sequences.tokens; m++) {
        memset(y + next * features, 0, (size_t)(batch->rows[m] - next) * bytes);
        memcpy(y + batch->rows[m] * features, x + m * features, bytes);
        next = batch->rows[m] + 1;
    }
    memset(y + next * features, 0, (size_t)(rows - next) * bytes);
}

void
qb_batch_scatter_pairs(const qb_batch *batch, const float *x, int64_t heads, float *y)
{
    const int64_t t = batch->length;
    memset(y, 0, (size_t)(batch->batch * heads * t * t) * sizeof *y);
    for (int64_t b = 0; b < batch->batch; b++) {
        const int64_t s = batch->lengths[b];
        const int64_t *rows = batch->rows + batch->offsets[b]; /* b * T + column */
        for (int64_t pair = 0; pair < heads * s; pair++) {
            const int64_t row = rows[pair % s] - b * t;
            float *out = y + ((b * heads + pair / s) * t + row) * t;
            for (int64_t j = 0; j < s; j++) {
                out[rows[j] - b * t] = x[j];
            }
            x += s;
        }
    }
}
