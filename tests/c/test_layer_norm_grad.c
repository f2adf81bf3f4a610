/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

typedef struct grad_case {
    size_t rows, columns, n;
    guarded x, dy, weight, dx, mean, rstd;
} grad_case;

static grad_case
grad_case_make(size_t rows, size_t columns, check_input kind)
{
    grad_case made = {.rows = rows, .columns = columns, .n = rows * columns};
    made.x = guarded_make(made.n * sizeof(float), 4);
    made.dy = guarded_make(made.n * sizeof(float), 8);
    made.weight = guarded_make(columns * sizeof(float), 12);
    made.dx = guarded_make(made.n * sizeof(float), 28);
    made.mean = guarded_make(rows * sizeof(float), 4);
    made.rstd = guarded_make(rows * sizeof(float), 20);
    check_fill(guarded_floats(&made.x), made.n, kind, columns + 1);
    check_fill(guarded_floats(&made.dy), made.n, kind, columns + 2);
    check_fill(guarded_floats(&made.weight), columns, kind == INPUT_DENORMAL ? kind : INPUT_UNIFORM, 3);
    return made;
}

static void
grad_case_free(grad_case *c)
{
    guarded_free(&c->x);
    guarded_free(&c->dy);
    guarded_free(&c->weight);
    guarded_free(&c->dx);
    guarded_free(&c->mean);
    guarded_free(&c->rstd);
}

static void
run(size_t v, const grad_case *c, float eps, float *dx)
{
    tables.at[v].layer_norm_grad_f32(guarded_floats(&c->x), guarded_floats(&c->dy), c->rows, c->columns,
                                     guarded_floats(&c->weight), eps, dx, guarded_floats(&c->mean),
                                     guarded_floats(&c->rstd));
}

static void
bits_case(size_t v, size_t rows, size_t columns, check_input kind, float eps)
{
    grad_case expected = grad_case_make(rows, columns, kind);
    grad_case found = grad_case_make(rows, columns, kind);
    run(0, &expected, eps, guarded_floats(&expected.dx));
    run(v, &found, eps, guarded_floats(&found.dx));
    CHECK(same_floats(guarded_floats(&found.dx), guarded_floats(&expected.dx), expected.n));
    CHECK(same_floats(guarded_floats(&found.mean), guarded_floats(&expected.mean), rows));
    CHECK(same_floats(guarded_floats(&found.rstd), guarded_floats(&expected.rstd), rows));
    grad_case_free(&expected);
    grad_case_free(&found);
}

static void
test_every_variant_gives_the_references_bits(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                bits_case(v, l % 3 == 0 ? 9 : 6, check_lengths[l], (check_input)kind, l % 2 == 0 ? 1e-12f : 0.0f);
            }
        }
        for (size_t rows = 0; rows < 6; ++rows) {
            bits_case(v, rows, 100, INPUT_UNIFORM, 1e-5f);
        }
    }
}

static void
columns_case(size_t v, size_t rows, size_t columns, size_t gap, check_input kind)
{
    const size_t stride = columns + gap;
    grad_case c = grad_case_make(rows, stride, kind);
    run(0, &c, 1e-12f, guarded_floats(&c.dx));
    guarded sums[4];
    for (size_t i = 0; i < COUNT(sums); ++i) {
        sums[i] = guarded_make(columns * sizeof(float), 4 * i);
        check_fill(guarded_floats(&sums[i]), columns, kind, 9 + i / 2);
    }
    for (size_t absent = 0; absent < 3; ++absent) {
        for (size_t i = 0; i < 2; ++i) {
            tables.at[i == 0 ? 0 : v].layer_norm_grad_columns_f32(
                guarded_floats(&c.x), guarded_floats(&c.dy), rows, columns, stride, guarded_floats(&c.mean),
                guarded_floats(&c.rstd), absent == 1 ? NULL : guarded_floats(&sums[i]),
                absent == 2 ? NULL : guarded_floats(&sums[2 + i]));
        }
        CHECK(same_floats(guarded_floats(&sums[1]), guarded_floats(&sums[0]), columns));
        CHECK(same_floats(guarded_floats(&sums[3]), guarded_floats(&sums[2]), columns));
    }
    for (size_t i = 0; i < COUNT(sums); ++i) {
        guarded_free(&sums[i]);
    }
    grad_case_free(&c);
}

static void
test_every_variant_gives_the_references_bits_in_columns(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                columns_case(v, l % 3 == 0 ? 9 : 6, check_lengths[l], l % 4, (check_input)kind);
            }
        }
        for (size_t rows = 0; rows < 6; ++rows) {
            columns_case(v, rows, 50, 3, INPUT_UNIFORM);
        }
    }
}

