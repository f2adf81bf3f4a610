/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/variant.h"

void
transpose_f32__ref(const float *x, size_t rows, size_t columns, size_t x_stride, float *y, size_t y_stride)
{
    for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < columns; ++c) {
            y[c * y_stride + r] = x[r * x_stride + c];
        }
    }
}
