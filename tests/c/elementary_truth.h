/* SPDX-License-Identifier: Apache-2.0
 *
 * The elementary functions of kernels/numerics.h in long double, and the sweep over all floats that measures an
 * implementation against them.
 */
#ifndef QB_TESTS_ELEMENTARY_TRUTH_H
#define QB_TESTS_ELEMENTARY_TRUTH_H

#include "kernel_check.h"

enum { STEP = 16411 };

/* Distance of neighbouring floats at |value|. */
static inline long double
ulp_of(long double value)
{
    int exponent = -126;
    if (fabsl(value) >= 0x1p-126L) {
        (void)frexpl(value, &exponent);
        exponent -= 1;
    }
    return ldexpl(1.0L, exponent - 23);
}

typedef struct sweep {
    const char *name;
    float (*function)(float);
    long double (*truth)(long double);
    long double (*slack)(long double x, long double y); /* allowed on top of ulps, NULL: nothing */
    long double ulps;
} sweep;

static inline void
measure(const sweep *s, float low, float high)
{
    long double worst = 0.0L;
    float worst_at = 0.0f;
    size_t measured = 0;
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += STEP) {
        const float x = float_from_bits((uint32_t)bits);
        if (!(x >= low && x <= high)) {
            continue;
        }
        const long double truth = s->truth((long double)x);
        const long double slack = s->slack != NULL ? s->slack((long double)x, truth) : 0.0L;
        const long double error = (fabsl((long double)s->function(x) - truth) - slack) / ulp_of(truth);
        ++measured;
        if (error > worst) {
            worst = error;
            worst_at = x;
        }
    }
    (void)printf("%-10s [%g, %g]: %.3Lf ulp at %a\n", s->name, (double)low, (double)high, worst, (double)worst_at);
    CHECK(measured > 1000);
    CHECK(worst <= s->ulps);
}

static inline long double
true_gelu(long double x)
{
    return x * 0.5L * erfcl(-x * 0.70710678118654752440084436210484904L);
}

static inline long double
true_silu(long double x)
{
    return x / (1.0L + expl(-x));
}

static inline long double
gelu_tanh_argument(long double x)
{
    return 1.5957691216057307117597842397375274L * (x + 0.044715L * x * x * x);
}

static inline long double
true_gelu_tanh(long double x)
{
    return x / (1.0L + expl(-gelu_tanh_argument(x)));
}

static inline long double
slack_gelu_tanh(long double x, long double y)
{
    return x < 0.0L ? 0x1p-22L * fabsl(gelu_tanh_argument(x) * y) : 0.0L;
}

/* exp(-|x|) in the denormals has an error of 2^-150, which x multiplies: 2^-150 * 104 < 2^-143. */
static inline long double
slack_logistic_tail(long double x, long double y)
{
    (void)y;
    return x < -87.0L ? 0x1p-142L : 0.0L;
}

/* The same of an exponential that vanishes at 1.702 times the pace. */
static inline long double
slack_quick_gelu_tail(long double x, long double y)
{
    return slack_logistic_tail(1.702L * x, y);
}

static inline long double
true_gelu_clipped(long double x)
{
    return fminl(fmaxl(true_gelu(x), -10.0L), 10.0L);
}

static inline long double
true_quick_gelu(long double x)
{
    return x / (1.0L + expl(-1.702L * x));
}

static inline long double
true_sigmoid(long double x)
{
    return 1.0L / (1.0L + expl(-x));
}

static inline long double
true_mish(long double x)
{
    return x * tanhl(log1pl(expl(x)));
}

static inline long double
true_laplace(long double x)
{
    return 0.5L * erfcl((0.707107L - x) / 0.282095L * 0.70710678118654752440084436210484904L);
}

static inline long double
true_relu(long double x)
{
    return fmaxl(x, 0.0L);
}

static inline long double
true_relu_squared(long double x)
{
    return true_relu(x) * true_relu(x);
}

static inline long double
true_relu6(long double x)
{
    return fminl(true_relu(x), 6.0L);
}

static inline long double
true_leaky_relu(long double x)
{
    return x < 0.0L ? x / 100.0L : x;
}

static inline long double
slack_gelu_tanh_tail(long double x, long double y)
{
    return slack_gelu_tanh(x, y) + 0x1p-142L;
}

#endif
