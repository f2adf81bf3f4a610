/* SPDX-License-Identifier: Apache-2.0
 *
 * Codes of gelu by its screen (kernels/gelu_screen.h), for variants that look up tables in registers.  The includer has
 * its vec.h.
 */
#ifndef QB_KERNELS_CPU_SIMD_GELU_CODES_H
#define QB_KERNELS_CPU_SIMD_GELU_CODES_H

#include "kernels/cpu/simd/lanes.h"
#include "kernels/gelu_screen.h"

/* The largest distance of a scaled approximation from an integer at which the code is settled; 0: there is no screen
 * for this scale or on this variant. */
static inline float
gelu_screen_distance(float scale)
{
#ifdef VEC_HAS_LOOKUP
    const float distance = 0.5f - (scale * QB_GELU_SCREEN_ERROR + QB_GELU_SCREEN_ROUNDING);
    return distance >= QB_GELU_SCREEN_LEAST ? distance : 0.0f;
#else
    (void)scale;
    return 0.0f;
#endif
}

#ifdef VEC_HAS_LOOKUP
/* *scaled = gelu(x) * scale, which has the code that the definition has; or 0, where that is not settled.  x is finite.
 */
VEC_INLINE int
gelu_screen(vec_f32 x, vec_f32 scale, vec_f32 distance, vec_f32 *scaled)
{
    const vec_f32 t = vec_min(vec_set(QB_GELU_SCREEN_LIMIT), vec_abs(x));
    const vec_f32 segment = vec_fma(t, vec_set(QB_GELU_SCREEN_RATE), vec_set(0x1.8p23f));
    vec_f32 g = vec_lookup(qb_gelu_screen_c2, segment);
    g = vec_fma(g, t, vec_lookup(qb_gelu_screen_c1, segment));
    g = vec_fma(g, t, vec_lookup(qb_gelu_screen_c0, segment));
    *scaled = vec_mul(vec_sub(vec_max(x, vec_set(0.0f)), g), scale);
    return vec_all_less_equal(vec_abs(vec_from_integer(*scaled)), distance);
}
#endif

#endif
