/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/variant.h"

void
histogram_f32__ref(const float *x, size_t n, float last_edge, int64_t bins, int skip_zeros, int64_t *counts)
{
    for (size_t i = 0; i < n; ++i) {
        const float magnitude = fabsf(x[i]);
        if (isnan(magnitude) || magnitude > last_edge || (skip_zeros && magnitude == 0.0f)) {
            continue;
        }
        const float position = magnitude * (float)bins / last_edge;
        int64_t index = bins - 1;
        if (position < (float)bins) {
            index = (int64_t)position;
        }
        ++counts[index];
    }
}
