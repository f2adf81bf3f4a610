/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/variant.h"

void
add_f32__ref(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; ++i) {
        y[i] = a[i] + b[i];
    }
}

void
scale_f32__ref(const float *x, float factor, size_t n, float *y)
{
    for (size_t i = 0; i < n; ++i) {
        y[i] = x[i] * factor;
    }
}
