/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static const qb_sgd steps[] = {
    {.learning_rate = 0.1f},
    {.learning_rate = 0.1f, .weight_decay = 0.01f},
    {.learning_rate = 0.1f, .momentum = 0.9f, .is_first = 1},
    {.learning_rate = 0.1f, .momentum = 0.9f},
    {.learning_rate = 0.1f, .weight_decay = 0.01f, .momentum = 0.9f, .is_nesterov = 1, .is_first = 1},
    {.learning_rate = 0.1f, .weight_decay = 0.01f, .momentum = 0.9f, .is_nesterov = 1},
};

enum { PARAMETER, GRADIENT, MOMENTUM, ARRAYS };

typedef struct step_case {
    size_t n;
    guarded array[ARRAYS];
} step_case;

static float *
floats(const step_case *c, size_t which)
{
    return guarded_floats(&c->array[which]);
}

/* A momentum buffer that holds nothing yet holds NaN here. */
static step_case
step_case_make(size_t n, check_input kind, const qb_sgd *step)
{
    step_case made = {.n = n};
    for (size_t a = 0; a < ARRAYS; ++a) {
        made.array[a] = guarded_make(n * sizeof(float), 4 * a);
        check_fill(floats(&made, a), n, kind, n + a);
    }
    for (size_t i = 0; i < n && step->is_first; ++i) {
        floats(&made, MOMENTUM)[i] = NAN;
    }
    return made;
}

static void
step_case_free(step_case *c)
{
    for (size_t a = 0; a < ARRAYS; ++a) {
        guarded_free(&c->array[a]);
    }
}

static void
run(size_t v, const step_case *c, const qb_sgd *step)
{
    tables.at[v].sgd_f32(floats(c, PARAMETER), floats(c, GRADIENT), step->momentum != 0.0f ? floats(c, MOMENTUM) : NULL,
                         c->n, step);
}

static void
test_every_variant_gives_the_references_bits(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                for (size_t s = 0; s < COUNT(steps); ++s) {
                    step_case expected = step_case_make(check_lengths[l], (check_input)kind, &steps[s]);
                    step_case found = step_case_make(check_lengths[l], (check_input)kind, &steps[s]);
                    run(0, &expected, &steps[s]);
                    run(v, &found, &steps[s]);
                    for (size_t a = 0; a < ARRAYS; ++a) {
                        CHECK(same_floats(floats(&found, a), floats(&expected, a), found.n));
                    }
                    step_case_free(&expected);
                    step_case_free(&found);
                }
            }
        }
    }
}

/* Three steps with lr 0.1, run by torch.optim.SGD of PyTorch 2.15 on x86-64: hashes of parameters and momentum. */
static void
test_three_steps_have_the_bits_of_pytorch(void)
{
    enum { LENGTH = 64 };
    static const struct {
        float momentum, weight_decay;
        int is_nesterov;
        uint64_t parameter, buffer;
    } runs[] = {{0.0f, 0.0f, 0, 0x0e1acb7618eb73b5u, 0},
                {0.9f, 0.01f, 0, 0xcb64d3fd9a727cfau, 0xea9fdd7680f5aeadu},
                {0.9f, 0.01f, 1, 0x31c390aedc340941u, 0xb6cc47785f658aa8u},
                {0.9f, 0.0f, 1, 0xd264dec867cd7facu, 0xcb84a7ac2061935du}};
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t r = 0; r < COUNT(runs); ++r) {
            float p[LENGTH], g[LENGTH], buffer[LENGTH] = {0};
            check_fill(p, LENGTH, INPUT_UNIFORM, 1);
            for (unsigned t = 0; t < 3; ++t) {
                const qb_sgd step = {.learning_rate = 0.1f,
                                     .weight_decay = runs[r].weight_decay,
                                     .momentum = runs[r].momentum,
                                     .is_nesterov = runs[r].is_nesterov,
                                     .is_first = t == 0};
                check_fill(g, LENGTH, INPUT_UNIFORM, 10 + t);
                tables.at[v].sgd_f32(p, g, runs[r].momentum != 0.0f ? buffer : NULL, LENGTH, &step);
            }
            CHECK(same_hash("parameter", hash_floats(hash_start, p, LENGTH), runs[r].parameter));
            CHECK(runs[r].momentum == 0.0f ||
                  same_hash("momentum", hash_floats(hash_start, buffer, LENGTH), runs[r].buffer));
        }
    }
}

/* u = 2^-24: every operation rounds its result, which the bound follows term by term. */
static void
test_a_step_is_close_to_the_formula(void)
{
    const long double u = 0x1p-24L;
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t s = 0; s < COUNT(steps); ++s) {
            const qb_sgd *step = &steps[s];
            const long double mu = (long double)step->momentum;
            step_case before = step_case_make(1023, INPUT_UNIFORM, step);
            step_case after = step_case_make(1023, INPUT_UNIFORM, step);
            run(v, &after, step);
            int close = 1;
            for (size_t i = 0; i < after.n; ++i) {
                const long double p = (long double)floats(&before, PARAMETER)[i];
                long double g = (long double)floats(&before, GRADIENT)[i] + p * (long double)step->weight_decay;
                long double error = step->weight_decay != 0.0f ? u * fabsl(g) : 0.0L;
                if (step->momentum != 0.0f) {
                    const long double kept = step->is_first ? 0.0L : mu * (long double)floats(&before, MOMENTUM)[i];
                    const long double b = kept + g;
                    const long double error_b = error + u * (fabsl(kept) + fabsl(b));
                    close = close && fabsl((long double)floats(&after, MOMENTUM)[i] - b) <= error_b;
                    error = step->is_nesterov ? error + mu * error_b + u * fabsl(g + mu * b) : error_b;
                    g = step->is_nesterov ? g + mu * b : b;
                }
                const long double truth = p - (long double)step->learning_rate * g;
                /* the last term: what the bounds above lose by taking u of exact instead of rounded values */
                const long double bound =
                    (long double)step->learning_rate * error + u * fabsl(truth) + 0x1p-44L * (fabsl(g) + 1.0L);
                close = close && fabsl((long double)floats(&after, PARAMETER)[i] - truth) <= bound;
            }
            CHECK(close);
            step_case_free(&before);
            step_case_free(&after);
        }
    }
}

static void
test_a_nan_gradient_spoils_its_element_and_no_other(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t s = 0; s < COUNT(steps); ++s) {
            for (size_t at = 0; at < 37; ++at) {
                step_case c = step_case_make(37, INPUT_UNIFORM, &steps[s]);
                floats(&c, GRADIENT)[at] = NAN;
                run(v, &c, &steps[s]);
                int as_promised = 1;
                for (size_t i = 0; i < c.n; ++i) {
                    as_promised = as_promised && !isnan(floats(&c, PARAMETER)[i]) == (i != at);
                }
                CHECK(as_promised);
                step_case_free(&c);
            }
        }
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_three_steps_have_the_bits_of_pytorch);
    RUN(test_a_step_is_close_to_the_formula);
    RUN(test_a_nan_gradient_spoils_its_element_and_no_other);
    return check_report();
}
