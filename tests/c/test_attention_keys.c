/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys that are not, or not only, the queries' own tokens: causal attention, keys of earlier calls, an encoder's
 * tokens.
 */
#include "attention_case.h"
#include "attention_naive.h"

/* Sizes that miss every tile; lengths of one row, one row block and several; earlier columns of which all, some and
 * none are looked at. */
static const attention_setup setups[] = {
    /* causal without a past: ragged; one head of several, over several row blocks */
    {.hidden = 30, .heads = 5, .head_size = 6, .count = 4, .rows = {1, 17, 31, 2}, .is_causal = 1},
    {.hidden = 26, .heads = 1, .head_size = 13, .count = 2, .rows = {200, 3}, .is_causal = 1},
    /* one token after a past */
    {.hidden = 30,
     .heads = 5,
     .head_size = 6,
     .count = 4,
     .rows = {1, 1, 1, 1},
     .earlier = {5, 17, 33, 0},
     .earlier_width = 33,
     .is_causal = 1},
    /* chunks after a past, with gaps on both sides */
    {.hidden = 21,
     .heads = 3,
     .head_size = 7,
     .count = 3,
     .rows = {3, 100, 7},
     .earlier = {0, 37, 40},
     .earlier_width = 40,
     .is_causal = 1},
    /* a past that every token sees, and later tokens too */
    {.hidden = 48, .heads = 2, .head_size = 16, .count = 2, .rows = {9, 86}, .earlier = {19, 4}, .earlier_width = 19},
    /* an encoder: memory longer and shorter than the queries */
    {.hidden = 30,
     .heads = 5,
     .head_size = 6,
     .count = 4,
     .rows = {3, 90, 1, 17},
     .memory = {31, 5, 1, 97},
     .is_cross = 1},
    /* an encoder's keys of an earlier call */
    {.hidden = 26,
     .heads = 2,
     .head_size = 13,
     .count = 3,
     .rows = {1, 19, 2},
     .earlier = {31, 5, 44},
     .earlier_width = 44,
     .is_cross = 1},
};

/* ---- the definition --------------------------------------------------------------------------------------------- */

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

/* ---- masks ------------------------------------------------------------------------------------------------------ */

/* Equal lengths, as where padding is computed. */
static const attention_setup padded[] = {
    {.hidden = 30, .heads = 5, .head_size = 6, .count = 3, .rows = {17, 17, 17}},
    {.hidden = 30, .heads = 5, .head_size = 6, .count = 3, .rows = {17, 17, 17}, .is_causal = 1},
    {.hidden = 26,
     .heads = 2,
     .head_size = 13,
     .count = 2,
     .rows = {91, 91},
     .earlier = {13, 13},
     .earlier_width = 13,
     .is_causal = 1},
    {.hidden = 30, .heads = 5, .head_size = 6, .count = 2, .rows = {19, 19}, .memory = {37, 37}, .is_cross = 1},
    {.hidden = 21,
     .heads = 3,
     .head_size = 7,
     .count = 2,
     .rows = {37, 37},
     .earlier = {11, 11},
     .earlier_width = 11,
     .is_cross = 1},
};

/* Key 0 of the first sequence is padding, so a causal first query sees no key at all; the last sequence is all padding.
 * To be freed. */
static float *
padding_mask(const attention_case *c)
{
    unsigned long long seed = 31;
    float *mask = case_memory((size_t)c->key_tokens * sizeof *mask);
    const int64_t last = c->key_offsets[c->setup.count - 1];
    for (int64_t i = 0; i < c->key_tokens; i++) {
        const int is_padding = i == 0 || i >= last || check_random(&seed) % 4 == 0;
        mask[i] = is_padding ? -FLT_MAX : 0.0f;
    }
    return mask;
}

/* (count, T, S); the second query of the first sequence sees no key.  To be freed. */
static int64_t *
square_mask(const attention_case *c)
{
    unsigned long long seed = 32;
    const int64_t s = c->key_lengths[0];
    const int64_t n = c->tokens * s;
    int64_t *mask = case_memory((size_t)n * sizeof *mask);
    for (int64_t i = 0; i < n; i++) {
        mask[i] = check_random(&seed) % 3 != 0 && i / s != 1;
    }
    return mask;
}

