/* SPDX-License-Identifier: Apache-2.0
 *
 * exp, tanh, the activations and their derivatives on 16 lanes, as kernels/numerics.h defines them.
 */
#ifndef QB_KERNELS_CPU_SIMD_ELEMENTARY_H
#define QB_KERNELS_CPU_SIMD_ELEMENTARY_H

#include "kernels/cpu/simd/simd.h"
#include "kernels/numerics.h"

/* c(r) of exp(r) = 1 + r + r^2 c(r). */
static inline vec_f32
vec_exp_tail(vec_f32 r)
{
    vec_f32 c = vec_set(QB_EXP_C4);
    c = vec_fma(c, r, vec_set(QB_EXP_C3));
    c = vec_fma(c, r, vec_set(QB_EXP_C2));
    c = vec_fma(c, r, vec_set(QB_EXP_C1));
    return vec_fma(c, r, vec_set(QB_EXP_C0));
}

/* exp(r) for |r| <= ln(2) / 2. */
static inline vec_f32
vec_exp_reduced(vec_f32 r)
{
    const vec_f32 one = vec_set(1.0f);
    return vec_fma(vec_fma(vec_exp_tail(r), r, one), r, one);
}

/* z = x / ln 2 rounded to an integer, plus QB_EXP_SHIFT. */
static inline vec_f32
vec_exp_shifted(vec_f32 x)
{
    return vec_fma(x, vec_set(QB_EXP_LOG2E), vec_set(QB_EXP_SHIFT));
}

static inline vec_f32
vec_exp_rest(vec_f32 x, vec_f32 z)
{
    const vec_f32 n = vec_sub(z, vec_set(QB_EXP_SHIFT));
    return vec_fma(n, vec_set(-QB_EXP_LN2_LOW), vec_fma(n, vec_set(-QB_EXP_LN2_HIGH), x));
}

/* The same for x = h + l, |l| far below |h|: no rounding of h is magnified by exp. */
static inline vec_f32
vec_exp_rest_of_sum(vec_f32 h, vec_f32 l, vec_f32 z)
{
    const vec_f32 n = vec_sub(z, vec_set(QB_EXP_SHIFT));
    return vec_add(vec_fma(n, vec_set(-QB_EXP_LN2_HIGH), h), vec_fma(n, vec_set(-QB_EXP_LN2_LOW), l));
}

/* exp(x) for x <= 89. */
static inline vec_f32
vec_exp_bounded(vec_f32 x)
{
    const vec_f32 bounded = vec_max(vec_set(QB_EXP_LOWEST), x);
    const vec_f32 z = vec_exp_shifted(bounded);
    return vec_scale_exponent(vec_exp_reduced(vec_exp_rest(bounded, z)), z);
}

static inline vec_f32
vec_mills(vec_f32 t)
{
    vec_f32 n = vec_set(QB_MILLS_N4);
    vec_f32 d = vec_set(QB_MILLS_D5);
    d = vec_fma(d, t, vec_set(QB_MILLS_D4));
    n = vec_fma(n, t, vec_set(QB_MILLS_N3));
    d = vec_fma(d, t, vec_set(QB_MILLS_D3));
    n = vec_fma(n, t, vec_set(QB_MILLS_N2));
    d = vec_fma(d, t, vec_set(QB_MILLS_D2));
    n = vec_fma(n, t, vec_set(QB_MILLS_N1));
    d = vec_fma(d, t, vec_set(QB_MILLS_D1));
    n = vec_fma(n, t, vec_set(QB_MILLS_N0));
    d = vec_fma(d, t, vec_set(1.0f));
    return vec_div(n, d);
}

static inline vec_f32
vec_gelu(vec_f32 x)
{
    const vec_f32 t = vec_min(vec_set(QB_MILLS_LIMIT), vec_abs(x));
    const vec_f32 s = vec_mul(vec_set(-0.5f), t);
    const vec_f32 h = vec_mul(t, s);
    const vec_f32 l = vec_fma(t, s, vec_sub(vec_set(-0.0f), h));
    const vec_f32 z = vec_exp_shifted(h);
    const vec_f32 r = vec_exp_rest_of_sum(h, l, z);
    const vec_f32 q = vec_fma(t, vec_mul(vec_fma(vec_exp_tail(r), r, vec_set(1.0f)), r), t);
    const vec_f32 g = vec_scale_exponent(vec_mul(q, vec_mills(t)), z);
    return vec_sub(vec_max(x, vec_set(0.0f)), g);
}

