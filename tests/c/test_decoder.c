/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole decoders: the bits of a token do not depend on which of its predecessors are computed with it, on batch mates,
 * on padding, on threads or on the machine.
 */
#include "decoder_case.h"

static const int64_t all_at_once[] = {D_LENGTH};
static const int64_t one_by_one[] = {FIRST_CHUNK, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const int64_t in_chunks[] = {FIRST_CHUNK, 9, 1, 2};
static const int64_t from_the_first[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static const char *const positions[] = {"absolute", "relative_key", "relative_key_query"};

/* Same bits at the tokens that are no padding; returns whether they were. */
static int
same_rows(const decoder_case *c, const float *a, const float *b, int64_t heads, int64_t columns)
{
    int same = 1;
    for (int64_t row = 0; row < D_BATCH * heads * D_LENGTH; row++) {
        const int64_t at = row / D_LENGTH / heads * D_LENGTH + row % D_LENGTH;
        same = same && (!c->mask[at] || same_bits(a + row * columns, b + row * columns, columns));
    }
    return same;
}

static void
check_same(const decoder_case *c, const decoder_outputs *a, const decoder_outputs *b)
{
    CHECK(same_rows(c, a->hidden, b->hidden, 1, HIDDEN));
    CHECK(same_rows(c, a->logits, b->logits, 1, VOCABULARY));
    for (int64_t i = 0; i < LAYERS; i++) {
        CHECK(same_rows(c, a->attentions[i], b->attentions[i], HEADS, D_LENGTH));
        CHECK(same_rows(c, a->keys[i], b->keys[i], HEADS, D_HEAD_SIZE));
        CHECK(same_rows(c, a->values[i], b->values[i], HEADS, D_HEAD_SIZE));
        if (c->setup.has_encoder) {
            CHECK(same_rows(c, a->cross_attentions[i], b->cross_attentions[i], HEADS, D_ENCODER));
        }
    }
}

/* Every combination of what a decoder can be, as long as it is well-formed. */
static decoder_setup
setup_at(size_t index)
{
    return (decoder_setup){
        .positions = positions[index % 3],
        .has_encoder = index / 3 % 2 != 0,
        .is_quantized = index / 6 % 2 != 0,
        .padding = index / 12 % 2 != 0 ? QB_PADDING_COMPUTE : QB_PADDING_SKIP,
        .padded = (decoder_padding)(index / 24),
    };
}

enum { SETUPS_COUNT = 3 * 2 * 2 * 2 * 3 }; /* padding on the right would leave chunks without a token */

/* ---- cached = uncached ------------------------------------------------------------------------------------------ */

static void
test_cached_tokens_have_the_bits_of_uncached_ones_on_every_device(void)
{
    case_devices devices = case_devices_open();
    decoder_outputs *expected = decoder_outputs_make();
    decoder_outputs *got = decoder_outputs_make();
    for (size_t t = 0; t < SETUPS_COUNT; t++) {
        const decoder_setup setup = setup_at(t);
        for (size_t d = 0; d < devices.count; d++) {
            decoder_case *c = decoder_make(devices.at[d], &setup);
            decoder_run(c, all_at_once, d == 0 ? expected : got);
            check_same(c, d == 0 ? expected : got, expected);
            decoder_run(c, in_chunks, got);
            check_same(c, got, expected);
            if (d == 0) {
                decoder_run(c, setup.padded == PADDED_NOWHERE ? from_the_first : one_by_one, got);
                check_same(c, got, expected);
            }
            decoder_free(c);
        }
    }
    free(expected);
    free(got);
    case_devices_close(&devices);
}

/* ---- padding and batch mates ------------------------------------------------------------------------------------ */

static void
test_skipped_padding_on_the_right_gives_the_bits_of_computed_padding(void)
{
    qb_device *device = case_device(NULL, 2);
    decoder_outputs *skipped = decoder_outputs_make();
    decoder_outputs *computed = decoder_outputs_make();
    for (size_t t = 0; t < 12; t++) {
        decoder_setup setup = setup_at(t);
        setup.padded = PADDED_RIGHT;
        decoder_case *c = decoder_make(device, &setup);
        decoder_run(c, all_at_once, skipped);
        c->setup.padding = QB_PADDING_COMPUTE;
        decoder_run(c, all_at_once, computed);
        check_same(c, skipped, computed);
        decoder_free(c);
    }
    free(skipped);
    free(computed);
    qb_device_close(device);
}

static void
check_zero_at_padding(const decoder_case *c, const float *x, int64_t heads, int64_t columns)
{
    for (int64_t row = 0; row < D_BATCH * heads * D_LENGTH; row++) {
        const int64_t at = row / D_LENGTH / heads * D_LENGTH + row % D_LENGTH;
        CHECK(c->mask[at] || all_zero(x + row * columns, columns));
    }
}

static void
test_skipped_padding_reads_as_zero_in_every_output(void)
{
    qb_device *device = case_device(NULL, 2);
    decoder_outputs *out = decoder_outputs_make();
    for (int padded = PADDED_LEFT; padded <= PADDED_RIGHT; padded++) {
        const decoder_setup setup = {
            .positions = "relative_key", .has_encoder = 1, .is_quantized = 1, .padded = (decoder_padding)padded};
        decoder_case *c = decoder_make(device, &setup);
        decoder_run(c, padded == PADDED_RIGHT ? all_at_once : in_chunks, out);
        check_zero_at_padding(c, out->hidden, 1, HIDDEN);
        check_zero_at_padding(c, out->logits, 1, VOCABULARY);
        for (int64_t i = 0; i < LAYERS; i++) {
            check_zero_at_padding(c, out->attentions[i], HEADS, D_LENGTH);
            check_zero_at_padding(c, out->cross_attentions[i], HEADS, D_ENCODER);
            check_zero_at_padding(c, out->keys[i], HEADS, D_HEAD_SIZE);
            check_zero_at_padding(c, out->values[i], HEADS, D_HEAD_SIZE);
            for (int64_t j = 0; j < D_BATCH * HEADS * D_LENGTH * D_LENGTH; j++) { /* nor is padding looked at */
                const int64_t b = j / (HEADS * D_LENGTH * D_LENGTH);
                const int64_t row = j / D_LENGTH % D_LENGTH;
                const int64_t column = j % D_LENGTH;
                const int is_seen = c->mask[b * D_LENGTH + row] && c->mask[b * D_LENGTH + column] && column <= row;
                CHECK((out->attentions[i][j] > 0.0f) == is_seen);
            }
            for (int64_t j = 0; j < D_BATCH * HEADS * D_LENGTH * D_ENCODER; j++) {
                const int64_t b = j / (HEADS * D_LENGTH * D_ENCODER);
                const int64_t row = j / D_ENCODER % D_LENGTH;
                const int is_seen = c->mask[b * D_LENGTH + row] && c->encoder_mask[b * D_ENCODER + j % D_ENCODER];
                CHECK((out->cross_attentions[i][j] > 0.0f) == is_seen);
            }
        }
        decoder_free(c);
    }
    free(out);
    qb_device_close(device);
}

/* The sequence b alone: its row of everything, and only the encoder tokens that it has. */
static void
run_alone(const decoder_case *c, int64_t b, int64_t length, float *hidden)
{
    const int64_t at = b * D_LENGTH;
    qb_forward_inputs inputs = model_inputs(1, length, c->ids + at, c->mask + at);
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .last_hidden_state = hidden};
    inputs.token_type_ids = c->types + at;
    inputs.is_causal = 1;
    if (c->setup.has_encoder) {
        inputs.encoder_length = D_ENCODER - 11 * b;
        inputs.encoder_hidden_states = c->encoder + b * D_ENCODER * HIDDEN;
    }
    CHECK(qb_session_forward(c->session, NULL, &inputs, &outputs, NULL) == QB_OK);
}

static void
test_batch_mates_and_later_tokens_change_nothing(void)
{
    qb_device *device = case_device(NULL, 3);
    decoder_outputs *together = decoder_outputs_make();
    float alone[D_LENGTH * HIDDEN];
    for (size_t t = 0; t < SETUPS_COUNT; t++) {
        const decoder_setup setup = setup_at(t);
        if (setup.padding == QB_PADDING_COMPUTE) {
            continue;
        }
        decoder_case *c = decoder_make(device, &setup);
        decoder_run(c, in_chunks, together);
        for (int64_t b = 0; b < D_BATCH; b++) {
            for (int64_t length = D_LENGTH; length > FIRST_CHUNK; length -= 5) {
                run_alone(c, b, length, alone);
                CHECK(same_bits(alone, together->hidden + b * D_LENGTH * HIDDEN, length * HIDDEN));
            }
        }
        decoder_free(c);
    }
    free(together);
    qb_device_close(device);
}

/* ---- masks of rank 3, positions --------------------------------------------------------------------------------- */

static void
test_a_causal_mask_of_rank_3_is_causality(void)
{
    qb_device *device = case_device(NULL, 2);
    const decoder_setup setup = {.positions = "relative_key_query", .has_encoder = 1, .padding = QB_PADDING_COMPUTE};
    decoder_case *c = decoder_make(device, &setup);
    decoder_outputs *expected = decoder_outputs_make();
    int64_t ids[D_BATCH * D_LENGTH];
    int64_t types[D_BATCH * D_LENGTH];
    int64_t mask[D_BATCH * D_LENGTH];
    int64_t square[D_BATCH * 5 * D_LENGTH];
    int64_t encoder_square[D_BATCH * 5 * D_ENCODER];
    float hidden[D_BATCH * 5 * HIDDEN];
    layer_arrays past_keys = layer_arrays_make(D_BATCH * HEADS * 14 * D_HEAD_SIZE);
    layer_arrays past_values = layer_arrays_make(D_BATCH * HEADS * 14 * D_HEAD_SIZE);
    decoder_run(c, all_at_once, expected);
    for (int64_t i = 0; i < LAYERS; i++) {
        for (int64_t pair = 0; pair < D_BATCH * HEADS; pair++) {
            const int64_t n = 14 * D_HEAD_SIZE;
            const int64_t from = pair * D_LENGTH * D_HEAD_SIZE;
            memcpy(past_keys.at[i] + pair * n, expected->keys[i] + from, (size_t)n * sizeof(float));
            memcpy(past_values.at[i] + pair * n, expected->values[i] + from, (size_t)n * sizeof(float));
        }
    }
    for (int64_t i = 0; i < D_BATCH * 5 * D_LENGTH; i++) {
        square[i] = i % D_LENGTH <= 14 + i / D_LENGTH % 5;
    }
    for (int64_t i = 0; i < D_BATCH * 5 * D_ENCODER; i++) {
        encoder_square[i] = c->encoder_mask[i / D_ENCODER / 5 * D_ENCODER + i % D_ENCODER];
    }
    qb_forward_inputs inputs = decoder_inputs(c, 14, D_LENGTH, ids, types, mask);
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .last_hidden_state = hidden};
    inputs.past_keys = (const float *const *)past_keys.at;
    inputs.past_values = (const float *const *)past_values.at;
    inputs.attention_mask = square;
    inputs.attention_mask_rank = 3;
    inputs.encoder_attention_mask = encoder_square;
    inputs.encoder_attention_mask_rank = 3;
    for (int is_causal = 0; is_causal < 2; is_causal++) { /* the mask alone decides */
        inputs.is_causal = is_causal;
        CHECK(qb_session_forward(c->session, NULL, &inputs, &outputs, NULL) == QB_OK);
        for (int64_t b = 0; b < D_BATCH; b++) {
            CHECK(same_bits(hidden + b * 5 * HIDDEN, expected->hidden + (b * D_LENGTH + 14) * HIDDEN, 5 * HIDDEN));
        }
    }
    layer_arrays_free(&past_keys);
    layer_arrays_free(&past_values);
    free(expected);
    decoder_free(c);
    qb_device_close(device);
}

