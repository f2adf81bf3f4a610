/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/variant.h"

void
sum_columns_f32__ref(const float *x, size_t rows, size_t columns, size_t stride, float *sums)
{
    for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < columns; ++c) {
            sums[c] = sums[c] + x[r * stride + c];
        }
    }
}
