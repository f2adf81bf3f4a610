/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of a sequence to its own tokens.  Other keys: test_attention_keys.c; distances: test_attention_positions.c.
 */
#include "attention_case.h"
#include "attention_naive.h"

/* Tiles missed on every side, one token, and sequences of several row blocks. */
static const attention_setup setups[] = {
    {.hidden = 48, .heads = 3, .head_size = 16, .count = 4, .rows = {1, 2, 17, 31}},
    {.hidden = 30, .heads = 5, .head_size = 6, .count = 2, .rows = {31, 17}},
    {.hidden = 14, .heads = 2, .head_size = 7, .count = 1, .rows = {1}},
    {.hidden = 64, .heads = 1, .head_size = 64, .count = 1, .rows = {200}},
    {.hidden = 48, .heads = 3, .head_size = 16, .count = 3, .rows = {2, 100, 85}},
    {.hidden = 48,
     .heads = 2,
     .head_size = 13,
     .count = 2,
     .rows = {3, 29}}, /* pruned: narrower than the hidden size */
};

static void
test_float_attention_is_the_definition(void)
{
    qb_device *device = case_device(NULL, 2);
    check_definition(device, setups, COUNT(setups));
    qb_device_close(device);
}

static void
test_every_arithmetic_is_the_naive_one_to_the_bit_on_every_device(void)
{
    case_devices devices = case_devices_open();
    for (size_t t = 0; t < COUNT(setups) * MODES_COUNT; t++) {
        check_bits(&devices, &setups[t / MODES_COUNT], (attention_mode)(t % MODES_COUNT));
    }
    case_devices_close(&devices);
}

static void
test_batch_mates_change_nothing(void)
{
    qb_device *device = case_device(NULL, 3);
    for (size_t t = 0; t < COUNT(setups); t++) {
        check_batch_mates(device, &setups[t], MODE_FLOAT);
        check_batch_mates(device, &setups[t], MODE_STATIC);
    }
    qb_device_close(device);
}

/* ---- masks, statistics, errors ---------------------------------------------------------------------------------- */

static const attention_setup one_sequence = {.hidden = 14, .heads = 2, .head_size = 7, .count = 1, .rows = {5}};

static void
test_masked_keys_get_probability_zero_and_a_fully_masked_row_is_uniform(void)
{
    qb_device *device = case_device(NULL, 1);
    attention_case *c = attention_make(device, &one_sequence);
    float *y = attention_output(c);
    const float mask[5] = {0.0f, -FLT_MAX, 0.0f, 0.0f, -FLT_MAX};
    int64_t mask_3d[25];
    const float *kept = NULL;
    attention_set_mode(c, MODE_FLOAT);
    attention_keep(c, &kept);
    c->keys.sequences.mask = mask;
    CHECK(attention_run(c, y, NULL) == QB_OK);
    float by_rank_2[50];
    memcpy(by_rank_2, kept, sizeof by_rank_2);
    for (int64_t row = 0; row < 10; row++) {
        const float *p = by_rank_2 + row * 5;
        CHECK(p[1] == 0.0f && p[4] == 0.0f);
        CHECK(fabsf(p[0] + p[2] + p[3] - 1.0f) <= 4.0f * FLT_EPSILON);
    }
    for (int64_t i = 0; i < 25; i++) {
        mask_3d[i] = mask[i % 5] == 0.0f;
    }
    c->keys.sequences.mask = NULL;
    c->keys.sequences.mask_3d = mask_3d;
    CHECK(attention_run(c, y, NULL) == QB_OK);
    CHECK(same_bits(kept, by_rank_2, 50));
    memset(mask_3d + 10, 0, 5 * sizeof *mask_3d); /* query 2 sees no key */
    CHECK(attention_run(c, y, NULL) == QB_OK);
    for (int64_t i = 0; i < 5; i++) {
        CHECK(fabsf(kept[10 + i] - 0.2f) <= FLT_EPSILON);
    }
    CHECK(same_bits(kept, by_rank_2, 10));
    free(y);
    attention_free(c);
    qb_device_close(device);
}