static void
test_positions_count_from_the_past_unless_they_are_given(void)
{
    qb_device *device = case_device(NULL, 2);
    const decoder_setup setup = {.positions = "absolute"};
    decoder_case *c = decoder_make(device, &setup);
    decoder_outputs *whole = decoder_outputs_make();
    float by_default[D_BATCH * HIDDEN];
    float by_position[D_BATCH * HIDDEN];
    int64_t ids[D_BATCH];
    int64_t types[D_BATCH];
    int64_t mask[D_BATCH * D_LENGTH];
    int64_t position_ids[D_BATCH] = {D_LENGTH - 1, D_LENGTH - 1, D_LENGTH - 1};
    layer_arrays past_keys = layer_arrays_make(D_BATCH * HEADS * (D_LENGTH - 1) * D_HEAD_SIZE);
    decoder_run(c, all_at_once, whole);
    for (int64_t i = 0; i < LAYERS; i++) {
        for (int64_t j = 0; j < D_BATCH * HEADS * (D_LENGTH - 1) * D_HEAD_SIZE; j++) {
            past_keys.at[i][j] = (float)(j % 7) * 0.1f;
        }
    }
    qb_forward_inputs inputs = decoder_inputs(c, D_LENGTH - 1, D_LENGTH, ids, types, mask);
    qb_forward_outputs outputs = {.struct_size = sizeof outputs, .last_hidden_state = by_default};
    inputs.past_keys = (const float *const *)past_keys.at;
    inputs.past_values = (const float *const *)past_keys.at;
    CHECK(qb_session_forward(c->session, NULL, &inputs, &outputs, NULL) == QB_OK);
    inputs.position_ids = position_ids;
    outputs.last_hidden_state = by_position;
    CHECK(qb_session_forward(c->session, NULL, &inputs, &outputs, NULL) == QB_OK);
    CHECK(same_bits(by_default, by_position, D_BATCH * HIDDEN));
    position_ids[1] = 0;
    CHECK(qb_session_forward(c->session, NULL, &inputs, &outputs, NULL) == QB_OK);
    CHECK(memcmp(by_default + HIDDEN, by_position + HIDDEN, HIDDEN * sizeof(float)) != 0);
    CHECK(same_bits(by_default, by_position, HIDDEN));
    layer_arrays_free(&past_keys);
    free(whole);
    decoder_free(c);
    qb_device_close(device);
}

