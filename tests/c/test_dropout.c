/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"
#include "kernels/cpu/ref/philox.h"

static kernel_tables tables;

static const qb_dropout tenth = {.seed = 0x123456789abcdef0u,
                                 .step = 0x100000007u,
                                 .node = 5,
                                 .threshold = 429496730u, /* 2^32 / 10 */
                                 .factor = 1.0f / 0.9f};

static void
dropout_case(size_t v, size_t n, uint64_t first, size_t shift, check_input kind)
{
    guarded x = guarded_make(n * sizeof(float), shift);
    guarded expected = guarded_make(n * sizeof(float), 0);
    guarded found = guarded_make(n * sizeof(float), shift ^ 4);
    check_fill(guarded_floats(&x), n, kind, n + 1);
    tables.at[0].dropout_f32(guarded_floats(&x), n, &tenth, first, guarded_floats(&expected));
    tables.at[v].dropout_f32(guarded_floats(&x), n, &tenth, first, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), n));
    tables.at[v].dropout_f32(guarded_floats(&x), n, &tenth, first, guarded_floats(&x));
    CHECK(same_floats(guarded_floats(&x), guarded_floats(&expected), n));
    guarded_free(&x);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_every_variant_gives_the_references_bits_and_output_may_be_the_input(void)
{
    const uint64_t firsts[] = {0, 1, 2, 3, 4, 63, 0xfffffffeu, 0x3ffffe000u};
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            const size_t shift = check_shifts[l % COUNT(check_shifts)];
            for (size_t f = 0; f < COUNT(firsts); ++f) {
                dropout_case(v, check_lengths[l], firsts[f], shift, INPUT_UNIFORM);
            }
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                dropout_case(v, check_lengths[l], 1234567, shift, (check_input)kind);
            }
        }
    }
}

/* Random123's known answers, file kat_vectors. */
static void
test_words_are_those_of_random123(void)
{
    static const struct {
        ref_philox_words counter;
        uint32_t key[2];
        ref_philox_words answer;
    } known[] = {
        {{{0, 0, 0, 0}}, {0, 0}, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}},
        {{{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}},
         {0xffffffffu, 0xffffffffu},
         {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}}},
        {{{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}},
         {0xa4093822u, 0x299f31d0u},
         {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}},
    };
    for (size_t k = 0; k < COUNT(known); ++k) {
        const ref_philox_words found = ref_philox(known[k].counter, known[k].key[0], known[k].key[1]);
        CHECK(memcmp(&found, &known[k].answer, sizeof found) == 0);
    }
}

/* The known answers through the kernels: with a word itself as threshold its element is kept, with one more it is not.
 */
static void
test_the_known_words_decide_what_is_kept(void)
{
    static const struct {
        qb_dropout dropout;
        uint64_t first;
        uint32_t words[4];
    } known[] = {
        {{.seed = 0, .step = 0, .node = 0, .factor = 3.0f}, 0, {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}},
        {{.seed = 0xffffffffffffffffu, .step = 0xffffffffffffffffu, .node = 0xffffffffu, .factor = 3.0f},
         0x3fffffffcu,
         {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}},
        {{.seed = 0x299f31d0a4093822u, .step = 0x0370734413198a2eu, .node = 0x85a308d3u, .factor = 3.0f},
         (uint64_t)0x243f6a88u * 4,
         {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}},
    };
    const float ones[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t k = 0; k < COUNT(known); ++k) {
            for (size_t w = 0; w < 4; ++w) {
                qb_dropout dropout = known[k].dropout;
                float y[4];
                dropout.threshold = known[k].words[w];
                tables.at[v].dropout_f32(ones, 4, &dropout, known[k].first, y);
                CHECK(y[w] == 3.0f);
                dropout.threshold += 1;
                tables.at[v].dropout_f32(ones, 4, &dropout, known[k].first, y);
                CHECK(float_bits(y[w]) == 0);
            }
        }
    }
}

