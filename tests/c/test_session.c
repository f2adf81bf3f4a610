/* SPDX-License-Identifier: Apache-2.0 */
#include "models/session.h"

#include <float.h>
#include <pthread.h>
#include <threads.h>

#include "model_case.h"

enum { BATCH = 4, LENGTH = 31, TOKENS = BATCH * LENGTH };

static const int64_t lengths[BATCH] = {1, 17, 31, 2};

/* Ones on the left. */
static void
right_padding(int64_t *mask)
{
    for (int64_t i = 0; i < TOKENS; i++) {
        mask[i] = i % LENGTH < lengths[i / LENGTH];
    }
}

static qb_status
run_hidden(qb_session *session, const qb_forward_inputs *inputs, float *hidden, float *logits, qb_error *error)
{
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .last_hidden_state = hidden, .logits = logits};
    return qb_session_forward(session, NULL, inputs, &outputs, error);
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

static void
test_forward_has_equal_bits_on_every_device(void)
{
    case_devices devices = case_devices_open();
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    float expected[TOKENS * LABELS];
    float logits[TOKENS * LABELS];
    model_ids(ids, TOKENS, 71);
    right_padding(mask);
    const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, mask);
    for (int mode = 0; mode < 3; mode++) { /* float, integer with static ranges, everything dynamic */
        for (size_t d = 0; d < devices.count; d++) {
            qb_model *model = model_make(devices.at[d], QB_HEAD_QUESTION_ANSWERING);
            if (mode == 0) {
                model_set_stages(model, QB_STAGE_DISABLED);
            }
            else if (mode == 1) {
                model_set_ranges(model);
            }
            CHECK(qb_model_needs_probabilities(model) == (mode == 2));
            qb_session *session = session_make(model, BATCH, LENGTH, mode == 2);
            CHECK(run_hidden(session, &inputs, NULL, d == 0 ? expected : logits, NULL) == QB_OK);
            CHECK(d == 0 || same_bits(logits, expected, TOKENS * LABELS));
            qb_session_destroy(session);
            qb_model_release(model);
        }
    }
    case_devices_close(&devices);
}

static void
test_skipped_padding_gives_the_bits_of_computed_padding_and_reads_as_zero(void)
{
    qb_device *device = case_device(NULL, 2);
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    float *skipped = case_memory(TOKENS * HIDDEN * sizeof *skipped);
    float *computed = case_memory(TOKENS * HIDDEN * sizeof *computed);
    float logits[TOKENS * LABELS];
    model_ids(ids, TOKENS, 72);
    right_padding(mask);
    for (int quantized = 0; quantized < 2; quantized++) {
        qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
        if (quantized) {
            model_set_ranges(model);
        }
        else {
            model_set_stages(model, QB_STAGE_DISABLED);
        }
        qb_session *session = session_make(model, BATCH, LENGTH, 0);
        qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, mask);
        memset(skipped, 0xff, TOKENS * HIDDEN * sizeof *skipped);
        memset(logits, 0xff, sizeof logits);
        CHECK(run_hidden(session, &inputs, skipped, logits, NULL) == QB_OK);
        inputs.padding = QB_PADDING_COMPUTE;
        CHECK(run_hidden(session, &inputs, computed, NULL, NULL) == QB_OK);
        for (int64_t i = 0; i < TOKENS; i++) {
            if (mask[i]) {
                CHECK(same_bits(skipped + i * HIDDEN, computed + i * HIDDEN, HIDDEN));
            }
            else {
                CHECK(all_zero(skipped + i * HIDDEN, HIDDEN));
                CHECK(logits[2 * i] == 0.0f && logits[2 * i + 1] == 0.0f);
                CHECK(naive_amax(computed + i * HIDDEN, HIDDEN) > 0.0f);
            }
        }
        qb_session_destroy(session);
        qb_model_release(model);
    }
    free(skipped);
    free(computed);
    qb_device_close(device);
}

