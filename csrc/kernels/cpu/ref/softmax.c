/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/ref/elementary.h"
#include "kernels/cpu/ref/lanes.h"
#include "kernels/cpu/variant.h"

static void
softmax_row(float *x, size_t columns, const float *mask)
{
    float maximum = -INFINITY;
    for (size_t c = 0; c < columns; ++c) {
        if (mask != NULL) {
            x[c] = x[c] + mask[c];
        }
        maximum = ref_max(maximum, x[c]);
    }
    for (size_t c = 0; c < columns; ++c) {
        x[c] = ref_exp(x[c] - maximum);
    }
    const float factor = 1.0f / ref_lanes_sum(x, columns);
    for (size_t c = 0; c < columns; ++c) {
        x[c] = x[c] * factor;
    }
}

void
softmax_f32__ref(float *scores, size_t rows, size_t columns, size_t stride, const float *mask)
{
    for (size_t r = 0; r < rows; ++r) {
        softmax_row(scores + r * stride, columns, mask);
    }
}
