/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/variant.h"

void
sgd_f32__ref(float *parameter, const float *gradient, float *momentum, size_t n, const qb_sgd *step)
{
    for (size_t i = 0; i < n; ++i) {
        float g = step->weight_decay != 0.0f ? fmaf(parameter[i], step->weight_decay, gradient[i]) : gradient[i];
        if (step->momentum != 0.0f) {
            momentum[i] = step->is_first ? g : momentum[i] * step->momentum + g;
            g = step->is_nesterov ? fmaf(momentum[i], step->momentum, g) : momentum[i];
        }
        parameter[i] = fmaf(g, -step->learning_rate, parameter[i]);
    }
}