static inline vec_f32
vec_tanh(vec_f32 x)
{
    const vec_f32 one = vec_set(1.0f);
    const vec_f32 t = vec_min(vec_set(QB_TANH_LIMIT), vec_abs(x));
    const vec_f32 w = vec_add(t, t);
    const vec_f32 z = vec_exp_shifted(w);
    const vec_f32 r = vec_exp_rest(w, z);
    const vec_f32 q = vec_fma(vec_mul(r, r), vec_exp_tail(r), r);
    const vec_f32 power = vec_scale_exponent(one, z);
    const vec_f32 e = vec_fma(power, q, vec_sub(power, one));
    return vec_copysign(vec_div(e, vec_add(e, vec_set(2.0f))), x);
}

/* (x > 0 ? x : low * e) / (1 + e), e = exp(-|v|): x times the logistic function of v, which has the sign of x. */
static inline vec_f32
vec_times_logistic(vec_f32 x, vec_f32 low, vec_f32 v)
{
    const vec_f32 e = vec_exp_bounded(vec_copysign(v, vec_set(-0.0f)));
    const vec_f32 numerator = vec_select_greater(x, vec_set(0.0f), x, vec_mul(low, e));
    return vec_div(numerator, vec_add(vec_set(1.0f), e));
}

static inline vec_f32
vec_silu(vec_f32 x)
{
    return vec_times_logistic(x, vec_max(x, vec_set(QB_SILU_LOWEST)), x);
}

static inline vec_f32
vec_gelu_tanh(vec_f32 x)
{
    const vec_f32 u = vec_max(vec_set(-QB_GELU_TANH_LIMIT), vec_min(vec_set(QB_GELU_TANH_LIMIT), x));
    const vec_f32 v = vec_mul(u, vec_fma(vec_mul(u, u), vec_set(QB_GELU_TANH_K3), vec_set(QB_GELU_TANH_K1)));
    return vec_times_logistic(x, u, v);
}

static inline vec_f32
vec_gelu_clipped(vec_f32 x)
{
    return vec_min(vec_set(QB_GELU_CLIPPED_HIGHEST), vec_gelu(x));
}

/* exp(-1.702 |u|), |u| <= QB_QUICK_GELU_LIMIT. */
static inline vec_f32
vec_quick_gelu_exp(vec_f32 u)
{
    const vec_f32 a = vec_copysign(u, vec_set(-0.0f));
    const vec_f32 rate = vec_set(QB_QUICK_GELU_HIGH);
    const vec_f32 h = vec_mul(a, rate);
    const vec_f32 l = vec_fma(a, vec_set(QB_QUICK_GELU_LOW), vec_fma(a, rate, vec_sub(vec_set(-0.0f), h)));
    const vec_f32 z = vec_exp_shifted(h);
    return vec_scale_exponent(vec_exp_reduced(vec_exp_rest_of_sum(h, l, z)), z);
}

static inline vec_f32
vec_quick_gelu(vec_f32 x)
{
    const vec_f32 u = vec_max(vec_set(-QB_QUICK_GELU_LIMIT), vec_min(vec_set(QB_QUICK_GELU_LIMIT), x));
    const vec_f32 e = vec_quick_gelu_exp(u);
    return vec_div(vec_select_greater(x, vec_set(0.0f), x, vec_mul(u, e)), vec_add(vec_set(1.0f), e));
}

static inline vec_f32
vec_sigmoid(vec_f32 x)
{
    const vec_f32 one = vec_set(1.0f);
    const vec_f32 e = vec_exp_bounded(vec_copysign(x, vec_set(-0.0f)));
    return vec_div(vec_select_greater(x, vec_set(0.0f), one, e), vec_add(one, e));
}

static inline vec_f32
vec_mish(vec_f32 x)
{
    const vec_f32 e = vec_exp_bounded(vec_min(vec_set(QB_MISH_HIGHEST), x));
    const vec_f32 n = vec_fma(e, e, vec_add(e, e));
    return vec_mul(vec_max(vec_set(QB_MISH_LOWEST), x), vec_div(n, vec_add(n, vec_set(2.0f))));
}

/* (mu - u) / sigma = v + w, w the rounding of v. */
typedef struct vec_laplace_argument {
    vec_f32 v, w;
} vec_laplace_argument;

