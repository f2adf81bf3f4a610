/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations and their gradients: one loop per function, so that the function is inlined with its coefficients in
 * registers.  Vectors are independent, and out-of-order execution overlaps enough of them; unrolling by hand gained
 * nothing.
 */
#include <string.h>

#include "kernels/cpu/simd/elementary.h"

#define DEFINE_LOOPS(name)                                                                                             \
    static void apply_##name(const float *x, size_t n, float *y)                                                       \
    {                                                                                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + LANES <= n; i += LANES) {                                                                           \
            vec_store(y + i, vec_##name(vec_load(x + i)));                                                             \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            vec_store_n(y + i, vec_##name(vec_load_n(x + i, n - i, 0.0f)), n - i);                                     \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static void apply_##name##_grad(const float *x, const float *dy, size_t n, float *dx)                              \
    {                                                                                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + LANES <= n; i += LANES) {                                                                           \
            vec_store(dx + i, vec_mul(vec_load(dy + i), vec_##name##_grad(vec_load(x + i))));                          \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            const vec_f32 slope = vec_##name##_grad(vec_load_n(x + i, n - i, 0.0f));                                   \
            vec_store_n(dx + i, vec_mul(vec_load_n(dy + i, n - i, 0.0f), slope), n - i);                               \
        }                                                                                                              \
    }

DEFINE_LOOPS(gelu)
DEFINE_LOOPS(gelu_tanh)
DEFINE_LOOPS(gelu_clipped)
DEFINE_LOOPS(quick_gelu)
DEFINE_LOOPS(relu)
DEFINE_LOOPS(relu_squared)
DEFINE_LOOPS(relu6)
DEFINE_LOOPS(leaky_relu)
DEFINE_LOOPS(silu)
DEFINE_LOOPS(mish)
DEFINE_LOOPS(laplace)
DEFINE_LOOPS(sigmoid)
DEFINE_LOOPS(tanh)

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

void
QB_FN(activation_grad_f32)(qb_activation activation, const float *x, const float *dy, size_t n, float *dx)
{
    switch (activation) {
    case QB_ACTIVATION_NONE:
        if (dx != dy && n > 0) {
            memmove(dx, dy, n * sizeof *dx);
        }
        break;
    case QB_ACTIVATION_GELU:
        apply_gelu_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_GELU_TANH:
        apply_gelu_tanh_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_GELU_CLIPPED:
        apply_gelu_clipped_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_QUICK_GELU:
        apply_quick_gelu_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_RELU:
        apply_relu_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_RELU_SQUARED:
        apply_relu_squared_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_RELU6:
        apply_relu6_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_LEAKY_RELU:
        apply_leaky_relu_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_SILU:
        apply_silu_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_MISH:
        apply_mish_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_LAPLACE:
        apply_laplace_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_SIGMOID:
        apply_sigmoid_grad(x, dy, n, dx);
        break;
    case QB_ACTIVATION_TANH:
        apply_tanh_grad(x, dy, n, dx);
        break;
    }
}
