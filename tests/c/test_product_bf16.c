/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of operands that are rounded to bfloat16: the rounding and the reference against definitions that share no
 * step with them, and how far a product is from that of the floats.  Variants are compared with the reference by
 * test_product.c.
 */
#define _DEFAULT_SOURCE /* product_case.h */
#include "kernels/bf16.h"
#include "product_case.h"

/* ---- the definitions, once more
 * -------------------------------------------------------------------------------------- */

/* x to the nearest number of 8 digits, by comparing distances; what lies beyond the largest one becomes infinite where
 * it would if there were a next one. */
static float
naive_rounded(float x)
{
    if (!isfinite(x)) {
        return x;
    }
    if (fabsf(x) < FLT_MIN) {
        return copysignf(0.0f, x);
    }
    int exponent;
    (void)frexp((double)x, &exponent);
    const double unit = ldexp(1.0, exponent - 8);
    const double below = floor((double)x / unit);
    const double distance = (double)x / unit - below;
    const int is_up = distance > 0.5 || (distance == 0.5 && fmod(below, 2.0) != 0.0);
    const double value = (below + is_up) * unit;
    return fabs(value) >= 0x1p128 ? copysignf(INFINITY, x) : (float)value;
}

/* a * b + sum rounded to 24 digits and any exponent, then flushed: the exact value is a float64 and its error (Knuth),
 * of which the error decides ties. */
static float
naive_multiply_add(float a, float b, float sum)
{
    const double product = (double)a * (double)b; /* exact: 16 digits */
    const double value = product + (double)sum;
    if (!isfinite(value) || value == 0.0) {
        return (float)value;
    }
    const double part = value - product;
    const double error = (product - (value - part)) + ((double)sum - part);
    int exponent;
    (void)frexp(value, &exponent);
    const double unit = ldexp(1.0, exponent - 24);
    const double below = floor(value / unit);
    const double distance = value / unit - below;
    int is_up = distance > 0.5;
    if (distance == 0.5) {
        is_up = error > 0.0 || (error == 0.0 && fmod(below, 2.0) != 0.0);
    }
    const double rounded = (below + is_up) * unit;
    if (fabs(rounded) < (double)FLT_MIN) {
        return copysignf(0.0f, (float)value);
    }
    return fabs(rounded) >= 0x1p128 ? copysignf(INFINITY, (float)value) : (float)rounded;
}

static float
naive_element(const product_case *p, const operands *o, int64_t row, int64_t column)
{
    float sum = 0.0f;
    for (int64_t pair = 0; 2 * pair < p->k; ++pair) {
        for (int64_t odd = 1; odd >= 0; --odd) {
            const int64_t t = 2 * pair + odd;
            const float a = t < p->k ? naive_rounded(o->a[row * p->k + t]) : 0.0f;
            const float b = t < p->k ? naive_rounded(o->b[column * p->k + t]) : 0.0f;
            sum = naive_multiply_add(a, b, sum);
        }
    }
    const float y = p->without_bias ? sum : sum + o->bias[column];
    return p->divisor > 0.0f ? y / p->divisor : y;
}

/* ---- facts
 * ----------------------------------------------------------------------------------------------------------- */

