/* SPDX-License-Identifier: Apache-2.0
 *
 * The derivatives themselves are measured in test_elementary_grad.c.
 */
#include "kernel_check.h"

static kernel_tables tables;

/* By activation: the slope towards both ends, and the hash of test_bits_are_the_same_on_every_machine. */
static const struct {
    float at_infinity, at_minus_infinity;
    uint64_t hash;
} activations[] = {
    [QB_ACTIVATION_NONE] = {1.0f, 1.0f, 0x3e08c996d9417310u},
    [QB_ACTIVATION_GELU] = {1.0f, 0.0f, 0x086f5a3a9b1be0bau},
    [QB_ACTIVATION_GELU_TANH] = {1.0f, 0.0f, 0x210806a4fd4f371cu},
    [QB_ACTIVATION_GELU_CLIPPED] = {0.0f, 0.0f, 0xf7e6ff443e52491fu},
    [QB_ACTIVATION_QUICK_GELU] = {1.0f, 0.0f, 0x172d61a9a5fc7afau},
    [QB_ACTIVATION_RELU] = {1.0f, 0.0f, 0xc5f2bd0b7fe9aeb4u},
    [QB_ACTIVATION_RELU_SQUARED] = {INFINITY, 0.0f, 0xb4f137ca27737119u},
    [QB_ACTIVATION_RELU6] = {0.0f, 0.0f, 0x4a4648c52ae548cau},
    [QB_ACTIVATION_LEAKY_RELU] = {1.0f, 0.01f, 0x71b086017404e089u},
    [QB_ACTIVATION_SILU] = {1.0f, 0.0f, 0xacd2752b381db275u},
    [QB_ACTIVATION_MISH] = {1.0f, 0.0f, 0x9c1e4a07dc86dfa6u},
    [QB_ACTIVATION_LAPLACE] = {0.0f, 0.0f, 0x5347432f6324684cu},
    [QB_ACTIVATION_SIGMOID] = {0.0f, 0.0f, 0x2063116bf00d2e75u},
    [QB_ACTIVATION_TANH] = {0.0f, 0.0f, 0x1f76b8941a20d917u},
};

_Static_assert(COUNT(activations) == QB_ACTIVATION_LAST + 1, "every activation has its row");

static void
activation_case(size_t v, qb_activation activation, size_t n, size_t shift, check_input kind)
{
    guarded x = guarded_make(n * sizeof(float), shift);
    guarded dy = guarded_make(n * sizeof(float), 12);
    guarded expected = guarded_make(n * sizeof(float), 0);
    guarded found = guarded_make(n * sizeof(float), shift ^ 4);
    check_fill(guarded_floats(&x), n, kind, n + 1);
    check_fill(guarded_floats(&dy), n, kind == INPUT_ANY ? INPUT_ANY : INPUT_WIDE, n + 2);
    tables.at[0].activation_grad_f32(activation, guarded_floats(&x), guarded_floats(&dy), n, guarded_floats(&expected));
    tables.at[v].activation_grad_f32(activation, guarded_floats(&x), guarded_floats(&dy), n, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), n));
    memcpy(found.data, dy.data, found.bytes);
    tables.at[v].activation_grad_f32(activation, guarded_floats(&x), guarded_floats(&dy), n, guarded_floats(&dy));
    CHECK(same_floats(guarded_floats(&dy), guarded_floats(&expected), n));
    tables.at[v].activation_grad_f32(activation, guarded_floats(&x), guarded_floats(&found), n, guarded_floats(&x));
    CHECK(same_floats(guarded_floats(&x), guarded_floats(&expected), n));
    guarded_free(&x);
    guarded_free(&dy);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_every_variant_gives_the_references_bits_and_output_may_be_an_input(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
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
    static float x[BLOCK], ones[BLOCK], expected[BLOCK], found[BLOCK];
    for (size_t i = 0; i < BLOCK; ++i) {
        ones[i] = 1.0f;
    }
    for (uint64_t first = 0; first < (uint64_t)1 << 32; first += (uint64_t)BLOCK * STEP) {
        for (size_t i = 0; i < BLOCK; ++i) {
            x[i] = float_from_bits((uint32_t)(first + i * STEP));
        }
        for (size_t a = 1; a < COUNT(activations); ++a) {
            tables.at[0].activation_grad_f32((qb_activation)a, x, ones, BLOCK, expected);
            for (size_t v = 1; v < tables.count; ++v) {
                tables.at[v].activation_grad_f32((qb_activation)a, x, ones, BLOCK, found);
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
    static float x[LENGTH], dy[LENGTH], dx[LENGTH];
    for (size_t i = 0; i < LENGTH; ++i) {
        x[i] = float_from_bits((uint32_t)(i * STEP));
    }
    check_fill(dy, LENGTH, INPUT_UNIFORM, 5);
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t a = 0; a < COUNT(activations); ++a) {
            tables.at[v].activation_grad_f32((qb_activation)a, x, dy, LENGTH, dx);
            CHECK(same_hash("activation_grad_f32", hash_floats(hash_start, dx, LENGTH), activations[a].hash));
        }
    }
}

/* The limit itself, or within the 5 ulp of mish, whose quotient is not rounded to 1. */
static int
is_slope(qb_activation activation, float slope, float limit)
{
    return slope == limit || (activation == QB_ACTIVATION_MISH && fabsf(slope - limit) <= 5.0f * FLT_EPSILON);
}

static void
test_slopes_have_their_limits(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t a = 0; a < COUNT(activations); ++a) {
            const float x[] = {INFINITY, FLT_MAX, -INFINITY, -FLT_MAX};
            const float dy[] = {1.0f, 1.0f, 1.0f, 1.0f};
            float dx[COUNT(x)];
            tables.at[v].activation_grad_f32((qb_activation)a, x, dy, COUNT(x), dx);
            for (size_t i = 0; i < COUNT(x); ++i) {
                const float limit = i < 2 ? activations[a].at_infinity : activations[a].at_minus_infinity;
                CHECK(is_slope((qb_activation)a, dx[i], limit));
            }
        }
    }
}

/* The identity's slope does not look at x. */
static void
test_nan_stays(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t a = 0; a < COUNT(activations); ++a) {
            const float x[] = {NAN, -NAN, 1.0f, -1.0f, 0.0f, 1e30f, -1e30f};
            const float dy[] = {1.0f, 0.0f, NAN, -NAN, NAN, NAN, NAN};
            float dx[COUNT(x)];
            tables.at[v].activation_grad_f32((qb_activation)a, x, dy, COUNT(x), dx);
            for (size_t i = 0; i < COUNT(x); ++i) {
                CHECK(isnan(dx[i]) || (a == QB_ACTIVATION_NONE && i < 2 && dx[i] == dy[i]));
            }
        }
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits_and_output_may_be_an_input);
    RUN(test_bits_agree_over_all_exponents);
    RUN(test_bits_are_the_same_on_every_machine);
    RUN(test_slopes_have_their_limits);
    RUN(test_nan_stays);
    return check_report();
}
