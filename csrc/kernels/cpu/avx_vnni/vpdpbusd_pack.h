/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes by VPDPBUSD, of any register width: how the operands are packed for vpdpbusd_tile.h, whose comment
 * has the arithmetic and the two layouts.  The includer has PRODUCT_ACTIVATION, since these variants have no activation
 * of their own.
 */
#ifndef QB_KERNELS_CPU_AVX_VNNI_VPDPBUSD_PACK_H
#define QB_KERNELS_CPU_AVX_VNNI_VPDPBUSD_PACK_H

#include <immintrin.h>

#include "kernels/cpu/simd/product_codes.h"

enum {
    OFFSET = 128,      /* of a code of a, which makes it a byte without a sign */
    VECTOR_CODES = 32, /* of a register */
    QUARTERS = 4       /* registers of four columns in a step of a block */
};

/* ---- rows of a ------------------------------------------------------------------------------------------------- */

/* 32 codes + 128, which is the sign bit turned over. */
static void
pack_vector(const int8_t *codes, uint8_t *packed)
{
    const __m256i signs = _mm256_set1_epi8((char)OFFSET);
    _mm256_storeu_si256((void *)packed, _mm256_xor_si256(_mm256_loadu_si256((const void *)codes), signs));
}

/* Padding is of any value: it meets the zeros of b.  The last vector of a row overlaps the one before. */
static void
pack_codes(const int8_t *a, int64_t lda, int64_t rows, int64_t depth, void *packed, int32_t *terms)
{
    const int64_t padded = padded_depth(depth);
    (void)terms;
    for (int64_t r = 0; r < rows; ++r) {
        const int8_t *codes = a + r * lda;
        uint8_t *row = (uint8_t *)packed + r * padded;
        int64_t t = 0;
        for (; t + VECTOR_CODES <= depth; t += VECTOR_CODES) {
            pack_vector(codes + t, row + t);
        }
        if (t < depth && depth >= VECTOR_CODES) {
            pack_vector(codes + depth - VECTOR_CODES, row + depth - VECTOR_CODES);
        }
        else {
            for (; t < depth; ++t) {
                row[t] = (uint8_t)(codes[t] + OFFSET);
            }
        }
        for (t = depth; t < padded; ++t) {
            row[t] = 0;
        }
    }
}

/* ---- panels of b ----------------------------------------------------------------------------------------------- */

/* Of the codes of each column, four in a register. */
struct column_sums {
    __m128i of[QUARTERS];
};

/* Store one step of four columns and add its codes to the columns' sums. */
static __m128i
store_step(__m128i codes, __m128i sums, char *packed)
{
    const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), codes);
    _mm_storeu_si128((void *)packed, codes);
    return _mm_add_epi32(sums, _mm_madd_epi16(pairs, _mm_set1_epi16(1)));
}

static void
pack_block(const int8_t *b, int64_t stride, int64_t steps, struct column_sums *sums, char *packed)
{
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
            sums->of[q] = store_step(in_order[s], sums->of[q], packed + s * STEP_BYTES + q * (int64_t)sizeof(__m128i));
        }
    }
}

static void
pack_depths(const int8_t *b, int64_t stride, struct column_sums *sums, char *packed)
{
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
        sums->of[q] = store_step(in_order[q], sums->of[q], packed + q * (int64_t)sizeof(__m128i));
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
            struct column_sums sums = {
                {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()}};
            pack_columns(b + at * column_stride, column_stride, depth_stride, columns, k, &sums,
                         panel + STARTS_BYTES + half * CODE_STEP);
            for (int64_t q = 0; q < QUARTERS; ++q) {
                const __m128i start = _mm_mullo_epi32(sums.of[q], _mm_set1_epi32(-OFFSET));
                _mm_storeu_si128((void *)(panel + (half + 4 * q) * (int64_t)sizeof(int32_t)), start);
            }
        }
    }
}

#endif
