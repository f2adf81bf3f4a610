/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of every variant that this machine runs, bit for bit against the reference, and the reference against the
 * definition.  Shapes lie around the tiles (6 x 16, 14 x 32, 8 x 8), around the exact range of float sums (1,024) and
 * the chunks of pairs (1,536), and on real layers.
 */
#define _DEFAULT_SOURCE /* product_case.h */
#include "product_case.h"

/* ---- facts
 * ------------------------------------------------------------------------------------------------------------- */

/* The reference is the definition: one fma chain per element, and exact sums of codes, here in int64. */
static void
test_reference_is_the_definition(void)
{
    const product_case p = {.m = 5, .n = 19, .k = 37, .a_gap = 3, .c_gap = 2, .divisor = 3.0f};
    operands o = operands_make(&p, 1);
    float c[5 * 19];

    run_product(&tables.at[0], &p, &o, TYPE_F32, c);
    for (int64_t i = 0; i < p.m * p.n; ++i) {
        float sum = 0.0f;
        for (int64_t t = 0; t < p.k; ++t) {
            sum = fmaf(o.a[i / p.n * p.k + t], o.b[i % p.n * p.k + t], sum);
        }
        const float y = (sum + o.bias[i % p.n]) / p.divisor;
        CHECK(c[i] == y);
    }
    run_product(&tables.at[0], &p, &o, TYPE_QS8, c);
    for (int64_t i = 0; i < p.m * p.n; ++i) {
        int64_t sum = 0;
        for (int64_t t = 0; t < p.k; ++t) {
            sum += (int64_t)o.qa[i / p.n * p.k + t] * o.qb[i % p.n * p.k + t];
        }
        const float y = fmaf((float)sum, o.step[i % p.n], o.bias[i % p.n]) / p.divisor;
        CHECK(c[i] == y);
    }
    operands_free(&o);
}

static void
test_bits_equal_reference_around_the_tiles(void)
{
    static const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 29, 31};
    static const int64_t columns[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 61};
    static const int64_t depths[] = {0, 1, 2, 3, 4, 5, 7, 8, 31, 64, 67};
    for (size_t i = 0; i < COUNT(rows); ++i) {
        for (size_t j = 0; j < COUNT(columns); ++j) {
            for (size_t t = 0; t < COUNT(depths); ++t) {
                const product_case p = {.m = rows[i], .n = columns[j], .k = depths[t]};
                compare(&p);
            }
        }
    }
}

static void
test_bits_equal_reference_around_the_chunks(void)
{
    static const int64_t depths[] = {1023, 1024, 1025, 1535, 1536, 1537, 1538, 2047, 2048, 2049, 3072, 3079};
    for (size_t t = 0; t < COUNT(depths); ++t) {
        const product_case one = {.m = 1, .n = 33, .k = depths[t]};
        const product_case many = {.m = 31, .n = 35, .k = depths[t], .a_gap = 5, .c_gap = 1};
        compare(&one);
        compare(&many);
    }
}

static void
test_bits_equal_reference_on_real_layers(void)
{
    const product_case hidden = {.m = 128, .n = 768, .k = 768, .activation = QB_ACTIVATION_NONE};
    const product_case expand = {.m = 45, .n = 1536, .k = 384, .activation = QB_ACTIVATION_GELU};
    const product_case contract = {.m = 61, .n = 96, .k = 3072};
    const product_case scores = {.m = 97, .n = 97, .k = 64, .a_gap = 704, .without_bias = 1, .divisor = 8.0f};
    const product_case context = {
        .m = 97, .n = 64, .k = 97, .a_gap = 31, .c_gap = 704, .transposed = 1, .without_bias = 1};
    compare(&hidden);
    compare(&expand);
    compare(&contract);
    compare(&scores);
    compare(&context);
}

/* More rows than a block of any variant holds, at depths where a block is one tile and where it is many. */
static void
test_bits_equal_reference_over_several_blocks_of_rows(void)
{
    const product_case shallow = {.m = 467, .n = 33, .k = 40};
    const product_case deep = {.m = 47, .n = 33, .k = 12289};
    compare(&shallow);
    compare(&deep);
}

/* Row distances at which rows of a tile fall into one cache set take another way through the kernel. */
static void
test_bits_equal_reference_at_row_distances_of_2_KiB(void)
{
    const product_case dense = {.m = 37, .n = 261, .k = 512};
    const product_case slice = {.m = 37, .n = 261, .k = 61, .a_gap = 1024 - 61};
    const product_case few_rows = {.m = 3, .n = 261, .k = 512};
    const product_case few_columns = {.m = 37, .n = 33, .k = 512};
    compare(&dense);
    compare(&slice);
    compare(&few_rows);
    compare(&few_columns);
}

