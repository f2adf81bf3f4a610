/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/ref/lanes.h"
#include "kernels/cpu/variant.h"

/* 1 / standard deviation of one row of x (columns), and *mean. */
static float
row_statistics(const float *x, size_t columns, float eps, float *mean)
{
    *mean = ref_lanes_sum(x, columns) / (float)columns;
    float lane[REF_LANES] = {0};
    for (size_t c = 0; c < columns; ++c) {
        const float d = x[c] - *mean;
        lane[c % REF_LANES] = fmaf(d, d, lane[c % REF_LANES]);
    }
    const float variance = ref_lanes_total(lane) / (float)columns;
    return 1.0f / sqrtf(variance + eps);
}

/* One row of x (columns); y may be x. */
static void
normalize_row(const float *x, size_t columns, const float *weight, const float *bias, float eps, float *y)
{
    float mean;
    const float rstd = row_statistics(x, columns, eps, &mean);
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

/* One row of x and dy (columns); dx may be either. */
static void
gradient_row(const float *x, const float *dy, size_t columns, const float *weight, float mean, float rstd, float *dx)
{
    float lane_g[REF_LANES] = {0};
    float lane_gh[REF_LANES] = {0};
    for (size_t c = 0; c < columns; ++c) {
        const size_t l = c % REF_LANES;
        lane_g[l] = fmaf(dy[c], weight[c], lane_g[l]);
        lane_gh[l] = fmaf(dy[c] * weight[c], (x[c] - mean) * rstd, lane_gh[l]);
    }
    const float mean_g = ref_lanes_total(lane_g) / (float)columns;
    const float mean_gh = ref_lanes_total(lane_gh) / (float)columns;
    for (size_t c = 0; c < columns; ++c) {
        const float h = (x[c] - mean) * rstd;
        dx[c] = rstd * fmaf(-h, mean_gh, dy[c] * weight[c] - mean_g);
    }
}

void
layer_norm_grad_f32__ref(const float *x, const float *dy, size_t rows, size_t columns, const float *weight, float eps,
                         float *dx, float *mean, float *rstd)
{
    for (size_t r = 0; r < rows; ++r) {
        const size_t at = r * columns;
        rstd[r] = row_statistics(x + at, columns, eps, &mean[r]);
        gradient_row(x + at, dy + at, columns, weight, mean[r], rstd[r], dx + at);
    }
}

void
layer_norm_grad_columns_f32__ref(const float *x, const float *dy, size_t rows, size_t columns, size_t stride,
                                 const float *mean, const float *rstd, float *dweight, float *dbias)
{
    for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < columns; ++c) {
            const size_t at = r * stride + c;
            if (dweight != NULL) {
                dweight[c] = fmaf(dy[at], (x[at] - mean[r]) * rstd[r], dweight[c]);
            }
            if (dbias != NULL) {
                dbias[c] = dbias[c] + dy[at];
            }
        }
    }
}
