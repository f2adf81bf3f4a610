/* SPDX-License-Identifier: Apache-2.0
 *
 * exp, tanh, the activations and their derivatives of one float, line by line as kernels/numerics.h defines them.
 */
#ifndef QB_KERNELS_CPU_REF_ELEMENTARY_H
#define QB_KERNELS_CPU_REF_ELEMENTARY_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/numerics.h"

static inline float
ref_max(float a, float b)
{
    return a > b ? a : b;
}

static inline float
ref_min(float a, float b)
{
    return a < b ? a : b;
}

/* p * 2^n rounded once, -290 <= n <= 129: 2^n in two factors, the first of which multiplies exactly. */
static inline float
ref_scale_exponent(float p, int n)
{
    const int half = n < 0 ? -((1 - n) / 2) : n / 2; /* rounded down */
    const uint32_t bits[2] = {(uint32_t)(half + 127) << 23, (uint32_t)(n - half + 127) << 23};
    float powers[2];
    memcpy(powers, bits, sizeof powers);
    return p * powers[0] * powers[1];
}

/* c(r) of exp(r) = 1 + r + r^2 c(r). */
static inline float
ref_exp_tail(float r)
{
    return fmaf(fmaf(fmaf(fmaf(QB_EXP_C4, r, QB_EXP_C3), r, QB_EXP_C2), r, QB_EXP_C1), r, QB_EXP_C0);
}

static inline float
ref_exp_reduced(float r)
{
    return fmaf(fmaf(ref_exp_tail(r), r, 1.0f), r, 1.0f);
}

/* rint(x / ln 2) */
static inline float
ref_exp_integer(float x)
{
    return fmaf(x, QB_EXP_LOG2E, QB_EXP_SHIFT) - QB_EXP_SHIFT;
}

static inline float
ref_exp_rest(float x, float n)
{
    return fmaf(n, -QB_EXP_LN2_LOW, fmaf(n, -QB_EXP_LN2_HIGH, x));
}

/* The same for x = h + l, |l| far below |h|: no rounding of h is magnified by exp. */
static inline float
ref_exp_rest_of_sum(float h, float l, float n)
{
    return fmaf(n, -QB_EXP_LN2_HIGH, h) + fmaf(n, -QB_EXP_LN2_LOW, l);
}

static inline float
ref_exp(float x)
{
    if (isnan(x)) {
        return x;
    }
    const float bounded = ref_max(QB_EXP_LOWEST, ref_min(QB_EXP_HIGHEST, x));
    const float n = ref_exp_integer(bounded);
    return ref_scale_exponent(ref_exp_reduced(ref_exp_rest(bounded, n)), (int)n);
}

static inline float
ref_mills(float t)
{
    const float numerator =
        fmaf(fmaf(fmaf(fmaf(QB_MILLS_N4, t, QB_MILLS_N3), t, QB_MILLS_N2), t, QB_MILLS_N1), t, QB_MILLS_N0);
    const float denominator = fmaf(
        fmaf(fmaf(fmaf(fmaf(QB_MILLS_D5, t, QB_MILLS_D4), t, QB_MILLS_D3), t, QB_MILLS_D2), t, QB_MILLS_D1), t, 1.0f);
    return numerator / denominator;
}

static inline float
ref_gelu(float x)
{
    if (isnan(x)) {
        return x;
    }
    const float t = ref_min(QB_MILLS_LIMIT, fabsf(x));
    const float s = -0.5f * t;
    const float h = t * s;
    const float l = fmaf(t, s, -h);
    const float n = ref_exp_integer(h);
    const float r = ref_exp_rest_of_sum(h, l, n);
    const float q = fmaf(t, fmaf(ref_exp_tail(r), r, 1.0f) * r, t);
    const float g = ref_scale_exponent(q * ref_mills(t), (int)n);
    return ref_max(x, 0.0f) - g;
}

static inline float
ref_tanh(float x)
{
    if (isnan(x)) {
        return x;
    }
    const float t = ref_min(QB_TANH_LIMIT, fabsf(x));
    const float w = t + t;
    const float n = ref_exp_integer(w);
    const float r = ref_exp_rest(w, n);
    const float q = fmaf(r * r, ref_exp_tail(r), r);
    const float power = ref_scale_exponent(1.0f, (int)n);
    const float e = fmaf(power, q, power - 1.0f);
    return copysignf(e / (e + 2.0f), x);
}

