/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums and multiples of whole arrays.
 */
#include "kernels/cpu/simd/simd.h"

void
QB_FN(add_f32)(const float *a, const float *b, size_t n, float *y)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec_store(y + i, vec_add(vec_load(a + i), vec_load(b + i)));
    }
    if (i < n) {
        vec_store_n(y + i, vec_add(vec_load_n(a + i, n - i, 0.0f), vec_load_n(b + i, n - i, 0.0f)), n - i);
    }
}

void
QB_FN(scale_f32)(const float *x, float factor, size_t n, float *y)
{
    const vec_f32 f = vec_set(factor);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec_store(y + i, vec_mul(vec_load(x + i), f));
    }
    if (i < n) {
        vec_store_n(y + i, vec_mul(vec_load_n(x + i, n - i, 0.0f), f), n - i);
    }
}
