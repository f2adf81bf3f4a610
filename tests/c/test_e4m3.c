/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/e4m3.h"

#include <math.h>

#include "check.h"

/* The 127 magnitudes by the definition of the format, in order. */
static void
list_magnitudes(float magnitudes[127])
{
    for (int code = 0; code < 127; code++) {
        const int exponent = code >> 3;
        const int mantissa = code & 7;
        magnitudes[code] =
            exponent == 0 ? ldexpf((float)mantissa, -9) : ldexpf((float)(8 + mantissa), exponent - 7 - 3);
    }
}

static void
values_of_the_format_stay(void)
{
    float magnitudes[127];
    list_magnitudes(magnitudes);
    CHECK(magnitudes[126] == 448.0f);
    for (int i = 0; i < 127; i++) {
        CHECK(qb_e4m3_round(magnitudes[i]) == magnitudes[i]);
        CHECK(qb_e4m3_round(-magnitudes[i]) == -magnitudes[i]);
    }
    CHECK(signbit(qb_e4m3_round(-0.0f)) != 0);
}

static void
between_values_the_nearest_wins_and_ties_go_to_even(void)
{
    float magnitudes[127];
    list_magnitudes(magnitudes);
    for (int i = 0; i < 126; i++) {
        const float middle = (magnitudes[i] + magnitudes[i + 1]) / 2.0f; /* exact */
        CHECK(qb_e4m3_round(middle) == magnitudes[i + (i & 1)]);
        CHECK(qb_e4m3_round(nextafterf(middle, 0.0f)) == magnitudes[i]);
        CHECK(qb_e4m3_round(nextafterf(middle, 500.0f)) == magnitudes[i + 1]);
    }
}

static void
large_magnitudes_saturate_and_nan_stays(void)
{
    CHECK(qb_e4m3_round(449.0f) == 448.0f);
    CHECK(qb_e4m3_round(-1e30f) == -448.0f);
    CHECK(qb_e4m3_round(INFINITY) == 448.0f);
    CHECK(qb_e4m3_round(-INFINITY) == -448.0f);
    CHECK(isnan(qb_e4m3_round(NAN)));
}

static void
scaling_hides_tiny_elements(void)
{
    CHECK(qb_e4m3_scale(2.0f) == 224.0f);
    CHECK(qb_e4m3_round_scaled(2.0f, qb_e4m3_scale(2.0f)) == 2.0f);
    CHECK(qb_e4m3_round_scaled(0x1p-25f, qb_e4m3_scale(0.0f)) == 0.0f);
    CHECK(qb_e4m3_round_scaled(1.0f, qb_e4m3_scale(0.0f)) == 0.0f);
}

int
main(void)
{
    RUN(values_of_the_format_stay);
    RUN(between_values_the_nearest_wins_and_ties_go_to_even);
    RUN(large_magnitudes_saturate_and_nan_stays);
    RUN(scaling_hides_tiny_elements);
    return check_report();
}