static void
test_every_epilogue_gives_the_same_bits(void)
{
    for (int activation = QB_ACTIVATION_NONE; activation <= QB_ACTIVATION_LAST; ++activation) {
        for (int choice = 0; choice < 4; ++choice) {
            const product_case p = {.m = 17,
                                    .n = 53,
                                    .k = 29,
                                    .c_gap = 3,
                                    .without_bias = choice & 1,
                                    .divisor = choice & 2 ? 5.6568542f : 1.0f,
                                    .activation = (qb_activation)activation};
            compare(&p);
        }
    }
}

/* A variant may multiply where the divisor is a power of two; results that are subnormal, and rounded, included. */
static void
test_powers_of_two_divide_as_other_divisors_do(void)
{
    static const float divisors[] = {0x1p-3f, 0.5f, 1.0f, 2.0f, 8.0f, 16.0f, 0x1p99f, 0x1p120f, 0x1p-120f, 7.0f};
    static const float steps[] = {1e-4f, 1e-38f, 3e-41f, 3e30f};
    for (size_t i = 0; i < COUNT(divisors) * COUNT(steps); ++i) {
        const product_case p = {.m = 9, .n = 35, .k = 5, .without_bias = 1, .divisor = divisors[i % COUNT(divisors)]};
        operands o = operands_make(&p, i);
        for (int64_t j = 0; j < p.n; ++j) {
            o.step[j] = steps[i / COUNT(divisors)] * (1.0f + (float)j / 64.0f);
        }
        compare_operands(&p, &o, TYPE_QS8);
        compare_operands(&p, &o, TYPE_F32);
        operands_free(&o);
    }
}

static void
test_ranges_and_layouts_do_not_change_bits(void)
{
    for (int64_t panels = 0; panels < 3; ++panels) {
        for (int transposed = 0; transposed < 2; ++transposed) {
            const product_case p = {.m = 15,
                                    .n = 101,
                                    .k = 70,
                                    .a_gap = 9,
                                    .c_gap = 4,
                                    .transposed = transposed,
                                    .panels = panels,
                                    .activation = QB_ACTIVATION_GELU};
            compare(&p);
        }
    }
}

/* A range writes its own columns only, and nothing for an empty range or no rows. */
static void
test_a_range_writes_its_own_columns_only(void)
{
    enum { M = 15, N = 97, K = 21 };
    const product_case p = {.m = M, .n = N, .k = K};
    operands o = operands_make(&p, 3);
    for (size_t v = 0; v < tables.count; ++v) {
        for (operand_type type = TYPE_F32; type < TYPE_COUNT; ++type) {
            const qb_kernels *kernels = &tables.at[v];
            int64_t panel = 0;
            size_t packed_bytes = 0;
            size_t scratch_bytes = 0;
            packed_sizes(kernels, type, N, K, &panel, &packed_bytes, &scratch_bytes);
            const void *a = type == TYPE_QS8 ? (const void *)o.qa : (const void *)o.a;
            const void *b = type == TYPE_QS8 ? (const void *)o.qb : (const void *)o.b;
            block packed = block_make(ROLE_PACKED, packed_bytes, 64);
            block scratch = block_make(ROLE_SCRATCH, scratch_bytes, 64);
            float c[M * N];
            const qb_epilogue epilogue = {.step = o.step, .bias = o.bias, .divisor = 1.0f};
            const int64_t n0 = panel;
            const int64_t n1 = 2 * panel;
            for (int64_t i = 0; i < M * N; ++i) {
                c[i] = 12345.0f;
            }
            pack(kernels, type, b, K, 1, 0, N, N, K, packed.data);
            multiply(kernels, type, a, K, M, packed.data, n0, n0, N, K, &epilogue, c, N, scratch.data);
            multiply(kernels, type, a, K, 0, packed.data, 0, N, N, K, &epilogue, c, N, scratch.data);
            multiply(kernels, type, a, K, M, packed.data, n0, n1, N, K, &epilogue, c, N, scratch.data);
            for (int64_t i = 0; i < M * N; ++i) {
                CHECK((c[i] != 12345.0f) == (i % N >= n0 && i % N < n1));
            }
            block_check(&packed);
            block_check(&scratch);
        }
    }
    operands_free(&o);
}

