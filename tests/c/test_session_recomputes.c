/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradient checkpointing: the same bits in less memory, and nothing is seen twice.
 */
#include "training_case.h"

static qb_session *
checkpointing_session(qb_model *model)
{
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = BATCH,
                                        .max_length = LENGTH,
                                        .keep_probabilities = 1,
                                        .trains = 1,
                                        .recomputes = 1};
    return session_make_of(model, &options);
}

static void
test_steps_have_the_bits_of_an_ordinary_session_and_allocate_nothing(void)
{
    static const qb_head heads[] = {QB_HEAD_QUESTION_ANSWERING, QB_HEAD_TOKEN_CLASSIFICATION,
                                    QB_HEAD_SEQUENCE_CLASSIFICATION, QB_HEAD_LANGUAGE_MODEL};
    training_case *c = case_memory(sizeof *c);
    float probabilities[NODES];
    training_fill(c);
    for (int32_t threads = 1; threads <= 3; threads++) {
        qb_device *device = case_device(NULL, threads);
        for (size_t h = 0; h < COUNT(heads); h++) {
            for (int mode = 0; mode < 3; mode++) {
                int64_t count = 0;
                qb_model *model = model_make(device, heads[h]);
                training_set_mode(model, mode);
                training_set_dropout(c, heads[h], mode == 0 ? 0.0f : 0.2f, probabilities);
                qb_session *ordinary = training_session(model);
                qb_session *recomputes = checkpointing_session(model);
                float *expected = training_step(ordinary, c, &count);
                const uint64_t allocations = qb_device_memory_statistics(device).allocations;
                float *found = training_step(recomputes, c, &count);
                CHECK(mode > 0 || qb_device_memory_statistics(device).allocations == allocations);
                CHECK(same_bits(found, expected, count));
                /* Once more through the same forward: x_L and what the head needs are still there. */
                CHECK(qb_model_zero_gradients(model, NULL, 0, NULL) == QB_OK);
                CHECK(training_backward(recomputes, c, NULL) == QB_OK);
                float *again = training_gradients(model, &count);
                CHECK(same_bits(again, expected + MOST_LOGITS, count));
                free(expected);
                free(found);
                free(again);
                qb_session_destroy(ordinary);
                qb_session_destroy(recomputes);
                qb_model_release(model);
            }
        }
        qb_device_close(device);
    }
    free(c);
}

static void
test_layers_with_heads_of_their_own_run_again_too(void)
{
    static const int64_t left[LAYERS] = {2, 5};
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    float probabilities[NODES];
    int64_t count = 0;
    training_fill(c);
    training_set_dropout(c, QB_HEAD_LANGUAGE_MODEL, 0.2f, probabilities);
    qb_model_options options = model_options(QB_HEAD_LANGUAGE_MODEL);
    options.heads_of_layers = left;
    qb_model *model = model_make_of(device, &options);
    training_set_mode(model, 1);
    qb_session *ordinary = training_session(model);
    qb_session *recomputes = checkpointing_session(model);
    float *expected = training_step(ordinary, c, &count);
    float *found = training_step(recomputes, c, &count);
    CHECK(same_bits(found, expected, count));
    free(expected);
    free(found);
    free(c);
    qb_session_destroy(ordinary);
    qb_session_destroy(recomputes);
    qb_model_release(model);
    qb_device_close(device);
}

/* What one more layer costs a session. */
static uint64_t
bytes_of_a_layer(qb_device *device, qb_session *(*make)(qb_model *))
{
    uint64_t bytes[2];
    for (int64_t i = 0; i < 2; i++) {
        qb_model_options options = model_options(QB_HEAD_QUESTION_ANSWERING);
        options.num_layers = 6 + i;
        qb_model *model = model_make_of(device, &options);
        qb_session *first = make(model); /* which makes the model's gradients and packs its weights */
        const uint64_t before = qb_device_memory_statistics(device).live_bytes;
        qb_session *second = make(model);
        bytes[i] = qb_device_memory_statistics(device).live_bytes - before;
        qb_session_destroy(first);
        qb_session_destroy(second);
        qb_model_release(model);
    }
    return bytes[1] - bytes[0];
}

static void
test_a_layer_costs_its_input_and_no_more(void)
{
    qb_device *device = case_device(NULL, 2);
    const uint64_t input = TOKENS * HIDDEN * sizeof(float);
    const uint64_t found = bytes_of_a_layer(device, checkpointing_session);
    /* The dropout nodes of a layer, and that sizes are rounded to 64 bytes. */
    const uint64_t nodes = QB_DROPOUTS_OF_BLOCK * sizeof(qb_dropout_node);
    CHECK(found + 64 >= input + nodes && found <= input + nodes + 64);
    CHECK(bytes_of_a_layer(device, training_session) >= 10 * input);
    qb_device_close(device);
}

static void
test_collecting_quantizers_see_a_forward_once(void)
{
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    model_set_stages(model, QB_STAGE_DISABLED);
    const qb_observer_options options = {
        .struct_size = sizeof options, .kind = QB_OBSERVER_HISTOGRAM, .axis_count = -1, .num_bins = 64};
    qb_observer *observer = NULL;
    CHECK(qb_observer_create(device, &options, &observer, NULL) == QB_OK);
    qb_quantizer *quantizer = model->bert.blocks[0].attention.query.input_quantizer;
    CHECK(qb_quantizer_set_observer(quantizer, observer) == QB_OK);
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_CALIB) == QB_OK);
    qb_session *session = checkpointing_session(model);
    CHECK(training_forward(session, c, NULL) == QB_OK && training_backward(session, c, NULL) == QB_OK);
    const int64_t *counts = NULL;
    const float *edges = NULL;
    int64_t bins = 0;
    int64_t total = 0;
    CHECK(qb_observer_histogram(observer, &counts, &edges, &bins, NULL) == QB_OK);
    for (int64_t i = 0; i < bins; i++) {
        total += counts[i];
    }
    CHECK(total == session->batch.sequences.tokens * HIDDEN);
    qb_session_destroy(session);
    qb_observer_release(observer);
    qb_model_release(model);
    free(c);
    qb_device_close(device);
}

static void
test_without_training_it_is_refused(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    const qb_session_options options = {
        .struct_size = sizeof options, .max_sequences = 1, .max_length = 4, .recomputes = 1};
    qb_session *session = NULL;
    qb_error error;
    CHECK(qb_session_create(model, &options, &session, &error) == QB_ERR_VALUE && session == NULL);
    CHECK_CONTAINS(error.message, "recomputes was given without trains");
    qb_model_release(model);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_steps_have_the_bits_of_an_ordinary_session_and_allocate_nothing);
    RUN(test_layers_with_heads_of_their_own_run_again_too);
    RUN(test_a_layer_costs_its_input_and_no_more);
    RUN(test_collecting_quantizers_see_a_forward_once);
    RUN(test_without_training_it_is_refused);
    return check_report();
}
