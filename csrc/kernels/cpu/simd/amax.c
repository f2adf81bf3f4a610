/* SPDX-License-Identifier: Apache-2.0
 *
 * Largest magnitudes.  Floats without their sign are ordered like their bits, and every NaN is above infinity, so the
 * maximum of the bits is the maximum of the magnitudes and remembers NaN without a compare.
 */
#include "kernels/cpu/simd/simd.h"

void
QB_FN(amax_f32)(const float *x, size_t n, float *amax)
{
    enum { UNROLL = 4 };
    vec_s32 max0 = vec_s32_zero();
    vec_s32 max1 = max0;
    vec_s32 max2 = max0;
    vec_s32 max3 = max0;
    size_t i = 0;
    for (; i + UNROLL * LANES <= n; i += UNROLL * LANES) {
        max0 = vec_s32_max(max0, vec_magnitude_bits(vec_load(x + i)));
        max1 = vec_s32_max(max1, vec_magnitude_bits(vec_load(x + i + LANES)));
        max2 = vec_s32_max(max2, vec_magnitude_bits(vec_load(x + i + 2 * LANES)));
        max3 = vec_s32_max(max3, vec_magnitude_bits(vec_load(x + i + 3 * LANES)));
    }
    for (; i + LANES <= n; i += LANES) {
        max0 = vec_s32_max(max0, vec_magnitude_bits(vec_load(x + i)));
    }
    if (i < n) {
        max1 = vec_s32_max(max1, vec_magnitude_bits(vec_load_n(x + i, n - i, 0.0f)));
    }
    const union {
        int32_t bits;
        float value;
    } largest = {vec_s32_reduce_max(vec_s32_max(vec_s32_max(max0, max1), vec_s32_max(max2, max3)))};
    *amax = largest.value;
}

/* Bits of running maxima, comparable with the bits of magnitudes.  A NaN with a sign would be a negative integer and
 * lose against every magnitude, so the sign goes from everything that is not <= 0. */
static inline vec_s32
start_of(vec_f32 running)
{
    return vec_bits(vec_select_less_equal(running, vec_set(0.0f), running, vec_abs(running)));
}

/* Four vectors of columns through all rows: their running maxima stay in registers. */
static void
wide_columns(const float *x, size_t rows, size_t stride, float *amax)
{
    vec_s32 max0 = start_of(vec_load(amax));
    vec_s32 max1 = start_of(vec_load(amax + LANES));
    vec_s32 max2 = start_of(vec_load(amax + 2 * LANES));
    vec_s32 max3 = start_of(vec_load(amax + 3 * LANES));
    for (size_t r = 0; r < rows; ++r, x += stride) {
        max0 = vec_s32_max(max0, vec_magnitude_bits(vec_load(x)));
        max1 = vec_s32_max(max1, vec_magnitude_bits(vec_load(x + LANES)));
        max2 = vec_s32_max(max2, vec_magnitude_bits(vec_load(x + 2 * LANES)));
        max3 = vec_s32_max(max3, vec_magnitude_bits(vec_load(x + 3 * LANES)));
    }
    vec_store(amax, vec_from_bits(max0));
    vec_store(amax + LANES, vec_from_bits(max1));
    vec_store(amax + 2 * LANES, vec_from_bits(max2));
    vec_store(amax + 3 * LANES, vec_from_bits(max3));
}

void
QB_FN(amax_columns_f32)(const float *x, size_t rows, size_t columns, size_t stride, float *amax)
{
    enum { WIDE = 4 * LANES };
    size_t c = 0;
    for (; c + WIDE <= columns; c += WIDE) {
        wide_columns(x + c, rows, stride, amax + c);
    }
    for (; c + LANES <= columns; c += LANES) {
        vec_s32 max = start_of(vec_load(amax + c));
        for (size_t r = 0; r < rows; ++r) {
            max = vec_s32_max(max, vec_magnitude_bits(vec_load(x + r * stride + c)));
        }
        vec_store(amax + c, vec_from_bits(max));
    }
    if (c < columns) {
        const size_t rest = columns - c;
        vec_s32 max = start_of(vec_load_n(amax + c, rest, 0.0f));
        for (size_t r = 0; r < rows; ++r) {
            max = vec_s32_max(max, vec_magnitude_bits(vec_load_n(x + r * stride + c, rest, 0.0f)));
        }
        vec_store_n(amax + c, vec_from_bits(max), rest);
    }
}
