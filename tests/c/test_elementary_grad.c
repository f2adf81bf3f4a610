/* SPDX-License-Identifier: Apache-2.0
 *
 * The error bounds of the derivatives that kernels/numerics.h states, measured as in test_elementary.c; and the long
 * double formulas that they are measured against, held to central differences of the functions.
 */
#include "elementary_truth.h"
#include "kernels/cpu/ref/elementary.h"

#define SQRT_2 1.41421356237309504880168872420969808L
#define SQRT_2_PI 2.50662827463100050241576528481104525L
#define LAPLACE_SIGMA 0.282095L

/* ---- truth ----------------------------------------------------------------------------------------------------------
 */

static long double
density(long double x)
{
    return expl(-0.5L * x * x) / SQRT_2_PI;
}

static long double
normal(long double x)
{
    return 0.5L * erfcl(-x / SQRT_2);
}

static long double
true_gelu_grad(long double x)
{
    return normal(x) + x * density(x);
}

static long double
true_gelu_clipped_grad(long double x)
{
    return x > 10.0L ? 0.0L : true_gelu_grad(x);
}

/* Derivative of x / (1 + exp(-v)): the logistic function of v, plus x v' times its derivative. */
static long double
times_logistic_grad(long double v, long double product)
{
    const long double e = expl(-v);
    if (isinf(e)) {
        return 0.0L;
    }
    return 1.0L / (1.0L + e) + product * e / ((1.0L + e) * (1.0L + e));
}

static long double
true_silu_grad(long double x)
{
    return times_logistic_grad(x, x);
}

static long double
true_quick_gelu_grad(long double x)
{
    return times_logistic_grad(1.702L * x, 1.702L * x);
}

static long double
gelu_tanh_product(long double x)
{
    return 1.5957691216057307117597842397375274L * (x + 3.0L * 0.044715L * x * x * x);
}

static long double
true_gelu_tanh_grad(long double x)
{
    return times_logistic_grad(gelu_tanh_argument(x), gelu_tanh_product(x));
}

static long double
true_sigmoid_grad(long double x)
{
    const long double e = expl(-fabsl(x));
    return e / ((1.0L + e) * (1.0L + e));
}

static long double
true_tanh_grad(long double x)
{
    return 4.0L * true_sigmoid_grad(2.0L * x);
}

static long double
true_mish_grad(long double x)
{
    const long double t = tanhl(log1pl(expl(x)));
    return x > 100.0L ? 1.0L : t + x * (1.0L - t) * (1.0L + t) / (1.0L + expl(-x));
}

static long double
true_laplace_grad(long double x)
{
    return density((x - 0.707107L) / LAPLACE_SIGMA) / LAPLACE_SIGMA;
}

static long double
true_relu_squared_grad(long double x)
{
    return 2.0L * true_relu(x);
}

static long double
true_relu_grad(long double x)
{
    return x > 0.0L ? 1.0L : 0.0L;
}

static long double
true_relu6_grad(long double x)
{
    return x > 0.0L && x < 6.0L ? 1.0L : 0.0L;
}

static long double
true_leaky_relu_grad(long double x)
{
    return x > 0.0L ? 1.0L : 0.01L;
}

typedef struct derivative {
    const char *name;
    long double (*function)(long double);
    long double (*truth)(long double);
} derivative;

static const derivative derivatives[] = {
    {"gelu", true_gelu, true_gelu_grad},
    {"gelu_tanh", true_gelu_tanh, true_gelu_tanh_grad},
    {"gelu_clipped", true_gelu_clipped, true_gelu_clipped_grad},
    {"quick_gelu", true_quick_gelu, true_quick_gelu_grad},
    {"relu", true_relu, true_relu_grad},
    {"relu_squared", true_relu_squared, true_relu_squared_grad},
    {"relu6", true_relu6, true_relu6_grad},
    {"leaky_relu", true_leaky_relu, true_leaky_relu_grad},
    {"silu", true_silu, true_silu_grad},
    {"mish", true_mish, true_mish_grad},
    {"laplace", true_laplace, true_laplace_grad},
    {"sigmoid", true_sigmoid, true_sigmoid_grad},
    {"tanh", tanhl, true_tanh_grad},
};

_Static_assert(COUNT(derivatives) == QB_ACTIVATION_LAST, "every activation has its row");

