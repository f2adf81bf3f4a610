/* SPDX-License-Identifier: Apache-2.0
 *
 * The quantizer of one float: clamp(rint(x * scale), lower, upper), half to even, NaN for NaN.
 */
#ifndef QB_KERNELS_CPU_REF_QUANT_H
#define QB_KERNELS_CPU_REF_QUANT_H

#include <math.h>

static inline float
ref_quantize(float x, float scale, float lower, float upper)
{
    const float q = rintf(x * scale);
    if (q < lower) {
        return lower;
    }
    if (q > upper) {
        return upper;
    }
    return q;
}

/* The value of a code; codes of a dead range, whose scale is 0, are 0 and stay it. */
static inline float
ref_dequantize(float q, float scale)
{
    return scale > 0.0f ? q / scale : q;
}

#endif
