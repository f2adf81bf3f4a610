/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static void
softmax_case(size_t v, size_t rows, size_t columns, size_t gap, check_input kind, float factor, int masked)
{
    const size_t stride = columns + gap;
    const size_t elements = rows > 0 ? (rows - 1) * stride + columns : 0;
    guarded expected = guarded_make(elements * sizeof(float), 0);
    guarded found = guarded_make(elements * sizeof(float), 4);
    guarded mask = guarded_make(columns * sizeof(float), 12);
    check_fill(guarded_floats(&expected), elements, kind, columns + rows);
    for (size_t i = 0; i < elements; ++i) {
        guarded_floats(&expected)[i] *= factor;
    }
    memcpy(found.data, expected.data, expected.bytes);
    for (size_t c = 0; c < columns; ++c) {
        guarded_floats(&mask)[c] = c % 3 == 1 ? -FLT_MAX : 0.0f;
    }
    const float *added = masked ? guarded_floats(&mask) : NULL;
    tables.at[0].softmax_f32(guarded_floats(&expected), rows, columns, stride, added);
    tables.at[v].softmax_f32(guarded_floats(&found), rows, columns, stride, added);
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), elements));
    guarded_free(&expected);
    guarded_free(&found);
    guarded_free(&mask);
}

static void
test_every_variant_gives_the_references_bits(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            const size_t columns = check_lengths[l];
            for (int masked = 0; masked < 2; ++masked) {
                for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                    softmax_case(v, 3, columns, 5, (check_input)kind, 1.0f, masked);
                }
                softmax_case(v, 1, columns, 0, INPUT_UNIFORM, 8.0f, masked);
                softmax_case(v, 2, columns, 1, INPUT_UNIFORM, 120.0f, masked); /* exp underflows, naive exp overflows */
                for (size_t rows = 0; rows < 12; ++rows) {                     /* several rows are worked on at once */
                    softmax_case(v, rows, columns, rows % 3, INPUT_UNIFORM, 4.0f, masked);
                }
            }
        }
    }
}

static void
test_a_nan_makes_its_row_nan_and_no_other(void)
{
    enum { ROWS = 9, COLUMNS = 37 };
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at < ROWS * COLUMNS; ++at) {
            float x[ROWS * COLUMNS];
            check_fill(x, COUNT(x), INPUT_UNIFORM, at);
            x[at] = NAN;
            tables.at[v].softmax_f32(x, ROWS, COLUMNS, COLUMNS, NULL);
            int as_expected = 1;
            for (size_t i = 0; i < COUNT(x); ++i) {
                as_expected = as_expected && (i / COLUMNS == at / COLUMNS ? isnan(x[i]) : x[i] > 0.0f);
            }
            CHECK(as_expected);
        }
    }
}

static void
test_masked_positions_are_exactly_zero_and_leave_the_rest_alone(void)
{
    enum { KEPT = 21, COLUMNS = 40 };
    for (size_t v = 0; v < tables.count; ++v) {
        float alone[KEPT];
        float padded[COLUMNS];
        float mask[COLUMNS];
        check_fill(padded, COLUMNS, INPUT_UNIFORM, 3);
        memcpy(alone, padded, sizeof alone);
        for (size_t c = 0; c < COLUMNS; ++c) {
            mask[c] = c < KEPT ? 0.0f : -FLT_MAX;
        }
        tables.at[v].softmax_f32(alone, 1, KEPT, KEPT, NULL);
        tables.at[v].softmax_f32(padded, 1, COLUMNS, COLUMNS, mask);
        CHECK(memcmp(alone, padded, sizeof alone) == 0);
        int zero = 1;
        for (size_t c = KEPT; c < COLUMNS; ++c) {
            zero = zero && float_bits(padded[c]) == 0;
        }
        CHECK(zero);
    }
}

/* exp is within 1 ulp and its argument, a rounded difference, within half an ulp of up to 16, which is 16 * 2^-24
 * relative in exp; the sum of n nonnegative terms adds ceil(n / 16) + 4 roundings, the two last operations one each.
 * With the same for the denominator's terms: (2 * (1 + 16 + 1) + n / 16 + 8) * 2^-24. */