/* With step h = 2^-14 a central difference is off by h^2 / 6 times the third derivative, which is below 100 for all of
 * them (laplace: sqrt(2) / sigma^2 * 1.4, the largest), so by 2^-23, and by the rounding 2^-63 of values below 300^2
 * divided by h, 2^-33.  No argument is within h of a corner. */
static void
test_the_formulas_are_the_slopes_of_the_functions(void)
{
    const long double h = 0x1p-14L;
    for (size_t d = 0; d < COUNT(derivatives); ++d) {
        for (int i = -3001; i <= 3000; ++i) {
            const long double x = i == 0 ? 0.003L : (long double)i / 200.0L + 0.0013L;
            const long double slope = (derivatives[d].function(x + h) - derivatives[d].function(x - h)) / (2.0L * h);
            CHECK(fabsl(slope - derivatives[d].truth(x)) <= 0x1p-22L);
        }
    }
}

/* ---- allowances ----------------------------------------------------------------------------------------------------
 */

/* By name: 2^-24 S of kernels/numerics.h, S the sum of the magnitudes of the two terms. */
static long double
terms_gelu(long double x)
{
    return 0x1p-24L * (normal(x) + fabsl(x) * density(x));
}

static long double
terms_times_logistic(long double v, long double product)
{
    const long double e = expl(-fabsl(v));
    return 0x1p-24L * e * (1.0L + fabsl(product) / (1.0L + e)) / (1.0L + e);
}

static long double
terms_mish(long double x)
{
    const long double t = tanhl(log1pl(expl(x)));
    return 0x1p-24L * (t + fabsl(x) * (1.0L - t) * (1.0L + t) / (1.0L + expl(-x)));
}

static long double
slack_gelu_grad(long double x, long double y)
{
    (void)y;
    return 4.0L * terms_gelu(x);
}

static long double
slack_silu_grad(long double x, long double y)
{
    return 5.0L * terms_times_logistic(x, x) + slack_logistic_tail(x, y);
}

static long double
slack_quick_gelu_grad(long double x, long double y)
{
    return 5.0L * terms_times_logistic(1.702L * x, 1.702L * x) + slack_quick_gelu_tail(x, y);
}

static long double
slack_gelu_tanh_grad(long double x, long double y)
{
    const long double v = gelu_tanh_argument(x);
    return (6.0L + 3.0L * fabsl(v)) * terms_times_logistic(v, gelu_tanh_product(x)) + 2.0L * slack_logistic_tail(v, y);
}

static long double
slack_mish_grad(long double x, long double y)
{
    return 6.0L * terms_mish(x) + slack_logistic_tail(x, y);
}

/* ---- bounds ---------------------------------------------------------------------------------------------------------
 */

static void
test_gelu_grad_is_within_its_bounds(void)
{
    const sweep left = {"gelu'", ref_gelu_grad, true_gelu_grad, slack_gelu_grad, 1.0L};
    measure(&left, -FLT_MAX, 0.0f);
    const sweep right = {"gelu'", ref_gelu_grad, true_gelu_grad, NULL, 3.0L};
    measure(&right, 0.0f, FLT_MAX);
}

static void
test_gelu_clipped_grad_is_within_the_bounds_of_gelu_grad(void)
{
    const sweep left = {"gelu_10'", ref_gelu_clipped_grad, true_gelu_clipped_grad, slack_gelu_grad, 1.0L};
    measure(&left, -FLT_MAX, 0.0f);
    const sweep right = {"gelu_10'", ref_gelu_clipped_grad, true_gelu_clipped_grad, NULL, 3.0L};
    measure(&right, 0.0f, FLT_MAX);
    CHECK(ref_gelu_clipped_grad(10.0f) == 1.0f && ref_gelu_clipped_grad(0x1.400002p+3f) == 0.0f);
}

static void
test_gelu_tanh_grad_is_within_its_bounds(void)
{
    const sweep left = {"gelu_tanh'", ref_gelu_tanh_grad, true_gelu_tanh_grad, slack_gelu_tanh_grad, 1.0L};
    measure(&left, -FLT_MAX, 0.0f);
    const sweep right = {"gelu_tanh'", ref_gelu_tanh_grad, true_gelu_tanh_grad, NULL, 3.0L};
    measure(&right, 0.0f, FLT_MAX);
}

