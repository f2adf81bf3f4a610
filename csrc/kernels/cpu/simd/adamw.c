/* SPDX-License-Identifier: Apache-2.0
 *
 * AdamW in one pass over parameter, gradient and moments: what takes time is the memory that it moves.
 */
#include "kernels/cpu/simd/simd.h"

/* The scalars of a step in every lane. */
typedef struct step_vectors {
    vec_f32 decay, difference_weight, second_decay, second_weight, correction, eps, negative_step;
    int is_weight_small; /* first_weight < 1/2: m moves towards the gradient; otherwise from the gradient towards m */
} step_vectors;

static inline step_vectors
step_vectors_of(const qb_adamw *step)
{
    const int small = step->first_weight < 0.5f;
    return (step_vectors){.decay = vec_set(step->decay),
                          .difference_weight = vec_set(small ? step->first_weight : step->first_weight - 1.0f),
                          .second_decay = vec_set(step->second_decay),
                          .second_weight = vec_set(step->second_weight),
                          .correction = vec_set(step->correction),
                          .eps = vec_set(step->eps),
                          .negative_step = vec_set(-step->step_size),
                          .is_weight_small = small};
}

/* The moved parameter; *m and *v move too. */
VEC_INLINE vec_f32
advance(const step_vectors *s, vec_f32 p, vec_f32 g, vec_f32 *m, vec_f32 *v)
{
    *m = vec_fma(s->difference_weight, vec_sub(g, *m), s->is_weight_small ? *m : g);
    *v = vec_fma(vec_mul(s->second_weight, g), g, vec_mul(*v, s->second_decay));
    const vec_f32 divisor = vec_add(vec_div(vec_sqrt(*v), s->correction), s->eps);
    return vec_add(vec_mul(p, s->decay), vec_div(vec_mul(s->negative_step, *m), divisor));
}

void
QB_FN(adamw_f32)(float *parameter, const float *gradient, float *first_moment, float *second_moment, size_t n,
                 const qb_adamw *step)
{
    const step_vectors s = step_vectors_of(step);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec_f32 m = vec_load(first_moment + i);
        vec_f32 v = vec_load(second_moment + i);
        vec_store(parameter + i, advance(&s, vec_load(parameter + i), vec_load(gradient + i), &m, &v));
        vec_store(first_moment + i, m);
        vec_store(second_moment + i, v);
    }
    if (i < n) {
        const size_t rest = n - i;
        vec_f32 m = vec_load_n(first_moment + i, rest, 0.0f);
        vec_f32 v = vec_load_n(second_moment + i, rest, 1.0f); /* 1: no absent lane divides 0 by 0 */
        const vec_f32 p = vec_load_n(parameter + i, rest, 0.0f);
        const vec_f32 g = vec_load_n(gradient + i, rest, 0.0f);
        vec_store_n(parameter + i, advance(&s, p, g, &m, &v), rest);
        vec_store_n(first_moment + i, m, rest);
        vec_store_n(second_moment + i, v, rest);
    }
}
