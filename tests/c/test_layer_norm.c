/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

/* All operands of one case; every kernel of the stem runs on them. */
typedef struct norm_case {
    size_t rows, columns, n;
    guarded a, b, weight, bias, codes_a, codes_b, expected, found;
} norm_case;

static norm_case
norm_case_make(size_t rows, size_t columns, check_input kind)
{
    norm_case made = {.rows = rows, .columns = columns, .n = rows * columns};
    made.a = guarded_make(made.n * sizeof(float), 4);
    made.b = guarded_make(made.n * sizeof(float), 8);
    made.weight = guarded_make(columns * sizeof(float), 12);
    made.bias = guarded_make(columns * sizeof(float), 20);
    made.codes_a = guarded_make(made.n, 1);
    made.codes_b = guarded_make(made.n, 3);
    made.expected = guarded_make(made.n * sizeof(float), 0);
    made.found = guarded_make(made.n * sizeof(float), 28);
    check_fill(guarded_floats(&made.a), made.n, kind, columns + 1);
    check_fill(guarded_floats(&made.b), made.n, kind, columns + 2);
    check_fill(guarded_floats(&made.weight), columns, INPUT_WIDE, 3);
    check_fill(guarded_floats(&made.bias), columns, INPUT_UNIFORM, 4);
    unsigned long long seed = columns;
    for (size_t i = 0; i < made.n; ++i) {
        made.codes_a.data[i] = (unsigned char)(check_random(&seed) >> 40);
        made.codes_b.data[i] = (unsigned char)(check_random(&seed) >> 40);
    }
    return made;
}

static void
norm_case_free(norm_case *c)
{
    guarded_free(&c->a);
    guarded_free(&c->b);
    guarded_free(&c->weight);
    guarded_free(&c->bias);
    guarded_free(&c->codes_a);
    guarded_free(&c->codes_b);
    guarded_free(&c->expected);
    guarded_free(&c->found);
}

static void
run_plain(size_t v, const norm_case *c, float *y)
{
    tables.at[v].layer_norm_f32(guarded_floats(&c->a), c->rows, c->columns, guarded_floats(&c->weight),
                                guarded_floats(&c->bias), 1e-12f, y);
}

static void
run_sum(size_t v, const norm_case *c, float *y)
{
    tables.at[v].add_layer_norm_f32(guarded_floats(&c->a), guarded_floats(&c->b), c->rows, c->columns,
                                    guarded_floats(&c->weight), guarded_floats(&c->bias), 1e-5f, y);
}

static void
run_codes(size_t v, const norm_case *c, float *y)
{
    tables.at[v].add_layer_norm_qs8((const int8_t *)(const void *)c->codes_a.data, 0.031f,
                                    (const int8_t *)(const void *)c->codes_b.data, 0.0173f, c->rows, c->columns,
                                    guarded_floats(&c->weight), guarded_floats(&c->bias), 1e-12f, y);
}

static void
bits_case(size_t v, size_t rows, size_t columns, check_input kind)
{
    norm_case c = norm_case_make(rows, columns, kind);
    float *expected = guarded_floats(&c.expected);
    float *found = guarded_floats(&c.found);
    run_codes(0, &c, expected);
    run_codes(v, &c, found);
    CHECK(same_floats(found, expected, c.n));
    run_sum(0, &c, expected);
    run_sum(v, &c, found);
    CHECK(same_floats(found, expected, c.n));
    run_plain(0, &c, expected);
    run_plain(v, &c, found);
    CHECK(same_floats(found, expected, c.n));
    norm_case_free(&c);
}

static void
test_every_variant_gives_the_references_bits(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                bits_case(v, l % 3 == 0 ? 9 : 6, check_lengths[l], (check_input)kind);
            }
        }
        for (size_t rows = 0; rows < 6; ++rows) {
            bits_case(v, rows, 100, INPUT_UNIFORM);
        }
    }
}