static inline float
ref_silu(float x)
{
    const float e = ref_exp(-fabsf(x));
    return (x > 0.0f ? x : ref_max(x, QB_SILU_LOWEST) * e) / (1.0f + e);
}

static inline float
ref_gelu_tanh(float x)
{
    const float u = ref_max(-QB_GELU_TANH_LIMIT, ref_min(QB_GELU_TANH_LIMIT, x));
    const float v = u * fmaf(u * u, QB_GELU_TANH_K3, QB_GELU_TANH_K1);
    const float e = ref_exp(-fabsf(v));
    return (x > 0.0f ? x : u * e) / (1.0f + e);
}

static inline float
ref_gelu_clipped(float x)
{
    return ref_min(QB_GELU_CLIPPED_HIGHEST, ref_gelu(x));
}

/* exp(-1.702 |u|), |u| <= QB_QUICK_GELU_LIMIT, u no NaN. */
static inline float
ref_quick_gelu_exp(float u)
{
    const float a = -fabsf(u);
    const float h = a * QB_QUICK_GELU_HIGH;
    const float l = fmaf(a, QB_QUICK_GELU_LOW, fmaf(a, QB_QUICK_GELU_HIGH, -h));
    const float n = ref_exp_integer(h);
    return ref_scale_exponent(ref_exp_reduced(ref_exp_rest_of_sum(h, l, n)), (int)n);
}

static inline float
ref_quick_gelu(float x)
{
    if (isnan(x)) {
        return x;
    }
    const float u = ref_max(-QB_QUICK_GELU_LIMIT, ref_min(QB_QUICK_GELU_LIMIT, x));
    const float e = ref_quick_gelu_exp(u);
    return (x > 0.0f ? x : u * e) / (1.0f + e);
}

static inline float
ref_sigmoid(float x)
{
    const float e = ref_exp(-fabsf(x));
    return (x > 0.0f ? 1.0f : e) / (1.0f + e);
}

static inline float
ref_mish(float x)
{
    const float e = ref_exp(ref_min(QB_MISH_HIGHEST, x));
    const float n = fmaf(e, e, e + e);
    return ref_max(QB_MISH_LOWEST, x) * (n / (n + 2.0f));
}

/* (mu - u) / sigma = v + *w, *w the rounding of v. */
static inline float
ref_laplace_argument(float u, float *w)
{
    const float d = QB_LAPLACE_MU_HIGH - u;
    const float b = d - QB_LAPLACE_MU_HIGH;
    const float f = (QB_LAPLACE_MU_HIGH - (d - b)) - (u + b) + QB_LAPLACE_MU_LOW;
    const float v = d * QB_LAPLACE_RATE_HIGH;
    *w = fmaf(d, QB_LAPLACE_RATE_LOW, fmaf(f, QB_LAPLACE_RATE_HIGH, fmaf(d, QB_LAPLACE_RATE_HIGH, -v)));
    return v;
}

static inline float
ref_laplace(float x)
{
    if (isnan(x)) {
        return x;
    }
    const float u = ref_max(QB_LAPLACE_LOWEST, ref_min(QB_LAPLACE_HIGHEST, x));
    float w;
    const float v = ref_laplace_argument(u, &w);
    const float s = -0.5f * v;
    const float h = v * s;
    const float l = fmaf(v, s, -h);
    const float n = ref_exp_integer(h);
    const float q = ref_exp_reduced(ref_exp_rest_of_sum(h, l, n));
    const float k = v > 0.0f ? w : -w;
    const float m = fmaf(k, -QB_NORMAL_DENSITY, ref_mills(fabsf(v)));
    const float g = ref_scale_exponent(q * m, (int)n);
    return v > 0.0f ? g : 1.0f - g;
}

static inline float
ref_relu(float x)
{
    return ref_max(0.0f, x);
}

static inline float
ref_relu_squared(float x)
{
    const float positive = ref_relu(x);
    return positive * positive;
}

static inline float
ref_relu6(float x)
{
    return ref_min(QB_RELU6_HIGHEST, ref_relu(x));
}

static inline float
ref_leaky_relu(float x)
{
    return ref_max(x * QB_LEAKY_RELU_SLOPE, x);
}

