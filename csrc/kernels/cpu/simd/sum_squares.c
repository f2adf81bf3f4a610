/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums of squares in float64.  The four to eight registers of a vector of float64 are as many independent chains of
 * fma, so one vector is enough to hide most of their latency; the tree at the end of a block is lost in 4,096 elements.
 */
#include "kernels/cpu/simd/simd.h"

static double
block_total(const float *x, size_t n)
{
    vec_f64 sum = vec_f64_zero();
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        sum = vec_f64_add_square(sum, vec_load(x + i));
    }
    if (i < n) {
        sum = vec_f64_add_square(sum, vec_load_n(x + i, n - i, 0.0f));
    }
    return vec_f64_reduce_add(sum);
}

void
QB_FN(sum_squares_f32)(const float *x, size_t n, double *sum)
{
    for (size_t i = 0; i < n; i += QB_SUM_SQUARES_BLOCK) {
        *sum = *sum + block_total(x + i, n - i < QB_SUM_SQUARES_BLOCK ? n - i : QB_SUM_SQUARES_BLOCK);
    }
}
