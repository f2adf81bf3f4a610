/* SPDX-License-Identifier: Apache-2.0
 *
 * Softmax of rows, in place, in three passes over a row that stays in the level-1 cache: mask and maximum; exponentials
 * and their sum; scaling.  exp takes longer than the latency of an addition, so one chain per lane for the sum costs
 * nothing.  Absent lanes of the last vector hold -infinity: the maximum ignores them and their exponential is +0, which
 * leaves a sum of nonnegative terms as it is.
 *
 * The order in which maxima are combined does not matter: the only ties that differ in bits are +0 and -0, which
 * subtract alike except for the sign of a zero difference, and a NaN makes the row NaN through its own exponential.
 */
#include <math.h>

#include "kernels/cpu/simd/elementary.h"

/* x + mask, stored, and the largest of it. */
static float
mask_and_maximum(float *x, size_t columns, const float *mask)
{
    vec_f32 max0 = vec_set(-INFINITY);
    vec_f32 max1 = max0;
    size_t c = 0;
    for (; c + 2 * LANES <= columns; c += 2 * LANES) {
        vec_f32 v0 = vec_load(x + c);
        vec_f32 v1 = vec_load(x + c + LANES);
        if (mask != NULL) {
            v0 = vec_add(v0, vec_load(mask + c));
            v1 = vec_add(v1, vec_load(mask + c + LANES));
            vec_store(x + c, v0);
            vec_store(x + c + LANES, v1);
        }
        max0 = vec_max(max0, v0);
        max1 = vec_max(max1, v1);
    }
    for (; c < columns; c += LANES) {
        const size_t n = columns - c < LANES ? columns - c : LANES;
        vec_f32 v = n == LANES ? vec_load(x + c) : vec_load_n(x + c, n, -INFINITY);
        if (mask != NULL) {
            v = vec_add(v, n == LANES ? vec_load(mask + c) : vec_load_n(mask + c, n, 0.0f));
            if (n == LANES) {
                vec_store(x + c, v);
            }
            else {
                vec_store_n(x + c, v, n);
            }
        }
        max0 = vec_max(max0, v);
    }
    return vec_reduce_max(vec_max(max0, max1));
}

/* x = exp(x - maximum), and the sum of it. */
static float
exponentials(float *x, size_t columns, float maximum)
{
    const vec_f32 max = vec_set(maximum);
    vec_f32 sum = vec_set(0.0f);
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        const vec_f32 e = vec_exp_bounded(vec_sub(vec_load(x + c), max));
        vec_store(x + c, e);
        sum = vec_add(sum, e);
    }
    if (c < columns) {
        const vec_f32 e = vec_exp_bounded(vec_sub(vec_load_n(x + c, columns - c, -INFINITY), max));
        vec_store_n(x + c, e, columns - c);
        sum = vec_add(sum, e);
    }
    return vec_reduce_add(sum);
}

void
QB_FN(softmax_f32)(float *scores, size_t rows, size_t columns, size_t stride, const float *mask)
{
    for (size_t r = 0; r < rows; ++r) {
        float *x = scores + r * stride;
        const float maximum = mask_and_maximum(x, columns, mask);
        const float sum = exponentials(x, columns, maximum);
        QB_FN(scale_f32)(x, 1.0f / sum, columns, x);
    }
}
