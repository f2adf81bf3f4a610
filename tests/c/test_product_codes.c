/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes that become codes, on every variant that this machine runs: the codes that quantize_qs8 makes of
 * what product_qs8 gives, both of the reference.
 */
#define _DEFAULT_SOURCE /* product_case.h */
#include "product_case.h"

enum { UNTOUCHED = 0x5b };

/* Codes of a range that some of the results of such a depth exceed, on both sides. */
static qb_quant_range
range_of(int64_t k, int is_narrow)
{
    const float amax = 0.5f + sqrtf((float)k) / 2.0f;
    return (qb_quant_range){.scale = 127.0f / amax, .lower = is_narrow ? -127.0f : -128.0f, .upper = 127.0f};
}

static int64_t
width_of_ranges(const product_case *p, int64_t panel)
{
    return p->panels > 0 ? p->panels * panel : p->n;
}

/* c (m, n) of one variant, in guarded memory of exactly the promised extent; gaps between rows must stay as they are.
 * Returns what became of nonfinite. */
static uint32_t
run_codes(const qb_kernels *kernels, const product_case *p, const operands *o, const qb_quant_range *range, int8_t *c)
{
    const int64_t lda = p->k + p->a_gap;
    const int64_t ldc = p->n + p->c_gap;
    int64_t panel = 0;
    size_t packed_bytes = 0;
    size_t scratch_bytes = 0;
    uint32_t nonfinite = 0;
    kernels->pack_qs8_size(p->n, p->k, &panel, &packed_bytes, &scratch_bytes);
    block a = block_make(ROLE_A, (size_t)((p->m - 1) * lda + p->k), 1);
    block out = block_make(ROLE_C, (size_t)((p->m - 1) * ldc + p->n), 1);
    block packed = block_make(ROLE_PACKED, packed_bytes, 64);
    block scratch = block_make(ROLE_SCRATCH, scratch_bytes, 64);
    for (int64_t i = 0; i < p->m; ++i) {
        memcpy(a.data + i * lda, o->qa + i * p->k, (size_t)p->k);
    }
    memset(out.data, UNTOUCHED, out.bytes);
    const qb_epilogue epilogue = {.step = o->step,
                                  .bias = p->without_bias ? NULL : o->bias,
                                  .divisor = p->divisor > 0.0f ? p->divisor : 1.0f,
                                  .activation = p->activation};
    const int64_t width = width_of_ranges(p, panel);
    kernels->pack_qs8(o->qb, p->k, 1, 0, p->n, p->n, p->k, packed.data);
    for (int64_t n0 = 0; n0 < p->n; n0 += width) {
        const int64_t n1 = n0 + width < p->n ? n0 + width : p->n;
        kernels->product_qs8_codes((const int8_t *)a.data, lda, p->m, packed.data, n0, n1, p->n, p->k, &epilogue, range,
                                   (int8_t *)out.data, ldc, &nonfinite, scratch.data);
    }
    int gaps_intact = 1;
    for (int64_t i = 0; i < p->m; ++i) {
        memcpy(c + i * p->n, out.data + i * ldc, (size_t)p->n);
        for (int64_t j = p->n; i + 1 < p->m && j < ldc; ++j) {
            gaps_intact = gaps_intact && out.data[i * ldc + j] == UNTOUCHED;
        }
    }
    CHECK(gaps_intact);
    block_check(&a);
    block_check(&out);
    block_check(&packed);
    block_check(&scratch);
    return nonfinite;
}

static void
compare_codes(const product_case *p, const operands *o, const qb_quant_range *range)
{
    const size_t count = (size_t)(p->m * p->n);
    float *floats = take(count * sizeof(float));
    int8_t *expected = take(count);
    int8_t *got = take(count);
    uint32_t nonfinite = 0;
    run_product(&tables.at[0], p, o, TYPE_QS8, floats);
    tables.at[0].quantize_qs8(floats, count, range, expected, &nonfinite);
    for (size_t v = 0; v < tables.count; ++v) {
        const uint32_t found = run_codes(&tables.at[v], p, o, range, got);
        const int same = found == nonfinite && (nonfinite != 0 || memcmp(expected, got, count) == 0);
        CHECK(same);
        if (!same) {
            (void)fprintf(stderr, "  %s m %lld n %lld k %lld\n", tables.at[v].isa, (long long)p->m, (long long)p->n,
                          (long long)p->k);
        }
    }
    free(floats);
    free(expected);
    free(got);
}

static void
compare_random(const product_case *p)
{
    operands o = operands_make(p, (unsigned long long)(p->m * 1000003 + p->n * 1009 + p->k));
    for (int is_narrow = 0; is_narrow < 2; ++is_narrow) {
        const qb_quant_range range = range_of(p->k, is_narrow);
        compare_codes(p, &o, &range);
    }
    operands_free(&o);
}

/* ---- facts ------------------------------------------------------------------------------------------------------- */

static void
test_codes_are_those_of_the_floats_around_the_tiles(void)
{
    static const int64_t rows[] = {1, 2, 3, 4, 5, 7, 9, 13, 31, 32, 33, 37};
    static const int64_t columns[] = {1, 8, 15, 16, 17, 33, 61};
    static const int64_t depths[] = {0, 1, 3, 8, 33, 67};
    for (size_t i = 0; i < COUNT(rows); ++i) {
        for (size_t j = 0; j < COUNT(columns); ++j) {
            for (size_t t = 0; t < COUNT(depths); ++t) {
                const product_case p = {.m = rows[i], .n = columns[j], .k = depths[t], .c_gap = (int64_t)t};
                compare_random(&p);
            }
        }
    }
}