static inline float
ref_gelu_grad(float x)
{
    if (isnan(x)) {
        return x;
    }
    const float t = ref_min(QB_MILLS_LIMIT, fabsf(x));
    const float s = -0.5f * t;
    const float h = t * s;
    const float l = fmaf(t, s, -h);
    const float n = ref_exp_integer(h);
    const float p = ref_exp_reduced(ref_exp_rest_of_sum(h, l, n));
    const float m = fmaf(t, -QB_NORMAL_DENSITY, ref_mills(t));
    const float g = ref_scale_exponent(p * m, (int)n);
    return x > 0.0f ? 1.0f - g : g;
}

static inline float
ref_gelu_clipped_grad(float x)
{
    return x > QB_GELU_CLIPPED_HIGHEST ? 0.0f : ref_gelu_grad(x);
}

/* Derivative of x / (1 + exp(-v)) at x: e = exp(-|v|), w = |x v'(x)|. */
static inline float
ref_times_logistic_grad(float x, float e, float w)
{
    const float divisor = 1.0f + e;
    const float g = e * (divisor - w) / (divisor * divisor);
    return x > 0.0f ? 1.0f - g : g;
}

static inline float
ref_silu_grad(float x)
{
    return ref_times_logistic_grad(x, ref_exp(-fabsf(x)), ref_min(QB_SILU_GRAD_LIMIT, fabsf(x)));
}

static inline float
ref_gelu_tanh_grad(float x)
{
    const float u = ref_max(-QB_GELU_TANH_LIMIT, ref_min(QB_GELU_TANH_LIMIT, x));
    const float v = u * fmaf(u * u, QB_GELU_TANH_K3, QB_GELU_TANH_K1);
    const float w = fabsf(u) * fmaf(u * u, QB_GELU_TANH_GRAD_K3, QB_GELU_TANH_K1);
    return ref_times_logistic_grad(x, ref_exp(-fabsf(v)), w);
}

static inline float
ref_quick_gelu_grad(float x)
{
    if (isnan(x)) {
        return x;
    }
    const float u = ref_max(-QB_QUICK_GELU_LIMIT, ref_min(QB_QUICK_GELU_LIMIT, x));
    return ref_times_logistic_grad(x, ref_quick_gelu_exp(u), fabsf(u) * QB_QUICK_GELU_HIGH);
}

static inline float
ref_sigmoid_grad(float x)
{
    const float e = ref_exp(-fabsf(x));
    const float divisor = 1.0f + e;
    return e / (divisor * divisor);
}

static inline float
ref_tanh_grad(float x)
{
    const float e = ref_exp(-(fabsf(x) + fabsf(x)));
    const float divisor = 1.0f + e;
    return 4.0f * e / (divisor * divisor);
}

static inline float
ref_mish_grad(float x)
{
    const float u = ref_max(QB_MISH_LOWEST, ref_min(QB_MISH_HIGHEST, x));
    const float e = ref_exp(u);
    const float b = fmaf(e, e, e + e) + 2.0f;
    return e * fmaf(4.0f * u, e + 1.0f, (e + 2.0f) * b) / (b * b);
}

static inline float
ref_laplace_grad(float x)
{
    if (isnan(x)) {
        return x;
    }
    const float u = ref_max(QB_LAPLACE_LOWEST, ref_min(QB_LAPLACE_GRAD_HIGHEST, x));
    float w;
    const float v = ref_laplace_argument(u, &w);
    const float s = -0.5f * v;
    const float h = v * s;
    const float l = fmaf(-v, w, fmaf(v, s, -h));
    const float n = ref_exp_integer(h);
    const float p = ref_exp_reduced(ref_exp_rest_of_sum(h, l, n));
    return ref_scale_exponent(p * QB_LAPLACE_GRAD_PEAK, (int)n);
}

/* (x > 0) ? positive : other; x itself if it is NaN. */
static inline float
ref_slope(float x, float positive, float other)
{
    if (isnan(x)) {
        return x;
    }
    return x > 0.0f ? positive : other;
}

static inline float
ref_relu_grad(float x)
{
    return ref_slope(x, 1.0f, 0.0f);
}

static inline float
ref_relu_squared_grad(float x)
{
    return ref_relu(x) + ref_relu(x);
}

static inline float
ref_relu6_grad(float x)
{
    return ref_slope(x, x < QB_RELU6_HIGHEST ? 1.0f : 0.0f, 0.0f);
}

static inline float
ref_leaky_relu_grad(float x)
{
    return ref_slope(x, 1.0f, QB_LEAKY_RELU_SLOPE);
}

#endif
