/* SPDX-License-Identifier: Apache-2.0
 *
 * The error bounds that kernels/numerics.h states, measured against long double over every exponent and both signs,
 * with the mantissas in steps of a prime.  The reference is measured; tests of bit equality carry it to the variants.
 */
#include "kernel_check.h"
#include "kernels/cpu/ref/elementary.h"

enum { STEP = 16411 };

/* Distance of neighbouring floats at |value|. */
static long double
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

static void
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

static long double
true_gelu(long double x)
{
    return x * 0.5L * erfcl(-x * 0.70710678118654752440084436210484904L);
}

static long double
true_silu(long double x)
{
    return x / (1.0L + expl(-x));
}

static long double
gelu_tanh_argument(long double x)
{
    return 1.5957691216057307117597842397375274L * (x + 0.044715L * x * x * x);
}

static long double
true_gelu_tanh(long double x)
{
    return x / (1.0L + expl(-gelu_tanh_argument(x)));
}

static long double
slack_gelu_tanh(long double x, long double y)
{
    return x < 0.0L ? 0x1p-22L * fabsl(gelu_tanh_argument(x) * y) : 0.0L;
}

/* exp(-|x|) in the denormals has an error of 2^-150, which x multiplies: 2^-150 * 104 < 2^-143. */
static long double
slack_logistic_tail(long double x, long double y)
{
    (void)y;
    return x < -87.0L ? 0x1p-142L : 0.0L;
}

/* The same of an exponential that vanishes at 1.702 times the pace. */
static long double
slack_quick_gelu_tail(long double x, long double y)
{
    return slack_logistic_tail(1.702L * x, y);
}

static long double
true_gelu_clipped(long double x)
{
    return fminl(fmaxl(true_gelu(x), -10.0L), 10.0L);
}

static long double
true_quick_gelu(long double x)
{
    return x / (1.0L + expl(-1.702L * x));
}

static long double
true_sigmoid(long double x)
{
    return 1.0L / (1.0L + expl(-x));
}

static long double
true_mish(long double x)
{
    return x * tanhl(log1pl(expl(x)));
}

static long double
true_laplace(long double x)
{
    return 0.5L * erfcl((0.707107L - x) / 0.282095L * 0.70710678118654752440084436210484904L);
}

static long double
true_relu(long double x)
{
    return fmaxl(x, 0.0L);
}

static long double
true_relu_squared(long double x)
{
    return true_relu(x) * true_relu(x);
}

static long double
true_relu6(long double x)
{
    return fminl(true_relu(x), 6.0L);
}

static long double
true_leaky_relu(long double x)
{
    return x < 0.0L ? x / 100.0L : x;
}

static long double
slack_gelu_tanh_tail(long double x, long double y)
{
    return slack_gelu_tanh(x, y) + 0x1p-142L;
}

static void
test_exp_is_within_1_ulp(void)
{
    const sweep s = {"exp", ref_exp, expl, NULL, 1.0L};
    measure(&s, -103.9f, 88.7f);
}

static void
test_exp_ends_at_zero_and_infinity(void)
{
    CHECK(float_bits(ref_exp(-104.0f)) == 0);
    CHECK(float_bits(ref_exp(-FLT_MAX)) == 0);
    CHECK(float_bits(ref_exp(-INFINITY)) == 0);
    CHECK(ref_exp(-103.2f) > 0.0f);
    CHECK(isinf(ref_exp(88.73f)) && isinf(ref_exp(FLT_MAX)) && isinf(ref_exp(INFINITY)));
    CHECK(ref_exp(0.0f) == 1.0f && ref_exp(-0.0f) == 1.0f);
    CHECK(isnan(ref_exp(NAN)));
}

static void
test_gelu_is_within_4_ulp_and_6_in_the_left_tail(void)
{
    const sweep tail = {"gelu", ref_gelu, true_gelu, NULL, 6.0L};
    measure(&tail, -FLT_MAX, -1.0f);
    const sweep rest = {"gelu", ref_gelu, true_gelu, NULL, 4.0L};
    measure(&rest, -1.0f, 1.0f);
    measure(&rest, 1.0f, FLT_MAX);
}

static void
test_tanh_is_within_3_ulp(void)
{
    const sweep s = {"tanh", ref_tanh, tanhl, NULL, 3.0L};
    measure(&s, -FLT_MAX, FLT_MAX);
}

static void
test_silu_is_within_4_ulp(void)
{
    const sweep s = {"silu", ref_silu, true_silu, slack_logistic_tail, 4.0L};
    measure(&s, -FLT_MAX, FLT_MAX);
}

static void
test_gelu_tanh_is_within_its_bound(void)
{
    const sweep s = {"gelu_tanh", ref_gelu_tanh, true_gelu_tanh, slack_gelu_tanh_tail, 4.0L};
    measure(&s, -FLT_MAX, FLT_MAX);
}

