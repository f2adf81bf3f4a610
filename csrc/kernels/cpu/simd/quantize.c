/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantization with one scale: codes as floats and as int8.
 */
#include "kernels/cpu/simd/quant.h"

void
QB_FN(quantize_f32)(const float *x, size_t n, const qb_quant_range *range, float *y)
{
    const vec_f32 scale = vec_set(range->scale);
    const vec_f32 lower = vec_set(range->lower);
    const vec_f32 upper = vec_set(range->upper);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec_store(y + i, vec_quantize(vec_load(x + i), scale, lower, upper));
    }
    if (i < n) {
        vec_store_n(y + i, vec_quantize(vec_load_n(x + i, n - i, 0.0f), scale, lower, upper), n - i);
    }
}

/* The bounds are integers, so clamping before the conversion, which rounds half to even itself, gives the codes of
 * clamping after it. */
void
QB_FN(quantize_qs8)(const float *x, size_t n, const qb_quant_range *range, int8_t *codes, uint32_t *nonfinite)
{
    const vec_f32 scale = vec_set(range->scale);
    const vec_f32 lower = vec_set(range->lower);
    const vec_f32 upper = vec_set(range->upper);
    vec_s32 largest = vec_s32_zero();
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec_f32 v = vec_load(x + i);
        largest = vec_s32_max(largest, vec_magnitude_bits(v));
        vec_store_s8(codes + i, vec_min(upper, vec_max(lower, vec_mul(v, scale))));
    }
    if (i < n) {
        const vec_f32 v = vec_load_n(x + i, n - i, 0.0f);
        largest = vec_s32_max(largest, vec_magnitude_bits(v));
        vec_store_s8_n(codes + i, vec_min(upper, vec_max(lower, vec_mul(v, scale))), n - i);
    }
    if (vec_s32_reduce_max(largest) >= MAGNITUDE_INFINITY) {
        *nonfinite = 1;
    }
}
