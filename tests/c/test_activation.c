/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static const qb_activation activations[] = {QB_ACTIVATION_NONE, QB_ACTIVATION_GELU, QB_ACTIVATION_GELU_TANH,
                                            QB_ACTIVATION_RELU, QB_ACTIVATION_SILU, QB_ACTIVATION_TANH};

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
                    activation_case(v, activations[a], check_lengths[l], check_shifts[l % COUNT(check_shifts)],
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
            tables.at[0].activation_f32(activations[a], x, BLOCK, expected);
            for (size_t v = 1; v < tables.count; ++v) {
                tables.at[v].activation_f32(activations[a], x, BLOCK, found);
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
    static const uint64_t recorded[COUNT(activations)] = {0x824bdd0596f02028u, 0x3f74fe5ffa1a7842u,
                                                          0xf18ab09e6bf7268cu, 0x0c4cd73dc1cccb48u,
                                                          0x41a75d3f7536f560u, 0x8aaaed5e3b1c29beu};
    static float x[LENGTH], y[LENGTH];
    for (size_t i = 0; i < LENGTH; ++i) {
        x[i] = float_from_bits((uint32_t)(i * STEP));
    }
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t a = 0; a < COUNT(activations); ++a) {
            tables.at[v].activation_f32(activations[a], x, LENGTH, y);
            CHECK(same_hash("activation_f32", hash_floats(hash_start, y, LENGTH), recorded[a]));
        }
    }
}

static void
test_infinities_have_their_limits_and_nan_stays(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t a = 1; a < COUNT(activations); ++a) {
            const qb_activation activation = activations[a];
            float y[] = {INFINITY, -INFINITY, NAN, -NAN, 0.0f};
            tables.at[v].activation_f32(activation, y, COUNT(y), y);
            CHECK(y[0] == (activation == QB_ACTIVATION_TANH ? 1.0f : INFINITY));
            CHECK(y[1] == (activation == QB_ACTIVATION_TANH ? -1.0f : 0.0f));
            CHECK(isnan(y[2]) && isnan(y[3]));
            CHECK(y[4] == 0.0f);
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
    return check_report();
}