static void
test_rounding_is_to_nearest_even_and_denormals_are_zero(void)
{
    static const uint32_t lower[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    int64_t wrong = 0;
    for (uint32_t upper = 0; upper < 0x10000u; ++upper) {
        for (size_t i = 0; i < COUNT(lower); ++i) {
            const float x = float_from_bits(upper << 16 | lower[i]);
            const uint32_t found = qb_bf16_bits(x);
            if (isnan(x)) {
                wrong += found != (upper | 0x40u); /* quiet, sign and the rest kept */
            }
            else {
                wrong += float_bits(naive_rounded(x)) != found << 16;
            }
        }
    }
    CHECK(wrong == 0);
    CHECK(qb_bf16_pair(1.0f, -2.0f) == 0xc0003f80u);
}

/* Where a sum is about 2^-126 and what is added about its rounding: 2^-126 - 2^-151 is kept, what is below is not. */
static void
fill_ties(const product_case *p, operands *o)
{
    unsigned long long seed = 3;
    for (int64_t i = 0; i < (p->m > p->n ? p->m : p->n) * p->k; ++i) {
        const float at_odd = check_uniform(&seed) < 0.0f ? -0x1p-63f : 0x1p-63f;
        const float at_even = check_uniform(&seed) < 0.0f ? -0x1p-76f : 0x1p-75f;
        const float digits = 1.0f + (float)(check_random(&seed) % 4) * 0.25f;
        const float value = i % p->k % 2 != 0 ? at_odd : at_even * digits;
        if (i < p->m * p->k) {
            o->a[i] = value;
        }
        if (i < p->n * p->k) {
            o->b[i] = i % p->k % 2 != 0 ? at_odd : at_even;
        }
    }
}

static int64_t
count_differing(const product_case *p, const operands *o, const float *c)
{
    int64_t wrong = 0;
    for (int64_t i = 0; i < p->m * p->n; ++i) {
        const float expected = naive_element(p, o, i / p->n, i % p->n);
        wrong += float_bits(c[i]) != float_bits(expected) && !(isnan(c[i]) && isnan(expected));
    }
    return wrong;
}

static void
test_reference_is_the_definition_for_numbers_of_every_kind(void)
{
    static const check_input kinds[] = {INPUT_UNIFORM, INPUT_WIDE, INPUT_DENORMAL, INPUT_FINITE, INPUT_ANY};
    static const int64_t depths[] = {0, 1, 2, 3, 8, 37};
    for (size_t d = 0; d < COUNT(depths); ++d) {
        for (size_t kind = 0; kind <= COUNT(kinds) + 1; ++kind) {
            const product_case p = {.m = 29,
                                    .n = 19,
                                    .k = depths[d],
                                    .a_gap = 3,
                                    .c_gap = 2,
                                    .without_bias = kind % 2 == 0,
                                    .divisor = kind == 1 ? 3.0f : 0.0f};
            operands o = operands_make(&p, 1);
            float c[29 * 19];
            for (int64_t i = 0; kind == COUNT(kinds) && i < p.m * p.k; ++i) {
                o.a[i] *= 0x1p-63f; /* products about 2^-126 */
            }
            for (int64_t i = 0; kind == COUNT(kinds) && i < p.n * p.k; ++i) {
                o.b[i] *= 0x1p-62f;
            }
            if (kind < COUNT(kinds)) {
                check_fill(o.a, (size_t)(p.m * p.k), kinds[kind], 7);
                check_fill(o.b, (size_t)(p.n * p.k), kinds[kind], 8);
            }
            if (kind == COUNT(kinds) + 1) {
                fill_ties(&p, &o);
            }
            run_product(&tables.at[0], &p, &o, TYPE_BF16, c);
            CHECK(count_differing(&p, &o, c) == 0);
            operands_free(&o);
        }
    }
}

/* One sum at each side of being flushed, one that only the order of a pair keeps, and one that overflows on the way. */
static void
test_sums_whose_value_is_known(void)
{
    static const struct {
        float a[2], b[2]; /* the even depth, then the odd one, which is added first */
        float expected;
    } known[] = {
        {{-0x1p-75f, 0x1p-63f}, {0x1p-76f, 0x1p-63f}, 0x1p-126f}, /* the tie: kept */
        {{-0x1.02p-75f, 0x1p-63f}, {0x1p-76f, 0x1p-63f}, 0.0f},   /* just below: flushed */
        {{0x1.02p-75f, -0x1p-63f}, {0x1p-76f, 0x1p-63f}, -0.0f},  /* with its sign */
        {{1.0f, 0x1p-70f}, {0x1p-60f, 0x1p-60f}, 0x1p-60f},       /* 2^-130 was zero before 2^-60 came */
        {{0x1p64f, 0x1p64f}, {-0x1p64f, 0x1p64f}, INFINITY},      /* 2^128 was infinite before -2^128 came */
        {{1.0f, 0x1p24f}, {1.0f, 1.0f}, 0x1p24f},                 /* 2^24 + 1 ties to even */
        {{0x1.01p0f, 0.0f}, {1.0f, 0.0f}, 1.0f},                  /* 1 + 2^-8 ties to even */
        {{0x1.03p0f, 0.0f}, {1.0f, 0.0f}, 0x1.04p0f},             /* and so does 1 + 3 * 2^-8 */
        {{0x1.fffffcp-127f, 0.0f}, {0x1p127f, 0.0f}, 0.0f},       /* a denormal that is nearest to 2^-126 */
    };
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t i = 0; i < COUNT(known); ++i) {
            const product_case p = {.m = 1, .n = 1, .k = 2, .without_bias = 1};
            operands o = operands_make(&p, 1);
            float c;
            memcpy(o.a, known[i].a, sizeof known[i].a);
            memcpy(o.b, known[i].b, sizeof known[i].b);
            run_product(&tables.at[v], &p, &o, TYPE_BF16, &c);
            CHECK(float_bits(c) == float_bits(known[i].expected));
            operands_free(&o);
        }
    }
}

/* With u = 2^-8 and e = 2^-24 an operand is off by at most u of it, so a product of two by 2u + u^2, and a chain of k
 * adds k roundings of partial sums of magnitude at most S = sum |a b| (1 + u)^2 (1 + e)^k:
 *
 *     |c - sum a b| <= (2u + u^2 + 1.01 k e (1 + u)^2) sum |a b|
 */
static void
test_a_product_is_as_far_from_that_of_the_floats_as_two_roundings_take_it(void)
{
    static const int64_t depths[] = {1, 64, 768, 3072};
    const double u = 0x1p-8;
    double nearest = 1.0;
    for (size_t d = 0; d < COUNT(depths); ++d) {
        const product_case p = {.m = 31, .n = 33, .k = depths[d], .without_bias = 1};
        const double bound = 2.0 * u + u * u + 1.01 * (double)p.k * 0x1p-24 * (1.0 + u) * (1.0 + u);
        operands o = operands_make(&p, 11 + d);
        float c[31 * 33];
        for (size_t v = 0; v < tables.count; ++v) {
            run_product(&tables.at[v], &p, &o, TYPE_BF16, c);
            for (int64_t i = 0; i < p.m * p.n; ++i) {
                double sum = 0.0;
                double magnitude = 0.0;
                for (int64_t t = 0; t < p.k; ++t) {
                    const double product = (double)o.a[i / p.n * p.k + t] * (double)o.b[i % p.n * p.k + t];
                    sum += product;
                    magnitude += fabs(product);
                }
                const double share = fabs((double)c[i] - sum) / (bound * magnitude);
                nearest = 1.0 - share < nearest ? 1.0 - share : nearest;
                CHECK(share <= 1.0);
            }
        }
        operands_free(&o);
    }
    CHECK(nearest < 0.5); /* the bound is no more than twice what happens */
}

int
main(void)
{
    RUN(load_regions);
    RUN(load_tables);
    RUN(test_rounding_is_to_nearest_even_and_denormals_are_zero);
    RUN(test_reference_is_the_definition_for_numbers_of_every_kind);
    RUN(test_sums_whose_value_is_known);
    RUN(test_a_product_is_as_far_from_that_of_the_floats_as_two_roundings_take_it);
    return check_report();
}
