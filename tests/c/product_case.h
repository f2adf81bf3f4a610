/* SPDX-License-Identifier: Apache-2.0
 *
 * One product on one variant, in memory that notices every stray access.  Every buffer ends at an inaccessible page
 * (assembly that reads beyond an operand stops the test; no sanitizer would see it), begins after a guard band, and has
 * the alignment of its element type, no more.  Sources define _DEFAULT_SOURCE before the first include, for
 * MAP_ANONYMOUS.
 */
#ifndef QB_TESTS_PRODUCT_CASE_H
#define QB_TESTS_PRODUCT_CASE_H

#include <sys/mman.h>
#include <unistd.h>

#include "kernel_check.h"

enum { REGION_BYTES = 16 << 20 };

/* ---- variants and guarded memory
 * ---------------------------------------------------------------------------------------- */

static kernel_tables tables; /* tables.at[0] is the reference */

static inline void
load_tables(void)
{
    tables = kernel_tables_load();
}

/* One region per operand, made once; its end is where access ends. */
typedef enum role { ROLE_A, ROLE_B, ROLE_C, ROLE_PACKED, ROLE_SCRATCH, ROLE_COUNT } role;

static unsigned char *region_end[ROLE_COUNT];

typedef struct block {
    unsigned char *data;
    size_t bytes;
    size_t gap; /* bytes between the block and the end of its region, below the alignment */
} block;

static inline void
load_regions(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t bytes = (REGION_BYTES + page - 1) / page * page;
    for (int r = 0; r < ROLE_COUNT; ++r) {
        unsigned char *base = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED || mprotect(base + bytes, page, PROT_NONE) != 0) {
            (void)fprintf(stderr, "no memory for a test\n");
            exit(EXIT_FAILURE);
        }
        region_end[r] = base + bytes;
    }
}

/* The last `bytes` of the region that start on a multiple of `alignment`; they and their surroundings are
 * GUARD_PATTERN.
 */
static inline block
block_make(role r, size_t bytes, size_t alignment)
{
    const size_t gap = (alignment - bytes % alignment) % alignment;
    const block made = {.data = region_end[r] - gap - bytes, .bytes = bytes, .gap = gap};
    if (bytes + gap + GUARD_BYTES > REGION_BYTES) {
        (void)fprintf(stderr, "a test needs larger regions: %zu bytes\n", bytes);
        exit(EXIT_FAILURE);
    }
    memset(made.data - GUARD_BYTES, GUARD_PATTERN, GUARD_BYTES + bytes + gap);
    return made;
}

static inline void
block_check(const block *b)
{
    int intact = 1;
    for (size_t i = 1; i <= GUARD_BYTES; ++i) {
        intact = intact && b->data[-(ptrdiff_t)i] == GUARD_PATTERN;
    }
    for (size_t i = 0; i < b->gap; ++i) {
        intact = intact && b->data[b->bytes + i] == GUARD_PATTERN;
    }
    CHECK(intact);
}

/* ---- one product
 * ------------------------------------------------------------------------------------------------------- */

/* What is multiplied; TYPE_BF16 are floats that the kernels round. */
typedef enum operand_type { TYPE_F32 = 0, TYPE_QS8, TYPE_BF16, TYPE_COUNT } operand_type;

static const char *const type_names[TYPE_COUNT] = {"f32", "qs8", "bf16"};

/* The kernels of one type, which differ in nothing else. */
static inline void
packed_sizes(const qb_kernels *kernels, operand_type type, int64_t n, int64_t k, int64_t *panel, size_t *packed,
             size_t *scratch)
{
    void (*const sizes[TYPE_COUNT])(int64_t, int64_t, int64_t *, size_t *, size_t *) = {
        kernels->pack_f32_size, kernels->pack_qs8_size, kernels->pack_bf16_size};
    sizes[type](n, k, panel, packed, scratch);
}

static inline void
pack(const qb_kernels *kernels, operand_type type, const void *b, int64_t column_stride, int64_t depth_stride,
     int64_t n0, int64_t n1, int64_t n, int64_t k, void *packed)
{
    if (type == TYPE_QS8) {
        kernels->pack_qs8(b, column_stride, depth_stride, n0, n1, n, k, packed);
        return;
    }
    (type == TYPE_BF16 ? kernels->pack_bf16 : kernels->pack_f32)(b, column_stride, depth_stride, n0, n1, n, k, packed);
}

static inline void
multiply(const qb_kernels *kernels, operand_type type, const void *a, int64_t lda, int64_t m, const void *packed,
         int64_t n0, int64_t n1, int64_t n, int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc,
         void *scratch)
{
    if (type == TYPE_QS8) {
        kernels->product_qs8(a, lda, m, packed, n0, n1, n, k, epilogue, c, ldc, scratch);
        return;
    }
    (type == TYPE_BF16 ? kernels->product_bf16 : kernels->product_f32)(a, lda, m, packed, n0, n1, n, k, epilogue, c,
                                                                       ldc, scratch);
}

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

