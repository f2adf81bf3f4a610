/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static void
grad_case(size_t v, size_t rows, size_t columns, size_t gap, check_input kind)
{
    const size_t stride = columns + gap;
    const size_t elements = rows > 0 ? (rows - 1) * stride + columns : 0;
    guarded p = guarded_make(elements * sizeof(float), 8);
    guarded expected = guarded_make(elements * sizeof(float), 0);
    guarded found = guarded_make(elements * sizeof(float), 4);
    check_fill(guarded_floats(&p), elements, kind, columns + rows);
    if (kind == INPUT_UNIFORM) {
        tables.at[0].softmax_f32(guarded_floats(&p), rows, columns, stride, NULL);
    }
    check_fill(guarded_floats(&expected), elements, kind, columns + rows + 1);
    memcpy(found.data, expected.data, expected.bytes);
    tables.at[0].softmax_grad_f32(guarded_floats(&p), guarded_floats(&expected), rows, columns, stride, 0.177f);
    tables.at[v].softmax_grad_f32(guarded_floats(&p), guarded_floats(&found), rows, columns, stride, 0.177f);
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), elements));
    guarded_free(&p);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_every_variant_gives_the_references_bits(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                grad_case(v, l % 2 == 0 ? 7 : 4, check_lengths[l], l % 3 * 5, (check_input)kind);
            }
        }
        for (size_t rows = 0; rows < 10; ++rows) {
            grad_case(v, rows, 37, 11, INPUT_UNIFORM);
        }
    }
}

static void
test_a_nan_makes_its_row_nan_and_no_other(void)
{
    enum { ROWS = 6, COLUMNS = 37 };
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at < COLUMNS; ++at) {
            for (int in_p = 0; in_p < 2; ++in_p) {
                float p[ROWS * COLUMNS];
                float dp[ROWS * COLUMNS];
                check_fill(p, COUNT(p), INPUT_UNIFORM, at);
                check_fill(dp, COUNT(dp), INPUT_UNIFORM, at + 1);
                (in_p ? p : dp)[3 * COLUMNS + at] = NAN;
                tables.at[v].softmax_grad_f32(p, dp, ROWS, COLUMNS, COLUMNS, 1.0f);
                int as_promised = 1;
                for (size_t i = 0; i < COUNT(dp); ++i) {
                    as_promised = as_promised && !isnan(dp[i]) == (i / COLUMNS != 3);
                }
                CHECK(as_promised);
            }
        }
    }
}

/* p * dp underflows to -0 in every lane and the elements that follow keep that, so the sum is -0, and -0 - -0 = +0; a
 * lane without an element must not turn the sum to +0. */
static void
test_lanes_without_an_element_do_not_change_the_sign_of_a_sum(void)
{
    enum { COLUMNS = 33 };
    for (size_t v = 0; v < tables.count; ++v) {
        float p[COLUMNS];
        float dp[COLUMNS];
        for (size_t c = 0; c < COLUMNS; ++c) {
            p[c] = 0x1p-100f;
            dp[c] = c < 16 ? -0x1p-100f : -0.0f;
        }
        tables.at[v].softmax_grad_f32(p, dp, 1, COLUMNS, COLUMNS, 1.0f);
        int positive = 1;
        for (size_t c = 16; c < COLUMNS; ++c) {
            positive = positive && float_bits(dp[c]) == 0;
        }
        CHECK(positive);
    }
}

/* The padding of a batch: what stands behind the kept positions has probability 0. */
static void
test_positions_of_probability_zero_get_zero_and_leave_the_rest_alone(void)
{
    enum { KEPT = 21, COLUMNS = 40 };
    for (size_t v = 0; v < tables.count; ++v) {
        float p[COLUMNS];
        float alone[KEPT];
        float padded[COLUMNS];
        check_fill(p, COLUMNS, INPUT_UNIFORM, 1);
        tables.at[v].softmax_f32(p, 1, KEPT, KEPT, NULL);
        memset(p + KEPT, 0, sizeof p - KEPT * sizeof *p);
        check_fill(padded, COLUMNS, INPUT_UNIFORM, 2);
        memcpy(alone, padded, sizeof alone);
        tables.at[v].softmax_grad_f32(p, alone, 1, KEPT, KEPT, 0.125f);
        tables.at[v].softmax_grad_f32(p, padded, 1, COLUMNS, COLUMNS, 0.125f);
        CHECK(memcmp(alone, padded, sizeof alone) == 0);
        int zero = 1;
        for (size_t c = KEPT; c < COLUMNS; ++c) {
            zero = zero && padded[c] == 0.0f;
        }
        CHECK(zero);
    }
}