static void
test_batch_mates_and_their_order_change_nothing(void)
{
    qb_device *device = case_device(NULL, 3);
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    float all[TOKENS * HIDDEN];
    float one[LENGTH * HIDDEN];
    model_ids(ids, TOKENS, 73);
    right_padding(mask);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    model_set_ranges(model);
    qb_session *session = session_make(model, BATCH, LENGTH, 0);
    const qb_forward_inputs together = model_inputs(BATCH, LENGTH, ids, mask);
    CHECK(run_hidden(session, &together, all, NULL, NULL) == QB_OK);
    for (int64_t b = 0; b < BATCH; b++) {
        const qb_forward_inputs alone = model_inputs(1, lengths[b], ids + b * LENGTH, NULL);
        CHECK(run_hidden(session, &alone, one, NULL, NULL) == QB_OK);
        CHECK(same_bits(one, all + b * LENGTH * HIDDEN, lengths[b] * HIDDEN));
    }
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_padding_anywhere_keeps_positions(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t t = 17;
    int64_t ids[17];
    int64_t mask[17];
    float skipped[17 * HIDDEN];
    float computed[17 * HIDDEN];
    model_ids(ids, t, 74);
    for (int64_t i = 0; i < t; i++) {
        mask[i] = i >= 3 && i != 9;
    }
    qb_model *model = model_make(device, QB_HEAD_NONE);
    model_set_stages(model, QB_STAGE_DISABLED);
    qb_session *session = session_make(model, 1, t, 0);
    qb_forward_inputs inputs = model_inputs(1, t, ids, mask);
    CHECK(run_hidden(session, &inputs, skipped, NULL, NULL) == QB_OK);
    inputs.padding = QB_PADDING_COMPUTE;
    CHECK(run_hidden(session, &inputs, computed, NULL, NULL) == QB_OK);
    for (int64_t i = 0; i < t * HIDDEN; i++) {
        /* Lanes of the sums shift with the position of a key, so rounding differs; values are of order 1. */
        CHECK(!mask[i / HIDDEN] || fabsf(skipped[i] - computed[i]) <= 1e-4f);
    }
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_rank_3_mask_of_equal_rows_is_the_rank_2_mask(void)
{
    qb_device *device = case_device(NULL, 2);
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    int64_t *square = case_memory(TOKENS * LENGTH * sizeof *square);
    float by_2[TOKENS * HIDDEN];
    float by_3[TOKENS * HIDDEN];
    model_ids(ids, TOKENS, 75);
    right_padding(mask);
    for (int64_t i = 0; i < TOKENS * LENGTH; i++) {
        square[i] = mask[i / LENGTH / LENGTH * LENGTH + i % LENGTH];
    }
    qb_model *model = model_make(device, QB_HEAD_NONE);
    model_set_ranges(model);
    qb_session *session = session_make(model, BATCH, LENGTH, 0);
    qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, mask);
    inputs.padding = QB_PADDING_COMPUTE;
    CHECK(run_hidden(session, &inputs, by_2, NULL, NULL) == QB_OK);
    inputs.attention_mask = square;
    inputs.attention_mask_rank = 3;
    CHECK(run_hidden(session, &inputs, by_3, NULL, NULL) == QB_OK);
    CHECK(same_bits(by_2, by_3, TOKENS * HIDDEN));
    free(square);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_word_vectors_stand_for_ids_and_positions_can_be_given(void)
{
    qb_device *device = case_device(NULL, 2);
    int64_t ids[LENGTH];
    int64_t positions[LENGTH];
    float vectors[LENGTH * HIDDEN];
    float by_id[LENGTH * HIDDEN];
    float by_vector[LENGTH * HIDDEN];
    model_ids(ids, LENGTH, 76);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    const float *table = qb_model_parameter(model, 0).data;
    for (int64_t i = 0; i < LENGTH; i++) {
        positions[i] = i;
        memcpy(vectors + i * HIDDEN, table + ids[i] * HIDDEN, HIDDEN * sizeof *vectors);
    }
    qb_session *session = session_make(model, 1, LENGTH, 1);
    qb_forward_inputs inputs = model_inputs(1, LENGTH, ids, NULL);
    CHECK(run_hidden(session, &inputs, by_id, NULL, NULL) == QB_OK);
    inputs.input_ids = NULL;
    inputs.inputs_embeds = vectors;
    inputs.position_ids = positions;
    CHECK(run_hidden(session, &inputs, by_vector, NULL, NULL) == QB_OK);
    CHECK(same_bits(by_id, by_vector, LENGTH * HIDDEN));
    positions[0] = 5;
    CHECK(run_hidden(session, &inputs, by_vector, NULL, NULL) == QB_OK);
    CHECK(memcmp(by_id, by_vector, HIDDEN * sizeof *by_id) != 0);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_every_output_is_where_it_belongs(void)
{
    qb_device *device = case_device(NULL, 2);
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    float last[TOKENS * HIDDEN];
    float *states = case_memory((LAYERS + 1) * TOKENS * HIDDEN * sizeof *states);
    float *attentions = case_memory(LAYERS * TOKENS * HEADS * LENGTH * sizeof *attentions);
    float pooled[BATCH * HIDDEN];
    float logits[BATCH * LABELS];
    model_ids(ids, TOKENS, 77);
    right_padding(mask);
    qb_model *model = model_make(device, QB_HEAD_SEQUENCE_CLASSIFICATION);
    model_set_ranges(model);
    qb_session *session = session_make(model, BATCH, LENGTH, 1);
    const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, mask);
    float *state_of[LAYERS + 1];
    float *attention_of[LAYERS];
    for (int64_t i = 0; i <= LAYERS; i++) {
        state_of[i] = states + i * TOKENS * HIDDEN;
    }
    for (int64_t i = 0; i < LAYERS; i++) {
        attention_of[i] = attentions + i * TOKENS * HEADS * LENGTH;
    }
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs,
                                        .last_hidden_state = last,
                                        .hidden_states = state_of,
                                        .attentions = attention_of,
                                        .pooler_output = pooled,
                                        .logits = logits};
    CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
    CHECK(same_bits(states + LAYERS * TOKENS * HIDDEN, last, TOKENS * HIDDEN));
    CHECK(memcmp(states, last, HIDDEN * sizeof *states) != 0);
    for (int64_t row = 0; row < LAYERS * BATCH * HEADS * LENGTH; row++) {
        const int64_t b = row / (HEADS * LENGTH) % BATCH;
        const int is_computed = row % LENGTH < lengths[b];
        float sum = 0.0f;
        for (int64_t j = 0; j < LENGTH; j++) {
            sum += attentions[row * LENGTH + j];
            CHECK(j < lengths[b] || attentions[row * LENGTH + j] == 0.0f);
        }
        CHECK(is_computed ? fabsf(sum - 1.0f) <= 40.0f * FLT_EPSILON : sum == 0.0f);
    }
    const float *weight = qb_model_parameter(model, 39).data;
    const float *bias = qb_model_parameter(model, 40).data;
    for (int64_t i = 0; i < BATCH * LABELS; i++) {
        float acc = 0.0f;
        for (int64_t f = 0; f < HIDDEN; f++) {
            acc = fmaf(pooled[i / LABELS * HIDDEN + f], weight[i % LABELS * HIDDEN + f], acc);
        }
        CHECK(logits[i] == acc + bias[i % LABELS]);
    }
    free(states);
    free(attentions);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_head_mask_scales_the_probabilities(void)
{
    qb_device *device = case_device(NULL, 1);
    int64_t ids[LENGTH];
    float plain[LENGTH * HIDDEN];
    float masked[LENGTH * HIDDEN];
    float head_mask[LAYERS * HEADS];
    float attentions[LAYERS * HEADS * LENGTH * LENGTH];
    float *const attention_of[LAYERS] = {attentions, attentions + HEADS * LENGTH * LENGTH};
    model_ids(ids, LENGTH, 78);
    for (int64_t i = 0; i < LAYERS * HEADS; i++) {
        head_mask[i] = 1.0f;
    }
    qb_model *model = model_make(device, QB_HEAD_NONE);
    model_set_stages(model, QB_STAGE_DISABLED);
    qb_session *session = session_make(model, 1, LENGTH, 1);
    qb_forward_inputs inputs = model_inputs(1, LENGTH, ids, NULL);
    CHECK(run_hidden(session, &inputs, plain, NULL, NULL) == QB_OK);
    inputs.head_mask = head_mask;
    CHECK(run_hidden(session, &inputs, masked, NULL, NULL) == QB_OK);
    CHECK(same_bits(plain, masked, LENGTH * HIDDEN));
    head_mask[HEADS + 2] = 0.0f;
    const qb_forward_outputs outputs = {
        .struct_size = sizeof outputs, .last_hidden_state = masked, .attentions = attention_of};
    CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
    CHECK(memcmp(plain, masked, sizeof plain) != 0);
    CHECK(all_zero(attentions + (HEADS + 2) * LENGTH * LENGTH, LENGTH * LENGTH));
    CHECK(naive_amax(attentions + (HEADS + 1) * LENGTH * LENGTH, LENGTH * LENGTH) > 0.0f);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

/* ---- memory and threads ----------------------------------------------------------------------------------------- */

static void
test_forward_allocates_nothing(void)
{
    qb_device *device = case_device(NULL, 3);
    int64_t ids[TOKENS];
    float logits[TOKENS * LABELS];
    model_ids(ids, TOKENS, 79);
    const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, NULL);
    for (int mode = 0; mode < 4; mode++) { /* float, integer, dynamic, mixed: two quantizers in 16 bits */
        qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
        if (mode == 0) {
            model_set_stages(model, QB_STAGE_DISABLED);
        }
        if (mode == 1 || mode == 3) {
            model_set_ranges(model);
        }
        if (mode == 3) {
            const qb_quantizer_options wide = case_quantizer_options(16, 0);
            CHECK(qb_quantizer_set_options(qb_model_quantizer(model, 0), &wide, NULL) == QB_OK);
            CHECK(qb_quantizer_set_options(qb_model_quantizer(model, 12), &wide, NULL) == QB_OK);
        }
        qb_session *session = session_make(model, BATCH, LENGTH, mode == 2);
        const uint64_t allocations = qb_device_memory_statistics(device).allocations;
        for (int i = 0; i < 3; i++) {
            CHECK(run_hidden(session, &inputs, NULL, logits, NULL) == QB_OK);
        }
        CHECK(qb_device_memory_statistics(device).allocations == allocations);
        qb_session_destroy(session);
        qb_model_release(model);
    }
    qb_device_close(device);
}

static void
test_loading_takes_no_packed_weights(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    const uint64_t loaded = qb_device_memory_statistics(device).live_bytes;
    const uint64_t peak = qb_device_memory_statistics(device).peak_bytes;
    CHECK(peak < loaded + loaded / 10);
    qb_session *session = session_make(model, 1, 2, 0);
    CHECK(qb_device_memory_statistics(device).live_bytes > loaded);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_more_threads_than_planned_are_served(void)
{
    qb_device *device = case_device(NULL, 1);
    int64_t ids[TOKENS];
    float before[TOKENS * LABELS];
    float after[TOKENS * LABELS];
    model_ids(ids, TOKENS, 80);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    model_set_ranges(model);
    qb_session *session = session_make(model, BATCH, LENGTH, 0);
    const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, NULL);
    CHECK(run_hidden(session, &inputs, NULL, before, NULL) == QB_OK);
    for (int32_t threads = 2; threads <= 5; threads += 3) {
        CHECK(qb_device_set_num_threads(device, threads, NULL) == QB_OK);
        CHECK(run_hidden(session, &inputs, NULL, after, NULL) == QB_OK);
        CHECK(same_bits(before, after, TOKENS * LABELS));
    }
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

typedef struct caller {
    qb_session *session;
    const qb_forward_inputs *inputs;
    const float *expected;
    int failures;
} caller;

static void *
call_often(void *argument)
{
    caller *c = argument;
    float logits[TOKENS * LABELS];
    for (int i = 0; i < 30; i++) {
        if (run_hidden(c->session, c->inputs, NULL, logits, NULL) != QB_OK ||
            memcmp(logits, c->expected, sizeof logits) != 0) {
            c->failures++;
        }
    }
    return NULL;
}

static void
test_two_sessions_run_at_the_same_time(void)
{
    qb_device *device = case_device(NULL, 2);
    int64_t ids[TOKENS];
    float expected[TOKENS * LABELS];
    model_ids(ids, TOKENS, 81);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    model_set_ranges(model);
    const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, NULL);
    caller callers[2];
    pthread_t threads[2];
    qb_session *first = session_make(model, BATCH, LENGTH, 0);
    CHECK(run_hidden(first, &inputs, NULL, expected, NULL) == QB_OK);
    for (int i = 0; i < 2; i++) {
        callers[i] = (caller){
            .session = i == 0 ? first : session_make(model, BATCH, LENGTH, 0), .inputs = &inputs, .expected = expected};
    }
    /* A change before both begin: one of them packs, the other waits. */
    CHECK(qb_quantizer_set_stages(qb_model_quantizer(model, 1), QB_STAGE_QUANT) == QB_OK);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, call_often, &callers[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(callers[i].failures == 0);
        qb_session_destroy(callers[i].session);
    }
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_session_holds_its_model_and_follows_its_changes(void)
{
    qb_device *device = case_device(NULL, 1);
    int64_t ids[LENGTH];
    float before[LENGTH * HIDDEN];
    float after[LENGTH * HIDDEN];
    float *weight = NULL;
    model_ids(ids, LENGTH, 82);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_session *session = session_make(model, 1, LENGTH, 1);
    const qb_forward_inputs inputs = model_inputs(1, LENGTH, ids, NULL);
    CHECK(run_hidden(session, &inputs, before, NULL, NULL) == QB_OK);
    CHECK(qb_model_parameter_write(model, 5, &weight, NULL) == QB_OK);
    weight[0] += 1.0f;
    qb_model_release(model);
    CHECK(run_hidden(session, &inputs, after, NULL, NULL) == QB_OK);
    CHECK(memcmp(before, after, sizeof before) != 0);
    qb_session_destroy(session);
    qb_device_close(device);
}

/* ---- statistics ------------------------------------------------------------------------------------------------- */

static void
test_statistics_see_only_computed_positions_and_no_failed_forward(void)
{
    qb_device *device = case_device(NULL, 2);
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    model_ids(ids, TOKENS, 83);
    right_padding(mask);
    float vectors[TOKENS * HIDDEN];
    qb_model *model = model_make(device, QB_HEAD_NONE);
    const int64_t count = qb_model_quantizer_count(model);
    qb_observer **observers = case_memory((size_t)count * sizeof(qb_observer *));
    float *seen = case_memory((size_t)count * sizeof *seen);
    for (int64_t i = 0; i < count; i++) {
        observers[i] = case_max_observer(device);
        CHECK(qb_quantizer_set_observer(qb_model_quantizer(model, i), observers[i]) == QB_OK);
    }
    model_set_stages(model, QB_STAGE_CALIB);
    CHECK(qb_model_needs_probabilities(model));
    qb_session *session = session_make(model, BATCH, LENGTH, 1);
    qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, NULL, mask);
    const float *table = qb_model_parameter(model, 0).data;
    for (int64_t i = 0; i < TOKENS; i++) {
        for (int64_t f = 0; f < HIDDEN; f++) { /* padding is loud, and must not be heard */
            vectors[i * HIDDEN + f] = mask[i] ? table[ids[i] * HIDDEN + f] : (float)(f % 2) * 1e6f;
        }
    }
    inputs.inputs_embeds = vectors;
    CHECK(run_hidden(session, &inputs, NULL, NULL, NULL) == QB_OK);
    for (int64_t i = 0; i < count; i++) {
        seen[i] = case_observed(observers[i]);
        CHECK(seen[i] > 0.0f && seen[i] < 50.0f);
    }
    vectors[2 * LENGTH * HIDDEN] = 30.0f; /* would change the statistics */
    vectors[2 * LENGTH * HIDDEN + 40] = NAN;
    qb_error error;
    CHECK(run_hidden(session, &inputs, NULL, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "encoder.layer.0.attention.self");
    for (int64_t i = 0; i < count; i++) {
        CHECK(case_observed(observers[i]) == seen[i]);
    }
    inputs.padding = QB_PADDING_COMPUTE;
    vectors[2 * LENGTH * HIDDEN + 40] = 0.0f;
    CHECK(run_hidden(session, &inputs, NULL, NULL, &error) == QB_OK);
    for (int64_t i = 0; i < count; i++) {
        CHECK(case_observed(observers[i]) >= seen[i]);
        qb_observer_release(observers[i]);
    }
    free(observers);
    free(seen);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static int
stop_at_once(void *context)
{
    ++*(int *)context;
    return 1;
}

static void
test_an_interrupted_forward_leaves_no_trace(void)
{
    qb_device *device = case_device(NULL, 2);
    int64_t ids[TOKENS];
    float hidden[TOKENS * HIDDEN];
    int polls = 0;
    const qb_interrupt interrupt = {.poll = stop_at_once, .context = &polls};
    const struct timespec longer_than_a_poll = {.tv_nsec = 30 * 1000 * 1000};
    model_ids(ids, TOKENS, 84);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_observer *observer = case_max_observer(device);
    CHECK(qb_quantizer_set_observer(qb_model_quantizer(model, 0), observer) == QB_OK);
    CHECK(qb_quantizer_set_stages(qb_model_quantizer(model, 0), QB_STAGE_CALIB) == QB_OK);
    qb_session *session = session_make(model, BATCH, LENGTH, 1);
    const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, NULL);
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .last_hidden_state = hidden};
    memset(hidden, 0, sizeof hidden);
    CHECK(thrd_sleep(&longer_than_a_poll, NULL) == 0);
    CHECK(qb_session_forward(session, &interrupt, &inputs, &outputs, NULL) == QB_ERR_INTERRUPTED);
    CHECK(polls == 1);
    CHECK(!qb_observer_has_data(observer));
    CHECK(all_zero(hidden, TOKENS * HIDDEN));
    CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
    CHECK(qb_observer_has_data(observer));
    qb_observer_release(observer);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_an_interrupt_stops_the_packing_of_a_new_session(void)
{
    qb_device *device = case_device(NULL, 2);
    int polls = 0;
    const qb_interrupt interrupt = {.poll = stop_at_once, .context = &polls};
    const struct timespec longer_than_a_poll = {.tv_nsec = 30 * 1000 * 1000};
    qb_model *model = model_make(device, QB_HEAD_NONE);
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = BATCH,
                                        .max_length = LENGTH,
                                        .keep_probabilities = 1,
                                        .interrupt = &interrupt};
    qb_session *session = NULL;
    qb_error error;
    CHECK(thrd_sleep(&longer_than_a_poll, NULL) == 0);
    CHECK(qb_session_create(model, &options, &session, &error) == QB_ERR_INTERRUPTED);
    CHECK(session == NULL && error.status == QB_ERR_INTERRUPTED);
    CHECK(polls == 1);
    session = session_make(model, BATCH, LENGTH, 1);
    CHECK(session != NULL);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

/* ---- limits ----------------------------------------------------------------------------------------------------- */

static void
test_session_limits_are_checked(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_session_options options = {.struct_size = sizeof options, .max_sequences = 0, .max_length = 4};
    qb_session *session = NULL;
    qb_error error;
    CHECK(qb_session_create(model, &options, &session, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "max_sequences is 0");
    options.max_sequences = 2;
    options.max_length = POSITIONS + 1;
    CHECK(qb_session_create(model, &options, &session, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "max_length is 41, expected 1 .. 40 positions");
    options.max_length = POSITIONS;
    options.max_sequences = INT64_MAX / 4;
    CHECK(qb_session_create(model, &options, &session, &error) == QB_ERR_VALUE);
    options.max_sequences = INT64_MAX / 64;
    CHECK(qb_session_create(model, &options, &session, &error) == QB_ERR_NOMEM);
    CHECK(session == NULL);
    options =
        (qb_session_options){.struct_size = sizeof options, .max_sequences = 3, .max_length = 10, .max_tokens = 12};
    CHECK(qb_session_create(model, &options, &session, &error) == QB_OK);
    int64_t ids[30] = {0};
    model_set_stages(model, QB_STAGE_DISABLED);
    const qb_forward_inputs inputs = model_inputs(3, 10, ids, NULL);
    CHECK(run_hidden(session, &inputs, NULL, NULL, &error) == QB_ERR_SHAPE);
    CHECK_CONTAINS(error.message, "30 tokens are to be computed, expected at most max_tokens 12");
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_a_range_that_cannot_be_served_is_refused_when_the_session_is_made(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_quantizer_options options = case_quantizer_options(8, 0);
    const qb_session_options limits = {.struct_size = sizeof limits, .max_sequences = 1, .max_length = 4};
    qb_session *session = NULL;
    qb_error error;
    options.axis_count = 1;
    options.axes[0] = 1;
    CHECK(qb_quantizer_set_options(qb_model_quantizer(model, 33), &options, NULL) == QB_OK);
    CHECK(qb_session_create(model, &limits, &session, &error) == QB_ERR_UNSUPPORTED);
    CHECK_CONTAINS(error.message, "encoder.layer.1.attention.output.add_residual_input_quantizer: ");
    CHECK(session == NULL);
    qb_model_release(model);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_forward_has_equal_bits_on_every_device);
    RUN(test_skipped_padding_gives_the_bits_of_computed_padding_and_reads_as_zero);
    RUN(test_batch_mates_and_their_order_change_nothing);
    RUN(test_padding_anywhere_keeps_positions);
    RUN(test_rank_3_mask_of_equal_rows_is_the_rank_2_mask);
    RUN(test_word_vectors_stand_for_ids_and_positions_can_be_given);
    RUN(test_every_output_is_where_it_belongs);
    RUN(test_head_mask_scales_the_probabilities);
    RUN(test_forward_allocates_nothing);
    RUN(test_loading_takes_no_packed_weights);
    RUN(test_more_threads_than_planned_are_served);
    RUN(test_two_sessions_run_at_the_same_time);
    RUN(test_session_holds_its_model_and_follows_its_changes);
    RUN(test_statistics_see_only_computed_positions_and_no_failed_forward);
    RUN(test_an_interrupted_forward_leaves_no_trace);
    RUN(test_an_interrupt_stops_the_packing_of_a_new_session);
    RUN(test_session_limits_are_checked);
    RUN(test_a_range_that_cannot_be_served_is_refused_when_the_session_is_made);
    return check_report();
}