static inline vec_laplace_argument
vec_laplace_reduce(vec_f32 u)
{
    const vec_f32 mu = vec_set(QB_LAPLACE_MU_HIGH);
    const vec_f32 rate = vec_set(QB_LAPLACE_RATE_HIGH);
    const vec_f32 d = vec_sub(mu, u);
    const vec_f32 b = vec_sub(d, mu);
    const vec_f32 rounding = vec_sub(vec_sub(mu, vec_sub(d, b)), vec_add(u, b));
    const vec_f32 f = vec_add(rounding, vec_set(QB_LAPLACE_MU_LOW));
    const vec_f32 v = vec_mul(d, rate);
    const vec_f32 product = vec_fma(d, rate, vec_sub(vec_set(-0.0f), v));
    return (vec_laplace_argument){v, vec_fma(d, vec_set(QB_LAPLACE_RATE_LOW), vec_fma(f, rate, product))};
}

static inline vec_f32
vec_laplace(vec_f32 x)
{
    const vec_f32 limit = vec_set(QB_LAPLACE_HIGHEST);
    const vec_laplace_argument at = vec_laplace_reduce(vec_max(vec_set(QB_LAPLACE_LOWEST), vec_min(limit, x)));
    const vec_f32 v = at.v;
    const vec_f32 w = at.w;
    const vec_f32 s = vec_mul(vec_set(-0.5f), v);
    const vec_f32 h = vec_mul(v, s);
    const vec_f32 l = vec_fma(v, s, vec_sub(vec_set(-0.0f), h));
    const vec_f32 z = vec_exp_shifted(h);
    const vec_f32 q = vec_exp_reduced(vec_exp_rest_of_sum(h, l, z));
    const vec_f32 k = vec_select_greater(v, vec_set(0.0f), w, vec_sub(vec_set(-0.0f), w));
    const vec_f32 m = vec_fma(k, vec_set(-QB_NORMAL_DENSITY), vec_mills(vec_abs(v)));
    const vec_f32 g = vec_scale_exponent(vec_mul(q, m), z);
    return vec_select_greater(v, vec_set(0.0f), g, vec_sub(vec_set(1.0f), g));
}

static inline vec_f32
vec_relu(vec_f32 x)
{
    return vec_max(vec_set(0.0f), x);
}

static inline vec_f32
vec_relu_squared(vec_f32 x)
{
    const vec_f32 positive = vec_relu(x);
    return vec_mul(positive, positive);
}

static inline vec_f32
vec_relu6(vec_f32 x)
{
    return vec_min(vec_set(QB_RELU6_HIGHEST), vec_relu(x));
}

static inline vec_f32
vec_leaky_relu(vec_f32 x)
{
    return vec_max(vec_mul(x, vec_set(QB_LEAKY_RELU_SLOPE)), x);
}

static inline vec_f32
vec_gelu_grad(vec_f32 x)
{
    const vec_f32 t = vec_min(vec_set(QB_MILLS_LIMIT), vec_abs(x));
    const vec_f32 s = vec_mul(vec_set(-0.5f), t);
    const vec_f32 h = vec_mul(t, s);
    const vec_f32 l = vec_fma(t, s, vec_sub(vec_set(-0.0f), h));
    const vec_f32 z = vec_exp_shifted(h);
    const vec_f32 p = vec_exp_reduced(vec_exp_rest_of_sum(h, l, z));
    const vec_f32 m = vec_fma(t, vec_set(-QB_NORMAL_DENSITY), vec_mills(t));
    const vec_f32 g = vec_scale_exponent(vec_mul(p, m), z);
    return vec_select_greater(x, vec_set(0.0f), vec_sub(vec_set(1.0f), g), g);
}

static inline vec_f32
vec_gelu_clipped_grad(vec_f32 x)
{
    return vec_select_greater(x, vec_set(QB_GELU_CLIPPED_HIGHEST), vec_set(0.0f), vec_gelu_grad(x));
}

/* Derivative of x / (1 + exp(-v)) at x: e = exp(-|v|), w = |x v'(x)|. */
static inline vec_f32
vec_times_logistic_grad(vec_f32 x, vec_f32 e, vec_f32 w)
{
    const vec_f32 one = vec_set(1.0f);
    const vec_f32 divisor = vec_add(one, e);
    const vec_f32 g = vec_div(vec_mul(e, vec_sub(divisor, w)), vec_mul(divisor, divisor));
    return vec_select_greater(x, vec_set(0.0f), vec_sub(one, g), g);
}

static inline vec_f32
vec_silu_grad(vec_f32 x)
{
    const vec_f32 e = vec_exp_bounded(vec_copysign(x, vec_set(-0.0f)));
    return vec_times_logistic_grad(x, e, vec_min(vec_set(QB_SILU_GRAD_LIMIT), vec_abs(x)));
}

