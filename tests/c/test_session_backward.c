/* SPDX-License-Identifier: Apache-2.0
 *
 * Backward of whole sessions: equal bits everywhere, sums, frozen parameters, and what is refused.  That the numbers
 * are the derivatives, tests/reference and tests/golden say.
 */
#include "training_case.h"

static void
test_gradients_have_equal_bits_on_every_device(void)
{
    static const qb_head heads[] = {QB_HEAD_QUESTION_ANSWERING, QB_HEAD_TOKEN_CLASSIFICATION,
                                    QB_HEAD_SEQUENCE_CLASSIFICATION, QB_HEAD_LANGUAGE_MODEL};
    case_devices devices = case_devices_open();
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    for (size_t h = 0; h < COUNT(heads); h++) {
        for (int mode = 0; mode < 3; mode++) {
            float *expected = NULL;
            for (size_t d = 0; d < devices.count; d++) {
                int64_t count = 0;
                qb_model *model = model_make(devices.at[d], heads[h]);
                training_set_mode(model, mode);
                qb_session *session = training_session(model);
                CHECK(training_forward(session, c, NULL) == QB_OK);
                const uint64_t allocations = qb_device_memory_statistics(devices.at[d]).allocations;
                CHECK(training_backward(session, c, NULL) == QB_OK);
                /* Ranges that are made from each row of a weight are small tensors of their own. */
                CHECK(mode > 0 || qb_device_memory_statistics(devices.at[d]).allocations == allocations);
                float *found = training_gradients(model, &count);
                CHECK(!all_zero(found, count));
                CHECK(d == 0 || same_bits(found, expected, count));
                if (d == 0) {
                    expected = found;
                }
                else {
                    free(found);
                }
                qb_session_destroy(session);
                qb_model_release(model);
            }
            free(expected);
        }
    }
    free(c);
    case_devices_close(&devices);
}

static void
test_a_session_that_trains_gives_the_bits_of_one_that_does_not(void)
{
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    float *logits = case_memory(MOST_LOGITS * sizeof *logits);
    training_fill(c);
    for (int mode = 0; mode < 3; mode++) {
        qb_model *model = model_make(device, QB_HEAD_LANGUAGE_MODEL);
        training_set_mode(model, mode);
        qb_session *trains = training_session(model);
        qb_session *runs = session_make(model, BATCH, LENGTH, 1);
        CHECK(training_forward(trains, c, NULL) == QB_OK);
        memcpy(logits, c->logits, sizeof c->logits);
        CHECK(training_forward(runs, c, NULL) == QB_OK);
        CHECK(same_bits(logits, c->logits, MOST_LOGITS));
        qb_session_destroy(trains);
        qb_session_destroy(runs);
        qb_model_release(model);
    }
    free(logits);
    free(c);
    qb_device_close(device);
}

