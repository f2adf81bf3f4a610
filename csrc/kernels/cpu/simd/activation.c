/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations: one loop per function, so that the function is inlined with its coefficients in registers.  Vectors are
 * independent, and out-of-order execution overlaps enough of them; unrolling by hand gained nothing.
 */
#include <string.h>

#include "kernels/cpu/simd/elementary.h"

#define DEFINE_LOOP(name)                                                                                              \
    static void apply_##name(const float *x, size_t n, float *y)                                                       \
    {                                                                                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + LANES <= n; i += LANES) {                                                                           \
            vec_store(y + i, vec_##name(vec_load(x + i)));                                                             \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            vec_store_n(y + i, vec_##name(vec_load_n(x + i, n - i, 0.0f)), n - i);                                     \
        }                                                                                                              \
    }

DEFINE_LOOP(gelu)
DEFINE_LOOP(gelu_tanh)
DEFINE_LOOP(gelu_clipped)
DEFINE_LOOP(quick_gelu)
DEFINE_LOOP(relu)
DEFINE_LOOP(relu_squared)
DEFINE_LOOP(relu6)
DEFINE_LOOP(leaky_relu)
DEFINE_LOOP(silu)
DEFINE_LOOP(mish)
DEFINE_LOOP(laplace)
DEFINE_LOOP(sigmoid)
DEFINE_LOOP(tanh)

void
QB_FN(activation_f32)(qb_activation activation, const float *x, size_t n, float *y)
{
    switch (activation) {
    case QB_ACTIVATION_NONE:
        if (y != x && n > 0) {
            memmove(y, x, n * sizeof *y);
        }
        break;
    case QB_ACTIVATION_GELU:
        apply_gelu(x, n, y);
        break;
    case QB_ACTIVATION_GELU_TANH:
        apply_gelu_tanh(x, n, y);
        break;
    case QB_ACTIVATION_GELU_CLIPPED:
        apply_gelu_clipped(x, n, y);
        break;
    case QB_ACTIVATION_QUICK_GELU:
        apply_quick_gelu(x, n, y);
        break;
    case QB_ACTIVATION_RELU:
        apply_relu(x, n, y);
        break;
    case QB_ACTIVATION_RELU_SQUARED:
        apply_relu_squared(x, n, y);
        break;
    case QB_ACTIVATION_RELU6:
        apply_relu6(x, n, y);
        break;
    case QB_ACTIVATION_LEAKY_RELU:
        apply_leaky_relu(x, n, y);
        break;
    case QB_ACTIVATION_SILU:
        apply_silu(x, n, y);
        break;
    case QB_ACTIVATION_MISH:
        apply_mish(x, n, y);
        break;
    case QB_ACTIVATION_LAPLACE:
        apply_laplace(x, n, y);
        break;
    case QB_ACTIVATION_SIGMOID:
        apply_sigmoid(x, n, y);
        break;
    case QB_ACTIVATION_TANH:
        apply_tanh(x, n, y);
        break;
    }
}
