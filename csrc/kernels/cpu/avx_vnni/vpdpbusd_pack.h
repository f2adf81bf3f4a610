/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes by VPDPBUSD, of any register width: how the operands are packed for vpdpbusd_tile.h, whose comment
 * has the arithmetic and the two layouts.  The includer has PRODUCT_ACTIVATION, since these variants have no activation
 * of their own.
 */
#ifndef QB_KERNELS_CPU_AVX_VNNI_VPDPBUSD_PACK_H
#define QB_KERNELS_CPU_AVX_VNNI_VPDPBUSD_PACK_H

#include <immintrin.h>

#include "kernels/cpu/avx2/reduce.h"
#include "kernels/cpu/simd/product_codes.h"

enum {
    OFFSET = 128,      /* of a code of b, which makes it a byte without a sign */
    VECTOR_CODES = 32, /* of a register */
    PAIRS_FIT = 254,   /* vectors: half of them, 127 * 2^8 at most, in 16 bits */
    QUARTERS = 4       /* registers of four columns in a step of a block */
};

/* ---- rows of a ------------------------------------------------------------------------------------------------- */

/* Sums of pairs of codes, in 16 bits, of up to PAIRS_FIT vectors: each adds at most 2^8. */
static __m256i
sum_pairs(const char *codes, int64_t vectors)
{
    const __m256i ones = _mm256_set1_epi8(1);
    __m256i even = _mm256_setzero_si256();
    __m256i odd = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + 2 <= vectors; i += 2) {
        const __m256i first = _mm256_loadu_si256((const void *)(codes + i * VECTOR_CODES));
        const __m256i second = _mm256_loadu_si256((const void *)(codes + (i + 1) * VECTOR_CODES));
        even = _mm256_add_epi16(even, _mm256_maddubs_epi16(ones, first));
        odd = _mm256_add_epi16(odd, _mm256_maddubs_epi16(ones, second));
    }
    if (i < vectors) {
        const __m256i last = _mm256_loadu_si256((const void *)(codes + i * VECTOR_CODES));
        even = _mm256_add_epi16(even, _mm256_maddubs_epi16(ones, last));
    }
    return _mm256_add_epi32(_mm256_madd_epi16(even, _mm256_set1_epi16(1)),
                            _mm256_madd_epi16(odd, _mm256_set1_epi16(1)));
}

/* -128 times the sum of each row. */
static void
sum_codes(const char *rows, int64_t row_distance, int64_t count, int64_t k, int32_t *terms)
{
    for (int64_t r = 0; r < count; ++r) {
        const char *row = rows + r * row_distance;
        const int64_t vectors = k / VECTOR_CODES;
        __m256i sums = _mm256_setzero_si256();
        for (int64_t v = 0; v < vectors; v += PAIRS_FIT) {
            const int64_t part = vectors - v < PAIRS_FIT ? vectors - v : PAIRS_FIT;
            sums = _mm256_add_epi32(sums, sum_pairs(row + v * VECTOR_CODES, part));
        }
        int32_t sum = reduce_add_s32(sums);
        for (int64_t t = vectors * VECTOR_CODES; t < k; ++t) {
            sum += (int8_t)row[t];
        }
        terms[r] = -OFFSET * sum;
    }
}

/* ---- panels of b ----------------------------------------------------------------------------------------------- */

/* Columns start from nothing. */
struct column_sums {
    char none;
};

/* Store one step of four columns. */
static void
store_step(__m128i codes, char *packed)
{
    _mm_storeu_si128((void *)packed, _mm_xor_si128(codes, _mm_set1_epi8((char)CODE_FLIP)));
}

static void
pack_block(const int8_t *b, int64_t stride, int64_t steps, struct column_sums *sums, char *packed)
{
    (void)sums;
    for (int64_t q = 0; q < QUARTERS; ++q) {
        const int8_t *four = b + 4 * q * stride;
        const __m128i c0 = _mm_loadu_si128((const void *)four);
        const __m128i c1 = _mm_loadu_si128((const void *)(four + stride));
        const __m128i c2 = _mm_loadu_si128((const void *)(four + 2 * stride));
        const __m128i c3 = _mm_loadu_si128((const void *)(four + 3 * stride));
        const __m128i low01 = _mm_unpacklo_epi32(c0, c1);
        const __m128i high01 = _mm_unpackhi_epi32(c0, c1);
        const __m128i low23 = _mm_unpacklo_epi32(c2, c3);
        const __m128i high23 = _mm_unpackhi_epi32(c2, c3);
        const __m128i in_order[BLOCK_STEPS] = {_mm_unpacklo_epi64(low01, low23), _mm_unpackhi_epi64(low01, low23),
                                               _mm_unpacklo_epi64(high01, high23), _mm_unpackhi_epi64(high01, high23)};
        for (int64_t s = 0; s < steps; ++s) {
            store_step(in_order[s], packed + s * STEP_BYTES + q * (int64_t)sizeof(__m128i));
        }
    }
}

static void
pack_depths(const int8_t *b, int64_t stride, struct column_sums *sums, char *packed)
{
    (void)sums;
    const __m128i d0 = _mm_loadu_si128((const void *)b);
    const __m128i d1 = _mm_loadu_si128((const void *)(b + stride));
    const __m128i d2 = _mm_loadu_si128((const void *)(b + 2 * stride));
    const __m128i d3 = _mm_loadu_si128((const void *)(b + 3 * stride));
    const __m128i low01 = _mm_unpacklo_epi8(d0, d1);
    const __m128i high01 = _mm_unpackhi_epi8(d0, d1);
    const __m128i low23 = _mm_unpacklo_epi8(d2, d3);
    const __m128i high23 = _mm_unpackhi_epi8(d2, d3);
    const __m128i in_order[QUARTERS] = {_mm_unpacklo_epi16(low01, low23), _mm_unpackhi_epi16(low01, low23),
                                        _mm_unpacklo_epi16(high01, high23), _mm_unpackhi_epi16(high01, high23)};
    for (int64_t q = 0; q < QUARTERS; ++q) {
        store_step(in_order[q], packed + q * (int64_t)sizeof(__m128i));
    }
}

void
QB_FN(pack_qs8)(const int8_t *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                int64_t k, void *packed)
{
    (void)n;
    for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
        char *panel = (char *)packed + column / TILE_COLUMNS * panel_bytes(k);
        for (int64_t half = 0; half < TILE_COLUMNS; half += BLOCK_COLUMNS) {
            const int64_t left = n1 - column - half;
            const int64_t columns = left < 0 ? 0 : left < BLOCK_COLUMNS ? left : BLOCK_COLUMNS;
            const int64_t at = columns > 0 ? column + half : column; /* nothing is read of an empty half */
            struct column_sums sums = {0};
            pack_columns(b + at * column_stride, column_stride, depth_stride, columns, k, &sums,
                         panel + half * CODE_STEP);
        }
    }
}

#endif
