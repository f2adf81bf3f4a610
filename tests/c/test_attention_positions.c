/* SPDX-License-Identifier: Apache-2.0
 *
 * Relative positions: what the table of distances adds to scores, for any queries, keys and gaps between them.
 */
#include "attention_case.h"
#include "attention_naive.h"

/* Rows of one block and several; keys before, beside and elsewhere; gaps where a sequence is shorter than its mates. */
static const attention_setup setups[] = {
    {.hidden = 30, .heads = 5, .head_size = 6, .count = 3, .rows = {1, 17, 31}},
    {.hidden = 26, .heads = 1, .head_size = 13, .count = 2, .rows = {171, 3}, .is_causal = 1},
    {.hidden = 21,
     .heads = 3,
     .head_size = 7,
     .count = 3,
     .rows = {1, 90, 7},
     .earlier = {0, 37, 19},
     .earlier_width = 40,
     .is_causal = 1},
    {.hidden = 30, .heads = 5, .head_size = 6, .count = 3, .rows = {3, 90, 17}, .memory = {31, 1, 97}, .is_cross = 1},
    {.hidden = 26,
     .heads = 2,
     .head_size = 13,
     .count = 2,
     .rows = {1, 19},
     .earlier = {31, 44},
     .earlier_width = 44,
     .is_cross = 1},
};

static attention_setup
with(const attention_setup *setup, qb_positions positions)
{
    attention_setup made = *setup;
    made.positions = positions;
    return made;
}

static void
test_float_attention_is_the_definition(void)
{
    qb_device *device = case_device(NULL, 2);
    attention_setup all[2 * COUNT(setups)];
    for (size_t t = 0; t < COUNT(setups); t++) {
        all[2 * t] = with(&setups[t], QB_POSITIONS_RELATIVE_KEY);
        all[2 * t + 1] = with(&setups[t], QB_POSITIONS_RELATIVE_KEY_QUERY);
    }
    check_definition(device, all, COUNT(all));
    qb_device_close(device);
}

/* In MODE_COARSE, q and k have few values after their quantizers. */
static void
test_terms_of_unquantized_q_and_k_are_naive_to_the_bit_in_every_arithmetic_on_every_device(void)
{
    case_devices devices = case_devices_open();
    for (size_t t = 0; t < COUNT(setups) * MODES_COUNT; t++) {
        const attention_setup key = with(&setups[t / MODES_COUNT], QB_POSITIONS_RELATIVE_KEY);
        const attention_setup key_query = with(&setups[t / MODES_COUNT], QB_POSITIONS_RELATIVE_KEY_QUERY);
        check_bits(&devices, &key, (attention_mode)(t % MODES_COUNT));
        check_bits(&devices, &key_query, (attention_mode)(t % MODES_COUNT));
    }
    case_devices_close(&devices);
}

static void
test_masks_of_both_ranks_are_the_definition(void)
{
    qb_device *device = case_device(NULL, 2);
    const attention_setup padded = {.hidden = 30,
                                    .heads = 5,
                                    .head_size = 6,
                                    .count = 2,
                                    .rows = {19, 19},
                                    .memory = {37, 37},
                                    .is_cross = 1,
                                    .positions = QB_POSITIONS_RELATIVE_KEY_QUERY};
    attention_case *c = attention_make(device, &padded);
    float *y = attention_output(c);
    float mask[74];
    int64_t mask_3d[2 * 19 * 37];
    unsigned long long seed = 33;
    for (int64_t i = 0; i < 74; i++) {
        mask[i] = i >= 60 ? -FLT_MAX : 0.0f;
    }
    for (int64_t i = 0; i < 2 * 19 * 37; i++) {
        mask_3d[i] = check_random(&seed) % 3 != 0;
    }
    attention_set_mode(c, MODE_FLOAT);
    c->keys.sequences.mask = mask;
    CHECK(attention_run(c, y, NULL) == QB_OK);
    CHECK(check_exact(c) > 0.0);
    c->keys.sequences.mask_3d = mask_3d;
    CHECK(attention_run(c, y, NULL) == QB_OK);
    CHECK(check_exact(c) > 0.0);
    free(y);
    attention_free(c);
    qb_device_close(device);
}

/* Without a table row for a distance, the case would read beyond it: the fewest positions that hold all places. */
static void
test_the_table_reaches_from_the_first_place_to_the_last_and_back(void)
{
    qb_device *device = case_device(NULL, 1);
    const attention_setup setup = with(&setups[0], QB_POSITIONS_RELATIVE_KEY);
    attention_case *c = attention_make(device, &setup);
    const int64_t d = c->setup.head_size;
    const int64_t last = 2 * c->key_places[c->key_tokens - 1] + 1;
    float *y = attention_output(c);
    CHECK(c->layer.distance.out_features == last);
    attention_set_mode(c, MODE_FLOAT);
    CHECK(attention_run(c, y, NULL) == QB_OK);
    for (int64_t end = 0; end < 2;
         end++) { /* distances -(P - 1) and P - 1: the last key of the first query, and back */
        float *before = case_memory((size_t)(c->tokens * c->width) * sizeof *before);
        memcpy(before, c->work.context, (size_t)(c->tokens * c->width) * sizeof *before);
        for (int64_t f = 0; f < d; f++) {
            c->layer.distance.weight.data[end * (last - 1) * d + f] += 1.0f;
        }
        c->layer.distance.weight.revision++;
        CHECK(attention_run(c, y, NULL) == QB_OK);
        const int64_t row = c->offsets[2] + (end == 0 ? 0 : c->setup.rows[2] - 1);
        for (int64_t i = 0; i < c->tokens; i++) {
            const int is_same =
                memcmp(before + i * c->width, c->work.context + i * c->width, (size_t)c->width * sizeof *before) == 0;
            CHECK(is_same == (i != row));
        }
        free(before);
    }
    free(y);
    attention_free(c);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_float_attention_is_the_definition);
    RUN(test_terms_of_unquantized_q_and_k_are_naive_to_the_bit_in_every_arithmetic_on_every_device);
    RUN(test_masks_of_both_ranks_are_the_definition);
    RUN(test_the_table_reaches_from_the_first_place_to_the_last_and_back);
    return check_report();
}
