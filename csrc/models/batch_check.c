/* SPDX-License-Identifier: Apache-2.0
 *
 * What can be wrong with the arguments of a forward call.
 */
#include <inttypes.h>

#include "core/status.h"
#include "models/batch.h"

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
    return QB_OK;
}

/* Every layer's array is there. */
static int
has_all(const float *const *arrays, int64_t layers)
{
    for (int64_t i = 0; arrays != NULL && i < layers; i++) {
        if (arrays[i] == NULL) {
            return 0;
        }
    }
    return arrays != NULL;
}

static qb_status
check_past(const qb_bert_config *config, const qb_session_options *limits, const qb_forward_inputs *in, qb_error *error)
{
    if (in->past_length < 0 || in->past_length > limits->max_past) {
        return qb_fail(error, NULL, QB_ERR_SHAPE, "past_length is %" PRId64 ", expected 0 .. max_past %" PRId64,
                       in->past_length, limits->max_past);
    }
    if (in->past_length > 0 &&
        (!has_all(in->past_keys, config->num_layers) || !has_all(in->past_values, config->num_layers))) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "past_keys and past_values are not there for every layer, but past_length is %" PRId64,
                       in->past_length);
    }
    const int counts_positions = in->position_ids == NULL || config->positions != QB_POSITIONS_ABSOLUTE;
    if (counts_positions && in->past_length > config->max_positions - in->length) {
        return qb_fail(error, NULL, QB_ERR_SHAPE,
                       "past_length %" PRId64 " and length %" PRId64 " are more than the model's %" PRId64 " positions",
                       in->past_length, in->length, config->max_positions);
    }
    return QB_OK;
}

static qb_status
check_encoder(const qb_bert_config *config, const qb_session_options *limits, const qb_forward_inputs *in,
              qb_error *error)
{
    if (in->encoder_length == 0) {
        const char *given = in->encoder_hidden_states != NULL                    ? "encoder_hidden_states"
                            : in->cross_keys != NULL || in->cross_values != NULL ? "cross_keys and cross_values"
                            : in->encoder_attention_mask != NULL                 ? "encoder_attention_mask"
                                                                                 : NULL;
        return given == NULL ? QB_OK
                             : qb_fail(error, NULL, QB_ERR_VALUE,
                                       "the call brings %s, but encoder_length is 0: nothing would look at it", given);
    }
    if (!config->has_cross_attention) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "encoder_length is %" PRId64 ", but the model was made without cross-attention",
                       in->encoder_length);
    }
    if (in->encoder_length < 0 || in->encoder_length > limits->max_encoder_length) {
        return qb_fail(error, NULL, QB_ERR_SHAPE,
                       "encoder_length is %" PRId64 ", expected 0 .. max_encoder_length %" PRId64, in->encoder_length,
                       limits->max_encoder_length);
    }
    if (config->positions != QB_POSITIONS_ABSOLUTE && in->encoder_length > config->max_positions) {
        return qb_fail(error, NULL, QB_ERR_SHAPE,
                       "encoder_length is %" PRId64 ", more than the %" PRId64
                       " positions that distances are known for",
                       in->encoder_length, config->max_positions);
    }
    if ((in->cross_keys == NULL) != (in->cross_values == NULL)) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "one of cross_keys and cross_values was given, expected both or none");
    }
    if (in->cross_keys != NULL &&
        (!has_all(in->cross_keys, config->num_layers) || !has_all(in->cross_values, config->num_layers))) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "cross_keys and cross_values are not there for every layer");
    }
    if (in->cross_keys == NULL && in->encoder_hidden_states == NULL) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "neither encoder_hidden_states nor cross_keys were given, but encoder_length is %" PRId64,
                       in->encoder_length);
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

