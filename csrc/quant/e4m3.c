/* SPDX-License-Identifier: Apache-2.0
 *
 * See e4m3.h.  The grid around a magnitude in [2^e, 2^(e+1)) has the step 2^(e-3), and 2^-9 below 2^-6; dividing and
 * multiplying by a power of two is exact, so the only rounding is rint's.
 */
#include "quant/e4m3.h"

#include <math.h>

#include "quant/quant_spec.h"

float
qb_e4m3_round(float x)
{
    const float magnitude = fabsf(x);
    if (!(magnitude < QB_E4M3_MAX)) {
        return magnitude >= QB_E4M3_MAX ? copysignf(QB_E4M3_MAX, x) : x;
    }
    int exponent = -6;
    if (magnitude >= 0.015625f) {
        (void)frexpf(magnitude, &exponent);
        exponent -= 1;
    }
    const float step = ldexpf(1.0f, exponent - 3);
    return copysignf(rintf(magnitude / step) * step, x);
}

float
qb_e4m3_scale(float amax)
{
    return (1.0f / amax) * QB_E4M3_MAX;
}

float
qb_e4m3_round_scaled(float x, float scale)
{
    if (fabsf(x) < QB_AMAX_DEAD) {
        return 0.0f;
    }
    return qb_e4m3_round(x * scale) / scale;
}
