/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

enum { PARAMETER, GRADIENT, FIRST, SECOND, ARRAYS };

typedef struct step_case {
    size_t n;
    guarded array[ARRAYS];
} step_case;

static float *
floats(const step_case *c, size_t which)
{
    return guarded_floats(&c->array[which]);
}

/* Second moments have no sign but where `kind` is INPUT_ANY. */
static step_case
step_case_make(size_t n, check_input kind)
{
    step_case made = {.n = n};
    for (size_t a = 0; a < ARRAYS; ++a) {
        made.array[a] = guarded_make(n * sizeof(float), 4 * a);
        check_fill(floats(&made, a), n, kind, n + a);
    }
    for (size_t i = 0; i < n && kind != INPUT_ANY; ++i) {
        floats(&made, SECOND)[i] = fabsf(floats(&made, SECOND)[i]);
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
run(size_t v, const step_case *c, const qb_adamw *step)
{
    tables.at[v].adamw_f32(floats(c, PARAMETER), floats(c, GRADIENT), floats(c, FIRST), floats(c, SECOND), c->n, step);
}

/* The scalars of step t as PyTorch computes them. */
static qb_adamw
step_of(double lr, double beta1, double beta2, double eps, double weight_decay, int t)
{
    return (qb_adamw){.decay = (float)(1.0 - lr * weight_decay),
                      .first_weight = (float)(1.0 - beta1),
                      .second_decay = (float)beta2,
                      .second_weight = (float)(1.0 - beta2),
                      .correction = (float)sqrt(1.0 - pow(beta2, t)),
                      .eps = (float)eps,
                      .step_size = (float)(lr / (1.0 - pow(beta1, t)))};
}

static void
test_every_variant_gives_the_references_bits(void)
{
    const qb_adamw steps[] = {step_of(1e-3, 0.9, 0.999, 1e-8, 0.01, 1), step_of(5e-5, 0.3, 0.95, 1e-6, 0.0, 1000),
                              step_of(0.0, 0.5, 0.0, 0.0, 0.1, 7)};
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                for (size_t s = 0; s < COUNT(steps); ++s) {
                    step_case expected = step_case_make(check_lengths[l], (check_input)kind);
                    step_case found = step_case_make(check_lengths[l], (check_input)kind);
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

/* Three steps from moments of 0, run by torch.optim.AdamW of PyTorch 2.15 on x86-64 (lr 1e-3, eps 1e-8): hashes of the
 * moments, and the first parameters.  Their square roots may differ by one unit in the last place, which moves an
 * update of 1e-3 by less than half a unit of a parameter above 1e-2; rounding can make one unit of that, in each of
 * three steps. */
static void
test_three_steps_are_those_of_pytorch(void)
{
    enum { LENGTH = 64, SHOWN = 6 };
    static const struct {
        double beta1, beta2, weight_decay;
        uint64_t first, second;
        float parameters[SHOWN];
    } runs[] = {
        {0.9,
         0.999,
         0.01,
         0x17089f17748f4d5bu,
         0x2500aa7ae49c073cu,
         {0x1.f5e3eep-2f, -0x1.d210b8p-4f, 0x1.0c2a16p-1f, 0x1.6165eap-5f, 0x1.2d693ap-1f, 0x1.b4a6f2p-3f}},
        {0.3,
         0.95,
         0.0,
         0x3d0f8d35894ed41eu,
         0x70106f9773055e71u,
         {0x1.f60176p-2f, -0x1.d182ccp-4f, 0x1.0ca79cp-1f, 0x1.61c47cp-5f, 0x1.2d60a8p-1f, 0x1.b363bp-3f}},
    };
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t r = 0; r < COUNT(runs); ++r) {
            float p[LENGTH], g[LENGTH], first[LENGTH] = {0}, second[LENGTH] = {0};
            check_fill(p, LENGTH, INPUT_UNIFORM, 1);
            for (int t = 1; t <= 3; ++t) {
                const qb_adamw step = step_of(1e-3, runs[r].beta1, runs[r].beta2, 1e-8, runs[r].weight_decay, t);
                check_fill(g, LENGTH, INPUT_UNIFORM, 9 + (unsigned)t);
                tables.at[v].adamw_f32(p, g, first, second, LENGTH, &step);
            }
            CHECK(same_hash("first moment", hash_floats(hash_start, first, LENGTH), runs[r].first));
            CHECK(same_hash("second moment", hash_floats(hash_start, second, LENGTH), runs[r].second));
            for (size_t i = 0; i < SHOWN; ++i) {
                const float unit = nextafterf(fabsf(p[i]), INFINITY) - fabsf(p[i]);
                CHECK(fabsf(p[i] - runs[r].parameters[i]) <= 3.0f * unit);
            }
        }
    }
}

/* u = 2^-24.  m rounds the difference, weighted by w, and itself; v, a sum of two positive products, each term once and
 * itself.  The divisor has the share 4 u: half of v's 2 u, and one each of sqrt, / and +.  The quotient adds one of its
 * product and one of its own, and the parameter rounds its decay and itself. */
static void
test_a_step_is_close_to_the_formula(void)
{
    const long double u = 0x1p-24L;
    const qb_adamw steps[] = {step_of(1e-3, 0.9, 0.999, 1e-8, 0.01, 1), step_of(1e-1, 0.3, 0.95, 1e-6, 0.1, 20)};
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t s = 0; s < COUNT(steps); ++s) {
            const qb_adamw *step = &steps[s];
            step_case before = step_case_make(4099, INPUT_UNIFORM);
            step_case after = step_case_make(4099, INPUT_UNIFORM);
            run(v, &after, step);
            int close = 1;
            for (size_t i = 0; i < after.n; ++i) {
                const long double g = (long double)floats(&before, GRADIENT)[i];
                const long double old = (long double)floats(&before, FIRST)[i];
                const long double w = (long double)step->first_weight;
                const long double wide_v = (long double)step->second_weight;
                const long double m = old + w * (g - old);
                const long double second =
                    wide_v * g * g + (long double)step->second_decay * (long double)floats(&before, SECOND)[i];
                const long double divisor = sqrtl(second) / (long double)step->correction + (long double)step->eps;
                const long double pace = (long double)step->step_size / divisor;
                const long double kept = (long double)floats(&before, PARAMETER)[i] * (long double)step->decay;
                const long double p = kept - pace * m;
                const long double error_m =
                    u * (fabsl(w < 0.5L ? w * (g - old) : (1.0L - w) * (g - old)) + 2.0L * fabsl(m));
                const long double error_p = pace * (error_m + 7.0L * u * fabsl(m)) + u * (fabsl(kept) + fabsl(p));
                close = close && fabsl((long double)floats(&after, FIRST)[i] - m) <= error_m;
                close = close && fabsl((long double)floats(&after, SECOND)[i] - second) <= 2.0L * u * second;
                close = close && fabsl((long double)floats(&after, PARAMETER)[i] - p) <= error_p;
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
    const qb_adamw step = step_of(1e-3, 0.9, 0.999, 1e-8, 0.01, 1);
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at < 37; ++at) {
            step_case c = step_case_make(37, INPUT_UNIFORM);
            floats(&c, GRADIENT)[at] = NAN;
            run(v, &c, &step);
            int as_promised = 1;
            for (size_t i = 0; i < c.n; ++i) {
                for (size_t a = 0; a < ARRAYS; ++a) {
                    as_promised = as_promised && !isnan(floats(&c, a)[i]) == (i != at);
                }
            }
            CHECK(as_promised);
            step_case_free(&c);
        }
    }
}

static void
test_nothing_moves_without_gradient_and_decay(void)
{
    const qb_adamw step = step_of(1e-3, 0.9, 0.999, 1e-8, 0.0, 1);
    for (size_t v = 0; v < tables.count; ++v) {
        float p[21], kept[21], zeros[21] = {0}, first[21] = {0}, second[21] = {0};
        check_fill(p, COUNT(p), INPUT_UNIFORM, 1);
        memcpy(kept, p, sizeof p);
        tables.at[v].adamw_f32(p, zeros, first, second, COUNT(p), &step);
        CHECK(memcmp(p, kept, sizeof p) == 0);
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_three_steps_are_those_of_pytorch);
    RUN(test_a_step_is_close_to_the_formula);
    RUN(test_a_nan_gradient_spoils_its_element_and_no_other);
    RUN(test_nothing_moves_without_gradient_and_decay);
    return check_report();
}
