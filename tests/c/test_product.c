/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of every variant that this machine runs, bit for bit against the reference, and the reference against the
 * definition.  Shapes lie around the tiles (6 x 16, 14 x 32, 8 x 8), around the exact range of float sums (1,024) and
 * on real layers.  Every buffer has guard bands and the alignment that its element type allows, no more.
 */
#include <math.h>
#include <stdint.h>

#include "check.h"
#include "core/kernels.h"

enum { GUARD = 256, GUARD_BYTE = 0xA5, MAX_VARIANTS = 16 };

#define COUNT(array) ((int64_t)(sizeof(array) / sizeof((array)[0])))

/* ---- variants and guarded memory
 * ---------------------------------------------------------------------------------------- */

static qb_kernels tables[MAX_VARIANTS]; /* tables[0] is the reference */
static int64_t table_count;

static void
load_tables(void)
{
    for (size_t i = 0; i < qb_variant_count() && table_count < MAX_VARIANTS; ++i) {
        if (qb_variant_is_supported(i)) {
            qb_error error;
            CHECK(qb_cpu_kernels_select(qb_variant_name(i), &tables[table_count], &error) == QB_OK);
            ++table_count;
        }
    }
    CHECK(table_count > 0 && strcmp(tables[0].isa, "ref") == 0);
}

typedef struct block {
    unsigned char *base;
    unsigned char *data;
    size_t bytes;
} block;

/* `bytes` of memory at an address that is `shift` above a multiple of 64, all of it and its surroundings GUARD_BYTE. */
static block
block_make(size_t bytes, size_t shift)
{
    block made = {.bytes = bytes};
    made.base = malloc(bytes + 2 * GUARD + 64);
    if (made.base == NULL) {
        (void)fprintf(stderr, "no memory for a test\n");
        exit(EXIT_FAILURE);
    }
    memset(made.base, GUARD_BYTE, bytes + 2 * GUARD + 64);
    const size_t misfit = (size_t)((uintptr_t)made.base % 64);
    made.data = made.base + GUARD - misfit + shift;
    return made;
}

static void
block_free(block *b)
{
    int intact = 1;
    for (size_t i = 0; i < 128; ++i) {
        intact = intact && b->data[-(ptrdiff_t)i - 1] == GUARD_BYTE && b->data[b->bytes + i] == GUARD_BYTE;
    }
    CHECK(intact);
    free(b->base);
}

/* ---- one product
 * ------------------------------------------------------------------------------------------------------- */

typedef struct product_case {
    int64_t m, n, k;
    int64_t a_gap;  /* lda - k */
    int64_t c_gap;  /* ldc - n */
    int transposed; /* b is stored (k, n): column_stride 1 */
    int64_t panels; /* columns are packed and computed in ranges of so many panels; 0: all at once */
    int without_bias;
    float divisor; /* 0: 1 */
    qb_activation activation;
} product_case;

/* Operands of one case; codes and floats hold values of their own. */
typedef struct operands {
    float *a, *b, *step, *bias;
    int8_t *qa, *qb;
} operands;

static void *
take(size_t bytes)
{
    void *memory = malloc(bytes > 0 ? bytes : 1);
    if (memory == NULL) {
        (void)fprintf(stderr, "no memory for a test\n");
        exit(EXIT_FAILURE);
    }
    return memory;
}

static operands
operands_make(const product_case *p, unsigned long long seed)
{
    operands made = {.a = take((size_t)(p->m * p->k) * sizeof(float)),
                     .b = take((size_t)(p->n * p->k) * sizeof(float)),
                     .step = take((size_t)p->n * sizeof(float)),
                     .bias = take((size_t)p->n * sizeof(float)),
                     .qa = take((size_t)(p->m * p->k)),
                     .qb = take((size_t)(p->n * p->k))};
    for (int64_t i = 0; i < p->m * p->k; ++i) {
        made.a[i] = check_uniform(&seed);
        made.qa[i] = (int8_t)(check_random(&seed) >> 40);
    }
    for (int64_t i = 0; i < p->n * p->k; ++i) {
        made.b[i] = check_uniform(&seed);
        made.qb[i] = (int8_t)(check_random(&seed) >> 40);
    }
    for (int64_t j = 0; j < p->n; ++j) {
        made.step[j] = 1e-4f * (1.5f + check_uniform(&seed));
        made.bias[j] = check_uniform(&seed);
    }
    return made;
}

