/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static const size_t sizes[] = {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 61, 100};

/* Every element of x has bits of its own, NaN patterns among them; the gaps between the rows of y keep theirs. */
static void
transpose_case(size_t v, size_t rows, size_t columns, size_t gap)
{
    const size_t x_stride = columns + gap;
    const size_t y_stride = rows + 2 * gap;
    const size_t x_bytes = (rows > 0 ? (rows - 1) * x_stride + columns : 0) * sizeof(float);
    const size_t y_bytes = (columns > 0 ? (columns - 1) * y_stride + rows : 0) * sizeof(float);
    guarded x = guarded_make(x_bytes, 4);
    guarded y = guarded_make(y_bytes, 12);
    unsigned long long seed = rows * 131 + columns;
    for (size_t i = 0; i < x_bytes / sizeof(float); ++i) {
        const uint32_t bits = (uint32_t)check_random(&seed);
        memcpy(x.data + i * sizeof bits, &bits, sizeof bits);
    }
    tables.at[v].transpose_f32(guarded_floats(&x), rows, columns, x_stride, guarded_floats(&y), y_stride);
    int as_promised = 1;
    for (size_t i = 0; i < y_bytes / sizeof(float); ++i) {
        const size_t column = i / y_stride;
        const size_t row = i % y_stride;
        static const unsigned char untouched[4] = {GUARD_PATTERN, GUARD_PATTERN, GUARD_PATTERN, GUARD_PATTERN};
        const unsigned char *expected = row < rows ? x.data + (row * x_stride + column) * sizeof(float) : untouched;
        as_promised = as_promised && memcmp(y.data + i * sizeof(float), expected, sizeof(float)) == 0;
    }
    CHECK(as_promised);
    guarded_free(&x);
    guarded_free(&y);
}

static void
test_rows_become_columns_bit_by_bit(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t i = 0; i < COUNT(sizes); ++i) {
            for (size_t j = 0; j < COUNT(sizes); ++j) {
                transpose_case(v, sizes[i], sizes[j], 0);
                transpose_case(v, sizes[i], sizes[j], 3);
            }
        }
        transpose_case(v, 131, 768, 0);
        transpose_case(v, 384, 65, 5);
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_rows_become_columns_bit_by_bit);
    return check_report();
}
