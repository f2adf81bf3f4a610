/* SPDX-License-Identifier: Apache-2.0
 *
 * Dropout in whole sessions: equal bits everywhere, in both ways of attention and however much padding there is; what
 * is dropped; what is refused.  That it sits where the formulas have it, and its gradients, tests/reference says.
 */
#include "training_case.h"

static void
test_steps_have_equal_bits_on_every_device_and_allocate_nothing(void)
{
    static const qb_head heads[] = {QB_HEAD_QUESTION_ANSWERING, QB_HEAD_TOKEN_CLASSIFICATION,
                                    QB_HEAD_SEQUENCE_CLASSIFICATION, QB_HEAD_LANGUAGE_MODEL};
    case_devices devices = case_devices_open();
    training_case *c = case_memory(sizeof *c);
    float probabilities[NODES];
    training_fill(c);
    for (size_t h = 0; h < COUNT(heads); h++) {
        for (int mode = 0; mode < 3; mode++) {
            float *expected = NULL;
            for (size_t d = 0; d < devices.count; d++) {
                int64_t count = 0;
                qb_model *model = model_make(devices.at[d], heads[h]);
                training_set_mode(model, mode);
                qb_session *session = training_session(model);
                training_set_dropout(c, heads[h], 0.3f, probabilities);
                const uint64_t allocations = qb_device_memory_statistics(devices.at[d]).allocations;
                float *found = training_step(session, c, &count);
                /* Ranges that are made from each row of a weight are small tensors of their own. */
                CHECK(mode > 0 || qb_device_memory_statistics(devices.at[d]).allocations == allocations);
                CHECK(d == 0 || same_bits(found, expected, count));
                if (d == 0) {
                    expected = found;
                    training_set_dropout(c, heads[h], 0.0f, probabilities);
                    float *without = training_step(session, c, &count);
                    CHECK(differ(without, expected, count));
                    free(without);
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
test_probabilities_of_zero_are_no_dropout(void)
{
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    float probabilities[NODES];
    int64_t count = 0;
    training_fill(c);
    for (int mode = 0; mode < 3; mode++) {
        qb_model *model = model_make(device, QB_HEAD_TOKEN_CLASSIFICATION);
        training_set_mode(model, mode);
        qb_session *session = training_session(model);
        c->inputs.dropout_probabilities = NULL;
        float *without = training_step(session, c, &count);
        training_set_dropout(c, QB_HEAD_TOKEN_CLASSIFICATION, 0.0f, probabilities);
        float *with_zero = training_step(session, c, &count);
        CHECK(same_bits(without, with_zero, count));
        free(without);
        free(with_zero);
        qb_session_destroy(session);
        qb_model_release(model);
    }
    free(c);
    qb_device_close(device);
}

/* Each dropout alone changes the step, and so do its seed and step. */
static void
test_every_node_the_seed_and_the_step_matter(void)
{
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    float probabilities[NODES];
    int64_t count = 0;
    training_fill(c);
    qb_model *model = model_make(device, QB_HEAD_TOKEN_CLASSIFICATION);
    training_set_mode(model, 1);
    qb_session *session = training_session(model);
    float *without = training_step(session, c, &count);
    for (int64_t i = 0; i < NODES; i++) {
        training_set_dropout(c, QB_HEAD_TOKEN_CLASSIFICATION, 0.2f, probabilities);
        if (probabilities[i] == 0.0f) {
            continue;
        }
        for (int64_t j = 0; j < NODES; j++) {
            probabilities[j] = j == i ? 0.2f : 0.0f;
        }
        float *found = training_step(session, c, &count);
        CHECK(differ(found, without, count));
        c->inputs.dropout_seed += 1;
        float *seeded = training_step(session, c, &count);
        CHECK(differ(found, seeded, count));
        c->inputs.dropout_seed -= 1;
        c->inputs.dropout_step += 1;
        float *stepped = training_step(session, c, &count);
        CHECK(differ(found, stepped, count) && differ(seeded, stepped, count));
        c->inputs.dropout_step -= 1;
        float *again = training_step(session, c, &count);
        CHECK(same_bits(found, again, count));
        free(found);
        free(seeded);
        free(stepped);
        free(again);
    }
    free(without);
    free(c);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

/* A step whose logits are kept and one whose probabilities are. */
static void
test_both_ways_of_attention_drop_the_same(void)
{
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    float probabilities[NODES];
    int64_t count = 0;
    training_fill(c);
    for (int mode = 0; mode < 2; mode++) {
        qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
        training_set_mode(model, mode);
        qb_session *session = training_session(model);
        training_set_dropout(c, QB_HEAD_QUESTION_ANSWERING, 0.3f, probabilities);
        CHECK(training_forward(session, c, NULL) == QB_OK);
        float *in_scratch = case_memory(sizeof c->logits);
        memcpy(in_scratch, c->logits, sizeof c->logits);
        float *kept[LAYERS];
        for (int64_t i = 0; i < LAYERS; i++) {
            kept[i] = case_memory(sizeof(float) * BATCH * HEADS * LENGTH * LENGTH);
        }
        const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = c->logits, .attentions = kept};
        CHECK(qb_session_forward(session, NULL, &c->inputs, &outputs, NULL) == QB_OK);
        CHECK(same_bits(in_scratch, c->logits, MOST_LOGITS));
        /* Of the first sequence, which has no padding, three tenths are zero: within five standard deviations. */
        int64_t zeros = 0;
        const int64_t n = (int64_t)HEADS * LENGTH * LENGTH;
        for (int64_t i = 0; i < n; i++) {
            zeros += kept[1][i] == 0.0f;
        }
        CHECK(fabs((double)zeros / (double)n - 0.3) <= 5.0 * sqrt(0.3 * 0.7 / (double)n));
        for (int64_t i = 0; i < LAYERS; i++) {
            free(kept[i]);
        }
        free(in_scratch);
        qb_session_destroy(session);
        qb_model_release(model);
        count++;
    }
    CHECK(count == 2);
    free(c);
    qb_device_close(device);
}

/* The last sequence has 12 tokens of 19, and then of 14; padding is left out, then computed. */
static void
test_what_is_dropped_does_not_depend_on_padding(void)
{
    enum { SHORT = 14, KEPT = 12 };
    qb_device *device = case_device(NULL, 2);
    training_case *c = case_memory(sizeof *c);
    float probabilities[NODES];
    training_fill(c);
    for (int mode = 0; mode < 2; mode++) {
        qb_model *model = model_make(device, QB_HEAD_TOKEN_CLASSIFICATION);
        training_set_mode(model, mode);
        qb_session *session = training_session(model);
        training_set_dropout(c, QB_HEAD_TOKEN_CLASSIFICATION, 0.3f, probabilities);
        CHECK(training_forward(session, c, NULL) == QB_OK);
        float expected[KEPT * LABELS];
        memcpy(expected, c->logits + 2 * LENGTH * LABELS, sizeof expected);
        int64_t ids[BATCH * SHORT];
        int64_t mask[BATCH * SHORT];
        for (int64_t i = 0; i < (int64_t)COUNT(ids); i++) {
            ids[i] = c->ids[i / SHORT * LENGTH + i % SHORT];
            mask[i] = c->mask[i / SHORT * LENGTH + i % SHORT];
        }
        const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = c->logits};
        for (int padding = 0; padding < 2; padding++) {
            qb_forward_inputs inputs = c->inputs;
            inputs.length = SHORT;
            inputs.input_ids = ids;
            inputs.attention_mask = mask;
            inputs.padding = padding ? QB_PADDING_COMPUTE : QB_PADDING_SKIP;
            CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
            CHECK(same_bits(c->logits + 2 * SHORT * LABELS, expected, KEPT * LABELS));
        }
        qb_session_destroy(session);
        qb_model_release(model);
    }
    free(c);
    qb_device_close(device);
}

static void
test_dropouts_that_cannot_be_are_refused(void)
{
    qb_device *device = case_device(NULL, 1);
    training_case *c = case_memory(sizeof *c);
    float probabilities[NODES];
    qb_error error;
    training_fill(c);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    CHECK(qb_model_dropout_count(model) == NODES);
    qb_session *session = training_session(model);
    training_set_dropout(c, QB_HEAD_QUESTION_ANSWERING, 0.1f, probabilities);
    CHECK(training_forward(session, c, NULL) == QB_OK);
    const float wrong[] = {-0.1f, 1.5f, NAN};
    for (size_t i = 0; i < COUNT(wrong); i++) {
        probabilities[2] = wrong[i];
        CHECK(training_forward(session, c, &error) == QB_ERR_VALUE);
        CHECK_CONTAINS(error.message, "dropout_probabilities[2] is");
        CHECK_CONTAINS(error.message, "expected 0 .. 1");
        CHECK(training_backward(session, c, NULL) == QB_ERR_STATE);
    }
    probabilities[2] = 1.0f;
    CHECK(training_forward(session, c, NULL) == QB_OK);
    probabilities[4] = 0.1f;
    CHECK(training_forward(session, c, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "dropout_probabilities[4] is 0.1, expected 0: the model was made without cross-");
    probabilities[4] = 0.0f;
    probabilities[HEAD_NODE] = 0.1f;
    CHECK(training_forward(session, c, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "dropout_probabilities[11] is 0.1, expected 0: the model's head has no dropout");
    probabilities[HEAD_NODE] = 0.0f;
    qb_session *runs = session_make(model, BATCH, LENGTH, 1);
    CHECK(training_forward(runs, c, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "without trains");
    qb_session_destroy(runs);
    qb_session_destroy(session);
    qb_model_release(model);
    free(c);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_steps_have_equal_bits_on_every_device_and_allocate_nothing);
    RUN(test_probabilities_of_zero_are_no_dropout);
    RUN(test_every_node_the_seed_and_the_step_matter);
    RUN(test_both_ways_of_attention_drop_the_same);
    RUN(test_what_is_dropped_does_not_depend_on_padding);
    RUN(test_dropouts_that_cannot_be_are_refused);
    return check_report();
}