static void
test_chunks_of_depth_and_blocks_of_rows_are_added_up(void)
{
    static const int64_t depths[] = {1023, 1025, 1537, 2051, 3075, 4096, 4097, 8203};
    for (size_t t = 0; t < COUNT(depths); ++t) {
        const product_case p = {.m = 131, .n = 37, .k = depths[t], .a_gap = 5, .c_gap = 3, .panels = 1};
        compare_random(&p);
    }
    const product_case deepest = {.m = 5, .n = 3, .k = QB_DEPTH_MAX};
    compare_random(&deepest);
}

/* Some variants read rows where they lie, if they lie well: in chunks of depth too, and whatever is between them. */
static void
test_rows_may_lie_anywhere(void)
{
    static const int64_t depths[] = {64, 1540, 2048, 3072, 4100};
    for (size_t t = 0; t < COUNT(depths); ++t) {
        const int64_t gaps[] = {0, 1, 4, 20, (2048 - depths[t] % 2048) % 2048};
        for (size_t g = 0; g < COUNT(gaps); ++g) {
            const product_case p = {.m = 17, .n = 35, .k = depths[t], .a_gap = gaps[g]};
            compare_random(&p);
        }
    }
}

static void
test_many_rows_are_several_blocks(void)
{
    static const int64_t depths[] = {1, 65, 384};
    for (size_t t = 0; t < COUNT(depths); ++t) {
        const product_case p = {.m = 1033, .n = 19, .k = depths[t]};
        compare_random(&p);
    }
}

static void
test_the_epilogue_comes_before_the_quantizer(void)
{
    for (qb_activation activation = QB_ACTIVATION_NONE; activation <= QB_ACTIVATION_LAST; ++activation) {
        const product_case p = {.m = 38,
                                .n = 45,
                                .k = 70,
                                .panels = 1,
                                .without_bias = activation % 2 != 0,
                                .divisor = activation % 3 == 0   ? 0.0f
                                           : activation % 3 == 1 ? 8.0f
                                                                 : 11.0f,
                                .activation = activation};
        compare_random(&p);
    }
}

static void
test_a_dead_range_gives_zeros(void)
{
    const product_case p = {.m = 9, .n = 33, .k = 40};
    operands o = operands_make(&p, 8);
    const qb_quant_range dead = {.scale = 0.0f, .lower = -127.0f, .upper = 127.0f};
    compare_codes(&p, &o, &dead);
    operands_free(&o);
}

/* In any column, the last one of a panel and the only one of a panel included. */
static void
test_a_result_that_is_not_finite_is_reported(void)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const int64_t at[] = {0, 15, 16, 32};
    const product_case p = {.m = 11, .n = 33, .k = 21};
    const qb_quant_range range = range_of(p.k, 1);
    for (size_t i = 0; i < COUNT(bad) * COUNT(at); ++i) {
        operands o = operands_make(&p, 9);
        int8_t c[11 * 33];
        o.bias[at[i % COUNT(at)]] = bad[i / COUNT(at)];
        for (size_t v = 0; v < tables.count; ++v) {
            CHECK(run_codes(&tables.at[v], &p, &o, &range, c) == 1);
        }
        operands_free(&o);
    }
}

/* And nothing for an empty range or no rows. */
static void
test_a_range_of_columns_writes_no_other(void)
{
    enum { M = 35, N = 97, K = 1100 };
    const product_case p = {.m = M, .n = N, .k = K};
    const qb_quant_range range = range_of(K, 0);
    operands o = operands_make(&p, 10);
    int8_t *whole = take(M * N);
    int8_t *part = take(M * N);
    for (size_t v = 0; v < tables.count; ++v) {
        const qb_kernels *kernels = &tables.at[v];
        int64_t panel = 0;
        size_t packed_bytes = 0;
        size_t scratch_bytes = 0;
        uint32_t nonfinite = 0;
        kernels->pack_qs8_size(N, K, &panel, &packed_bytes, &scratch_bytes);
        (void)run_codes(kernels, &p, &o, &range, whole);
        block packed = block_make(ROLE_PACKED, packed_bytes, 64);
        block scratch = block_make(ROLE_SCRATCH, scratch_bytes, 64);
        const qb_epilogue epilogue = {.step = o.step, .bias = o.bias, .divisor = 1.0f};
        kernels->pack_qs8(o.qb, K, 1, 0, N, N, K, packed.data);
        for (int64_t end = panel; end <= N; end += end % 7 == 0 ? 9 : 13) {
            memset(part, UNTOUCHED, M * N);
            kernels->product_qs8_codes(o.qa, K, M, packed.data, panel, end, N, K, &epilogue, &range, part, N,
                                       &nonfinite, scratch.data);
            kernels->product_qs8_codes(o.qa, K, 0, packed.data, 0, N, N, K, &epilogue, &range, part, N, &nonfinite,
                                       scratch.data);
            int same = 1;
            for (int64_t i = 0; i < M * N; ++i) {
                same = same && part[i] == (i % N >= panel && i % N < end ? whole[i] : UNTOUCHED);
            }
            CHECK(same);
        }
        CHECK(nonfinite == 0);
        block_check(&packed);
        block_check(&scratch);
    }
    free(whole);
    free(part);
    operands_free(&o);
}

int
main(void)
{
    RUN(load_regions);
    RUN(load_tables);
    RUN(test_codes_are_those_of_the_floats_around_the_tiles);
    RUN(test_chunks_of_depth_and_blocks_of_rows_are_added_up);
    RUN(test_rows_may_lie_anywhere);
    RUN(test_many_rows_are_several_blocks);
    RUN(test_the_epilogue_comes_before_the_quantizer);
    RUN(test_a_dead_range_gives_zeros);
    RUN(test_a_result_that_is_not_finite_is_reported);
    RUN(test_a_range_of_columns_writes_no_other);
    return check_report();
}
