/* SPDX-License-Identifier: Apache-2.0
 *
 * Filling takes each value of the caller's arrays once and checks what it took: the arrays are the caller's, and a
 * thread of theirs that writes into them must not lead out of the tables.
 */
#include "models/batch.h"

#include <float.h>
#include <inttypes.h>
#include <string.h>

#include "core/status.h"

static void
plan_arrays(qb_sequence_arrays *arrays, qb_arena *arena, int64_t sequences, int64_t tokens)
{
    arrays->offsets = qb_arena_take(arena, sequences, sizeof *arrays->offsets);
    arrays->lengths = qb_arena_take(arena, sequences, sizeof *arrays->lengths);
    arrays->places = qb_arena_take(arena, tokens, sizeof *arrays->places);
    arrays->mask = qb_arena_take(arena, tokens, sizeof *arrays->mask);
}

void
qb_batch_plan(qb_batch *batch, qb_arena *arena, const qb_limits *limits, int64_t hidden)
{
    const int64_t tokens = limits->tokens;
    *batch = (qb_batch){.batch = 0};
    plan_arrays(&batch->own, arena, limits->sequences, tokens);
    if (limits->past > 0) {
        plan_arrays(&batch->all_keys, arena, limits->sequences, tokens + limits->sequences * limits->past);
    }
    if (limits->encoder_length > 0) {
        const int64_t most = limits->sequences * limits->encoder_length;
        plan_arrays(&batch->of_encoder, arena, limits->sequences, most);
        batch->memory_storage = qb_arena_take(arena, most, (size_t)hidden * sizeof *batch->memory_storage);
    }
    batch->row_storage = qb_arena_take(arena, tokens, sizeof *batch->row_storage);
    batch->ids = qb_arena_take(arena, tokens, sizeof *batch->ids);
    batch->types = qb_arena_take(arena, tokens, sizeof *batch->types);
    batch->positions = qb_arena_take(arena, tokens, sizeof *batch->positions);
}

/* ---- building sequences ----------------------------------------------------------------------------------------- */

/* One qb_sequences under construction. */
typedef struct builder {
    qb_sequences *sequences;
    qb_sequence_arrays *arrays;
    int has_masked;
} builder;

static builder
begin_sequences(qb_sequences *sequences, qb_sequence_arrays *arrays, int64_t count)
{
    *sequences = (qb_sequences){
        .count = count, .offsets = arrays->offsets, .lengths = arrays->lengths, .places = arrays->places};
    return (builder){.sequences = sequences, .arrays = arrays};
}

static void
begin_sequence(builder *to, int64_t b)
{
    to->arrays->offsets[b] = to->sequences->tokens;
}

static void
add_place(builder *to, int64_t place, int is_masked)
{
    const int64_t m = to->sequences->tokens++;
    to->arrays->places[m] = place;
    to->arrays->mask[m] = is_masked ? -FLT_MAX : 0.0f;
    to->has_masked |= is_masked;
}

static void
end_sequence(builder *to, int64_t b)
{
    const int64_t length = to->sequences->tokens - to->arrays->offsets[b];
    to->arrays->lengths[b] = length;
    to->sequences->max_length = length > to->sequences->max_length ? length : to->sequences->max_length;
}

static const float *
additive_mask(const builder *of)
{
    return of->has_masked ? of->arrays->mask : NULL;
}

static qb_status
fail_changed(const char *name, qb_error *error)
{
    return qb_fail(error, NULL, QB_ERR_VALUE, "%s changed while the call was reading it", name);
}

/* ---- the three kinds of sequences ------------------------------------------------------------------------------- */