static void
operands_free(operands *o)
{
    free(o->a);
    free(o->b);
    free(o->step);
    free(o->bias);
    free(o->qa);
    free(o->qb);
}

/* c (m, n) of one variant: operands are copied into guarded, unaligned memory of exactly the promised extent; row gaps
 * of a hold NaN (or the guard byte), row gaps of c must keep the guard byte. */
static void
run_product(const qb_kernels *kernels, const product_case *p, const operands *o, int codes, float *c)
{
    const size_t element = codes ? 1 : sizeof(float);
    const int64_t lda = p->k + p->a_gap;
    const int64_t ldc = p->n + p->c_gap;
    const int64_t column_stride = p->transposed ? 1 : p->k;
    const int64_t depth_stride = p->transposed ? p->n : 1;
    int64_t panel = 0;
    size_t packed_bytes = 0;
    size_t scratch_bytes = 0;
    (codes ? kernels->pack_qs8_size : kernels->pack_f32_size)(p->n, p->k, &panel, &packed_bytes, &scratch_bytes);
    CHECK(panel > 0);

    block a = block_make((size_t)((p->m - 1) * lda + p->k) * element, element);
    block b = block_make((size_t)(p->n * p->k) * element, element);
    block out = block_make((size_t)((p->m - 1) * ldc + p->n) * sizeof(float), sizeof(float));
    block packed = block_make(packed_bytes, 0);
    block scratch = block_make(scratch_bytes, 0);
    memset(a.data, 0xFF, a.bytes);
    for (int64_t i = 0; i < p->m; ++i) {
        const void *row = codes ? (const void *)(o->qa + i * p->k) : (const void *)(o->a + i * p->k);
        memcpy(a.data + (size_t)(i * lda) * element, row, (size_t)p->k * element);
    }
    for (int64_t j = 0; j < p->n; ++j) {
        for (int64_t t = 0; t < p->k; ++t) {
            const void *value = codes ? (const void *)(o->qb + j * p->k + t) : (const void *)(o->b + j * p->k + t);
            memcpy(b.data + (size_t)(j * column_stride + t * depth_stride) * element, value, element);
        }
    }
    const qb_epilogue epilogue = {.step = codes ? o->step : NULL,
                                  .bias = p->without_bias ? NULL : o->bias,
                                  .divisor = p->divisor > 0.0f ? p->divisor : 1.0f,
                                  .activation = p->activation};
    const int64_t width = p->panels > 0 ? p->panels * panel : p->n;
    float *outs = (float *)(void *)out.data;
    for (int64_t n0 = 0; n0 < p->n; n0 += width) {
        const int64_t n1 = n0 + width < p->n ? n0 + width : p->n;
        if (codes) {
            kernels->pack_qs8((const int8_t *)b.data, column_stride, depth_stride, n0, n1, p->n, p->k, packed.data);
        }
        else {
            kernels->pack_f32((const float *)(const void *)b.data, column_stride, depth_stride, n0, n1, p->n, p->k,
                              packed.data);
        }
    }
    for (int64_t n0 = 0; n0 < p->n; n0 += width) {
        const int64_t n1 = n0 + width < p->n ? n0 + width : p->n;
        if (codes) {
            kernels->product_qs8((const int8_t *)a.data, lda, p->m, packed.data, n0, n1, p->n, p->k, &epilogue, outs,
                                 ldc, scratch.data);
        }
        else {
            kernels->product_f32((const float *)(const void *)a.data, lda, p->m, packed.data, n0, n1, p->n, p->k,
                                 &epilogue, outs, ldc, scratch.data);
        }
    }
    int gaps_intact = 1;
    for (int64_t i = 0; i < p->m; ++i) {
        memcpy(c + i * p->n, outs + i * ldc, (size_t)p->n * sizeof(float));
        for (size_t byte = 0; i + 1 < p->m && byte < (size_t)p->c_gap * sizeof(float); ++byte) {
            gaps_intact = gaps_intact && out.data[(size_t)(i * ldc + p->n) * sizeof(float) + byte] == GUARD_BYTE;
        }
    }
    CHECK(gaps_intact);
    block_free(&a);
    block_free(&b);
    block_free(&out);
    block_free(&packed);
    block_free(&scratch);
}

