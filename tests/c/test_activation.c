/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

/* By activation: the limits at both ends, the value at 0, and the hash of test_bits_are_the_same_on_every_machine. */
static const struct {
    float at_infinity, at_minus_infinity, at_zero;
    uint64_t hash;
} activations[] = {
    [QB_ACTIVATION_NONE] = {INFINITY, -INFINITY, 0.0f, 0x824bdd0596f02028u},
    [QB_ACTIVATION_GELU] = {INFINITY, 0.0f, 0.0f, 0x3f74fe5ffa1a7842u},
    [QB_ACTIVATION_GELU_TANH] = {INFINITY, 0.0f, 0.0f, 0xf18ab09e6bf7268cu},
    [QB_ACTIVATION_GELU_CLIPPED] = {10.0f, 0.0f, 0.0f, 0x50b1237db6be1049u},
    [QB_ACTIVATION_QUICK_GELU] = {INFINITY, 0.0f, 0.0f, 0xd8c5c8247015494au},
    [QB_ACTIVATION_RELU] = {INFINITY, 0.0f, 0.0f, 0x0c4cd73dc1cccb48u},
    [QB_ACTIVATION_RELU_SQUARED] = {INFINITY, 0.0f, 0.0f, 0x8af94b9990978d2du},
    [QB_ACTIVATION_RELU6] = {6.0f, 0.0f, 0.0f, 0xa5c5ce50d04807ecu},
    [QB_ACTIVATION_LEAKY_RELU] = {INFINITY, -INFINITY, 0.0f, 0x729a50d661056dd9u},
    [QB_ACTIVATION_SILU] = {INFINITY, 0.0f, 0.0f, 0x41a75d3f7536f560u},
    [QB_ACTIVATION_MISH] = {INFINITY, 0.0f, 0.0f, 0x2e6016810cb6eafau},
    [QB_ACTIVATION_LAPLACE] = {1.0f, 0.0f, 6.0944596e-3f, 0x35c21649d0023855u},
    [QB_ACTIVATION_SIGMOID] = {1.0f, 0.0f, 0.5f, 0x9207cc705dc38714u},
    [QB_ACTIVATION_TANH] = {1.0f, -1.0f, 0.0f, 0x8aaaed5e3b1c29beu},
};

_Static_assert(COUNT(activations) == QB_ACTIVATION_LAST + 1, "every activation has its row");

static void
activation_case(size_t v, qb_activation activation, size_t n, size_t shift, check_input kind)
{
    guarded x = guarded_make(n * sizeof(float), shift);
    guarded expected = guarded_make(n * sizeof(float), 0);
    guarded found = guarded_make(n * sizeof(float), shift ^ 4);
    check_fill(guarded_floats(&x), n, kind, n + 1);
    tables.at[0].activation_f32(activation, guarded_floats(&x), n, guarded_floats(&expected));
    tables.at[v].activation_f32(activation, guarded_floats(&x), n, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), n));
    tables.at[v].activation_f32(activation, guarded_floats(&x), n, guarded_floats(&x));
    CHECK(same_floats(guarded_floats(&x), guarded_floats(&expected), n));
    guarded_free(&x);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_every_variant_gives_the_references_bits(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t a = 0; a < COUNT(activations); ++a) {
            for (size_t l = 0; l < COUNT(check_lengths); ++l) {
                for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                    activation_case(v, (qb_activation)a, check_lengths[l], check_shifts[l % COUNT(check_shifts)],
                                    (check_input)kind);
                }
            }
        }
    }
}

/* Every exponent and both signs, mantissas in steps of a prime: 2^32 / 12,289 arguments. */
static void
test_bits_agree_over_all_exponents(void)
{
    enum { BLOCK = 4096, STEP = 12289 };
    static float x[BLOCK], expected[BLOCK], found[BLOCK];
    for (uint64_t first = 0; first < (uint64_t)1 << 32; first += (uint64_t)BLOCK * STEP) {
        for (size_t i = 0; i < BLOCK; ++i) {
            x[i] = float_from_bits((uint32_t)(first + i * STEP));
        }
        for (size_t a = 1; a < COUNT(activations); ++a) {
            tables.at[0].activation_f32((qb_activation)a, x, BLOCK, expected);
            for (size_t v = 1; v < tables.count; ++v) {
                tables.at[v].activation_f32((qb_activation)a, x, BLOCK, found);
                CHECK(same_floats(found, expected, BLOCK));
            }
        }
    }
}

/* Recorded on x86-64; other machines must compute the same. */
static void
test_bits_are_the_same_on_every_machine(void)
{
    enum { LENGTH = 4096, STEP = 1048573 };
    static float x[LENGTH], y[LENGTH];
    for (size_t i = 0; i < LENGTH; ++i) {
        x[i] = float_from_bits((uint32_t)(i * STEP));
    }
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t a = 0; a < COUNT(activations); ++a) {
            tables.at[v].activation_f32((qb_activation)a, x, LENGTH, y);
            CHECK(same_hash("activation_f32", hash_floats(hash_start, y, LENGTH), activations[a].hash));
        }
    }
}

static void
test_infinities_have_their_limits_and_nan_stays(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t a = 0; a < COUNT(activations); ++a) {
            float y[] = {INFINITY, -INFINITY, NAN, -NAN, 0.0f, -0.0f};
            tables.at[v].activation_f32((qb_activation)a, y, COUNT(y), y);
            CHECK(y[0] == activations[a].at_infinity);
            CHECK(y[1] == activations[a].at_minus_infinity);
            CHECK(isnan(y[2]) && isnan(y[3]));
            CHECK(fabsf(y[4] - activations[a].at_zero) <= 7 * FLT_EPSILON * activations[a].at_zero);
            CHECK(float_bits(y[5]) << 1 == float_bits(y[4]) << 1);
        }
    }
}

/* The largest finite arguments behave as the infinities do, where a naive quotient would be infinity / infinity. */
static void
test_the_largest_floats_are_near_their_limits(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t a = 0; a < COUNT(activations); ++a) {
            float y[] = {FLT_MAX, -FLT_MAX};
            tables.at[v].activation_f32((qb_activation)a, y, COUNT(y), y);
            const int grows = isinf(activations[a].at_infinity) && a != QB_ACTIVATION_RELU_SQUARED;
            CHECK(y[0] == (grows ? FLT_MAX : activations[a].at_infinity));
            const float slope = a == QB_ACTIVATION_LEAKY_RELU ? 0.01f : 1.0f;
            CHECK(y[1] ==
                  (isinf(activations[a].at_minus_infinity) ? slope * -FLT_MAX : activations[a].at_minus_infinity));
        }
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_bits_agree_over_all_exponents);
    RUN(test_bits_are_the_same_on_every_machine);
    RUN(test_infinities_have_their_limits_and_nan_stays);
    RUN(test_the_largest_floats_are_near_their_limits);
    return check_report();
}