static qb_status
fill_token(qb_batch *batch, const qb_bert_config *config, const qb_forward_inputs *in, int64_t m, int64_t b, int64_t t,
           qb_error *error)
{
    const int64_t at = b * in->length + t;
    batch->row_storage[m] = at;
    batch->ids[m] = in->input_ids == NULL ? 0 : in->input_ids[at];
    batch->types[m] = in->token_type_ids == NULL ? 0 : in->token_type_ids[at];
    batch->positions[m] = in->position_ids == NULL ? in->past_length + t : in->position_ids[at];
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

/* A rank-2 mask of `width` columns, or NULL. */
static int
is_masked(const int64_t *mask, int64_t width, int64_t b, int64_t column)
{
    return mask != NULL && mask[b * width + column] == 0;
}

static qb_status
fill_own(qb_batch *batch, const qb_bert_config *config, const qb_session_options *limits, const qb_forward_inputs *in,
         const int64_t *mask, builder *own, qb_error *error)
{
    const int64_t width = in->past_length + in->length;
    for (int64_t b = 0; b < in->batch; b++) {
        begin_sequence(own, b);
        for (int64_t t = 0; t < in->length; t++) {
            const int masked = is_masked(mask, width, b, in->past_length + t);
            if (masked && in->padding == QB_PADDING_SKIP) {
                continue;
            }
            if (own->sequences->tokens == limits->max_tokens) {
                return fail_changed("attention_mask", error);
            }
            QB_TRY(fill_token(batch, config, in, own->sequences->tokens, b, t, error));
            add_place(own, in->past_length + t, masked);
        }
        end_sequence(own, b);
        if (batch->own.lengths[b] == 0) {
            return fail_changed("attention_mask", error);
        }
    }
    return QB_OK;
}

/* Earlier keys, then the computed tokens. */
static void
fill_keys(const qb_batch *batch, const qb_forward_inputs *in, const int64_t *mask, builder *keys)
{
    const int64_t width = in->past_length + in->length;
    const qb_sequence_arrays *own = &batch->own;
    for (int64_t b = 0; b < in->batch; b++) {
        begin_sequence(keys, b);
        for (int64_t j = 0; j < in->past_length; j++) {
            const int masked = is_masked(mask, width, b, j);
            if (!masked || in->padding == QB_PADDING_COMPUTE) {
                add_place(keys, j, masked);
            }
        }
        for (int64_t i = own->offsets[b]; i < own->offsets[b] + own->lengths[b]; i++) {
            add_place(keys, own->places[i], own->mask[i] != 0.0f);
        }
        end_sequence(keys, b);
    }
}

static qb_status
fill_encoder(qb_batch *batch, const qb_forward_inputs *in, int64_t hidden, const int64_t *mask, builder *encoder,
             qb_error *error)
{
    const int64_t s = in->encoder_length;
    const int is_projected = in->cross_keys == NULL;
    batch->memory = is_projected ? batch->memory_storage : NULL;
    for (int64_t b = 0; b < in->batch; b++) {
        begin_sequence(encoder, b);
        for (int64_t j = 0; j < s; j++) {
            const int masked = is_masked(mask, s, b, j);
            if (masked && in->padding == QB_PADDING_SKIP) {
                continue;
            }
            if (is_projected) {
                memcpy(batch->memory_storage + encoder->sequences->tokens * hidden,
                       in->encoder_hidden_states + (b * s + j) * hidden, (size_t)hidden * sizeof(float));
            }
            add_place(encoder, j, masked);
        }
        end_sequence(encoder, b);
        if (batch->of_encoder.lengths[b] == 0) {
            return fail_changed("encoder_attention_mask", error);
        }
    }
    return QB_OK;
}

qb_status
qb_batch_fill(qb_batch *batch, const qb_bert_config *config, const qb_session_options *limits,
              const qb_forward_inputs *inputs, qb_error *error)
{
    const qb_forward_inputs *in = inputs;
    QB_TRY(qb_batch_check(config, limits, in, error));
    const int64_t *mask_2d = in->attention_mask_rank == 2 ? in->attention_mask : NULL;
    const int64_t *encoder_mask_2d = in->encoder_attention_mask_rank == 2 ? in->encoder_attention_mask : NULL;
    batch->batch = in->batch;
    batch->length = in->length;
    batch->past = in->past_length;
    batch->encoder_length = in->encoder_length;
    batch->rows = batch->row_storage;
    builder own = begin_sequences(&batch->sequences, &batch->own, in->batch);
    QB_TRY(fill_own(batch, config, limits, in, mask_2d, &own, error));
    if (in->past_length > 0) {
        builder keys = begin_sequences(&batch->keys, &batch->all_keys, in->batch);
        fill_keys(batch, in, mask_2d, &keys);
        batch->keys.mask = additive_mask(&keys);
    }
    else {
        batch->keys = batch->sequences;
        batch->keys.mask = additive_mask(&own);
    }
    batch->keys.mask_3d = mask_2d == NULL ? in->attention_mask : NULL;
    if (in->encoder_length > 0) {
        builder encoder = begin_sequences(&batch->encoder, &batch->of_encoder, in->batch);
        QB_TRY(fill_encoder(batch, in, config->hidden_size, encoder_mask_2d, &encoder, error));
        batch->encoder.mask = additive_mask(&encoder);
        batch->encoder.mask_3d = encoder_mask_2d == NULL ? in->encoder_attention_mask : NULL;
    }
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