static void
test_output_may_be_an_input(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t columns = 16; columns < 64; columns += 21) {
            grad_case c = grad_case_make(7, columns, INPUT_UNIFORM);
            run(v, &c, 1e-12f, guarded_floats(&c.dx));
            guarded kept = guarded_make(c.dy.bytes, 0);
            memcpy(kept.data, c.dy.data, c.dy.bytes);
            run(v, &c, 1e-12f, guarded_floats(&c.dy));
            CHECK(same_floats(guarded_floats(&c.dy), guarded_floats(&c.dx), c.n));
            memcpy(c.dy.data, kept.data, c.dy.bytes);
            run(v, &c, 1e-12f, guarded_floats(&c.x));
            CHECK(same_floats(guarded_floats(&c.x), guarded_floats(&c.dx), c.n));
            guarded_free(&kept);
            grad_case_free(&c);
        }
    }
}

/* y = fma((x - mean) * rstd, weight, bias) with the stored mean and rstd has the bits of the forward. */
static void
test_statistics_are_those_of_the_forward(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        grad_case c = grad_case_make(6, 333, INPUT_UNIFORM);
        run(v, &c, 1e-5f, guarded_floats(&c.dx));
        float *y = guarded_floats(&c.dy);
        tables.at[v].layer_norm_f32(guarded_floats(&c.x), c.rows, c.columns, guarded_floats(&c.weight),
                                    guarded_floats(&c.weight), 1e-5f, y);
        for (size_t i = 0; i < c.n; ++i) {
            const size_t row = i / c.columns;
            const float weight = guarded_floats(&c.weight)[i % c.columns];
            const float h = (guarded_floats(&c.x)[i] - guarded_floats(&c.mean)[row]) * guarded_floats(&c.rstd)[row];
            guarded_floats(&c.dx)[i] = fmaf(h, weight, weight);
        }
        CHECK(same_floats(guarded_floats(&c.dx), y, c.n));
        grad_case_free(&c);
    }
}

static void
test_column_sums_do_not_depend_on_how_rows_and_columns_are_split(void)
{
    enum { ROWS = 23, COLUMNS = 75 };
    for (size_t v = 0; v < tables.count; ++v) {
        grad_case c = grad_case_make(ROWS, COLUMNS, INPUT_UNIFORM);
        const float *x = guarded_floats(&c.x);
        const float *dy = guarded_floats(&c.dy);
        float whole[2][COLUMNS] = {{0}};
        float split[2][COLUMNS] = {{0}};
        run(v, &c, 1e-12f, guarded_floats(&c.dx));
        const float *mean = guarded_floats(&c.mean);
        const float *rstd = guarded_floats(&c.rstd);
        tables.at[v].layer_norm_grad_columns_f32(x, dy, ROWS, COLUMNS, COLUMNS, mean, rstd, whole[0], whole[1]);
        const size_t rows[] = {0, 1, 6, 6, 17, ROWS};
        const size_t columns[] = {0, 5, 21, 64, COLUMNS};
        for (size_t i = 0; i + 1 < COUNT(rows); ++i) {
            for (size_t j = 0; j + 1 < COUNT(columns); ++j) {
                const size_t at = rows[i] * COLUMNS + columns[j];
                tables.at[v].layer_norm_grad_columns_f32(x + at, dy + at, rows[i + 1] - rows[i],
                                                         columns[j + 1] - columns[j], COLUMNS, mean + rows[i],
                                                         rstd + rows[i], split[0] + columns[j], split[1] + columns[j]);
            }
        }
        CHECK(same_floats(split[0], whole[0], 2 * (size_t)COLUMNS));
        grad_case_free(&c);
    }
}

static void
test_a_nan_makes_its_row_nan_and_no_other(void)
{
    enum { COLUMNS = 37, ROWS = 6 };
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at < COLUMNS; ++at) {
            for (int in_dy = 0; in_dy < 2; ++in_dy) {
                grad_case c = grad_case_make(ROWS, COLUMNS, INPUT_UNIFORM);
                guarded_floats(in_dy ? &c.dy : &c.x)[2 * COLUMNS + at] = NAN;
                run(v, &c, 1e-12f, guarded_floats(&c.dx));
                int as_promised = 1;
                for (size_t i = 0; i < c.n; ++i) {
                    as_promised = as_promised && !isnan(guarded_floats(&c.dx)[i]) == (i / COLUMNS != 2);
                }
                CHECK(as_promised);
                grad_case_free(&c);
            }
        }
    }
}