static void
test_probabilities_are_close_to_the_truth(void)
{
    enum { COLUMNS = 301 };
    const double bound = (36.0 + COLUMNS / 16.0 + 8.0) * 0x1p-24;
    for (size_t v = 0; v < tables.count; ++v) {
        float x[COLUMNS];
        double truth[COLUMNS];
        double sum = 0.0;
        check_fill(x, COLUMNS, INPUT_UNIFORM, 21);
        for (size_t c = 0; c < COLUMNS; ++c) {
            x[c] *= 8.0f;
            truth[c] = exp((double)x[c]);
            sum += truth[c];
        }
        tables.at[v].softmax_f32(x, 1, COLUMNS, COLUMNS, NULL);
        double worst = 0.0;
        for (size_t c = 0; c < COLUMNS; ++c) {
            const double error = fabs((double)x[c] * sum / truth[c] - 1.0);
            worst = error > worst ? error : worst;
        }
        CHECK(worst <= bound);
    }
}

/* Recorded on x86-64; other machines must compute the same. */
static void
test_bits_are_the_same_on_every_machine(void)
{
    enum { ROWS = 11, COLUMNS = 157 };
    for (size_t v = 0; v < tables.count; ++v) {
        float x[ROWS * COLUMNS];
        check_fill(x, COUNT(x), INPUT_UNIFORM, 77);
        for (size_t i = 0; i < COUNT(x); ++i) {
            x[i] *= 20.0f;
        }
        tables.at[v].softmax_f32(x, ROWS, COLUMNS, COLUMNS, NULL);
        CHECK(same_hash("softmax_f32", hash_floats(hash_start, x, COUNT(x)), 0xabf51a3de661eb37u));
    }
}

/* ---- codes ---------------------------------------------------------------------------------------------------------
 */

/* Narrow, full and unsigned ranges of 8, 4 and 7 bits, that clamp and that do not; tiny, huge and dead ones. */
static const qb_quant_range ranges[] = {
    {127.0f, -127.0f, 127.0f},
    {127.0f / 0.3f, -128.0f, 127.0f},
    {127.0f / 2.0f, 0.0f, 127.0f},
    {7.0f / 0.06f, -8.0f, 7.0f},
    {500.0f, 0.0f, 127.0f},
    {1.0f, -1.0f, 1.0f},
    {127.0f / 6e-8f, -127.0f, 127.0f},
    {127.0f / 3e38f, -127.0f, 127.0f},
    {0.0f, -127.0f, 127.0f},
};

typedef struct codes_setup {
    size_t rows, columns, gap;
    check_input kind;
    float factor;
    int masked;
    qb_quant_range range;
} codes_setup;

/* Against the reference's softmax_f32 and quantize_qs8. */
static void
codes_case(size_t v, const codes_setup *setup)
{
    const size_t stride = setup->columns + setup->gap;
    const size_t elements = setup->rows > 0 ? (setup->rows - 1) * stride + setup->columns : 0;
    guarded p = guarded_make(elements * sizeof(float), 0);
    guarded x = guarded_make(elements * sizeof(float), 4);
    guarded mask = guarded_make(setup->columns * sizeof(float), 12);
    guarded expected = guarded_make(elements, 0);
    guarded found = guarded_make(elements, 1 + setup->columns % 3);
    check_fill(guarded_floats(&p), elements, setup->kind, setup->columns + setup->rows);
    for (size_t i = 0; i < elements; ++i) {
        guarded_floats(&p)[i] *= setup->factor;
    }
    memcpy(x.data, p.data, p.bytes);
    for (size_t c = 0; c < setup->columns; ++c) {
        guarded_floats(&mask)[c] = c % 3 == 1 ? -FLT_MAX : 0.0f;
    }
    const float *added = setup->masked ? guarded_floats(&mask) : NULL;
    uint32_t flag = 0;
    uint32_t expected_flag = 0;
    tables.at[v].softmax_qs8(guarded_floats(&x), setup->rows, setup->columns, stride, added, &setup->range,
                             (int8_t *)(void *)found.data, &flag);
    tables.at[0].softmax_f32(guarded_floats(&p), setup->rows, setup->columns, stride, added);
    int same = 1;
    for (size_t r = 0; r < setup->rows; ++r) {
        const float *row = guarded_floats(&p) + r * stride;
        int8_t *codes = (int8_t *)(void *)expected.data + r * stride;
        tables.at[0].quantize_qs8(row, setup->columns, &setup->range, codes, &expected_flag);
        for (size_t c = 0; c < setup->columns; ++c) {
            same = same && (found.data[r * stride + c] == (unsigned char)codes[c] || !isfinite(row[c]));
        }
        for (size_t c = setup->columns; c < stride && r + 1 < setup->rows; ++c) { /* between rows */
            same = same && found.data[r * stride + c] == GUARD_PATTERN;
        }
    }
    CHECK(same);
    CHECK(flag == expected_flag);
    guarded_free(&p);
    guarded_free(&x);
    guarded_free(&mask);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_codes_are_those_of_the_references_probabilities(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            codes_setup setup = {.columns = check_lengths[l], .factor = 1.0f};
            for (setup.masked = 0; setup.masked < 2; ++setup.masked) {
                for (size_t r = 0; r < COUNT(ranges); ++r) {
                    setup.range = ranges[r];
                    setup.gap = r % 4;
                    setup.rows = 6;
                    for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                        setup.kind = (check_input)kind;
                        codes_case(v, &setup);
                    }
                }
                setup.kind = INPUT_UNIFORM;
                setup.range = ranges[1];
                for (setup.rows = 0; setup.rows < 12; ++setup.rows) {
                    setup.gap = setup.rows % 3;
                    setup.factor = setup.rows % 2 == 0 ? 4.0f : 120.0f; /* exp underflows, naive exp overflows */
                    codes_case(v, &setup);
                }
                setup.factor = 1.0f;
            }
        }
    }
}

