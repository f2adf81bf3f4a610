/* SPDX-License-Identifier: Apache-2.0
 *
 * The quantizer on 16 lanes: q = clamp(rint(x * scale), lower, upper), NaN for NaN.
 */
#ifndef QB_KERNELS_CPU_SIMD_QUANT_H
#define QB_KERNELS_CPU_SIMD_QUANT_H

#include "kernels/cpu/simd/simd.h"

static inline vec_f32
vec_quantize(vec_f32 x, vec_f32 scale, vec_f32 lower, vec_f32 upper)
{
    return vec_min(upper, vec_max(lower, vec_rint(vec_mul(x, scale))));
}

#endif