/* dy * weight underflows to -0 in every lane and the elements that follow keep that, so its mean is -0.  Then g - mean
 * is +0 where dy is -0, and stays +0 where -h * b is -0, that is, where x is above its mean; with a mean of +0 it would
 * be -0. */
static void
test_lanes_without_an_element_do_not_change_the_sign_of_a_sum(void)
{
    enum { COLUMNS = 33 };
    for (size_t v = 0; v < tables.count; ++v) {
        float x[COLUMNS], dy[COLUMNS], weight[COLUMNS], dx[COLUMNS], mean, rstd;
        check_fill(x, COLUMNS, INPUT_UNIFORM, 2);
        for (size_t c = 0; c < COLUMNS; ++c) {
            weight[c] = 0x1p-100f;
            dy[c] = c < 16 ? -0x1p-100f : -0.0f;
        }
        tables.at[v].layer_norm_grad_f32(x, dy, 1, COLUMNS, weight, 1e-5f, dx, &mean, &rstd);
        int positive = 1;
        for (size_t c = 16; c < COLUMNS; ++c) {
            positive = positive && (x[c] < mean || float_bits(dx[c]) == 0);
        }
        CHECK(positive);
    }
}

/* The squares of a tiny row underflow, so rstd is infinite with eps = 0, and so are h and the sum of g * h; a lane
 * without an element would add 0 * infinity. */
static void
test_lanes_without_an_element_do_not_make_an_infinite_sum_nan(void)
{
    enum { COLUMNS = 34 };
    for (size_t v = 0; v < tables.count; ++v) {
        float x[COLUMNS], dy[COLUMNS], weight[COLUMNS], dx[COLUMNS], mean, rstd;
        for (size_t c = 0; c < COLUMNS; ++c) {
            x[c] = c % 2 == 0 ? 0x1p-100f : -0x1p-100f;
            dy[c] = c % 2 == 0 ? 1.0f : -1.0f;
            weight[c] = 1.0f;
        }
        tables.at[v].layer_norm_grad_f32(x, dy, 1, COLUMNS, weight, 0.0f, dx, &mean, &rstd);
        int infinite = isinf(rstd);
        for (size_t c = 0; c < COLUMNS; ++c) {
            infinite = infinite && isinf(dx[c]);
        }
        CHECK(infinite);
    }
}

/* ---- truth ----------------------------------------------------------------------------------------------------------
 */

enum { TRUE_COLUMNS = 768 };

static long double
true_loss(const long double *x, const long double *dy, const long double *weight, size_t columns)
{
    long double mean = 0.0L;
    long double variance = 0.0L;
    long double loss = 0.0L;
    for (size_t c = 0; c < columns; ++c) {
        mean += x[c] / (long double)columns;
    }
    for (size_t c = 0; c < columns; ++c) {
        variance += (x[c] - mean) * (x[c] - mean) / (long double)columns;
    }
    for (size_t c = 0; c < columns; ++c) {
        loss += dy[c] * weight[c] * (x[c] - mean) / sqrtl(variance + 1e-5L);
    }
    return loss;
}

/* The gradient of one row in long double, and the sums of magnitudes from which the bound is made. */
typedef struct true_row {
    long double dx[TRUE_COLUMNS], h[TRUE_COLUMNS];
    long double rstd, a, b, mean_x, mean_g, mean_gh; /* the last three: means of magnitudes */
} true_row;

static void
true_row_fill(true_row *t, const long double *x, const long double *dy, const long double *weight, size_t columns)
{
    const long double n = (long double)columns;
    long double mean = 0.0L;
    long double variance = 0.0L;
    t->a = t->b = t->mean_x = t->mean_g = t->mean_gh = 0.0L;
    for (size_t c = 0; c < columns; ++c) {
        mean += x[c] / n;
        t->mean_x += fabsl(x[c]) / n;
    }
    for (size_t c = 0; c < columns; ++c) {
        variance += (x[c] - mean) * (x[c] - mean) / n;
    }
    t->rstd = 1.0L / sqrtl(variance + 1e-5L);
    for (size_t c = 0; c < columns; ++c) {
        const long double g = dy[c] * weight[c];
        t->h[c] = (x[c] - mean) * t->rstd;
        t->a += g / n;
        t->b += g * t->h[c] / n;
        t->mean_g += fabsl(g) / n;
        t->mean_gh += fabsl(g * t->h[c]) / n;
    }
    for (size_t c = 0; c < columns; ++c) {
        t->dx[c] = t->rstd * (dy[c] * weight[c] - t->a - t->h[c] * t->b);
    }
}

