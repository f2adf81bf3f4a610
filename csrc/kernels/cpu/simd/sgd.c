/* SPDX-License-Identifier: Apache-2.0
 *
 * SGD in one pass.  What a step has or lacks is the same for all elements, so the branches inside the loop are always
 * predicted; memory is what takes time.
 */
#include "kernels/cpu/simd/simd.h"

/* The moved parameter.  b holds the momentum, and is not looked at without. */
VEC_INLINE vec_f32
advance(const qb_sgd *step, vec_f32 p, vec_f32 g, vec_f32 *b)
{
    if (step->weight_decay != 0.0f) {
        g = vec_fma(p, vec_set(step->weight_decay), g);
    }
    if (step->momentum != 0.0f) {
        const vec_f32 factor = vec_set(step->momentum);
        *b = step->is_first ? g : vec_add(vec_mul(*b, factor), g);
        g = step->is_nesterov ? vec_fma(*b, factor, g) : *b;
    }
    return vec_fma(g, vec_set(-step->learning_rate), p);
}

void
QB_FN(sgd_f32)(float *parameter, const float *gradient, float *momentum, size_t n, const qb_sgd *step)
{
    const qb_sgd s = *step; /* a copy that no store can change */
    const int keeps_momentum = s.momentum != 0.0f;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec_f32 b = keeps_momentum && !s.is_first ? vec_load(momentum + i) : vec_set(0.0f);
        vec_store(parameter + i, advance(&s, vec_load(parameter + i), vec_load(gradient + i), &b));
        if (keeps_momentum) {
            vec_store(momentum + i, b);
        }
    }
    if (i < n) {
        const size_t rest = n - i;
        vec_f32 b = keeps_momentum && !s.is_first ? vec_load_n(momentum + i, rest, 0.0f) : vec_set(0.0f);
        const vec_f32 p = vec_load_n(parameter + i, rest, 0.0f);
        vec_store_n(parameter + i, advance(&s, p, vec_load_n(gradient + i, rest, 0.0f), &b), rest);
        if (keeps_momentum) {
            vec_store_n(momentum + i, b, rest);
        }
    }
}
