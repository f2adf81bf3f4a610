/* SPDX-License-Identifier: Apache-2.0
 *
 * Training with bf16 products: equal bits wherever there are such products, on any number of threads, for any batch
 * mates, with and without gradient checkpointing; sessions beside it see nothing of it.
 */
#include "training_case.h"

static qb_session *
bf16_session(qb_model *model, int recomputes)
{
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = BATCH,
                                        .max_length = LENGTH,
                                        .keep_probabilities = 1,
                                        .trains = 1,
                                        .recomputes = recomputes,
                                        .bf16_products = 1};
    return session_make_of(model, &options);
}

static void
test_steps_have_equal_bits_on_every_device_that_has_them(void)
{
    static const qb_head heads[] = {QB_HEAD_SEQUENCE_CLASSIFICATION, QB_HEAD_LANGUAGE_MODEL};
    case_devices devices = case_bf16_devices_open();
    training_case *c = case_memory(sizeof *c);
    float probabilities[NODES];
    training_fill(c);
    CHECK(devices.count >= 3);
    for (size_t h = 0; h < COUNT(heads); h++) {
        for (int mode = 0; mode < 3; mode++) {
            float *expected = NULL;
            training_set_dropout(c, heads[h], 0.2f, probabilities);
            for (size_t d = 0; d < devices.count; d++) {
                for (int recomputes = 0; recomputes < 2; recomputes++) {
                    int64_t count = 0;
                    qb_model *model = model_make(devices.at[d], heads[h]);
                    training_set_mode(model, mode);
                    qb_session *session = bf16_session(model, recomputes);
                    float *found = training_step(session, c, &count);
                    CHECK(!all_zero(found, count));
                    CHECK(expected == NULL || same_bits(found, expected, count));
                    if (expected == NULL) {
                        expected = found;
                    }
                    else {
                        free(found);
                    }
                    qb_session_destroy(session);
                    qb_model_release(model);
                }
            }
            free(expected);
        }
    }
    free(c);
    case_devices_close(&devices);
}

static void
test_a_step_allocates_nothing(void)
{
    qb_device *device = case_device("ref", 2);
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    qb_model *model = model_make(device, QB_HEAD_LANGUAGE_MODEL);
    training_set_mode(model, 0);
    qb_session *session = bf16_session(model, 0);
    const uint64_t before = qb_device_memory_statistics(device).allocations;
    CHECK(training_forward(session, c, NULL) == QB_OK && training_backward(session, c, NULL) == QB_OK);
    CHECK(qb_device_memory_statistics(device).allocations == before);
    qb_session_destroy(session);
    qb_model_release(model);
    free(c);
    qb_device_close(device);
}

static void
test_a_sequence_does_not_depend_on_its_mates_or_its_padding(void)
{
    enum { SHORT = 12, AT = 2 }; /* the third sequence has 12 tokens */
    qb_device *device = case_device("ref", 3);
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    training_set_mode(model, 0);
    qb_session *session = bf16_session(model, 0);
    float together[BATCH * LENGTH * LABELS];
    float alone[SHORT * LABELS];
    CHECK(training_forward(session, c, NULL) == QB_OK);
    memcpy(together, c->logits, sizeof together);
    const qb_forward_inputs inputs = model_inputs(1, SHORT, c->ids + AT * LENGTH, c->mask + AT * LENGTH);
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = alone};
    CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
    CHECK(same_bits(alone, together + AT * LENGTH * LABELS, SHORT * LABELS));
    qb_session_destroy(session);
    qb_model_release(model);
    free(c);
    qb_device_close(device);
}

static void
test_sessions_of_floats_see_nothing_of_it(void)
{
    qb_device *device = case_device("ref", 2);
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    for (int mode = 0; mode < 3; mode++) {
        int64_t count = 0;
        qb_model *model = model_make(device, QB_HEAD_LANGUAGE_MODEL);
        training_set_mode(model, mode);
        qb_session *trains = training_session(model);
        qb_session *runs = session_make(model, BATCH, LENGTH, 1);
        float *expected = training_step(trains, c, &count);
        qb_session *halves = bf16_session(model, 0);
        float *rounded = training_step(halves, c, &count);
        float *found = training_step(trains, c, &count);
        CHECK(same_bits(found, expected, count));
        CHECK(differ(rounded, expected, MOST_LOGITS)); /* the head is float, whatever the mode */
        CHECK(differ(rounded + MOST_LOGITS, expected + MOST_LOGITS, count - MOST_LOGITS));
        CHECK(training_forward(runs, c, NULL) == QB_OK);
        CHECK(same_bits(c->logits, expected, MOST_LOGITS));
        /* A backward comes after its own forward, whatever runs in between. */
        CHECK(qb_model_zero_gradients(model, NULL, 0, NULL) == QB_OK);
        CHECK(training_forward(halves, c, NULL) == QB_OK && training_forward(runs, c, NULL) == QB_OK);
        CHECK(training_backward(halves, c, NULL) == QB_OK);
        float *again = training_gradients(model, &count);
        CHECK(same_bits(again, rounded + MOST_LOGITS, count));
        free(expected);
        free(rounded);
        free(found);
        free(again);
        qb_session_destroy(trains);
        qb_session_destroy(runs);
        qb_session_destroy(halves);
        qb_model_release(model);
    }
    free(c);
    qb_device_close(device);
}

