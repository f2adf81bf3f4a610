/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/ref/lanes.h"
#include "kernels/cpu/variant.h"

/* One row of x (columns); y may be x. */
static void
normalize_row(const float *x, size_t columns, const float *weight, const float *bias, float eps, float *y)
{
    const float mean = ref_lanes_sum(x, columns) / (float)columns;
    float lane[REF_LANES] = {0};
    for (size_t c = 0; c < columns; ++c) {
        const float d = x[c] - mean;
        lane[c % REF_LANES] = fmaf(d, d, lane[c % REF_LANES]);
    }
    const float variance = ref_lanes_total(lane) / (float)columns;
    const float rstd = 1.0f / sqrtf(variance + eps);
    for (size_t c = 0; c < columns; ++c) {
        y[c] = fmaf((x[c] - mean) * rstd, weight[c], bias[c]);
    }
}

void
layer_norm_f32__ref(const float *x, size_t rows, size_t columns, const float *weight, const float *bias, float eps,
                    float *y)
{
    for (size_t r = 0; r < rows; ++r) {
        normalize_row(x + r * columns, columns, weight, bias, eps, y + r * columns);
    }
}

void
add_layer_norm_f32__ref(const float *a, const float *b, size_t rows, size_t columns, const float *weight,
                        const float *bias, float eps, float *y)
{
    for (size_t r = 0; r < rows; ++r) {
        float *row = y + r * columns;
        for (size_t c = 0; c < columns; ++c) {
            row[c] = a[r * columns + c] + b[r * columns + c];
        }
        normalize_row(row, columns, weight, bias, eps, row);
    }
}

void
add_layer_norm_qs8__ref(const int8_t *a, float step_a, const int8_t *b, float step_b, size_t rows, size_t columns,
                        const float *weight, const float *bias, float eps, float *y)
{
    for (size_t r = 0; r < rows; ++r) {
        float *row = y + r * columns;
        for (size_t c = 0; c < columns; ++c) {
            const size_t at = r * columns + c;
            row[c] = fmaf((float)b[at], step_b, (float)a[at] * step_a);
        }
        normalize_row(row, columns, weight, bias, eps, row);
    }
}
