/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static void
test_every_variant_finds_the_largest_magnitude(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                const size_t n = check_lengths[l];
                guarded x = guarded_make(n * sizeof(float), check_shifts[l % COUNT(check_shifts)]);
                check_fill(guarded_floats(&x), n, (check_input)kind, n + 1);
                float expected = -1.0f;
                float found = -1.0f;
                tables.at[0].amax_f32(guarded_floats(&x), n, &expected);
                tables.at[v].amax_f32(guarded_floats(&x), n, &found);
                CHECK(same_floats(&found, &expected, 1));
                guarded_free(&x);
            }
        }
    }
}

static void
test_a_nan_anywhere_is_reported(void)
{
    float x[131];
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at < COUNT(x); ++at) {
            for (int negative = 0; negative < 2; ++negative) {
                check_fill(x, COUNT(x), INPUT_WIDE, 5);
                x[(at + 7) % COUNT(x)] = INFINITY;
                x[at] = float_from_bits(negative ? 0xffc00000u : 0x7fc00000u);
                float amax = 0.0f;
                tables.at[v].amax_f32(x, COUNT(x), &amax);
                CHECK(isnan(amax));
            }
        }
    }
}

static void
test_nothing_has_magnitude_zero(void)
{
    const float negative_zero = -0.0f;
    for (size_t v = 0; v < tables.count; ++v) {
        float amax = 3.0f;
        tables.at[v].amax_f32(NULL, 0, &amax);
        CHECK(float_bits(amax) == 0);
        amax = 3.0f;
        tables.at[v].amax_f32(&negative_zero, 1, &amax);
        CHECK(float_bits(amax) == 0);
    }
}

static void
columns_case(size_t v, size_t rows, size_t columns, size_t gap, check_input kind)
{
    const size_t stride = columns + gap;
    const size_t elements = rows > 0 ? (rows - 1) * stride + columns : 0;
    guarded x = guarded_make(elements * sizeof(float), 4);
    guarded expected = guarded_make(columns * sizeof(float), 12);
    guarded found = guarded_make(columns * sizeof(float), 12);
    check_fill(guarded_floats(&x), elements, kind, columns);
    for (size_t c = 0; c < columns; ++c) {
        const float starts[] = {0.0f, 0.3f, NAN, -NAN, INFINITY, 1e-45f, -1.0f};
        guarded_floats(&expected)[c] = guarded_floats(&found)[c] = starts[c % COUNT(starts)];
    }
    tables.at[0].amax_columns_f32(guarded_floats(&x), rows, columns, stride, guarded_floats(&expected));
    tables.at[v].amax_columns_f32(guarded_floats(&x), rows, columns, stride, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), columns));
    guarded_free(&x);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_column_maxima_run_and_keep_nan(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (size_t rows = 0; rows < 6; rows += rows < 2 ? 1 : 3) {
                columns_case(v, rows, check_lengths[l], 0, INPUT_WIDE);
                columns_case(v, rows, check_lengths[l], 3, INPUT_ANY);
                columns_case(v, rows, check_lengths[l], 1, INPUT_DENORMAL);
            }
        }
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_finds_the_largest_magnitude);
    RUN(test_a_nan_anywhere_is_reported);
    RUN(test_nothing_has_magnitude_zero);
    RUN(test_column_maxima_run_and_keep_nan);
    return check_report();
}