static void
test_elements_do_not_depend_on_how_a_range_is_cut(void)
{
    enum { LENGTH = 1000 };
    for (size_t v = 0; v < tables.count; ++v) {
        float x[LENGTH], whole[LENGTH], cut[LENGTH];
        check_fill(x, LENGTH, INPUT_UNIFORM, 1);
        tables.at[v].dropout_f32(x, LENGTH, &tenth, 77, whole);
        for (size_t step = 1; step < 140; step += 23) {
            for (size_t i = 0; i < LENGTH; i += step) {
                const size_t n = LENGTH - i < step ? LENGTH - i : step;
                tables.at[v].dropout_f32(x + i, n, &tenth, 77 + i, cut + i);
            }
            CHECK(memcmp(cut, whole, sizeof cut) == 0);
        }
    }
}

/* Shares of dropped elements, and of elements dropped in two different draws, are within five standard deviations of p
 * and p^2, whichever number tells the draws apart. */
static void
test_draws_have_the_right_shares_and_are_independent(void)
{
    enum { LENGTH = 200000 };
    static float ones[LENGTH], y[LENGTH], other[LENGTH];
    for (size_t i = 0; i < LENGTH; ++i) {
        ones[i] = 1.0f;
    }
    const double thresholds[] = {0.05, 0.1, 0.5, 0.9};
    for (size_t t = 0; t < COUNT(thresholds); ++t) {
        const double p = thresholds[t];
        qb_dropout draws[5];
        for (size_t d = 0; d < COUNT(draws); ++d) {
            draws[d] = tenth;
            draws[d].threshold = (uint32_t)(p * 4294967296.0);
            draws[d].factor = (float)(1.0 / (1.0 - p));
        }
        draws[1].seed += 1;
        draws[2].step += 1;
        draws[3].node += 1;
        draws[4].step += 0x100000000u;
        tables.at[tables.count - 1].dropout_f32(ones, LENGTH, &draws[0], 0, y);
        for (size_t d = 1; d < COUNT(draws); ++d) {
            double dropped = 0.0;
            double both = 0.0;
            tables.at[tables.count - 1].dropout_f32(ones, LENGTH, &draws[d], 0, other);
            for (size_t i = 0; i < LENGTH; ++i) {
                dropped += other[i] == 0.0f ? 1.0 : 0.0;
                both += other[i] == 0.0f && y[i] == 0.0f ? 1.0 : 0.0;
            }
            CHECK(fabs(dropped / LENGTH - p) <= 5.0 * sqrt(p * (1.0 - p) / LENGTH));
            CHECK(fabs(both / LENGTH - p * p) <= 5.0 * sqrt(p * p * (1.0 - p * p) / LENGTH));
        }
    }
}

static void
test_a_threshold_of_zero_keeps_everything(void)
{
    const qb_dropout none = {.seed = 1, .factor = 1.0f};
    for (size_t v = 0; v < tables.count; ++v) {
        float x[999], y[999];
        check_fill(x, COUNT(x), INPUT_FINITE, 3);
        tables.at[v].dropout_f32(x, COUNT(x), &none, 0, y);
        CHECK(memcmp(x, y, sizeof x) == 0);
    }
}

static void
test_nan_stays_even_where_it_is_dropped(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        float x[300];
        for (size_t i = 0; i < COUNT(x); ++i) {
            x[i] = NAN;
        }
        tables.at[v].dropout_f32(x, COUNT(x), &tenth, 0, x);
        int all = 1;
        for (size_t i = 0; i < COUNT(x); ++i) {
            all = all && isnan(x[i]);
        }
        CHECK(all);
    }
}

/* Recorded on x86-64; other machines must compute the same. */
static void
test_bits_are_the_same_on_every_machine(void)
{
    enum { LENGTH = 4099 };
    static float x[LENGTH], y[LENGTH];
    check_fill(x, LENGTH, INPUT_UNIFORM, 2);
    for (size_t v = 0; v < tables.count; ++v) {
        tables.at[v].dropout_f32(x, LENGTH, &tenth, 3, y);
        CHECK(same_hash("dropout_f32", hash_floats(hash_start, y, LENGTH), 0xccbd45257064dae6u));
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits_and_output_may_be_the_input);
    RUN(test_words_are_those_of_random123);
    RUN(test_the_known_words_decide_what_is_kept);
    RUN(test_elements_do_not_depend_on_how_a_range_is_cut);
    RUN(test_draws_have_the_right_shares_and_are_independent);
    RUN(test_a_threshold_of_zero_keeps_everything);
    RUN(test_nan_stays_even_where_it_is_dropped);
    RUN(test_bits_are_the_same_on_every_machine);
    return check_report();
}