/* ---- truth ----------------------------------------------------------------------------------------------------------
 */

static void
true_softmax(const long double *x, size_t columns, long double *p)
{
    long double sum = 0.0L;
    for (size_t c = 0; c < columns; ++c) {
        p[c] = expl(x[c]);
        sum += p[c];
    }
    for (size_t c = 0; c < columns; ++c) {
        p[c] /= sum;
    }
}

static long double
weighted_sum(const long double *p, const float *dp, size_t columns)
{
    long double sum = 0.0L;
    for (size_t c = 0; c < columns; ++c) {
        sum += p[c] * (long double)dp[c];
    }
    return sum;
}

/* factor times the slope of sum(dp * softmax(x)) by central differences.  With step s = 2^-16 the difference is off by
 * s^2 / 6 < 4e-11 times a third derivative below 10, and by the rounding of sums below 2, 2^-62 / s < 2e-14.
 *
 * u = 2^-24.  p is rounded to float32, which moves s = sum(p dp) by u s' with s' = sum(p |dp|), and the kernel's sum by
 * (n / 16 + 5) u s'; the difference, two products and p itself round once each. */
static void
test_gradients_are_close_to_the_slope_of_the_softmax(void)
{
    enum { COLUMNS = 101 };
    const long double u = 0x1p-24L;
    const float factor = 0.125f;
    for (unsigned long long seed = 0; seed < 10; ++seed) {
        float narrow[COLUMNS], dp[COLUMNS], p[COLUMNS];
        long double x[COLUMNS], wide[COLUMNS], slope[COLUMNS];
        check_fill(narrow, COLUMNS, INPUT_UNIFORM, 2 * seed);
        check_fill(dp, COLUMNS, INPUT_UNIFORM, 2 * seed + 1);
        for (size_t c = 0; c < COLUMNS; ++c) {
            x[c] = 4.0L * (long double)narrow[c];
        }
        for (size_t c = 0; c < COLUMNS; ++c) {
            const long double kept = x[c];
            x[c] = kept + 0x1p-16L;
            true_softmax(x, COLUMNS, wide);
            slope[c] = weighted_sum(wide, dp, COLUMNS);
            x[c] = kept - 0x1p-16L;
            true_softmax(x, COLUMNS, wide);
            slope[c] = (slope[c] - weighted_sum(wide, dp, COLUMNS)) * 0x1p15L * (long double)factor;
            x[c] = kept;
        }
        true_softmax(x, COLUMNS, wide);
        long double magnitudes = 0.0L;
        for (size_t c = 0; c < COLUMNS; ++c) {
            p[c] = (float)wide[c];
            magnitudes += wide[c] * fabsl((long double)dp[c]);
        }
        for (size_t v = 0; v < tables.count; ++v) {
            float found[COLUMNS];
            memcpy(found, dp, sizeof found);
            tables.at[v].softmax_grad_f32(p, found, 1, COLUMNS, COLUMNS, factor);
            int close = 1;
            for (size_t c = 0; c < COLUMNS; ++c) {
                const long double terms = fabsl((long double)dp[c]) + magnitudes;
                const long double inner = (COLUMNS / 16.0L + 6.0L) * u * magnitudes + 4.0L * u * terms;
                const long double bound = wide[c] * (long double)factor * inner + 4e-10L;
                close = close && fabsl((long double)found[c] - slope[c]) <= bound;
            }
            CHECK(close);
        }
    }
}

/* Recorded on x86-64; other machines must compute the same. */
static void
test_bits_are_the_same_on_every_machine(void)
{
    enum { ROWS = 11, COLUMNS = 157 };
    for (size_t v = 0; v < tables.count; ++v) {
        float p[ROWS * COLUMNS];
        float dp[ROWS * COLUMNS];
        check_fill(p, COUNT(p), INPUT_UNIFORM, 77);
        check_fill(dp, COUNT(dp), INPUT_UNIFORM, 78);
        tables.at[v].softmax_f32(p, ROWS, COLUMNS, COLUMNS, NULL);
        tables.at[v].softmax_grad_f32(p, dp, ROWS, COLUMNS, COLUMNS, 0.3f);
        CHECK(same_hash("softmax_grad_f32", hash_floats(hash_start, dp, COUNT(dp)), 0xf5707638443039afu));
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_a_nan_makes_its_row_nan_and_no_other);
    RUN(test_lanes_without_an_element_do_not_change_the_sign_of_a_sum);
    RUN(test_positions_of_probability_zero_get_zero_and_leave_the_rest_alone);
    RUN(test_gradients_are_close_to_the_slope_of_the_softmax);
    RUN(test_bits_are_the_same_on_every_machine);
    return check_report();
}