static void
test_gelu_clipped_is_within_the_bounds_of_gelu(void)
{
    const sweep tail = {"gelu_10", ref_gelu_clipped, true_gelu_clipped, NULL, 6.0L};
    measure(&tail, -FLT_MAX, -1.0f);
    const sweep rest = {"gelu_10", ref_gelu_clipped, true_gelu_clipped, NULL, 4.0L};
    measure(&rest, -1.0f, 1.0f);
    measure(&rest, 1.0f, FLT_MAX);
}

static void
test_quick_gelu_is_within_4_ulp(void)
{
    const sweep s = {"quick_gelu", ref_quick_gelu, true_quick_gelu, slack_quick_gelu_tail, 4.0L};
    measure(&s, -FLT_MAX, FLT_MAX);
}

static void
test_sigmoid_is_within_3_ulp(void)
{
    const sweep s = {"sigmoid", ref_sigmoid, true_sigmoid, NULL, 3.0L};
    measure(&s, -FLT_MAX, FLT_MAX);
}

static void
test_mish_is_within_5_ulp(void)
{
    const sweep s = {"mish", ref_mish, true_mish, slack_logistic_tail, 5.0L};
    measure(&s, -FLT_MAX, FLT_MAX);
}

static void
test_laplace_is_within_7_ulp_and_2_on_the_right(void)
{
    const sweep left = {"laplace", ref_laplace, true_laplace, NULL, 7.0L};
    measure(&left, -FLT_MAX, -1.0f);
    measure(&left, -1.0f, 1.0f);
    const sweep right = {"laplace", ref_laplace, true_laplace, NULL, 2.0L};
    measure(&right, 1.0f, FLT_MAX);
}

static void
test_relu_and_relu6_are_exact(void)
{
    const sweep relu = {"relu", ref_relu, true_relu, NULL, 0.0L};
    measure(&relu, -FLT_MAX, FLT_MAX);
    const sweep relu6 = {"relu6", ref_relu6, true_relu6, NULL, 0.0L};
    measure(&relu6, -FLT_MAX, FLT_MAX);
}

static void
test_relu_squared_is_rounded_once_and_overflows_to_infinity(void)
{
    const sweep s = {"relu2", ref_relu_squared, true_relu_squared, NULL, 0.5L};
    measure(&s, -FLT_MAX, 0x1.fffffep+63f);
    CHECK(isinf(ref_relu_squared(0x1p+64f)) && isinf(ref_relu_squared(FLT_MAX)));
}

static void
test_leaky_relu_is_within_1_ulp(void)
{
    const sweep s = {"leaky_relu", ref_leaky_relu, true_leaky_relu, NULL, 1.0L};
    measure(&s, -FLT_MAX, FLT_MAX);
}

/* The absolute promise of the kernel's contract, where values are small enough for it to say more than ulps do. */
static void
test_negative_arguments_are_within_1e_7(void)
{
    for (uint64_t bits = 0x80000000u; bits <= 0xff800000u; bits += STEP) {
        const float x = float_from_bits((uint32_t)bits);
        if (!isfinite(x)) {
            break;
        }
        const long double wide = (long double)x;
        CHECK(fabsl((long double)ref_gelu(x) - true_gelu(wide)) <= 1e-7L);
        CHECK(fabsl((long double)ref_gelu_tanh(x) - true_gelu_tanh(wide)) <= 1e-7L);
        CHECK(fabsl((long double)ref_silu(x) - true_silu(wide)) <= 1e-7L);
        CHECK(fabsl((long double)ref_quick_gelu(x) - true_quick_gelu(wide)) <= 1e-7L);
        CHECK(fabsl((long double)ref_mish(x) - true_mish(wide)) <= 1e-7L);
        CHECK(fabsl((long double)ref_laplace(x) - true_laplace(wide)) <= 1e-7L);
        CHECK(fabsl((long double)ref_sigmoid(x) - true_sigmoid(wide)) <= 1e-7L);
    }
}

int
main(void)
{
    RUN(test_exp_is_within_1_ulp);
    RUN(test_exp_ends_at_zero_and_infinity);
    RUN(test_gelu_is_within_4_ulp_and_6_in_the_left_tail);
    RUN(test_tanh_is_within_3_ulp);
    RUN(test_silu_is_within_4_ulp);
    RUN(test_gelu_tanh_is_within_its_bound);
    RUN(test_gelu_clipped_is_within_the_bounds_of_gelu);
    RUN(test_quick_gelu_is_within_4_ulp);
    RUN(test_sigmoid_is_within_3_ulp);
    RUN(test_mish_is_within_5_ulp);
    RUN(test_laplace_is_within_7_ulp_and_2_on_the_right);
    RUN(test_relu_and_relu6_are_exact);
    RUN(test_relu_squared_is_rounded_once_and_overflows_to_infinity);
    RUN(test_leaky_relu_is_within_1_ulp);
    RUN(test_negative_arguments_are_within_1e_7);
    return check_report();
}
