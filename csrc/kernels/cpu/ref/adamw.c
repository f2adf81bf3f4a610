/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/variant.h"

void
adamw_f32__ref(float *parameter, const float *gradient, float *first_moment, float *second_moment, size_t n,
               const qb_adamw *step)
{
    const float w = step->first_weight;
    for (size_t i = 0; i < n; ++i) {
        const float g = gradient[i];
        const float m = first_moment[i];
        const float moved = w < 0.5f ? fmaf(w, g - m, m) : fmaf(w - 1.0f, g - m, g);
        const float v = fmaf(step->second_weight * g, g, second_moment[i] * step->second_decay);
        const float divisor = sqrtf(v) / step->correction + step->eps;
        first_moment[i] = moved;
        second_moment[i] = v;
        parameter[i] = parameter[i] * step->decay + -step->step_size * moved / divisor;
    }
}