static void
run_masked(attention_case *c, const qb_kernels *reference, int is_exact)
{
    float *y = attention_output(c);
    const float *kept = NULL;
    attention_keep(c, &kept);
    CHECK(attention_run(c, y, NULL) == QB_OK);
    check_naive(c, reference, kept);
    if (is_exact) {
        CHECK(check_exact(c) > 0.0);
    }
    free(y);
}

static void
test_masks_of_both_ranks_are_the_definition_and_naive_to_the_bit(void)
{
    qb_device *device = case_device(NULL, 3);
    qb_device *reference = case_device("ref", 1);
    for (size_t t = 0; t < COUNT(padded); t++) {
        for (int mode = MODE_FLOAT; mode <= MODE_STATIC; mode++) {
            attention_case *c = attention_make(device, &padded[t]);
            attention_set_mode(c, (attention_mode)mode);
            float *padding = padding_mask(c);
            int64_t *square = square_mask(c);
            c->keys.sequences.mask = padding;
            run_masked(c, &reference->kernels, mode == MODE_FLOAT);
            c->keys.sequences.mask_3d = square; /* says all: no padding, nothing causal */
            run_masked(c, &reference->kernels, mode == MODE_FLOAT);
            free(padding);
            free(square);
            attention_free(c);
        }
    }
    qb_device_close(device);
    qb_device_close(reference);
}

/* ---- earlier keys are like computed ones ------------------------------------------------------------------------ */

/* What key_reader gave: (projected, N D) each. */
typedef struct read_keys {
    const attention_case *of;
    float *k, *v; /* (N, projected, D) of the first sequence, as a caller keeps them */
} read_keys;

static void
take_keys(void *context, int64_t layer, const float *k, const float *v)
{
    CHECK(layer == 3);
    read_keys *to = context;
    const attention_case *c = to->of;
    const int64_t d = c->setup.head_size;
    for (int64_t i = 0; i < c->keys.projected * c->width; i++) {
        const int64_t token = i / c->width;
        const int64_t head = i % c->width / d;
        to->k[(head * c->keys.projected + token) * d + i % d] = k[i];
        to->v[(head * c->keys.projected + token) * d + i % d] = v[i];
    }
}

/* The last tokens of a sequence, with the keys that a forward of the whole has handed out for the others. */
static void
check_continued(qb_device *device, attention_mode mode, qb_positions positions, int64_t length, int64_t past)
{
    const attention_setup whole = {
        .hidden = 30, .heads = 5, .head_size = 6, .count = 1, .rows = {length}, .is_causal = 1, .positions = positions};
    attention_setup rest = whole;
    rest.rows[0] = length - past;
    rest.earlier[0] = past;
    rest.earlier_width = past;
    attention_case *a = attention_make(device, &whole);
    attention_case *b = attention_make(device, &rest);
    float *all = attention_output(a);
    float *tail = attention_output(b);
    const size_t bytes = (size_t)(length * a->width) * sizeof(float);
    read_keys read = {a, case_memory(bytes), case_memory(bytes)};
    a->inputs.key_reader = take_keys;
    a->inputs.reader_context = &read;
    attention_set_mode(a, mode);
    attention_set_mode(b, mode);
    CHECK(attention_run(a, all, NULL) == QB_OK);
    for (int64_t head = 0; head < whole.heads; head++) {
        const size_t part = (size_t)(past * whole.head_size) * sizeof(float);
        memcpy(b->earlier_keys + head * past * whole.head_size, read.k + head * length * whole.head_size, part);
        memcpy(b->earlier_values + head * past * whole.head_size, read.v + head * length * whole.head_size, part);
    }
    memcpy(b->x, a->x + past * whole.hidden, (size_t)(b->tokens * whole.hidden) * sizeof *b->x);
    CHECK(attention_run(b, tail, NULL) == QB_OK);
    CHECK(same_bits(tail, all + past * whole.hidden, b->tokens * whole.hidden));
    free(read.k);
    free(read.v);
    free(all);
    free(tail);
    attention_free(a);
    attention_free(b);
}