static void
test_silu_grad_is_within_its_bounds(void)
{
    const sweep left = {"silu'", ref_silu_grad, true_silu_grad, slack_silu_grad, 1.0L};
    measure(&left, -FLT_MAX, 0.0f);
    const sweep right = {"silu'", ref_silu_grad, true_silu_grad, NULL, 3.0L};
    measure(&right, 0.0f, FLT_MAX);
}

static void
test_quick_gelu_grad_is_within_its_bounds(void)
{
    const sweep left = {"quick'", ref_quick_gelu_grad, true_quick_gelu_grad, slack_quick_gelu_grad, 1.0L};
    measure(&left, -FLT_MAX, 0.0f);
    const sweep right = {"quick'", ref_quick_gelu_grad, true_quick_gelu_grad, NULL, 3.0L};
    measure(&right, 0.0f, FLT_MAX);
}

static void
test_mish_grad_is_within_its_bounds(void)
{
    const sweep left = {"mish'", ref_mish_grad, true_mish_grad, slack_mish_grad, 1.0L};
    measure(&left, -FLT_MAX, 0.0f);
    const sweep right = {"mish'", ref_mish_grad, true_mish_grad, NULL, 5.0L};
    measure(&right, 0.0f, FLT_MAX);
}

static void
test_sigmoid_grad_and_tanh_grad_are_within_4_ulp(void)
{
    const sweep sigmoid = {"sigmoid'", ref_sigmoid_grad, true_sigmoid_grad, NULL, 4.0L};
    measure(&sigmoid, -FLT_MAX, FLT_MAX);
    const sweep tanh_grad = {"tanh'", ref_tanh_grad, true_tanh_grad, NULL, 4.0L};
    measure(&tanh_grad, -FLT_MAX, FLT_MAX);
}

static void
test_laplace_grad_is_within_3_ulp(void)
{
    const sweep s = {"laplace'", ref_laplace_grad, true_laplace_grad, NULL, 3.0L};
    measure(&s, -FLT_MAX, FLT_MAX);
}

static void
test_slopes_of_straight_pieces_are_exact(void)
{
    const sweep relu = {"relu'", ref_relu_grad, true_relu_grad, NULL, 0.0L};
    measure(&relu, -FLT_MAX, FLT_MAX);
    const sweep relu6 = {"relu6'", ref_relu6_grad, true_relu6_grad, NULL, 0.0L};
    measure(&relu6, -FLT_MAX, FLT_MAX);
    const sweep squared = {"relu2'", ref_relu_squared_grad, true_relu_squared_grad, NULL, 0.0L};
    measure(&squared, -FLT_MAX, FLT_MAX / 2.0f);
    const sweep leaky = {"leaky_relu'", ref_leaky_relu_grad, true_leaky_relu_grad, NULL, 0.5L};
    measure(&leaky, -FLT_MAX, FLT_MAX);
}

static void
test_corners_have_the_slope_that_pytorch_takes(void)
{
    CHECK(ref_relu_grad(0.0f) == 0.0f && ref_relu_grad(-0.0f) == 0.0f);
    CHECK(ref_relu6_grad(0.0f) == 0.0f && ref_relu6_grad(6.0f) == 0.0f && ref_relu6_grad(0x1.7ffffep+2f) == 1.0f);
    CHECK(ref_leaky_relu_grad(0.0f) == 0.01f && ref_leaky_relu_grad(-0.0f) == 0.01f);
}

int
main(void)
{
    RUN(test_the_formulas_are_the_slopes_of_the_functions);
    RUN(test_gelu_grad_is_within_its_bounds);
    RUN(test_gelu_clipped_grad_is_within_the_bounds_of_gelu_grad);
    RUN(test_gelu_tanh_grad_is_within_its_bounds);
    RUN(test_silu_grad_is_within_its_bounds);
    RUN(test_quick_gelu_grad_is_within_its_bounds);
    RUN(test_mish_grad_is_within_its_bounds);
    RUN(test_sigmoid_grad_and_tanh_grad_are_within_4_ulp);
    RUN(test_laplace_grad_is_within_3_ulp);
    RUN(test_slopes_of_straight_pieces_are_exact);
    RUN(test_corners_have_the_slope_that_pytorch_takes);
    return check_report();
}
