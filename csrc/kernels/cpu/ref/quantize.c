/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/ref/quant.h"
#include "kernels/cpu/variant.h"

void
quantize_f32__ref(const float *x, size_t n, const qb_quant_range *range, float *y)
{
    for (size_t i = 0; i < n; ++i) {
        y[i] = ref_quantize(x[i], range->scale, range->lower, range->upper);
    }
}

void
quantize_qs8__ref(const float *x, size_t n, const qb_quant_range *range, int8_t *codes, uint32_t *nonfinite)
{
    for (size_t i = 0; i < n; ++i) {
        if (isfinite(x[i])) {
            codes[i] = (int8_t)ref_quantize(x[i], range->scale, range->lower, range->upper);
        }
        else {
            codes[i] = 0;
            *nonfinite = 1;
        }
    }
}