static void
test_relative_models_have_a_table_of_absolute_positions_and_never_look_at_it(void)
{
    qb_device *device = case_device(NULL, 1);
    decoder_outputs *before = decoder_outputs_make();
    decoder_outputs *after = decoder_outputs_make();
    for (size_t i = 0; i < COUNT(positions); i++) {
        const decoder_setup setup = {.positions = positions[i]};
        decoder_case *c = decoder_make(device, &setup);
        float *table = NULL;
        CHECK(strcmp(qb_model_parameter(c->model, 1).name, "bert.embeddings.position_embeddings.weight") == 0);
        decoder_run(c, all_at_once, before);
        CHECK(qb_model_parameter_write(c->model, 1, &table, NULL) == QB_OK);
        table[3 * HIDDEN] += 1.0f;
        decoder_run(c, all_at_once, after);
        CHECK((memcmp(before->hidden, after->hidden, sizeof before->hidden) == 0) == (i > 0));
        decoder_free(c);
    }
    free(before);
    free(after);
    qb_device_close(device);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void
test_forward_with_a_cache_an_encoder_and_a_language_model_allocates_nothing(void)
{
    qb_device *device = case_device(NULL, 3);
    decoder_outputs *out = decoder_outputs_make();
    for (size_t t = 0; t < SETUPS_COUNT; t++) {
        const decoder_setup setup = setup_at(t);
        decoder_case *c = decoder_make(device, &setup);
        const uint64_t allocations = qb_device_memory_statistics(device).allocations;
        decoder_run(c, in_chunks, out);
        CHECK(qb_device_memory_statistics(device).allocations == allocations);
        decoder_free(c);
    }
    free(out);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_cached_tokens_have_the_bits_of_uncached_ones_on_every_device);
    RUN(test_skipped_padding_on_the_right_gives_the_bits_of_computed_padding);
    RUN(test_skipped_padding_reads_as_zero_in_every_output);
    RUN(test_batch_mates_and_later_tokens_change_nothing);
    RUN(test_a_causal_mask_of_rank_3_is_causality);
    RUN(test_positions_count_from_the_past_unless_they_are_given);
    RUN(test_relative_models_have_a_table_of_absolute_positions_and_never_look_at_it);
    RUN(test_forward_with_a_cache_an_encoder_and_a_language_model_allocates_nothing);
    return check_report();
}