static void
widen(const float *x, size_t n, long double *wide)
{
    for (size_t i = 0; i < n; ++i) {
        wide[i] = (long double)x[i];
    }
}

/* With step s = 2^-16 a central difference is off by s^2 / 6 times the third derivative, which is below 100 for rows of
 * order 1, so by less than 4e-9, and by the rounding of a sum of magnitude 40, 40 * 40 * 2^-63 / s < 2e-11. */
static void
test_the_formula_is_the_slope_of_the_forward(void)
{
    enum { COLUMNS = 37 };
    static true_row t;
    float narrow[COLUMNS];
    long double x[COLUMNS], dy[COLUMNS], weight[COLUMNS];
    for (unsigned long long seed = 0; seed < 20; ++seed) {
        check_fill(narrow, COLUMNS, INPUT_UNIFORM, 3 * seed);
        widen(narrow, COLUMNS, x);
        check_fill(narrow, COLUMNS, INPUT_UNIFORM, 3 * seed + 1);
        widen(narrow, COLUMNS, dy);
        check_fill(narrow, COLUMNS, INPUT_UNIFORM, 3 * seed + 2);
        widen(narrow, COLUMNS, weight);
        true_row_fill(&t, x, dy, weight, COLUMNS);
        for (size_t c = 0; c < COLUMNS; ++c) {
            const long double kept = x[c];
            x[c] = kept + 0x1p-16L;
            const long double above = true_loss(x, dy, weight, COLUMNS);
            x[c] = kept - 0x1p-16L;
            const long double below = true_loss(x, dy, weight, COLUMNS);
            x[c] = kept;
            CHECK(fabsl((above - below) * 0x1p15L - t.dx[c]) <= 5e-9L);
        }
    }
}

/* u = 2^-24.  A mean of n terms in 16 lanes takes n / 16 + 5 roundings of at most the mean of magnitudes: K = (n / 16 +
 * 6) u with the rounding of the terms.  The mean is off by K mean|x|; its effect on the variance is of second order, so
 * rstd is off by a share of K / 2 + 3 u, and h by rstd K mean|x| + |h| (K / 2 + 5 u).  a is off by K mean|g|, b by K
 * mean|gh| + mean|g| max(error of h), and the last operations round what they combine. */
static void
test_gradients_are_close_to_the_truth(void)
{
    const long double u = 0x1p-24L;
    const long double k = (TRUE_COLUMNS / 16.0L + 6.0L) * u;
    static true_row t;
    static long double x[TRUE_COLUMNS], dy[TRUE_COLUMNS], weight[TRUE_COLUMNS];
    grad_case c = grad_case_make(5, TRUE_COLUMNS, INPUT_UNIFORM);
    widen(guarded_floats(&c.weight), TRUE_COLUMNS, weight);
    for (size_t v = 0; v < tables.count; ++v) {
        run(v, &c, 1e-5f, guarded_floats(&c.dx));
        long double worst = 0.0L;
        for (size_t r = 0; r < c.rows; ++r) {
            widen(guarded_floats(&c.x) + r * TRUE_COLUMNS, TRUE_COLUMNS, x);
            widen(guarded_floats(&c.dy) + r * TRUE_COLUMNS, TRUE_COLUMNS, dy);
            true_row_fill(&t, x, dy, weight, TRUE_COLUMNS);
            long double largest_h = 0.0L;
            for (size_t i = 0; i < TRUE_COLUMNS; ++i) {
                largest_h = fabsl(t.h[i]) > largest_h ? fabsl(t.h[i]) : largest_h;
            }
            const long double error_h = t.rstd * k * t.mean_x + largest_h * (k / 2.0L + 5.0L * u);
            const long double error_b = k * t.mean_gh + t.mean_g * error_h;
            for (size_t i = 0; i < TRUE_COLUMNS; ++i) {
                const long double terms = fabsl(dy[i] * weight[i]) + fabsl(t.a) + fabsl(t.h[i] * t.b);
                const long double inner =
                    k * t.mean_g + fabsl(t.b) * error_h + fabsl(t.h[i]) * error_b + 3.0L * u * terms;
                const long double bound = t.rstd * inner + fabsl(t.dx[i]) * (k / 2.0L + 4.0L * u);
                const long double found = (long double)guarded_floats(&c.dx)[r * TRUE_COLUMNS + i];
                const long double share = fabsl(found - t.dx[i]) / bound;
                worst = share > worst ? share : worst;
            }
        }
        CHECK(worst <= 1.0L);
    }
    grad_case_free(&c);
}

