/* SPDX-License-Identifier: Apache-2.0
 *
 * Fake quantization: codes divided by the scale again, and its straight-through gradient.  A dead range has scale 0;
 * its codes are zeros, which are divided by 1 instead.
 */
#include "kernels/cpu/simd/quant.h"

void
QB_FN(fake_quant_f32)(const float *x, size_t n, const qb_quant_range *range, float *y)
{
    const vec_f32 scale = vec_set(range->scale);
    const vec_f32 lower = vec_set(range->lower);
    const vec_f32 upper = vec_set(range->upper);
    const vec_f32 divisor = vec_set(range->scale > 0.0f ? range->scale : 1.0f);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec_store(y + i, vec_div(vec_quantize(vec_load(x + i), scale, lower, upper), divisor));
    }
    if (i < n) {
        const vec_f32 v = vec_load_n(x + i, n - i, 0.0f);
        vec_store_n(y + i, vec_div(vec_quantize(v, scale, lower, upper), divisor), n - i);
    }
}

void
QB_FN(fake_quant_columns_f32)(const float *x, size_t rows, size_t columns, const float *scale, float lower, float upper,
                              float *y)
{
    const vec_f32 zero = vec_set(0.0f);
    const vec_f32 one = vec_set(1.0f);
    const vec_f32 low = vec_set(lower);
    const vec_f32 high = vec_set(upper);
    for (size_t r = 0; r < rows; ++r, x += columns, y += columns) {
        size_t c = 0;
        for (; c + LANES <= columns; c += LANES) {
            const vec_f32 s = vec_load(scale + c);
            const vec_f32 divisor = vec_select_greater(s, zero, s, one);
            vec_store(y + c, vec_div(vec_quantize(vec_load(x + c), s, low, high), divisor));
        }
        if (c < columns) {
            const vec_f32 s = vec_load_n(scale + c, columns - c, 0.0f);
            const vec_f32 divisor = vec_select_greater(s, zero, s, one);
            const vec_f32 v = vec_load_n(x + c, columns - c, 0.0f);
            vec_store_n(y + c, vec_div(vec_quantize(v, s, low, high), divisor), columns - c);
        }
    }
}

void
QB_FN(fake_quant_grad_f32)(const float *x, const float *dy, size_t n, float amax, float *dx)
{
    const vec_f32 zero = vec_set(0.0f);
    const vec_f32 limit = vec_set(amax);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec_store(dx + i, vec_select_less_equal(vec_abs(vec_load(x + i)), limit, vec_load(dy + i), zero));
    }
    if (i < n) {
        const vec_f32 magnitude = vec_abs(vec_load_n(x + i, n - i, 0.0f));
        vec_store_n(dx + i, vec_select_less_equal(magnitude, limit, vec_load_n(dy + i, n - i, 0.0f), zero), n - i);
    }
}

void
QB_FN(fake_quant_grad_columns_f32)(const float *x, const float *dy, size_t rows, size_t columns, const float *amax,
                                   float *dx)
{
    const vec_f32 zero = vec_set(0.0f);
    for (size_t r = 0; r < rows; ++r, x += columns, dy += columns, dx += columns) {
        size_t c = 0;
        for (; c + LANES <= columns; c += LANES) {
            const vec_f32 magnitude = vec_abs(vec_load(x + c));
            vec_store(dx + c, vec_select_less_equal(magnitude, vec_load(amax + c), vec_load(dy + c), zero));
        }
        if (c < columns) {
            const size_t n = columns - c;
            const vec_f32 magnitude = vec_abs(vec_load_n(x + c, n, 0.0f));
            const vec_f32 limit = vec_load_n(amax + c, n, 0.0f);
            vec_store_n(dx + c, vec_select_less_equal(magnitude, limit, vec_load_n(dy + c, n, 0.0f), zero), n);
        }
    }
}
