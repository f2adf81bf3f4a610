/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static void
columns_case(size_t v, size_t rows, size_t columns, size_t gap, check_input kind)
{
    const size_t stride = columns + gap;
    const size_t elements = rows > 0 ? (rows - 1) * stride + columns : 0;
    guarded x = guarded_make(elements * sizeof(float), 4);
    guarded expected = guarded_make(columns * sizeof(float), 12);
    guarded found = guarded_make(columns * sizeof(float), 20);
    check_fill(guarded_floats(&x), elements, kind, columns + rows);
    check_fill(guarded_floats(&expected), columns, kind, columns + 1);
    memcpy(found.data, expected.data, expected.bytes);
    tables.at[0].sum_columns_f32(guarded_floats(&x), rows, columns, stride, guarded_floats(&expected));
    tables.at[v].sum_columns_f32(guarded_floats(&x), rows, columns, stride, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), columns));
    guarded_free(&x);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_every_variant_gives_the_references_bits(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                columns_case(v, l % 2 == 0 ? 13 : 27, check_lengths[l], l % 4, (check_input)kind);
            }
        }
        for (size_t rows = 0; rows < 20; ++rows) {
            columns_case(v, rows, 37, 11, INPUT_WIDE);
        }
    }
}

static void
test_sums_add_to_what_is_there(void)
{
    const float x[] = {1.0f, 2.0f, 9.0f, 4.0f, 8.0f, 9.0f};
    for (size_t v = 0; v < tables.count; ++v) {
        float sums[] = {16.0f, -32.0f};
        tables.at[v].sum_columns_f32(x, 2, 2, 3, sums);
        CHECK(sums[0] == 21.0f && sums[1] == -22.0f);
        tables.at[v].sum_columns_f32(x, 0, 2, 3, sums);
        CHECK(sums[0] == 21.0f && sums[1] == -22.0f);
    }
}

/* 1 is lost in 2^24 + 1, and not in what is left after 2^24 has gone. */
static void
test_rows_are_added_in_increasing_order(void)
{
    enum { ROWS = 11, COLUMNS = 33 };
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at + 2 < ROWS; ++at) {
            float x[ROWS * COLUMNS] = {0};
            float sums[COLUMNS] = {0};
            for (size_t c = 0; c < COLUMNS; ++c) {
                x[at * COLUMNS + c] = 0x1p24f;
                x[(at + 1) * COLUMNS + c] = c % 2 == 0 ? 1.0f : -0x1p24f;
                x[(at + 2) * COLUMNS + c] = c % 2 == 0 ? -0x1p24f : 1.0f;
            }
            tables.at[v].sum_columns_f32(x, ROWS, COLUMNS, COLUMNS, sums);
            int ordered = 1;
            for (size_t c = 0; c < COLUMNS; ++c) {
                ordered = ordered && sums[c] == (c % 2 == 0 ? 0.0f : 1.0f);
            }
            CHECK(ordered);
        }
    }
}

static void
test_a_nan_makes_its_column_nan_and_no_other(void)
{
    enum { ROWS = 9, COLUMNS = 35 };
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at < ROWS * COLUMNS; ++at) {
            float x[ROWS * COLUMNS];
            float sums[COLUMNS] = {0};
            check_fill(x, COUNT(x), INPUT_UNIFORM, at);
            x[at] = NAN;
            tables.at[v].sum_columns_f32(x, ROWS, COLUMNS, COLUMNS, sums);
            int as_promised = 1;
            for (size_t c = 0; c < COLUMNS; ++c) {
                as_promised = as_promised && !isnan(sums[c]) == (c != at % COLUMNS);
            }
            CHECK(as_promised);
        }
    }
}

/* Every addition rounds a sum that is at most the sum of magnitudes: rows * 2^-24 of it. */
static void
test_sums_are_close_to_the_truth(void)
{
    enum { ROWS = 301, COLUMNS = 100 };
    static float x[ROWS * COLUMNS];
    check_fill(x, COUNT(x), INPUT_UNIFORM, 4);
    for (size_t v = 0; v < tables.count; ++v) {
        float sums[COLUMNS] = {0};
        tables.at[v].sum_columns_f32(x, ROWS, COLUMNS, COLUMNS, sums);
        for (size_t c = 0; c < COLUMNS; ++c) {
            double truth = 0.0;
            double magnitudes = 0.0;
            for (size_t r = 0; r < ROWS; ++r) {
                truth += (double)x[r * COLUMNS + c];
                magnitudes += fabs((double)x[r * COLUMNS + c]);
            }
            CHECK(fabs((double)sums[c] - truth) <= ROWS * 0x1p-24 * magnitudes);
        }
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_sums_add_to_what_is_there);
    RUN(test_rows_are_added_in_increasing_order);
    RUN(test_a_nan_makes_its_column_nan_and_no_other);
    RUN(test_sums_are_close_to_the_truth);
    return check_report();
}