static inline void *
take(size_t bytes)
{
    void *memory = malloc(bytes > 0 ? bytes : 1);
    if (memory == NULL) {
        (void)fprintf(stderr, "no memory for a test\n");
        exit(EXIT_FAILURE);
    }
    return memory;
}

static inline operands
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

static inline void
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
static inline void
run_product(const qb_kernels *kernels, const product_case *p, const operands *o, operand_type type, float *c)
{
    const int codes = type == TYPE_QS8;
    const size_t element = codes ? 1 : sizeof(float);
    const int64_t lda = p->k + p->a_gap;
    const int64_t ldc = p->n + p->c_gap;
    const int64_t column_stride = p->transposed ? 1 : p->k;
    const int64_t depth_stride = p->transposed ? p->n : 1;
    int64_t panel = 0;
    size_t packed_bytes = 0;
    size_t scratch_bytes = 0;
    packed_sizes(kernels, type, p->n, p->k, &panel, &packed_bytes, &scratch_bytes);
    CHECK(panel > 0);

    block a = block_make(ROLE_A, (size_t)((p->m - 1) * lda + p->k) * element, element);
    block b = block_make(ROLE_B, (size_t)(p->n * p->k) * element, element);
    block out = block_make(ROLE_C, (size_t)((p->m - 1) * ldc + p->n) * sizeof(float), sizeof(float));
    block packed = block_make(ROLE_PACKED, packed_bytes, 64);
    block scratch = block_make(ROLE_SCRATCH, scratch_bytes, 64);
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
        pack(kernels, type, b.data, column_stride, depth_stride, n0, n1, p->n, p->k, packed.data);
    }
    for (int64_t n0 = 0; n0 < p->n; n0 += width) {
        const int64_t n1 = n0 + width < p->n ? n0 + width : p->n;
        multiply(kernels, type, a.data, lda, p->m, packed.data, n0, n1, p->n, p->k, &epilogue, outs, ldc, scratch.data);
    }
    int gaps_intact = 1;
    for (int64_t i = 0; i < p->m; ++i) {
        memcpy(c + i * p->n, outs + i * ldc, (size_t)p->n * sizeof(float));
        for (size_t byte = 0; i + 1 < p->m && byte < (size_t)p->c_gap * sizeof(float); ++byte) {
            gaps_intact = gaps_intact && out.data[(size_t)(i * ldc + p->n) * sizeof(float) + byte] == GUARD_PATTERN;
        }
    }
    CHECK(gaps_intact);
    block_check(&a);
    block_check(&b);
    block_check(&out);
    block_check(&packed);
    block_check(&scratch);
}

/* 1 if a variant leaves such products to the reference. */
static inline int
is_reference(const qb_kernels *kernels, operand_type type)
{
    static const int products[TYPE_COUNT] = {QB_KERNEL_INDEX_product_f32, QB_KERNEL_INDEX_product_qs8,
                                             QB_KERNEL_INDEX_product_bf16};
    return strcmp(kernels->variant[products[type]], "ref") == 0;
}

/* Equal bits on every variant, except that every NaN equals every other: which NaN an operation makes is the
 * processor's choice. */
static inline void
compare_operands(const product_case *p, const operands *o, operand_type type)
{
    int others = 0;
    for (size_t v = 1; v < tables.count; ++v) {
        others += !is_reference(&tables.at[v], type);
    }
    if (others == 0) {
        return;
    }
    float *expected = take((size_t)(p->m * p->n) * sizeof(float));
    float *got = take((size_t)(p->m * p->n) * sizeof(float));
    run_product(&tables.at[0], p, o, type, expected);
    for (size_t v = 1; v < tables.count; ++v) {
        if (is_reference(&tables.at[v], type)) {
            continue;
        }
        run_product(&tables.at[v], p, o, type, got);
        const int same = same_floats(expected, got, (size_t)(p->m * p->n));
        CHECK(same);
        if (!same) {
            (void)fprintf(stderr, "  %s %s m %lld n %lld k %lld\n", tables.at[v].isa, type_names[type], (long long)p->m,
                          (long long)p->n, (long long)p->k);
        }
    }
    free(expected);
    free(got);
}

static inline void
compare(const product_case *p)
{
    operands o = operands_make(p, (unsigned long long)(p->m * 1000003 + p->n * 1009 + p->k));
    for (int type = 0; type < TYPE_COUNT; ++type) {
        compare_operands(p, &o, (operand_type)type);
    }
    operands_free(&o);
}

#endif