static void
test_gradients_add_up_until_they_are_zeroed(void)
{
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    int64_t count = 0;
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    CHECK(qb_model_gradient(model, 0) == NULL);
    qb_session *session = training_session(model);
    CHECK(training_forward(session, c, NULL) == QB_OK && training_backward(session, c, NULL) == QB_OK);
    float *once = training_gradients(model, &count);
    CHECK(training_forward(session, c, NULL) == QB_OK && training_backward(session, c, NULL) == QB_OK);
    float *twice = training_gradients(model, &count);
    for (int64_t i = 0; i < count; i++) {
        CHECK(fabsf(twice[i] - 2.0f * once[i]) <= 1e-5f * fabsf(twice[i]) + 1e-4f);
    }
    CHECK(qb_model_zero_gradients(model, NULL, 0, NULL) == QB_OK);
    free(twice);
    twice = training_gradients(model, &count);
    CHECK(all_zero(twice, count));
    CHECK(training_forward(session, c, NULL) == QB_OK && training_backward(session, c, NULL) == QB_OK);
    free(twice);
    twice = training_gradients(model, &count);
    CHECK(same_bits(once, twice, count));
    free(once);
    free(twice);
    free(c);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

/* torch's usual order: forward, zero_grad, backward. */
static void
test_zeroing_scaling_and_freezing_come_between_forward_and_backward(void)
{
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    int64_t count = 0;
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    qb_session *session = training_session(model);
    CHECK(training_forward(session, c, NULL) == QB_OK && training_backward(session, c, NULL) == QB_OK);
    float *once = training_gradients(model, &count);
    CHECK(training_forward(session, c, NULL) == QB_OK);
    CHECK(qb_model_set_trainable(model, 0, 1, NULL) == QB_OK);
    CHECK(qb_model_scale_gradients(model, 0.5f, NULL, 0, NULL) == QB_OK);
    CHECK(qb_model_zero_gradients(model, NULL, 0, NULL) == QB_OK);
    CHECK(training_backward(session, c, NULL) == QB_OK);
    float *again = training_gradients(model, &count);
    CHECK(same_bits(once, again, count));
    free(once);
    free(again);
    free(c);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_frozen_parameters_get_nothing_and_change_no_other_bit(void)
{
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    training_fill(c);
    int64_t count = 0;
    qb_model *model = model_make(device, QB_HEAD_LANGUAGE_MODEL);
    qb_session *session = training_session(model);
    CHECK(training_forward(session, c, NULL) == QB_OK && training_backward(session, c, NULL) == QB_OK);
    float *all = training_gradients(model, &count);
    CHECK(qb_model_zero_gradients(model, NULL, 0, NULL) == QB_OK);
    for (int64_t i = 0; i < qb_model_parameter_count(model); i += 2) {
        CHECK(qb_model_set_trainable(model, i, 0, NULL) == QB_OK);
        CHECK(qb_model_gradient(model, i) == NULL);
    }
    CHECK(qb_model_set_trainable(model, qb_model_parameter_count(model), 0, NULL) == QB_ERR_INDEX);
    CHECK(training_forward(session, c, NULL) == QB_OK && training_backward(session, c, NULL) == QB_OK);
    int64_t at = 0;
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        const int64_t n = info.shape[0] * (info.rank == 2 ? info.shape[1] : 1);
        CHECK(i % 2 == 0 || same_bits(qb_model_gradient(model, i), all + at, n));
        CHECK(qb_model_set_trainable(model, i, 1, NULL) == QB_OK);
        CHECK(i % 2 == 1 || all_zero(qb_model_gradient(model, i), n));
        at += n;
    }
    free(all);
    free(c);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_backward_without_its_forward_is_refused(void)
{
    qb_device *device = case_device(NULL, 1);
    training_case *c = case_memory(sizeof *c);
    qb_error error;
    float *data = NULL;
    training_fill(c);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    qb_session *runs = session_make(model, BATCH, LENGTH, 1);
    CHECK(training_forward(runs, c, NULL) == QB_OK);
    CHECK(training_backward(runs, c, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "without trains");
    qb_session_destroy(runs);

    qb_session *session = training_session(model);
    CHECK(training_backward(session, c, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "no forward");
    CHECK(training_forward(session, c, NULL) == QB_OK);
    c->ids[0] = VOCABULARY;
    CHECK(training_forward(session, c, NULL) == QB_ERR_INDEX);
    c->ids[0] = 3;
    CHECK(training_backward(session, c, &error) == QB_ERR_STATE);

    CHECK(training_forward(session, c, NULL) == QB_OK);
    CHECK(qb_model_parameter_write(model, 0, &data, NULL) == QB_OK);
    CHECK(training_backward(session, c, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "changed since the forward");
    CHECK(training_forward(session, c, NULL) == QB_OK);
    CHECK(qb_model_parameter_write(model, 0, &data, NULL) == QB_OK);
    qb_session *other = training_session(model); /* whose forward packs anew */
    CHECK(training_forward(other, c, NULL) == QB_OK);
    CHECK(training_backward(session, c, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "changed since the forward");
    CHECK(training_forward(session, c, NULL) == QB_OK); /* a refusal leaves nothing behind */
    CHECK(training_backward(session, c, NULL) == QB_OK);
    qb_session_destroy(other);

    const qb_forward_outputs none = {.struct_size = sizeof none};
    CHECK(qb_session_forward(session, NULL, &c->inputs, &none, NULL) == QB_OK);
    CHECK(training_backward(session, c, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "d_logits");
    const qb_backward_inputs pooled = {.struct_size = sizeof pooled, .d_pooler_output = c->d};
    CHECK(qb_session_backward(session, NULL, &pooled, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "d_pooler_output");
    const qb_backward_inputs nothing = {.struct_size = sizeof nothing};
    const qb_backward_outputs memory = {.struct_size = sizeof memory, .d_encoder_hidden_states = c->logits};
    CHECK(qb_session_backward(session, NULL, &nothing, &memory, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "d_encoder_hidden_states");

    const qb_session_options with_past = {
        .struct_size = sizeof with_past, .max_sequences = 1, .max_length = 4, .max_past = 3, .trains = 1};
    qb_session *past = NULL;
    CHECK(qb_session_create(model, &with_past, &past, &error) == QB_ERR_VALUE && past == NULL);
    CHECK_CONTAINS(error.message, "max_past is 3, expected 0");
    qb_session_destroy(session);
    qb_model_release(model);
    free(c);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_gradients_have_equal_bits_on_every_device);
    RUN(test_a_session_that_trains_gives_the_bits_of_one_that_does_not);
    RUN(test_gradients_add_up_until_they_are_zeroed);
    RUN(test_zeroing_scaling_and_freezing_come_between_forward_and_backward);
    RUN(test_frozen_parameters_get_nothing_and_change_no_other_bit);
    RUN(test_backward_without_its_forward_is_refused);
    return check_report();
}