/* Without codes of both signs of rounding and of the bound the test above would say little. */
static void
test_codes_are_rounded_twice_and_clamped(void)
{
    enum { COLUMNS = 64 };
    const qb_quant_range range = {127.0f / 0.05f, -127.0f, 127.0f};
    float x[COLUMNS];
    float p[COLUMNS];
    check_fill(x, COLUMNS, INPUT_UNIFORM, 5);
    for (size_t c = 0; c < COLUMNS; ++c) {
        x[c] *= 2.0f;
    }
    memcpy(p, x, sizeof p);
    tables.at[0].softmax_f32(p, 1, COLUMNS, COLUMNS, NULL);
    for (size_t v = 0; v < tables.count; ++v) {
        float scores[COLUMNS];
        int8_t codes[COLUMNS];
        uint32_t nonfinite = 7;
        int saturated = 0;
        int same = 1;
        memcpy(scores, x, sizeof scores);
        tables.at[v].softmax_qs8(scores, 1, COLUMNS, COLUMNS, NULL, &range, codes, &nonfinite);
        for (size_t c = 0; c < COLUMNS; ++c) {
            const float q = rintf(p[c] * range.scale);
            same = same && codes[c] == (int8_t)(q > 127.0f ? 127.0f : q);
            saturated += q > 127.0f;
        }
        CHECK(same);
        CHECK(saturated > 0 && saturated < COLUMNS / 2);
        CHECK(nonfinite == 7);
    }
}

static void
test_the_flag_of_codes_is_set_by_one_bad_row_and_never_cleared(void)
{
    enum { ROWS = 7, COLUMNS = 21, ELEMENTS = ROWS * COLUMNS };
    const float bad[] = {NAN, -NAN, INFINITY};
    const qb_quant_range range = {127.0f, -127.0f, 127.0f};
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at < ELEMENTS; ++at) {
            for (size_t b = 0; b <= COUNT(bad); ++b) {
                float x[ELEMENTS];
                int8_t codes[ELEMENTS];
                uint32_t nonfinite = 7;
                check_fill(x, ELEMENTS, INPUT_FINITE, at);
                x[at] = b < COUNT(bad) ? bad[b] : -INFINITY; /* the last is a position that no one sees */
                tables.at[v].softmax_qs8(x, ROWS, COLUMNS, COLUMNS, NULL, &range, codes, &nonfinite);
                CHECK(nonfinite == (b < COUNT(bad) ? 1u : 7u));
            }
        }
        for (size_t row = 0; row < ROWS; ++row) { /* nothing to see in a whole row */
            float x[ELEMENTS];
            int8_t codes[ELEMENTS];
            uint32_t nonfinite = 0;
            check_fill(x, ELEMENTS, INPUT_UNIFORM, row);
            for (size_t c = 0; c < COLUMNS; ++c) {
                x[row * COLUMNS + c] = -INFINITY;
            }
            tables.at[v].softmax_qs8(x, ROWS, COLUMNS, COLUMNS, NULL, &range, codes, &nonfinite);
            CHECK(nonfinite == 1);
        }
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_a_nan_makes_its_row_nan_and_no_other);
    RUN(test_masked_positions_are_exactly_zero_and_leave_the_rest_alone);
    RUN(test_bits_are_the_same_on_every_machine);
    RUN(test_probabilities_are_close_to_the_truth);
    RUN(test_codes_are_those_of_the_references_probabilities);
    RUN(test_codes_are_rounded_twice_and_clamped);
    RUN(test_the_flag_of_codes_is_set_by_one_bad_row_and_never_cleared);
    return check_report();
}