/* Equal bits, except that every NaN equals every other: which NaN an operation makes is the processor's choice. */
static int
same_bits(const float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        if (memcmp(x + i, y + i, sizeof(float)) != 0 && !(isnan(x[i]) && isnan(y[i]))) {
            return 0;
        }
    }
    return 1;
}

static void
compare_operands(const product_case *p, const operands *o, int codes)
{
    float *expected = take((size_t)(p->m * p->n) * sizeof(float));
    float *got = take((size_t)(p->m * p->n) * sizeof(float));
    run_product(&tables[0], p, o, codes, expected);
    for (int64_t v = 1; v < table_count; ++v) {
        run_product(&tables[v], p, o, codes, got);
        const int same = same_bits(expected, got, p->m * p->n);
        CHECK(same);
        if (!same) {
            (void)fprintf(stderr, "  %s %s m %lld n %lld k %lld\n", tables[v].isa, codes ? "qs8" : "f32",
                          (long long)p->m, (long long)p->n, (long long)p->k);
        }
    }
    free(expected);
    free(got);
}

static void
compare(const product_case *p)
{
    operands o = operands_make(p, (unsigned long long)(p->m * 1000003 + p->n * 1009 + p->k));
    compare_operands(p, &o, 0);
    compare_operands(p, &o, 1);
    operands_free(&o);
}

/* ---- facts
 * ------------------------------------------------------------------------------------------------------------- */

/* The reference is the definition: one fma chain per element, and exact sums of codes, here in int64. */
static void
test_reference_is_the_definition(void)
{
    const product_case p = {.m = 5, .n = 19, .k = 37, .a_gap = 3, .c_gap = 2, .divisor = 3.0f};
    operands o = operands_make(&p, 1);
    float c[5 * 19];

    run_product(&tables[0], &p, &o, 0, c);
    for (int64_t i = 0; i < p.m * p.n; ++i) {
        float sum = 0.0f;
        for (int64_t t = 0; t < p.k; ++t) {
            sum = fmaf(o.a[i / p.n * p.k + t], o.b[i % p.n * p.k + t], sum);
        }
        const float y = (sum + o.bias[i % p.n]) / p.divisor;
        CHECK(c[i] == y);
    }
    run_product(&tables[0], &p, &o, 1, c);
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
    for (int64_t i = 0; i < COUNT(rows); ++i) {
        for (int64_t j = 0; j < COUNT(columns); ++j) {
            for (int64_t t = 0; t < COUNT(depths); ++t) {
                const product_case p = {.m = rows[i], .n = columns[j], .k = depths[t]};
                compare(&p);
            }
        }
    }
}

