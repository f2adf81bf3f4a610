/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static int
same_double(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void
squares_case(size_t v, size_t n, size_t shift, check_input kind)
{
    guarded x = guarded_make(n * sizeof(float), shift);
    check_fill(guarded_floats(&x), n, kind, n + 7);
    double expected = 0.1;
    double found = 0.1;
    tables.at[0].sum_squares_f32(guarded_floats(&x), n, &expected);
    tables.at[v].sum_squares_f32(guarded_floats(&x), n, &found);
    CHECK(same_double(found, expected));
    guarded_free(&x);
}

static void
test_every_variant_gives_the_references_bits(void)
{
    const size_t more[] = {4095, 4096, 4097, 8192, 8209, 20011};
    for (size_t v = 1; v < tables.count; ++v) {
        for (int kind = 0; kind < INPUT_KINDS; ++kind) {
            for (size_t l = 0; l < COUNT(check_lengths); ++l) {
                squares_case(v, check_lengths[l], check_shifts[l % COUNT(check_shifts)], (check_input)kind);
            }
            for (size_t l = 0; l < COUNT(more); ++l) {
                squares_case(v, more[l], 4 * l, (check_input)kind);
            }
        }
    }
}

static void
test_sums_add_to_what_is_there(void)
{
    const float x[] = {3.0f, -4.0f, 0.0f, -0.0f};
    for (size_t v = 0; v < tables.count; ++v) {
        double sum = 17.0;
        tables.at[v].sum_squares_f32(x, COUNT(x), &sum);
        CHECK(sum == 42.0);
        tables.at[v].sum_squares_f32(NULL, 0, &sum);
        CHECK(sum == 42.0);
    }
}

static void
test_totals_of_blocks_may_be_computed_apart(void)
{
    enum { BLOCK = 4096, LENGTH = 3 * BLOCK + 100 };
    static float x[LENGTH];
    check_fill(x, LENGTH, INPUT_WIDE, 8);
    for (size_t v = 0; v < tables.count; ++v) {
        double whole = 0.25;
        double parts = 0.25;
        tables.at[v].sum_squares_f32(x, LENGTH, &whole);
        for (size_t i = 0; i < LENGTH; i += BLOCK) {
            double total = 0.0;
            tables.at[v].sum_squares_f32(x + i, LENGTH - i < BLOCK ? LENGTH - i : BLOCK, &total);
            parts = parts + total;
        }
        CHECK(same_double(parts, whole));
    }
}

static void
test_the_largest_floats_do_not_overflow_and_denormals_count(void)
{
    static float x[5000];
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t i = 0; i < COUNT(x); ++i) {
            x[i] = -FLT_MAX;
        }
        double sum = 0.0;
        tables.at[v].sum_squares_f32(x, COUNT(x), &sum);
        const double square = (double)FLT_MAX * (double)FLT_MAX;
        CHECK(fabs(sum / square - 5000.0) <= 5000.0 * 5000.0 * 0x1p-53);
        for (size_t i = 0; i < COUNT(x); ++i) {
            x[i] = 0x1p-149f;
        }
        sum = 0.0;
        tables.at[v].sum_squares_f32(x, COUNT(x), &sum);
        CHECK(sum == 5000.0 * 0x1p-298);
    }
}

static void
test_infinities_and_nan_show(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        float x[41];
        check_fill(x, COUNT(x), INPUT_UNIFORM, 3);
        x[40] = -INFINITY;
        double sum = 0.0;
        tables.at[v].sum_squares_f32(x, COUNT(x), &sum);
        CHECK(isinf(sum) && sum > 0.0);
        x[7] = NAN;
        sum = 0.0;
        tables.at[v].sum_squares_f32(x, COUNT(x), &sum);
        CHECK(isnan(sum));
    }
}

/* A square of a float is exact in float64, and every sum of nonnegative terms rounds once per addition: 4,096 / 16
 * additions in a lane, 4 in the tree and one for each block, each at most 2^-53 of the whole. */
static void
test_sums_are_close_to_the_truth(void)
{
    enum { LENGTH = 50021 };
    static float x[LENGTH];
    check_fill(x, LENGTH, INPUT_UNIFORM, 12);
    long double truth = 0.0L;
    for (size_t i = 0; i < LENGTH; ++i) {
        truth += (long double)x[i] * (long double)x[i];
    }
    for (size_t v = 0; v < tables.count; ++v) {
        double sum = 0.0;
        tables.at[v].sum_squares_f32(x, LENGTH, &sum);
        CHECK(fabsl((long double)sum - truth) <= (256.0L + 4.0L + 13.0L) * 0x1p-53L * truth);
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_sums_add_to_what_is_there);
    RUN(test_totals_of_blocks_may_be_computed_apart);
    RUN(test_the_largest_floats_do_not_overflow_and_denormals_count);
    RUN(test_infinities_and_nan_show);
    RUN(test_sums_are_close_to_the_truth);
    return check_report();
}