/* Causal attention multiplies only the keys that its last row sees.  Chunks of depth wait in c between each other. */
static void
test_a_range_may_end_inside_a_panel(void)
{
    enum { M = 15, N = 97, K = 1100 };
    const product_case p = {.m = M, .n = N, .k = K, .without_bias = 1, .divisor = 3.0f};
    operands o = operands_make(&p, 4);
    float *whole = take(sizeof(float) * M * N);
    float *part = take(sizeof(float) * M * N);
    for (size_t v = 0; v < tables.count; ++v) {
        const qb_kernels *kernels = &tables.at[v];
        for (operand_type type = TYPE_F32; type < TYPE_COUNT; ++type) {
            int64_t panel = 0;
            size_t packed_bytes = 0;
            size_t scratch_bytes = 0;
            packed_sizes(kernels, type, N, K, &panel, &packed_bytes, &scratch_bytes);
            const void *a = type == TYPE_QS8 ? (const void *)o.qa : (const void *)o.a;
            const void *b = type == TYPE_QS8 ? (const void *)o.qb : (const void *)o.b;
            run_product(kernels, &p, &o, type, whole);
            block packed = block_make(ROLE_PACKED, packed_bytes, 64);
            block scratch = block_make(ROLE_SCRATCH, scratch_bytes, 64);
            const qb_epilogue epilogue = {.step = o.step, .divisor = p.divisor};
            pack(kernels, type, b, K, 1, 0, N, N, K, packed.data);
            for (int64_t end = panel + 1; end <= N; end += end % 7 == 0 ? 2 : 5) {
                for (int64_t i = 0; i < M * N; ++i) {
                    part[i] = 12345.0f;
                }
                multiply(kernels, type, a, K, M, packed.data, panel, end, N, K, &epilogue, part, N, scratch.data);
                int same = 1;
                for (int64_t i = 0; i < M * N; ++i) {
                    const float expected = i % N >= panel && i % N < end ? whole[i] : 12345.0f;
                    same = same && float_bits(part[i]) == float_bits(expected);
                }
                CHECK(same);
            }
            block_check(&packed);
            block_check(&scratch);
        }
    }
    free(whole);
    free(part);
    operands_free(&o);
}

static void
fill(int8_t *codes, int64_t n, int low, int high)
{
    for (int64_t i = 0; i < n; ++i) {
        codes[i] = (int8_t)(i % 2 != 0 ? low : high);
    }
}

/* Sums that saturating or 16-bit arithmetic, or a float32 sum beyond 2^24, would get wrong: compared with int64. */
static void
test_extreme_codes_are_exact(void)
{
    static const int extremes[][4] = {{-128, -128, -128, -128}, {127, 127, 127, 127},   {-128, -128, 127, 127},
                                      {-127, 127, 127, -127},   {-128, 127, -128, 127}, {-128, 127, 127, -128},
                                      {-127, -127, -128, -127}, {0, -128, 1, -128}};
    static const int64_t depths[] = {64, 1023, 1024, 1025, 3072, 3073};
    for (size_t e = 0; e < COUNT(extremes); ++e) {
        for (size_t t = 0; t < COUNT(depths); ++t) {
            const product_case p = {.m = 15, .n = 33, .k = depths[t], .without_bias = 1};
            operands o = operands_make(&p, 5);
            fill(o.qa, p.m * p.k, extremes[e][0], extremes[e][1]);
            fill(o.qb, p.n * p.k, extremes[e][2], extremes[e][3]);
            for (int64_t j = 0; j < p.n; ++j) {
                o.step[j] = 1.0f;
            }
            float c[15 * 33];
            for (size_t v = 0; v < tables.count; ++v) {
                run_product(&tables.at[v], &p, &o, TYPE_QS8, c);
                int exact = 1;
                for (int64_t i = 0; i < p.m * p.n; ++i) {
                    int64_t sum = 0;
                    for (int64_t d = 0; d < p.k; ++d) {
                        sum += (int64_t)o.qa[i / p.n * p.k + d] * o.qb[i % p.n * p.k + d];
                    }
                    exact = exact && c[i] == (float)sum;
                }
                CHECK(exact);
            }
            operands_free(&o);
        }
    }
}

static void
test_the_longest_depth_is_exact(void)
{
    const product_case p = {.m = 2, .n = 3, .k = 131071, .without_bias = 1};
    operands o = operands_make(&p, 6);
    memset(o.qa, -128, (size_t)(p.m * p.k));
    memset(o.qb, -128, (size_t)(p.n * p.k));
    float c[2 * 3];
    for (size_t v = 0; v < tables.count; ++v) {
        run_product(&tables.at[v], &p, &o, TYPE_QS8, c);
        for (int64_t i = 0; i < p.m * p.n; ++i) {
            CHECK(c[i] == fmaf((float)(INT64_C(131071) * 16384), o.step[i % p.n], 0.0f));
        }
    }
    operands_free(&o);
}