static void
test_a_token_has_the_same_bits_with_its_predecessors_computed_or_kept_on_every_device(void)
{
    static const int64_t pasts[] = {1, 16, 83, 84, 100, 128};
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        for (size_t i = 0; i < COUNT(pasts); i++) {
            check_continued(devices.at[d], MODE_FLOAT, QB_POSITIONS_ABSOLUTE, 129, pasts[i]);
            check_continued(devices.at[d], MODE_STATIC, QB_POSITIONS_ABSOLUTE, 129, pasts[i]);
        }
        check_continued(devices.at[d], MODE_FLOAT, QB_POSITIONS_RELATIVE_KEY, 129, 37);
        check_continued(devices.at[d], MODE_STATIC, QB_POSITIONS_RELATIVE_KEY_QUERY, 129, 100);
        check_continued(devices.at[d], MODE_COARSE, QB_POSITIONS_RELATIVE_KEY_QUERY, 129, 1);
        check_continued(devices.at[d], MODE_WIDE, QB_POSITIONS_RELATIVE_KEY, 129, 128);
    }
    case_devices_close(&devices);
}

static void
test_causal_rows_are_those_of_a_shorter_sequence(void)
{
    qb_device *device = case_device(NULL, 3);
    for (int mode = MODE_FLOAT; mode <= MODE_STATIC; mode++) {
        const attention_setup longer = {.hidden = 26,
                                        .heads = 2,
                                        .head_size = 13,
                                        .count = 1,
                                        .rows = {101},
                                        .is_causal = 1,
                                        .positions = QB_POSITIONS_RELATIVE_KEY_QUERY};
        attention_setup shorter = longer;
        shorter.rows[0] = 86;
        attention_case *a = attention_make(device, &longer);
        attention_case *b = attention_make(device, &shorter);
        const int64_t d = longer.head_size;
        /* the table of fewer positions is the middle of the other */
        memcpy(b->layer.distance.weight.data, a->layer.distance.weight.data + (101 - 86) * d,
               (size_t)((2 * 86 - 1) * d) * sizeof(float));
        memcpy(b->layer.output.dense.weight.data, a->layer.output.dense.weight.data,
               (size_t)(26 * 26 + 3 * 26) * sizeof(float));
        memcpy(b->x, a->x, (size_t)(86 * 26) * sizeof *b->x);
        float *all = attention_output(a);
        float *some = attention_output(b);
        attention_set_mode(a, (attention_mode)mode);
        attention_set_mode(b, (attention_mode)mode);
        CHECK(attention_run(a, all, NULL) == QB_OK);
        CHECK(attention_run(b, some, NULL) == QB_OK);
        CHECK(same_bits(all, some, 86 * 26));
        free(all);
        free(some);
        attention_free(a);
        attention_free(b);
    }
    qb_device_close(device);
}

static void
test_batch_mates_of_other_lengths_change_nothing(void)
{
    qb_device *device = case_device(NULL, 3);
    for (size_t t = 0; t < COUNT(setups); t++) {
        check_batch_mates(device, &setups[t], MODE_FLOAT);
        check_batch_mates(device, &setups[t], MODE_STATIC);
    }
    qb_device_close(device);
}

/* ---- readers, statistics, errors -------------------------------------------------------------------------------- */

static void
test_keys_are_handed_out_before_their_quantizers_and_without_the_earlier_ones(void)
{
    qb_device *device = case_device(NULL, 2);
    attention_setup setup = {
        .hidden = 21, .heads = 3, .head_size = 7, .count = 1, .rows = {7}, .earlier = {5}, .earlier_width = 9};
    for (int is_cross = 0; is_cross < 2; is_cross++) {
        setup.is_cross = is_cross;
        setup.earlier[0] = is_cross ? 0 : 5;
        setup.earlier_width = is_cross ? 0 : 9;
        setup.memory[0] = is_cross ? 11 : 0;
        attention_case *c = attention_make(device, &setup);
        float *y = attention_output(c);
        const int64_t n = c->keys.projected;
        read_keys read = {c, case_memory((size_t)(n * 21) * sizeof(float)),
                          case_memory((size_t)(n * 21) * sizeof(float))};
        attention_set_mode(c, MODE_FLOAT);
        c->inputs.key_reader = take_keys;
        c->inputs.reader_context = &read;
        CHECK(attention_run(c, y, NULL) == QB_OK);
        for (int64_t head = 0; head < 3; head++) {
            bounded *k = exact_keys(c, &c->layer.key, c->earlier_keys, 0, head);
            bounded *v = exact_keys(c, &c->layer.value, c->earlier_values, 0, head);
            for (int64_t i = 0; i < n * 7; i++) {
                const int64_t at = setup.earlier[0] * 7 + i;
                CHECK(fabs((double)read.k[head * n * 7 + i] - k[at].value) <= k[at].error);
                CHECK(fabs((double)read.v[head * n * 7 + i] - v[at].value) <= v[at].error);
            }
            free(k);
            free(v);
        }
        attention_set_mode(c, MODE_WIDE); /* values in place of k and v, afterwards */
        float *before = case_memory((size_t)(n * 21) * sizeof *before);
        memcpy(before, read.k, (size_t)(n * 21) * sizeof *before);
        CHECK(attention_run(c, y, NULL) == QB_OK);
        CHECK(same_bits(read.k, before, n * 21));
        free(before);
        free(read.k);
        free(read.v);
        free(y);
        attention_free(c);
    }
    qb_device_close(device);
}