/* Each row adds |dy| (error of h) and one rounding of the running sum, which stays below the sum of magnitudes. */
static void
test_parameter_gradients_are_close_to_the_truth(void)
{
    enum { ROWS = 61 };
    const long double u = 0x1p-24L;
    const long double k = (TRUE_COLUMNS / 16.0L + 6.0L) * u;
    static true_row t;
    static long double x[TRUE_COLUMNS], dy[TRUE_COLUMNS], weight[TRUE_COLUMNS];
    static long double truth[2][TRUE_COLUMNS], bound[2][TRUE_COLUMNS];
    grad_case c = grad_case_make(ROWS, TRUE_COLUMNS, INPUT_UNIFORM);
    widen(guarded_floats(&c.weight), TRUE_COLUMNS, weight);
    for (size_t r = 0; r < ROWS; ++r) {
        widen(guarded_floats(&c.x) + r * TRUE_COLUMNS, TRUE_COLUMNS, x);
        widen(guarded_floats(&c.dy) + r * TRUE_COLUMNS, TRUE_COLUMNS, dy);
        true_row_fill(&t, x, dy, weight, TRUE_COLUMNS);
        for (size_t i = 0; i < TRUE_COLUMNS; ++i) {
            const long double error_h = t.rstd * k * t.mean_x + fabsl(t.h[i]) * (k / 2.0L + 5.0L * u);
            truth[0][i] += dy[i] * t.h[i];
            truth[1][i] += dy[i];
            bound[0][i] += fabsl(dy[i]) * error_h + ROWS * u * fabsl(dy[i] * t.h[i]);
            bound[1][i] += ROWS * u * fabsl(dy[i]);
        }
    }
    for (size_t v = 0; v < tables.count; ++v) {
        static float sums[2][TRUE_COLUMNS];
        memset(sums, 0, sizeof sums);
        run(v, &c, 1e-5f, guarded_floats(&c.dx));
        tables.at[v].layer_norm_grad_columns_f32(guarded_floats(&c.x), guarded_floats(&c.dy), ROWS, TRUE_COLUMNS,
                                                 TRUE_COLUMNS, guarded_floats(&c.mean), guarded_floats(&c.rstd),
                                                 sums[0], sums[1]);
        int close = 1;
        for (size_t i = 0; i < TRUE_COLUMNS; ++i) {
            close = close && fabsl((long double)sums[0][i] - truth[0][i]) <= bound[0][i];
            close = close && fabsl((long double)sums[1][i] - truth[1][i]) <= bound[1][i];
        }
        CHECK(close);
    }
    grad_case_free(&c);
}

/* Recorded on x86-64; other machines must compute the same. */
static void
test_bits_are_the_same_on_every_machine(void)
{
    enum { ROWS = 6, COLUMNS = 333 };
    grad_case c = grad_case_make(ROWS, COLUMNS, INPUT_UNIFORM);
    for (size_t v = 0; v < tables.count; ++v) {
        float sums[2][COLUMNS] = {{0}};
        run(v, &c, 1e-12f, guarded_floats(&c.dx));
        tables.at[v].layer_norm_grad_columns_f32(guarded_floats(&c.x), guarded_floats(&c.dy), ROWS, COLUMNS, COLUMNS,
                                                 guarded_floats(&c.mean), guarded_floats(&c.rstd), sums[0], sums[1]);
        const uint64_t hash = hash_floats(hash_start, guarded_floats(&c.dx), c.n);
        CHECK(same_hash("layer_norm_grad", hash_floats(hash, sums[0], 2 * (size_t)COLUMNS), 0xb333a9db78a7e94du));
    }
    grad_case_free(&c);
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_every_variant_gives_the_references_bits_in_columns);
    RUN(test_output_may_be_an_input);
    RUN(test_statistics_are_those_of_the_forward);
    RUN(test_column_sums_do_not_depend_on_how_rows_and_columns_are_split);
    RUN(test_a_nan_makes_its_row_nan_and_no_other);
    RUN(test_lanes_without_an_element_do_not_change_the_sign_of_a_sum);
    RUN(test_lanes_without_an_element_do_not_make_an_infinite_sum_nan);
    RUN(test_the_formula_is_the_slope_of_the_forward);
    RUN(test_gradients_are_close_to_the_truth);
    RUN(test_parameter_gradients_are_close_to_the_truth);
    RUN(test_bits_are_the_same_on_every_machine);
    return check_report();
}
