/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums of columns.  Each column is one chain of additions over the rows, in their order.  BLOCK rows at a time share
 * the loads and stores of the sums, and are read in the order of memory; the sums of a transformer's width stay in the
 * level-1 cache.
 */
#include "kernels/cpu/simd/simd.h"

enum { BLOCK = 8 };

VEC_INLINE void
add_rows(const float *x, size_t count, size_t columns, size_t stride, float *sums)
{
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        vec_f32 sum = vec_load(sums + c);
        for (size_t i = 0; i < count; ++i) {
            sum = vec_add(sum, vec_load(x + i * stride + c));
        }
        vec_store(sums + c, sum);
    }
    if (c < columns) {
        const size_t n = columns - c;
        vec_f32 sum = vec_load_n(sums + c, n, 0.0f);
        for (size_t i = 0; i < count; ++i) {
            sum = vec_add(sum, vec_load_n(x + i * stride + c, n, 0.0f));
        }
        vec_store_n(sums + c, sum, n);
    }
}

void
QB_FN(sum_columns_f32)(const float *x, size_t rows, size_t columns, size_t stride, float *sums)
{
    size_t row = 0;
    for (; row + BLOCK <= rows; row += BLOCK) {
        add_rows(x + row * stride, BLOCK, columns, stride, sums);
    }
    for (; row < rows; ++row) {
        add_rows(x + row * stride, 1, columns, stride, sums);
    }
}