/* A mask (B, width) or (B, T, width) of 0 and 1. */
static qb_status
check_mask(const char *name, const int64_t *mask, int32_t rank, int64_t width, const qb_forward_inputs *in,
           qb_error *error)
{
    if (mask != NULL && rank != 2 && rank != 3) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "%s has rank %d, expected 2 or 3", name, (int)rank);
    }
    if (mask != NULL && rank == 3 && in->padding != QB_PADDING_COMPUTE) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "%s has rank 3, which needs padding that is computed, not skipped",
                       name);
    }
    const int64_t rows = rank == 3 ? in->length : 1;
    for (int64_t i = 0; mask != NULL && i < in->batch * rows * width; i++) {
        const int64_t value = mask[i];
        if (value == 0 || value == 1) {
            continue;
        }
        if (rank == 3) {
            return qb_fail(error, NULL, QB_ERR_VALUE,
                           "%s[%" PRId64 ", %" PRId64 ", %" PRId64 "] is %" PRId64 ", expected 0 or 1", name,
                           i / width / rows, i / width % rows, i % width, value);
        }
        return qb_fail(error, NULL, QB_ERR_VALUE, "%s[%" PRId64 ", %" PRId64 "] is %" PRId64 ", expected 0 or 1", name,
                       i / width, i % width, value);
    }
    return QB_OK;
}

/* Ones in the columns `from` .. `width` of one row of a rank-2 mask. */
static int64_t
count_ones(const int64_t *mask, int64_t width, int64_t from, int64_t b)
{
    int64_t count = 0;
    for (int64_t j = from; j < width; j++) {
        count += mask[b * width + j] != 0;
    }
    return count;
}

/* With padding that is skipped, something must be left of every row, and not more than the session planned for. */
static qb_status
check_rows(const qb_session_options *limits, const qb_forward_inputs *in, qb_error *error)
{
    const int skips = in->padding == QB_PADDING_SKIP;
    const int64_t keys = in->past_length + in->length;
    int64_t tokens = 0;
    for (int64_t b = 0; b < in->batch; b++) {
        const int64_t *mask = in->attention_mask;
        const int64_t own = skips && mask != NULL ? count_ones(mask, keys, in->past_length, b) : in->length;
        if (own == 0) {
            return qb_fail(error, NULL, QB_ERR_VALUE,
                           "attention_mask[%" PRId64 "] is all zero%s: the sequence has nothing to compute", b,
                           in->past_length > 0 ? " for the new tokens" : "");
        }
        mask = in->encoder_attention_mask;
        if (skips && mask != NULL && count_ones(mask, in->encoder_length, 0, b) == 0) {
            return qb_fail(error, NULL, QB_ERR_VALUE,
                           "encoder_attention_mask[%" PRId64 "] is all zero: the sequence has nothing to look at", b);
        }
        tokens += own;
    }
    if (tokens > limits->max_tokens) {
        return qb_fail(error, NULL, QB_ERR_SHAPE,
                       "%" PRId64 " tokens are to be computed, expected at most max_tokens %" PRId64, tokens,
                       limits->max_tokens);
    }
    return QB_OK;
}

qb_status
qb_batch_check(const qb_bert_config *config, const qb_session_options *limits, const qb_forward_inputs *inputs,
               qb_error *error)
{
    const qb_forward_inputs *in = inputs;
    QB_TRY(check_limits(config, limits, in, error));
    QB_TRY(check_past(config, limits, in, error));
    QB_TRY(check_encoder(config, limits, in, error));
    QB_TRY(check_ids("input_ids", in->input_ids, in->batch, in->length, config->vocab_size, error));
    QB_TRY(check_ids("token_type_ids", in->token_type_ids, in->batch, in->length, config->type_vocab_size, error));
    QB_TRY(check_ids("position_ids", in->position_ids, in->batch, in->length, config->max_positions, error));
    QB_TRY(check_mask("attention_mask", in->attention_mask, in->attention_mask_rank, in->past_length + in->length, in,
                      error));
    QB_TRY(check_mask("encoder_attention_mask", in->encoder_attention_mask, in->encoder_attention_mask_rank,
                      in->encoder_length, in, error));
    return check_rows(limits, in, error);
}

qb_status
qb_batch_check_first(const qb_batch *batch, qb_error *error)
{
    for (int64_t b = 0; b < batch->batch; b++) {
        if (batch->rows[batch->sequences.offsets[b]] != b * batch->length) {
            return qb_fail(error, NULL, QB_ERR_VALUE,
                           "attention_mask[%" PRId64 ", 0] is 0, but the first position is pooled: pad on the right, "
                           "or have the padding computed",
                           b);
        }
    }
    return QB_OK;
}
