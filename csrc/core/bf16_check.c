/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bf16_check.h"

#include <inttypes.h>
#include <string.h>

/* Rows and columns beyond the tiles of every variant, depths that are odd and longer than a chunk of one. */
enum { ROWS = 31, COLUMNS = 67, DEPTH_MOST = 1555, ELEMENTS = (ROWS + COLUMNS) * DEPTH_MOST };

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t
next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* Which numbers operands are made of. */
typedef enum operand_kind {
    OPERAND_NEAR_ONE, /* [1/2, 1) and both signs: roundings of every sum */
    OPERAND_WIDE,     /* exponents -20 .. 20: sums that lose their small terms, and cancel */
    OPERAND_TINY,     /* exponents -70 .. -56: products about 2^-126, on both sides of being flushed */
    OPERAND_TIE, /* 2^-63 at odd depths, exponents -76 and -75 at even ones: 2^-126 and what is about a rounding less */
    OPERAND_HUGE, /* exponents 56 .. 66: products about 2^127, sums that become infinite and NaN */
    OPERAND_ANY,  /* any bits: denormals, infinities and NaN among them */
    OPERAND_KINDS
} operand_kind;

static float
operand_of(operand_kind kind, int64_t depth, uint64_t random)
{
    static const struct {
        uint32_t lowest, count; /* exponents, biased by 127 */
    } exponents[OPERAND_KINDS] = {{126, 1}, {107, 41}, {57, 15}, {51, 2}, {183, 11}, {0, 256}};
    const uint32_t exponent = exponents[kind].lowest + (uint32_t)(random >> 40) % exponents[kind].count;
    const uint32_t even = (uint32_t)(random & 0x807fffffu) | exponent << 23;
    const uint32_t power = (uint32_t)(random & 0x80000000u) | (127 - 63) << 23;
    const uint32_t bits = kind == OPERAND_TIE && depth % 2 != 0 ? power : even;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* One product of operands a (ROWS, k) and b (COLUMNS, k) on either table. */
typedef struct trial {
    const float *a, *b;
    int64_t k;
    void *packed, *scratch;
} trial;

static void
multiply(const qb_kernels *kernels, const trial *t, float *c)
{
    const qb_epilogue epilogue = {.divisor = 1.0f, .activation = QB_ACTIVATION_NONE};
    kernels->pack_bf16(t->b, t->k, 1, 0, COLUMNS, COLUMNS, t->k, t->packed);
    kernels->product_bf16(t->a, t->k, ROWS, t->packed, 0, COLUMNS, COLUMNS, t->k, &epilogue, c, COLUMNS, t->scratch);
}

static int
are_same(float x, float y)
{
    return memcmp(&x, &y, sizeof x) == 0 || (x != x && y != y);
}

static qb_status
compare(const qb_kernels *kernels, const qb_kernels *reference, const trial *t, float *sums, qb_error *error)
{
    float *expected = sums;
    float *found = sums + ROWS * COLUMNS;
    multiply(reference, t, expected);
    multiply(kernels, t, found);
    for (int64_t i = 0; i < ROWS * COLUMNS; i++) {
        if (!are_same(expected[i], found[i])) {
            return qb_fail(error, NULL, QB_ERR_UNSUPPORTED,
                           "bf16 products of the %s kernels are not what the instruction is documented to give on this "
                           "CPU: a sum of %" PRId64 " products is %a, expected %a",
                           kernels->variant[QB_KERNEL_INDEX_product_bf16], t->k, (double)found[i], (double)expected[i]);
        }
    }
    return QB_OK;
}

static qb_status
check_all(const qb_kernels *kernels, const qb_kernels *reference, float *operands, trial *t, float *sums,
          qb_error *error)
{
    static const int64_t depths[] = {1, 2, 3, 8, 33, DEPTH_MOST};
    uint64_t state = 1;
    for (int kind = 0; kind < OPERAND_KINDS; kind++) {
        for (size_t d = 0; d < sizeof depths / sizeof depths[0]; d++) {
            t->k = depths[d];
            for (int64_t i = 0; i < (ROWS + COLUMNS) * t->k; i++) {
                operands[i] = operand_of((operand_kind)kind, i % t->k, next_random(&state));
            }
            t->a = operands;
            t->b = operands + ROWS * t->k;
            QB_TRY(compare(kernels, reference, t, sums, error));
        }
    }
    return QB_OK;
}

/* The larger of what the two tables need for the longest depth. */
static void
sizes_of(const qb_kernels *kernels, const qb_kernels *reference, size_t *packed, size_t *scratch)
{
    int64_t panel;
    size_t other_packed;
    size_t other_scratch;
    kernels->pack_bf16_size(COLUMNS, DEPTH_MOST, &panel, packed, scratch);
    reference->pack_bf16_size(COLUMNS, DEPTH_MOST, &panel, &other_packed, &other_scratch);
    *packed = other_packed > *packed ? other_packed : *packed;
    *scratch = other_scratch > *scratch ? other_scratch : *scratch;
}

qb_status
qb_bf16_check(const qb_kernels *kernels, const qb_kernels *reference, qb_heap *heap, qb_error *error)
{
    size_t packed;
    size_t scratch;
    sizes_of(kernels, reference, &packed, &scratch);
    float *operands = qb_heap_allocate(heap, (ELEMENTS + 2 * ROWS * COLUMNS) * sizeof *operands);
    trial t = {.packed = qb_heap_allocate(heap, packed), .scratch = qb_heap_allocate(heap, scratch)};
    qb_status status = QB_OK;
    if (operands == NULL || t.packed == NULL || t.scratch == NULL) {
        status = qb_fail(error, NULL, QB_ERR_NOMEM, "no memory to try bf16 products");
    }
    else {
        status = check_all(kernels, reference, operands, &t, operands + ELEMENTS, error);
    }
    qb_heap_release(heap, operands);
    qb_heap_release(heap, t.packed);
    qb_heap_release(heap, t.scratch);
    return status;
}
