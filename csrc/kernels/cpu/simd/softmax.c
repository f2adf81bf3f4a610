/* SPDX-License-Identifier: Apache-2.0
 *
 * Softmax of rows and its gradient, in place.  The softmax takes three passes over a row that stays in the level-1
 * cache: mask and maximum; exponentials and their sum; scaling.  exp takes longer than the latency of an addition, so
 * one chain per lane for the sum costs nothing.  The last, partial vector of a row stays in a register from the first
 * pass to the third, because its store could not be forwarded to the load of the next pass.  Its absent lanes hold
 * -infinity for the maximum, and then +0, which leaves a sum of nonnegative terms as it is.
 *
 * The order in which maxima are combined does not matter: the only ties that differ in bits are +0 and -0, which
 * subtract alike except for the sign of a zero difference, and a NaN makes the row NaN through its own exponential.
 */
#include <math.h>

#include "kernels/cpu/simd/elementary.h"

/* x (full, a multiple of LANES) = x + mask, and the largest of x and `tail`. */
static inline float
mask_and_maximum(float *x, size_t full, const float *mask, vec_f32 tail)
{
    vec_f32 max0 = tail;
    vec_f32 max1 = tail;
    size_t c = 0;
    for (; c + 2 * LANES <= full; c += 2 * LANES) {
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
    if (c < full) {
        vec_f32 v = vec_load(x + c);
        if (mask != NULL) {
            v = vec_add(v, vec_load(mask + c));
            vec_store(x + c, v);
        }
        max0 = vec_max(max0, v);
    }
    return vec_reduce_max(vec_max(max0, max1));
}

static inline void
softmax_row(float *x, size_t columns, const float *mask)
{
    const size_t rest = columns % LANES;
    const size_t full = columns - rest;
    vec_f32 tail = vec_set(-INFINITY);
    if (rest > 0) {
        tail = vec_load_n(x + full, rest, -INFINITY);
        if (mask != NULL) {
            tail = vec_add(tail, vec_load_n(mask + full, rest, 0.0f));
        }
    }
    const vec_f32 max = vec_set(mask_and_maximum(x, full, mask, tail));
    vec_f32 sum = vec_set(0.0f);
    for (size_t c = 0; c < full; c += LANES) {
        const vec_f32 e = vec_exp_bounded(vec_sub(vec_load(x + c), max));
        vec_store(x + c, e);
        sum = vec_add(sum, e);
    }
    if (rest > 0) {
        /* exp(-infinity) would be 0 too, but by an underflow that takes some CPUs a hundred cycles */
        tail = vec_keep_n(vec_exp_bounded(vec_keep_n(vec_sub(tail, max), rest)), rest);
        sum = vec_add(sum, tail);
    }
    const vec_f32 factor = vec_set(1.0f / vec_reduce_add(sum));
    for (size_t c = 0; c < full; c += LANES) {
        vec_store(x + c, vec_mul(vec_load(x + c), factor));
    }
    if (rest > 0) {
        vec_store_n(x + full, vec_mul(tail, factor), rest);
    }
}

void
QB_FN(softmax_f32)(float *scores, size_t rows, size_t columns, size_t stride, const float *mask)
{
    for (size_t r = 0; r < rows; ++r) {
        softmax_row(scores + r * stride, columns, mask);
    }
}

/* ---- gradient ------------------------------------------------------------------------------------------------------
 */

enum { BLOCK = 4 };

/* `count` rows together, whose chains of fma overlap.  Absent lanes multiply +0 by -0: an accumulator may have become
 * -0 by underflow and must stay so. */
VEC_INLINE void
gradient_rows(const float *p, float *dp, size_t count, size_t columns, size_t stride, float factor)
{
    const size_t rest = columns % LANES;
    const size_t full = columns - rest;
    vec_f32 sum[BLOCK];
    for (size_t i = 0; i < count; ++i) {
        sum[i] = vec_set(0.0f);
    }
    for (size_t c = 0; c < full; c += LANES) {
        for (size_t i = 0; i < count; ++i) {
            sum[i] = vec_fma(vec_load(p + i * stride + c), vec_load(dp + i * stride + c), sum[i]);
        }
    }
    const vec_f32 scale = vec_set(factor);
    for (size_t i = 0; i < count; ++i) {
        const float *row = p + i * stride;
        float *out = dp + i * stride;
        vec_f32 tail_p = vec_set(0.0f);
        vec_f32 tail = vec_set(-0.0f);
        if (rest > 0) {
            tail_p = vec_load_n(row + full, rest, 0.0f);
            tail = vec_load_n(out + full, rest, -0.0f);
            sum[i] = vec_fma(tail_p, tail, sum[i]);
        }
        const vec_f32 total = vec_set(vec_reduce_add(sum[i]));
        for (size_t c = 0; c < full; c += LANES) {
            vec_store(out + c, vec_mul(vec_mul(vec_load(row + c), vec_sub(vec_load(out + c), total)), scale));
        }
        if (rest > 0) {
            vec_store_n(out + full, vec_mul(vec_mul(tail_p, vec_sub(tail, total)), scale), rest);
        }
    }
}

void
QB_FN(softmax_grad_f32)(const float *p, float *dp, size_t rows, size_t columns, size_t stride, float factor)
{
    size_t row = 0;
    for (; row + BLOCK <= rows; row += BLOCK) {
        gradient_rows(p + row * stride, dp + row * stride, BLOCK, columns, stride, factor);
    }
    for (; row < rows; ++row) {
        gradient_rows(p + row * stride, dp + row * stride, 1, columns, stride, factor);
    }
}