static void
test_output_may_be_an_input(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t columns = 16; columns < 64; columns += 21) {
            norm_case c = norm_case_make(7, columns, INPUT_UNIFORM);
            const size_t bytes = c.n * sizeof(float);
            float *expected = guarded_floats(&c.expected);
            float *found = guarded_floats(&c.found);
            run_plain(v, &c, expected);
            memcpy(found, c.a.data, bytes);
            run_plain(v, &c, guarded_floats(&c.a));
            CHECK(same_floats(guarded_floats(&c.a), expected, c.n));
            memcpy(c.a.data, found, bytes);
            run_sum(v, &c, expected);
            run_sum(v, &c, guarded_floats(&c.a));
            CHECK(same_floats(guarded_floats(&c.a), expected, c.n));
            memcpy(c.a.data, found, bytes);
            run_sum(v, &c, guarded_floats(&c.b));
            CHECK(same_floats(guarded_floats(&c.b), expected, c.n));
            norm_case_free(&c);
        }
    }
}

/* A constant row has d = 0 up to the rounding of its mean, and fma(0 * rstd, weight, bias) is the bias. */
static void
test_a_constant_row_gives_the_bias(void)
{
    enum { COLUMNS = 64 };
    float x[COLUMNS], weight[COLUMNS], bias[COLUMNS], y[COLUMNS];
    for (size_t c = 0; c < COLUMNS; ++c) {
        x[c] = 3.25f; /* 64 of them add up exactly */
        weight[c] = 2.0f;
        bias[c] = (float)c - 7.5f;
    }
    for (size_t v = 0; v < tables.count; ++v) {
        tables.at[v].layer_norm_f32(x, 1, COLUMNS, weight, bias, 1e-12f, y);
        CHECK(memcmp(y, bias, sizeof y) == 0);
    }
}

/* Rows of order 1: mean and variance are sums of n / 16 + 4 roundings, so each is good to (n / 16 + 6) * 2^-24 of the
 * sums of magnitudes; d, rstd and the last two operations add a few more.  |y| stays below 4. */
static void
test_rows_are_close_to_the_truth(void)
{
    enum { COLUMNS = 768 };
    const double bound = 4.0 * 2.0 * (COLUMNS / 16.0 + 10.0) * 0x1p-24;
    norm_case c = norm_case_make(5, COLUMNS, INPUT_UNIFORM);
    check_fill(guarded_floats(&c.weight), COLUMNS, INPUT_UNIFORM, 8);
    const float *x = guarded_floats(&c.a);
    for (size_t v = 0; v < tables.count; ++v) {
        run_plain(v, &c, guarded_floats(&c.found));
        double worst = 0.0;
        for (size_t r = 0; r < c.rows; ++r) {
            double mean = 0.0;
            double variance = 0.0;
            for (size_t i = 0; i < COLUMNS; ++i) {
                mean += (double)x[r * COLUMNS + i] / COLUMNS;
            }
            for (size_t i = 0; i < COLUMNS; ++i) {
                const double d = (double)x[r * COLUMNS + i] - mean;
                variance += d * d / COLUMNS;
            }
            for (size_t i = 0; i < COLUMNS; ++i) {
                const double truth = ((double)x[r * COLUMNS + i] - mean) / sqrt(variance + 1e-12) *
                                         (double)guarded_floats(&c.weight)[i] +
                                     (double)guarded_floats(&c.bias)[i];
                const double error = fabs((double)guarded_floats(&c.found)[r * COLUMNS + i] - truth);
                worst = error > worst ? error : worst;
            }
        }
        CHECK(worst <= bound);
    }
    norm_case_free(&c);
}

/* Recorded on x86-64; other machines must compute the same. */
static void
test_bits_are_the_same_on_every_machine(void)
{
    norm_case c = norm_case_make(6, 333, INPUT_UNIFORM);
    float *y = guarded_floats(&c.found);
    for (size_t v = 0; v < tables.count; ++v) {
        run_plain(v, &c, y);
        uint64_t hash = hash_floats(hash_start, y, c.n);
        run_sum(v, &c, y);
        hash = hash_floats(hash, y, c.n);
        run_codes(v, &c, y);
        CHECK(same_hash("layer_norm", hash_floats(hash, y, c.n), 0x1dc0af737e41bb6fu));
    }
    norm_case_free(&c);
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_output_may_be_an_input);
    RUN(test_a_constant_row_gives_the_bias);
    RUN(test_bits_are_the_same_on_every_machine);
    RUN(test_rows_are_close_to_the_truth);
    return check_report();
}