static void
test_bits_equal_reference_around_the_chunks(void)
{
    static const int64_t depths[] = {1023, 1024, 1025, 2047, 2048, 2049, 3072, 3079};
    for (int64_t t = 0; t < COUNT(depths); ++t) {
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
    for (int activation = QB_ACTIVATION_NONE; activation <= QB_ACTIVATION_TANH; ++activation) {
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
    for (int64_t v = 0; v < table_count; ++v) {
        for (int codes = 0; codes < 2; ++codes) {
            const qb_kernels *kernels = &tables[v];
            int64_t panel = 0;
            size_t packed_bytes = 0;
            size_t scratch_bytes = 0;
            (codes ? kernels->pack_qs8_size : kernels->pack_f32_size)(N, K, &panel, &packed_bytes, &scratch_bytes);
            block packed = block_make(packed_bytes, 0);
            block scratch = block_make(scratch_bytes, 0);
            float c[M * N];
            const qb_epilogue epilogue = {.step = o.step, .bias = o.bias, .divisor = 1.0f};
            const int64_t n0 = panel;
            const int64_t n1 = 2 * panel;
            for (int64_t i = 0; i < M * N; ++i) {
                c[i] = 12345.0f;
            }
            if (codes) {
                kernels->pack_qs8(o.qb, K, 1, 0, N, N, K, packed.data);
                kernels->product_qs8(o.qa, K, M, packed.data, n0, n0, N, K, &epilogue, c, N, scratch.data);
                kernels->product_qs8(o.qa, K, 0, packed.data, 0, N, N, K, &epilogue, c, N, scratch.data);
                kernels->product_qs8(o.qa, K, M, packed.data, n0, n1, N, K, &epilogue, c, N, scratch.data);
            }
            else {
                kernels->pack_f32(o.b, K, 1, 0, N, N, K, packed.data);
                kernels->product_f32(o.a, K, M, packed.data, n0, n0, N, K, &epilogue, c, N, scratch.data);
                kernels->product_f32(o.a, K, 0, packed.data, 0, N, N, K, &epilogue, c, N, scratch.data);
                kernels->product_f32(o.a, K, M, packed.data, n0, n1, N, K, &epilogue, c, N, scratch.data);
            }
            for (int64_t i = 0; i < M * N; ++i) {
                CHECK((c[i] != 12345.0f) == (i % N >= n0 && i % N < n1));
            }
            block_free(&packed);
            block_free(&scratch);
        }
    }
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
    for (int64_t e = 0; e < COUNT(extremes); ++e) {
        for (int64_t t = 0; t < COUNT(depths); ++t) {
            const product_case p = {.m = 15, .n = 33, .k = depths[t], .without_bias = 1};
            operands o = operands_make(&p, 5);
            fill(o.qa, p.m * p.k, extremes[e][0], extremes[e][1]);
            fill(o.qb, p.n * p.k, extremes[e][2], extremes[e][3]);
            for (int64_t j = 0; j < p.n; ++j) {
                o.step[j] = 1.0f;
            }
            float c[15 * 33];
            for (int64_t v = 0; v < table_count; ++v) {
                run_product(&tables[v], &p, &o, 1, c);
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
    for (int64_t v = 0; v < table_count; ++v) {
        run_product(&tables[v], &p, &o, 1, c);
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
    compare_operands(&p, &o, 0);
    float c[17 * 35];
    for (int64_t v = 0; v < table_count; ++v) {
        run_product(&tables[v], &p, &o, 0, c);
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
    compare_operands(&p, &o, 0);
    memset(o.a, 0, (size_t)(p.m * p.k) * sizeof(float));
    for (int64_t i = 0; i < p.m; ++i) {
        o.a[i * p.k + p.k - 1] = 1e-30f;
    }
    for (int64_t i = 0; i < p.n * p.k; ++i) {
        o.b[i] = -1e-30f;
    }
    float c[15 * 33];
    for (int64_t v = 0; v < table_count; ++v) {
        run_product(&tables[v], &p, &o, 0, c);
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
    for (int64_t v = 0; v < table_count; ++v) {
        for (int codes = 0; codes < 2; ++codes) {
            run_product(&tables[v], &all, &o, codes, together);
            for (int64_t i = 0; i < all.m; ++i) {
                operands row = o;
                row.a += i * all.k;
                row.qa += i * all.k;
                run_product(&tables[v], &one, &row, codes, alone);
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
    RUN(load_tables);
    RUN(test_reference_is_the_definition);
    RUN(test_bits_equal_reference_around_the_tiles);
    RUN(test_bits_equal_reference_around_the_chunks);
    RUN(test_bits_equal_reference_on_real_layers);
    RUN(test_bits_equal_reference_over_several_blocks_of_rows);
    RUN(test_bits_equal_reference_at_row_distances_of_2_KiB);
    RUN(test_every_epilogue_gives_the_same_bits);
    RUN(test_ranges_and_layouts_do_not_change_bits);
    RUN(test_a_range_writes_its_own_columns_only);
    RUN(test_extreme_codes_are_exact);
    RUN(test_the_longest_depth_is_exact);
    RUN(test_non_finite_values_propagate);
    RUN(test_denormals_and_signed_zeros_are_kept);
    RUN(test_a_row_does_not_depend_on_its_mates);
    return check_report();
}
