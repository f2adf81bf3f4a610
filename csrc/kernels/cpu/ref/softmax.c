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

void
softmax_qs8__ref(float *scores, size_t rows, size_t columns, size_t stride, const float *mask,
                 const qb_quant_range *range, int8_t *codes, uint32_t *nonfinite)
{
    for (size_t r = 0; r < rows; ++r) {
        softmax_row(scores + r * stride, columns, mask);
        quantize_qs8__ref(scores + r * stride, columns, range, codes + r * stride, nonfinite);
    }
}

static void
gradient_row(const float *p, float *dp, size_t columns, float factor)
{
    float lane[REF_LANES] = {0};
    for (size_t c = 0; c < columns; ++c) {
        lane[c % REF_LANES] = fmaf(p[c], dp[c], lane[c % REF_LANES]);
    }
    const float sum = ref_lanes_total(lane);
    for (size_t c = 0; c < columns; ++c) {
        dp[c] = p[c] * (dp[c] - sum) * factor;
    }
}

void
softmax_grad_f32__ref(const float *p, float *dp, size_t rows, size_t columns, size_t stride, float factor)
{
    for (size_t r = 0; r < rows; ++r) {
        gradient_row(p + r * stride, dp + r * stride, columns, factor);
    }
}