/* A NaN or infinity reaches the elements of its row or column and no other. */
static void
test_non_finite_values_propagate(void)
{
    const product_case p = {.m = 17, .n = 35, .k = 23};
    operands o = operands_make(&p, 7);
    o.a[3 * p.k + 11] = NAN;
    o.a[5 * p.k + 2] = INFINITY;
    o.a[16 * p.k + 22] = -INFINITY;
    o.b[34 * p.k + 22] = NAN;
    o.b[8 * p.k + 2] = 0.0f; /* infinity times zero */
    compare_operands(&p, &o, TYPE_F32);
    float c[17 * 35];
    for (size_t v = 0; v < tables.count; ++v) {
        run_product(&tables.at[v], &p, &o, TYPE_F32, c);
        for (int64_t i = 0; i < p.m * p.n; ++i) {
            const int64_t row = i / p.n;
            const int64_t column = i % p.n;
            CHECK(isnan(c[i]) == (row == 3 || column == 34 || (row == 5 && column == 8)));
            CHECK(isfinite(c[i]) || row == 3 || row == 5 || row == 16 || column == 34);
        }
    }
    operands_free(&o);
}

/* Products that underflow: denormals are kept, and a sum that underflowed to -0 stays -0 without a bias. */
static void
test_denormals_and_signed_zeros_are_kept(void)
{
    const product_case p = {.m = 15, .n = 33, .k = 9, .without_bias = 1};
    operands o = operands_make(&p, 8);
    for (int64_t i = 0; i < p.m * p.k; ++i) {
        o.a[i] *= 1e-20f;
    }
    for (int64_t i = 0; i < p.n * p.k; ++i) {
        o.b[i] *= 1e-20f;
    }
    compare_operands(&p, &o, TYPE_F32);
    memset(o.a, 0, (size_t)(p.m * p.k) * sizeof(float));
    for (int64_t i = 0; i < p.m; ++i) {
        o.a[i * p.k + p.k - 1] = 1e-30f;
    }
    for (int64_t i = 0; i < p.n * p.k; ++i) {
        o.b[i] = -1e-30f;
    }
    float c[15 * 33];
    for (size_t v = 0; v < tables.count; ++v) {
        run_product(&tables.at[v], &p, &o, TYPE_F32, c);
        for (int64_t i = 0; i < p.m * p.n; ++i) {
            CHECK(c[i] == 0.0f && signbit(c[i]));
        }
    }
    operands_free(&o);
}

/* Rows may be computed in any division: a row's bits do not depend on its mates. */
static void
test_a_row_does_not_depend_on_its_mates(void)
{
    const product_case all = {.m = 31, .n = 65, .k = 1100};
    const product_case one = {.m = 1, .n = 65, .k = 1100};
    operands o = operands_make(&all, 9);
    float *together = take(31 * 65 * sizeof(float));
    float alone[65];
    for (size_t v = 0; v < tables.count; ++v) {
        for (operand_type type = TYPE_F32; type < TYPE_COUNT; ++type) {
            run_product(&tables.at[v], &all, &o, type, together);
            for (int64_t i = 0; i < all.m; ++i) {
                operands row = o;
                row.a += i * all.k;
                row.qa += i * all.k;
                run_product(&tables.at[v], &one, &row, type, alone);
                CHECK(memcmp(alone, together + i * all.n, sizeof(alone)) == 0);
            }
        }
    }
    free(together);
    operands_free(&o);
}

int
main(void)
{
    RUN(load_regions);
    RUN(load_tables);
    RUN(test_reference_is_the_definition);
    RUN(test_bits_equal_reference_around_the_tiles);
    RUN(test_bits_equal_reference_around_the_chunks);
    RUN(test_bits_equal_reference_on_real_layers);
    RUN(test_bits_equal_reference_over_several_blocks_of_rows);
    RUN(test_bits_equal_reference_at_row_distances_of_2_KiB);
    RUN(test_every_epilogue_gives_the_same_bits);
    RUN(test_powers_of_two_divide_as_other_divisors_do);
    RUN(test_ranges_and_layouts_do_not_change_bits);
    RUN(test_a_range_writes_its_own_columns_only);
    RUN(test_a_range_may_end_inside_a_panel);
    RUN(test_extreme_codes_are_exact);
    RUN(test_the_longest_depth_is_exact);
    RUN(test_non_finite_values_propagate);
    RUN(test_denormals_and_signed_zeros_are_kept);
    RUN(test_a_row_does_not_depend_on_its_mates);
    return check_report();
}
