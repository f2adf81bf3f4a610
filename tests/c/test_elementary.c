/* SPDX-License-Identifier: Apache-2.0
 *
 * The error bounds that kernels/numerics.h states, measured against long double over every exponent and both signs,
 * with the mantissas in steps of a prime.  The reference is measured; tests of bit equality carry it to the variants.
 */
#include "elementary_truth.h"
#include "kernels/cpu/ref/elementary.h"

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
