/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes on AVX512-VNNI: how the operands are packed for the tile of product_qs8_tile.h, whose comment has
 * the arithmetic and the two layouts.
 */
#include <immintrin.h>

#include "kernels/cpu/variant.h"

/* This variant has no activation of its own. */
void activation_f32__avx512(qb_activation activation, const float *x, size_t n, float *y);
#define PRODUCT_ACTIVATION activation_f32__avx512

#include "kernels/cpu/simd/product_codes.h"

enum {
    OFFSET = 128,       /* of a code of a, which makes it a byte without a sign */
    BLOCK_COLUMNS = 16, /* of a block that is packed */
    BLOCK_DEPTHS = 16,
    BLOCK_STEPS = BLOCK_DEPTHS / CODE_STEP,
    STEP_BYTES = CODE_STEP * TILE_COLUMNS, /* of a panel */
    QUARTERS = 4                           /* registers of four columns in a step of a block */
};

/* ---- rows of a ------------------------------------------------------------------------------------------------- */

/* Padding is of any value: it meets the zeros of b. */
static void
pack_codes(const int8_t *a, int64_t lda, int64_t rows, int64_t depth, void *packed, int32_t *terms)
{
    const int64_t padded = padded_depth(depth);
    (void)terms;
    for (int64_t r = 0; r < rows; ++r) {
        const int8_t *codes = a + r * lda;
        uint8_t *row = (uint8_t *)packed + r * padded;
        for (int64_t t = 0; t < depth; ++t) {
            row[t] = (uint8_t)(codes[t] + OFFSET);
        }
        memset(row + depth, 0, (size_t)(padded - depth));
    }
}

/* ---- panels of b ----------------------------------------------------------------------------------------------- */

/* Store one step of four columns and add its codes to the columns' sums. */
static __m128i
store_step(__m128i codes, __m128i sums, char *packed)
{
    const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), codes);
    _mm_storeu_si128((void *)packed, codes);
    return _mm_add_epi32(sums, _mm_madd_epi16(pairs, _mm_set1_epi16(1)));
}

/* A block of columns whose depths lie side by side, b[j * stride] on being those of column j.  Packs `steps` steps. */
static void
pack_columns(const int8_t *b, int64_t stride, int64_t steps, __m128i sums[QUARTERS], char *packed)
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
            sums[q] = store_step(in_order[s], sums[q], packed + s * STEP_BYTES + q * (int64_t)sizeof(__m128i));
        }
    }
}

/* One step of a block whose columns lie side by side, depths `stride` apart. */
static void
pack_depths(const int8_t *b, int64_t stride, __m128i sums[QUARTERS], char *packed)
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
        sums[q] = store_step(in_order[q], sums[q], packed + q * (int64_t)sizeof(__m128i));
    }
}

/* (columns, depths) of b, in any layout, into a block of zeros whose columns lie BLOCK_DEPTHS apart. */
static void
gather_block(const int8_t *b, int64_t column_stride, int64_t depth_stride, int64_t columns, int64_t depths,
             int8_t block[BLOCK_COLUMNS * BLOCK_DEPTHS])
{
    memset(block, 0, BLOCK_COLUMNS * BLOCK_DEPTHS);
    for (int64_t j = 0; j < columns; ++j) {
        for (int64_t t = 0; t < depths; ++t) {
            block[j * BLOCK_DEPTHS + t] = b[j * column_stride + t * depth_stride];
        }
    }
}

/* Up to BLOCK_COLUMNS columns of a panel, with what they start from; codes that do not fill a block are copied into
 * one. */
static void
pack_half_panel(const int8_t *b, int64_t column_stride, int64_t depth_stride, int64_t columns, int64_t k, char *starts,
                char *codes)
{
    const int64_t steps = padded_depth(k) / CODE_STEP;
    __m128i sums[QUARTERS];
    for (int64_t q = 0; q < QUARTERS; ++q) {
        sums[q] = _mm_setzero_si128();
    }
    for (int64_t step = 0; step < steps; step += BLOCK_STEPS) {
        const int64_t first = step * CODE_STEP;
        const int64_t depths = k - first < BLOCK_DEPTHS ? k - first : BLOCK_DEPTHS;
        const int64_t stored = steps - step < BLOCK_STEPS ? steps - step : BLOCK_STEPS;
        const int is_whole = columns == BLOCK_COLUMNS && depths == BLOCK_DEPTHS;
        const int8_t *source = b + first * depth_stride;
        char *packed = codes + step * STEP_BYTES;
        if (is_whole && depth_stride == 1) {
            pack_columns(source, column_stride, stored, sums, packed);
        }
        else if (is_whole && column_stride == 1) {
            for (int64_t s = 0; s < BLOCK_STEPS; ++s) {
                pack_depths(source + s * CODE_STEP * depth_stride, depth_stride, sums, packed + s * STEP_BYTES);
            }
        }
        else {
            int8_t block[BLOCK_COLUMNS * BLOCK_DEPTHS];
            gather_block(source, column_stride, depth_stride, columns, depths, block);
            pack_columns(block, BLOCK_DEPTHS, stored, sums, packed);
        }
    }
    for (int64_t q = 0; q < QUARTERS; ++q) {
        const __m128i start = _mm_mullo_epi32(sums[q], _mm_set1_epi32(-OFFSET));
        _mm_storeu_si128((void *)(starts + q * (int64_t)sizeof start), start);
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
            pack_half_panel(b + at * column_stride, column_stride, depth_stride, columns, k,
                            panel + half * (int64_t)sizeof(int32_t), panel + STARTS_BYTES + half * CODE_STEP);
        }
    }
}