static void
test_what_runs_on_codes_keeps_its_forward(void)
{
    qb_device *device = case_device("ref", 2);
    training_case *c = case_memory(sizeof *c);
    float *hidden[2];
    training_fill(c);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    training_set_mode(model, 1);
    for (int i = 0; i < 2; i++) {
        qb_session *session = i == 0 ? training_session(model) : bf16_session(model, 0);
        hidden[i] = case_memory(TOKENS * HIDDEN * sizeof(float));
        const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .last_hidden_state = hidden[i]};
        CHECK(qb_session_forward(session, NULL, &c->inputs, &outputs, NULL) == QB_OK);
        qb_session_destroy(session);
    }
    CHECK(same_bits(hidden[0], hidden[1], TOKENS * HIDDEN));
    free(hidden[0]);
    free(hidden[1]);
    free(c);
    qb_model_release(model);
    qb_device_close(device);
}

/* Products of attention, and of its relative positions, are float32: only the tables of linear layers are packed. */
static void
test_relative_positions_stay_floats(void)
{
    qb_device *device = case_device("ref", 2);
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    qb_model_options options = model_options(QB_HEAD_QUESTION_ANSWERING);
    options.position_embedding_type = "relative_key_query";
    qb_model *model = model_make_of(device, &options);
    training_set_mode(model, 0);
    qb_session *session = bf16_session(model, 1);
    CHECK(training_forward(session, c, NULL) == QB_OK && training_backward(session, c, NULL) == QB_OK);
    const qb_attention *attention = &model->bert.blocks[0].attention;
    CHECK(attention->distance.pack.form == QB_WEIGHT_F32 && attention->distance.bf16_pack.form == QB_WEIGHT_NONE);
    CHECK(attention->query.pack.form == QB_WEIGHT_NONE && attention->query.bf16_pack.form == QB_WEIGHT_BF16);
    qb_session_destroy(session);
    qb_model_release(model);
    free(c);
    qb_device_close(device);
}

static void
test_a_changed_weight_is_packed_again(void)
{
    qb_device *device = case_device("ref", 1);
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    int64_t count = 0;
    float *found[2];
    for (int i = 0; i < 2; i++) { /* changed after the session was made, or before */
        qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
        training_set_mode(model, 0);
        qb_session *session = i == 0 ? bf16_session(model, 0) : NULL;
        if (i == 0) {
            free(training_step(session, c, &count));
        }
        for (int64_t p = 0; p < qb_model_parameter_count(model); p++) {
            float *data = NULL;
            CHECK(qb_model_parameter_write(model, p, &data, NULL) == QB_OK);
            data[0] += 0.125f;
        }
        session = i == 0 ? session : bf16_session(model, 0);
        found[i] = training_step(session, c, &count);
        qb_session_destroy(session);
        qb_model_release(model);
    }
    CHECK(same_bits(found[0], found[1], count));
    free(found[0]);
    free(found[1]);
    free(c);
    qb_device_close(device);
}

static void
test_it_is_refused_without_training_and_where_there_are_no_such_products(void)
{
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        qb_model *model = model_make(devices.at[d], QB_HEAD_QUESTION_ANSWERING);
        qb_session_options options = {
            .struct_size = sizeof options, .max_sequences = 1, .max_length = 4, .bf16_products = 1};
        qb_session *session = NULL;
        qb_error error;
        CHECK(qb_session_create(model, &options, &session, &error) == QB_ERR_VALUE && session == NULL);
        CHECK_CONTAINS(error.message, "bf16_products was given without trains");
        options.trains = 1;
        const qb_status status = qb_session_create(model, &options, &session, &error);
        if (devices.at[d]->kernels.has_bf16) {
            CHECK(status == QB_OK);
        }
        else {
            CHECK(status == QB_ERR_UNSUPPORTED && session == NULL);
            CHECK_CONTAINS(error.message, qb_device_isa(devices.at[d]));
        }
        qb_session_destroy(session);
        qb_model_release(model);
    }
    case_devices_close(&devices);
}

int
main(void)
{
    RUN(test_steps_have_equal_bits_on_every_device_that_has_them);
    RUN(test_a_step_allocates_nothing);
    RUN(test_a_sequence_does_not_depend_on_its_mates_or_its_padding);
    RUN(test_sessions_of_floats_see_nothing_of_it);
    RUN(test_what_runs_on_codes_keeps_its_forward);
    RUN(test_relative_positions_stay_floats);
    RUN(test_a_changed_weight_is_packed_again);
    RUN(test_it_is_refused_without_training_and_where_there_are_no_such_products);
    return check_report();
}