static void
test_statistics_see_every_tensor_once(void)
{
    qb_device *device = case_device(NULL, 2);
    attention_case *c = attention_make(device, &setups[1]);
    float *y = attention_output(c);
    qb_observer *observers[CASE_QUANTIZERS];
    attention_observe(c, observers);
    CHECK(qb_attention_keeps_probabilities(&c->layer));
    CHECK(attention_run(c, y, NULL) == QB_OK);
    const int64_t n = c->tokens * c->width;
    const float amax_x = naive_amax(c->x, n);
    CHECK(case_observed(observers[SLOT_QUERY]) == amax_x && case_observed(observers[SLOT_KEY]) == amax_x);
    CHECK(case_observed(observers[SLOT_VALUE]) == amax_x && case_observed(observers[SLOT_RESIDUAL]) == amax_x);
    CHECK(case_observed(observers[SLOT_MATMUL_Q]) == naive_amax(c->work.q, n));
    CHECK(case_observed(observers[SLOT_MATMUL_K]) == naive_amax(c->work.k, n));
    CHECK(case_observed(observers[SLOT_MATMUL_V]) == naive_amax(c->work.v, n));
    CHECK(case_observed(observers[SLOT_MATMUL_A]) == naive_amax(c->work.probabilities, 5 * (31 * 31 + 17 * 17)));
    CHECK(case_observed(observers[SLOT_DENSE]) == naive_amax(c->work.context, n));
    attention_release(c, observers);
    free(y);
    attention_free(c);
    qb_device_close(device);
}

static void
test_nan_is_reported_by_site(void)
{
    qb_device *device = case_device(NULL, 2);
    attention_case *c = attention_make(device, &one_sequence);
    float *y = attention_output(c);
    qb_error error;
    attention_set_mode(c, MODE_FLOAT);
    case_set_amax(c->layer.matmul_q, 1.0f);
    case_set_amax(c->layer.matmul_k, 1.0f);
    CHECK(qb_quantizer_set_stages(c->layer.matmul_q, QB_STAGE_QUANT) == QB_OK);
    CHECK(qb_quantizer_set_stages(c->layer.matmul_k, QB_STAGE_QUANT) == QB_OK);
    c->x[c->setup.hidden] = NAN;
    CHECK(attention_run(c, y, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "encoder.layer.0.attention.self.matmul_q_input_quantizer: element (1, 0) is NaN");
    attention_set_mode(c, MODE_A_ONLY);
    CHECK(attention_run(c, y, &error) == QB_OK); /* a float product lets NaN through */
    free(y);
    attention_free(c);
    qb_device_close(device);
}

static void
test_ranges_along_an_axis_are_refused_by_name(void)
{
    qb_device *device = case_device("ref", 1);
    attention_case *c = attention_make(device, &one_sequence);
    float *y = attention_output(c);
    qb_quantizer_options options = case_quantizer_options(8, 0);
    qb_error error;
    options.axis_count = 1;
    options.axes[0] = -1;
    CHECK(qb_quantizer_set_options(c->layer.matmul_k, &options, NULL) == QB_OK);
    CHECK(attention_run(c, y, &error) == QB_ERR_UNSUPPORTED);
    CHECK_CONTAINS(error.message, "encoder.layer.0.attention.self.matmul_k_input_quantizer: ");
    free(y);
    attention_free(c);
    qb_device_close(device);
}

static void
test_items_are_cut_by_rows_only_when_there_are_few(void)
{
    const int64_t lengths[] = {400};
    const int64_t offsets[] = {0};
    const qb_sequences one = {.count = 1, .tokens = 400, .max_length = 400, .offsets = offsets, .lengths = lengths};
    CHECK(qb_attention_row_splits(&one, 1, 1) == 1);
    CHECK(qb_attention_row_splits(&one, 16, 4) == 1);
    CHECK(qb_attention_row_splits(&one, 1, 4) == 5); /* parts of a block or more */
    CHECK(qb_attention_row_splits(&one, 2, 2) == 4);
}

int
main(void)
{
    RUN(test_float_attention_is_the_definition);
    RUN(test_every_arithmetic_is_the_naive_one_to_the_bit_on_every_device);
    RUN(test_batch_mates_change_nothing);
    RUN(test_masked_keys_get_probability_zero_and_a_fully_masked_row_is_uniform);
    RUN(test_statistics_see_every_tensor_once);
    RUN(test_nan_is_reported_by_site);
    RUN(test_ranges_along_an_axis_are_refused_by_name);
    RUN(test_items_are_cut_by_rows_only_when_there_are_few);
    return check_report();
}
