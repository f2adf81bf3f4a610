/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/ref/quant.h"
#include "kernels/cpu/variant.h"

void
fake_quant_f32__ref(const float *x, size_t n, const qb_quant_range *range, float *y)
{
    for (size_t i = 0; i < n; ++i) {
        y[i] = ref_dequantize(ref_quantize(x[i], range->scale, range->lower, range->upper), range->scale);
    }
}

void
fake_quant_columns_f32__ref(const float *x, size_t rows, size_t columns, const float *scale, float lower, float upper,
                            float *y)
{
    for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < columns; ++c) {
            const size_t at = r * columns + c;
            y[at] = ref_dequantize(ref_quantize(x[at], scale[c], lower, upper), scale[c]);
        }
    }
}

void
fake_quant_grad_f32__ref(const float *x, const float *dy, size_t n, float amax, float *dx)
{
    for (size_t i = 0; i < n; ++i) {
        dx[i] = fabsf(x[i]) <= amax ? dy[i] : 0.0f;
    }
}

void
fake_quant_grad_columns_f32__ref(const float *x, const float *dy, size_t rows, size_t columns, const float *amax,
                                 float *dx)
{
    for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < columns; ++c) {
            const size_t at = r * columns + c;
            dx[at] = fabsf(x[at]) <= amax[c] ? dy[at] : 0.0f;
        }
    }
}
