/* SPDX-License-Identifier: Apache-2.0
 *
 * A language model that scores only the tokens it is asked for (models/head_language_model.c).
 */
#include <string.h>

#include "model_case.h"

enum { BATCH = 9, LENGTH = 31, TOKENS = BATCH * LENGTH, ASKED = 141 }; /* more than one block of 128 rows */

static void
test_asked_tokens_have_the_bits_of_all_tokens_and_others_are_zero(void)
{
    case_devices devices = case_devices_open();
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    int64_t positions[ASKED];
    float *all = case_memory(TOKENS * VOCABULARY * sizeof *all);
    float *some = case_memory(ASKED * VOCABULARY * sizeof *some);
    unsigned long long seed = 5;
    model_ids(ids, TOKENS, 91);
    for (int64_t i = 0; i < TOKENS; i++) {
        mask[i] = i % LENGTH < 3 + 4 * (i / LENGTH);
    }
    for (int64_t i = 0; i < ASKED; i++) { /* in any order, with repetitions, padding among them */
        positions[i] = (int64_t)(check_random(&seed) % TOKENS);
    }
    for (size_t d = 0; d < devices.count; d++) {
        qb_model *model = model_make(devices.at[d], QB_HEAD_LANGUAGE_MODEL);
        model_set_ranges(model);
        qb_session *session = session_make(model, BATCH, LENGTH, 0);
        qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, mask);
        qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = all};
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        inputs.logits_positions = positions;
        inputs.logits_count = ASKED;
        outputs.logits = some;
        memset(some, 0xff, ASKED * VOCABULARY * sizeof *some);
        const uint64_t allocations = qb_device_memory_statistics(devices.at[d]).allocations;
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        CHECK(qb_device_memory_statistics(devices.at[d]).allocations == allocations);
        for (int64_t i = 0; i < ASKED; i++) {
            CHECK(same_bits(some + i * VOCABULARY, all + positions[i] * VOCABULARY, VOCABULARY));
            CHECK((naive_amax(some + i * VOCABULARY, VOCABULARY) > 0.0f) == (mask[positions[i]] != 0));
        }
        qb_session_destroy(session);
        qb_model_release(model);
    }
    free(all);
    free(some);
    case_devices_close(&devices);
}

static void
check_refused(qb_head head, const int64_t *positions, int64_t count, qb_status expected, const char *part)
{
    qb_device *device = case_device("ref", 1);
    const int64_t ids[6] = {1, 2, 3, 4, 5, 6};
    float logits[6 * VOCABULARY];
    qb_model *model = model_make(device, head);
    qb_session *session = session_make(model, 2, 3, 1);
    qb_forward_inputs inputs = model_inputs(2, 3, ids, NULL);
    inputs.logits_positions = positions;
    inputs.logits_count = count;
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = logits};
    qb_error error;
    CHECK(qb_session_forward(session, NULL, &inputs, &outputs, &error) == expected);
    CHECK_CONTAINS(error.message, part);
    qb_session_destroy(session);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_a_wrong_position_is_named_and_other_heads_take_none(void)
{
    const int64_t too_large[] = {0, 5, 6};
    const int64_t negative[] = {-1};
    check_refused(QB_HEAD_LANGUAGE_MODEL, too_large, 3, QB_ERR_INDEX, "logits_positions[2] is 6, expected 0 .. ");
    check_refused(QB_HEAD_LANGUAGE_MODEL, negative, 1, QB_ERR_INDEX, "logits_positions[0] is -1");
    check_refused(QB_HEAD_TOKEN_CLASSIFICATION, too_large, 2, QB_ERR_VALUE, "only a language model");
}

int
main(void)
{
    RUN(test_asked_tokens_have_the_bits_of_all_tokens_and_others_are_zero);
    RUN(test_a_wrong_position_is_named_and_other_heads_take_none);
    return check_report();
}
