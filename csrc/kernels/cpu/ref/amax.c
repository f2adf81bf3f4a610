/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/variant.h"

/* max that keeps NaN. */
static float
larger(float a, float b)
{
    if (isnan(a) || isnan(b)) {
        return NAN;
    }
    return a > b ? a : b;
}

void
amax_f32__ref(const float *x, size_t n, float *amax)
{
    float largest = 0.0f;
    for (size_t i = 0; i < n; ++i) {
        largest = larger(largest, fabsf(x[i]));
    }
    *amax = largest;
}

void
amax_columns_f32__ref(const float *x, size_t rows, size_t columns, size_t stride, float *amax)
{
    for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < columns; ++c) {
            amax[c] = larger(amax[c], fabsf(x[r * stride + c]));
        }
    }
}
