/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/ref/elementary.h"
#include "kernels/cpu/variant.h"

static float
activate(qb_activation activation, float x)
{
    switch (activation) {
    case QB_ACTIVATION_NONE:
        return x;
    case QB_ACTIVATION_GELU:
        return ref_gelu(x);
    case QB_ACTIVATION_GELU_TANH:
        return ref_gelu_tanh(x);
    case QB_ACTIVATION_GELU_CLIPPED:
        return ref_gelu_clipped(x);
    case QB_ACTIVATION_QUICK_GELU:
        return ref_quick_gelu(x);
    case QB_ACTIVATION_RELU:
        return ref_relu(x);
    case QB_ACTIVATION_RELU_SQUARED:
        return ref_relu_squared(x);
    case QB_ACTIVATION_RELU6:
        return ref_relu6(x);
    case QB_ACTIVATION_LEAKY_RELU:
        return ref_leaky_relu(x);
    case QB_ACTIVATION_SILU:
        return ref_silu(x);
    case QB_ACTIVATION_MISH:
        return ref_mish(x);
    case QB_ACTIVATION_LAPLACE:
        return ref_laplace(x);
    case QB_ACTIVATION_SIGMOID:
        return ref_sigmoid(x);
    case QB_ACTIVATION_TANH:
        return ref_tanh(x);
    }
    return x;
}

void
activation_f32__ref(qb_activation activation, const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; ++i) {
        y[i] = activate(activation, x[i]);
    }
}

static float
slope(qb_activation activation, float x)
{
    switch (activation) {
    case QB_ACTIVATION_NONE:
        return 1.0f;
    case QB_ACTIVATION_GELU:
        return ref_gelu_grad(x);
    case QB_ACTIVATION_GELU_TANH:
        return ref_gelu_tanh_grad(x);
    case QB_ACTIVATION_GELU_CLIPPED:
        return ref_gelu_clipped_grad(x);
    case QB_ACTIVATION_QUICK_GELU:
        return ref_quick_gelu_grad(x);
    case QB_ACTIVATION_RELU:
        return ref_relu_grad(x);
    case QB_ACTIVATION_RELU_SQUARED:
        return ref_relu_squared_grad(x);
    case QB_ACTIVATION_RELU6:
        return ref_relu6_grad(x);
    case QB_ACTIVATION_LEAKY_RELU:
        return ref_leaky_relu_grad(x);
    case QB_ACTIVATION_SILU:
        return ref_silu_grad(x);
    case QB_ACTIVATION_MISH:
        return ref_mish_grad(x);
    case QB_ACTIVATION_LAPLACE:
        return ref_laplace_grad(x);
    case QB_ACTIVATION_SIGMOID:
        return ref_sigmoid_grad(x);
    case QB_ACTIVATION_TANH:
        return ref_tanh_grad(x);
    }
    return 1.0f;
}

void
activation_grad_f32__ref(qb_activation activation, const float *x, const float *dy, size_t n, float *dx)
{
    for (size_t i = 0; i < n; ++i) {
        dx[i] = activation == QB_ACTIVATION_NONE ? dy[i] : dy[i] * slope(activation, x[i]);
    }
}
