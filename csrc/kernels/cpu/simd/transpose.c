/* SPDX-License-Identifier: Apache-2.0
 *
 * Transposition in tiles of 16 x 16: a tile reads and writes whole cache lines where rows are aligned, so neither side
 * walks through memory by its row distance.
 */
#include "kernels/cpu/simd/simd.h"

/* What does not fill a tile. */
static void
transpose_rest(const float *x, size_t rows, size_t columns, size_t x_stride, float *y, size_t y_stride)
{
    for (size_t c = 0; c < columns; ++c) {
        for (size_t r = 0; r < rows; ++r) {
            y[c * y_stride + r] = x[r * x_stride + c];
        }
    }
}

void
QB_FN(transpose_f32)(const float *x, size_t rows, size_t columns, size_t x_stride, float *y, size_t y_stride)
{
    const size_t full = columns - columns % LANES;
    size_t r = 0;
    for (; r + LANES <= rows; r += LANES) {
        const float *band = x + r * x_stride;
        for (size_t c = 0; c < full; c += LANES) {
            vec_transpose(band + c, x_stride, y + c * y_stride + r, y_stride);
        }
        transpose_rest(band + full, LANES, columns - full, x_stride, y + full * y_stride + r, y_stride);
    }
    transpose_rest(x + r * x_stride, rows - r, columns, x_stride, y + r, y_stride);
}