static inline vec_f32
vec_gelu_tanh_grad(vec_f32 x)
{
    const vec_f32 k1 = vec_set(QB_GELU_TANH_K1);
    const vec_f32 u = vec_max(vec_set(-QB_GELU_TANH_LIMIT), vec_min(vec_set(QB_GELU_TANH_LIMIT), x));
    const vec_f32 square = vec_mul(u, u);
    const vec_f32 v = vec_mul(u, vec_fma(square, vec_set(QB_GELU_TANH_K3), k1));
    const vec_f32 w = vec_mul(vec_abs(u), vec_fma(square, vec_set(QB_GELU_TANH_GRAD_K3), k1));
    return vec_times_logistic_grad(x, vec_exp_bounded(vec_copysign(v, vec_set(-0.0f))), w);
}

static inline vec_f32
vec_quick_gelu_grad(vec_f32 x)
{
    const vec_f32 u = vec_max(vec_set(-QB_QUICK_GELU_LIMIT), vec_min(vec_set(QB_QUICK_GELU_LIMIT), x));
    return vec_times_logistic_grad(x, vec_quick_gelu_exp(u), vec_mul(vec_abs(u), vec_set(QB_QUICK_GELU_HIGH)));
}

static inline vec_f32
vec_sigmoid_grad(vec_f32 x)
{
    const vec_f32 e = vec_exp_bounded(vec_copysign(x, vec_set(-0.0f)));
    const vec_f32 divisor = vec_add(vec_set(1.0f), e);
    return vec_div(e, vec_mul(divisor, divisor));
}

static inline vec_f32
vec_tanh_grad(vec_f32 x)
{
    const vec_f32 e = vec_exp_bounded(vec_copysign(vec_add(x, x), vec_set(-0.0f)));
    const vec_f32 divisor = vec_add(vec_set(1.0f), e);
    return vec_div(vec_mul(vec_set(4.0f), e), vec_mul(divisor, divisor));
}

static inline vec_f32
vec_mish_grad(vec_f32 x)
{
    const vec_f32 two = vec_set(2.0f);
    const vec_f32 u = vec_max(vec_set(QB_MISH_LOWEST), vec_min(vec_set(QB_MISH_HIGHEST), x));
    const vec_f32 e = vec_exp_bounded(u);
    const vec_f32 b = vec_add(vec_fma(e, e, vec_add(e, e)), two);
    const vec_f32 sum = vec_fma(vec_mul(vec_set(4.0f), u), vec_add(e, vec_set(1.0f)), vec_mul(vec_add(e, two), b));
    return vec_div(vec_mul(e, sum), vec_mul(b, b));
}

static inline vec_f32
vec_laplace_grad(vec_f32 x)
{
    const vec_f32 limit = vec_set(QB_LAPLACE_GRAD_HIGHEST);
    const vec_laplace_argument at = vec_laplace_reduce(vec_max(vec_set(QB_LAPLACE_LOWEST), vec_min(limit, x)));
    const vec_f32 s = vec_mul(vec_set(-0.5f), at.v);
    const vec_f32 h = vec_mul(at.v, s);
    const vec_f32 square = vec_fma(at.v, s, vec_sub(vec_set(-0.0f), h));
    const vec_f32 l = vec_fma(vec_sub(vec_set(-0.0f), at.v), at.w, square);
    const vec_f32 z = vec_exp_shifted(h);
    const vec_f32 p = vec_exp_reduced(vec_exp_rest_of_sum(h, l, z));
    return vec_scale_exponent(vec_mul(p, vec_set(QB_LAPLACE_GRAD_PEAK)), z);
}

/* (x > 0) ? positive : other; x itself if it is NaN. */
static inline vec_f32
vec_slope(vec_f32 x, vec_f32 positive, vec_f32 other)
{
    const vec_f32 zero = vec_set(0.0f);
    return vec_select_greater(x, zero, positive, vec_select_less_equal(x, zero, other, x));
}

static inline vec_f32
vec_relu_grad(vec_f32 x)
{
    return vec_slope(x, vec_set(1.0f), vec_set(0.0f));
}

static inline vec_f32
vec_relu_squared_grad(vec_f32 x)
{
    const vec_f32 positive = vec_relu(x);
    return vec_add(positive, positive);
}

static inline vec_f32
vec_relu6_grad(vec_f32 x)
{
    const vec_f32 zero = vec_set(0.0f);
    return vec_slope(x, vec_select_greater(vec_set(QB_RELU6_HIGHEST), x, vec_set(1.0f), zero), zero);
}

static inline vec_f32
vec_leaky_relu_grad(vec_f32 x)
{
    return vec_slope(x, vec_set(1.0f), vec_set(QB_LEAKY_RELU_SLOPE));
}

#endif