static void
test_statistics_see_what_is_projected_where_it_is_projected_and_all_keys_at_the_products(void)
{
    qb_device *device = case_device(NULL, 2);
    qb_observer *observers[CASE_QUANTIZERS];
    for (size_t t = 0; t < COUNT(setups); t++) {
        attention_case *c = attention_make(device, &setups[t]);
        const int64_t h = setups[t].hidden;
        float *y = attention_output(c);
        attention_observe(c, observers);
        CHECK(attention_run(c, y, NULL) == QB_OK);
        const float amax_x = naive_amax(c->x, c->tokens * h);
        CHECK(case_observed(observers[SLOT_QUERY]) == amax_x && case_observed(observers[SLOT_RESIDUAL]) == amax_x);
        if (c->keys.projected == 0) { /* nobody showed anything to the inputs of key and value */
            CHECK(!qb_observer_has_data(observers[SLOT_KEY]) && !qb_observer_has_data(observers[SLOT_VALUE]));
        }
        else {
            const float amax_z =
                setups[t].is_cross ? naive_amax(c->memory, case_sum(c->setup.memory, c->setup.count) * h) : amax_x;
            CHECK(case_observed(observers[SLOT_KEY]) == amax_z && case_observed(observers[SLOT_VALUE]) == amax_z);
        }
        CHECK(case_observed(observers[SLOT_MATMUL_Q]) == naive_amax(c->work.q, c->tokens * c->width));
        CHECK(case_observed(observers[SLOT_MATMUL_K]) == naive_amax(c->work.k, c->key_tokens * c->width));
        CHECK(case_observed(observers[SLOT_MATMUL_V]) == naive_amax(c->work.v, c->key_tokens * c->width));
        const int64_t count = qb_attention_probability_count(&c->sequences, &c->keys.sequences, c->setup.heads);
        CHECK(case_observed(observers[SLOT_MATMUL_A]) == naive_amax(c->work.probabilities, count));
        attention_release(c, observers);
        free(y);
        attention_free(c);
    }
    qb_device_close(device);
}

static void
test_nan_in_an_earlier_key_is_reported_by_site_and_row(void)
{
    qb_device *device = case_device(NULL, 2);
    attention_case *c = attention_make(device, &setups[2]);
    float *y = attention_output(c);
    qb_error error;
    attention_set_mode(c, MODE_STATIC);
    /* sequence 1 (five keys and one token before it), its third key, head 2, feature 4 */
    const int64_t column = c->key_places[c->key_offsets[1] + 2];
    c->earlier_keys[((1 * 5 + 2) * 33 + column) * 6 + 4] = INFINITY;
    CHECK(attention_run(c, y, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message,
                   "encoder.layer.0.attention.self.matmul_k_input_quantizer: element (8, 16) is infinite");
    free(y);
    attention_free(c);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_float_attention_is_the_definition);
    RUN(test_every_arithmetic_is_the_naive_one_to_the_bit_on_every_device);
    RUN(test_masks_of_both_ranks_are_the_definition_and_naive_to_the_bit);
    RUN(test_a_token_has_the_same_bits_with_its_predecessors_computed_or_kept_on_every_device);
    RUN(test_causal_rows_are_those_of_a_shorter_sequence);
    RUN(test_batch_mates_of_other_lengths_change_nothing);
    RUN(test_keys_are_handed_out_before_their_quantizers_and_without_the_earlier_ones);
    RUN(test_statistics_see_what_is_projected_where_it_is_projected_and_all_keys_at_the_products);
    RUN(test_nan_in_an_earlier_key_is_reported_by_site_and_row);
    return check_report();
}
