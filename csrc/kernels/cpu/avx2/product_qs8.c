/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes on AVX2: how the operands are packed for the tile of product_qs8_tile.h, whose comment has the
 * arithmetic and the two layouts.  A step of the tile has two of a panel.
 */
#include <immintrin.h>

#include "kernels/cpu/simd/product_codes.h"

static __m256i
load_wide(const int8_t *codes)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)codes));
}

/* ---- rows of a ------------------------------------------------------------------------------------------------- */

/* a0 a2 + a1 a3 of four steps, in the low halves of 64 bits; the high halves are 0. */
static __m256i
row_terms(__m256i codes)
{
    return _mm256_madd_epi16(codes, _mm256_srli_epi64(codes, 32));
}

static int32_t
sum_of(__m256i v)
{
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

/* Four steps of four rows: rows of steps become steps of rows.  Stores `steps` of them. */
static void
store_four_rows(const __m256i codes[TILE_ROWS], int64_t steps, char *packed)
{
    const __m256i even01 = _mm256_unpacklo_epi64(codes[0], codes[1]);
    const __m256i odd01 = _mm256_unpackhi_epi64(codes[0], codes[1]);
    const __m256i even23 = _mm256_unpacklo_epi64(codes[2], codes[3]);
    const __m256i odd23 = _mm256_unpackhi_epi64(codes[2], codes[3]);
    const __m256i in_order[BLOCK_STEPS] = {
        _mm256_permute2x128_si256(even01, even23, 0x20), _mm256_permute2x128_si256(odd01, odd23, 0x20),
        _mm256_permute2x128_si256(even01, even23, 0x31), _mm256_permute2x128_si256(odd01, odd23, 0x31)};
    for (int64_t s = 0; s < steps; ++s) {
        _mm256_storeu_si256((void *)(packed + s * (int64_t)sizeof(__m256i)), in_order[s]);
    }
}

/* The same of fewer rows. */
static void
store_rows(const __m256i codes[TILE_ROWS], int64_t rows, int64_t steps, char *packed)
{
    enum { BYTES = STEP_DEPTHS * CODE_BYTES };
    for (int64_t r = 0; r < rows; ++r) {
        char row[sizeof(__m256i)];
        _mm256_storeu_si256((void *)row, codes[r]);
        for (int64_t s = 0; s < steps; ++s) {
            memcpy(packed + (s * rows + r) * BYTES, row + s * BYTES, BYTES);
        }
    }
}

static void
pack_codes(const int8_t *a, int64_t lda, int64_t rows, int64_t depth, void *packed, int32_t *terms)
{
    const int64_t steps = padded_depth(depth) / STEP_DEPTHS;
    char *next = packed;
    __m256i sums[TILE_ROWS];
    for (int64_t r = 0; r < TILE_ROWS; ++r) {
        sums[r] = _mm256_setzero_si256();
    }
    for (int64_t step = 0; step < steps; step += BLOCK_STEPS) {
        const int64_t first = step * STEP_DEPTHS;
        const int64_t real = depth - first < BLOCK_DEPTHS ? depth - first : BLOCK_DEPTHS;
        const int64_t stored = steps - step < BLOCK_STEPS ? steps - step : BLOCK_STEPS;
        __m256i codes[TILE_ROWS];
        for (int64_t r = 0; r < TILE_ROWS; ++r) {
            const int8_t *source = a + (r < rows ? r : 0) * lda + first;
            int8_t edge[BLOCK_DEPTHS] = {0};
            if (real < BLOCK_DEPTHS) {
                memcpy(edge, source, (size_t)real);
                source = edge;
            }
            codes[r] = load_wide(source);
            sums[r] = _mm256_add_epi32(sums[r], row_terms(codes[r]));
        }
        if (rows == TILE_ROWS) {
            store_four_rows(codes, stored, next);
        }
        else {
            store_rows(codes, rows, stored, next);
        }
        next += stored * rows * STEP_DEPTHS * CODE_BYTES;
    }
    for (int64_t r = 0; r < rows; ++r) {
        terms[r] = sum_of(sums[r]);
    }
}

/* ---- panels of b ----------------------------------------------------------------------------------------------- */

/* Minus the sum of b0 b2 + b1 b3 of each column. */
struct column_sums {
    __m256i low, high; /* columns 0-7, 8-15 */
};

/* One step of eight columns: (b0, b1) of each, and (b2, b3) of each. */
static __m256i
pack_step(__m128i first, __m128i second, __m256i start, char *packed)
{
    _mm_storeu_si128((void *)packed, second);
    _mm_storeu_si128((void *)(packed + sizeof second), first);
    const __m256i term = _mm256_madd_epi16(_mm256_cvtepi8_epi16(first), _mm256_cvtepi8_epi16(second));
    return _mm256_sub_epi32(start, term);
}

/* Four steps of eight columns, b[j * stride] on being the 16 depths of column j; stores `steps` of them. */
static __m256i
pack_eight_columns(const int8_t *b, int64_t stride, int64_t steps, __m256i start, char *packed)
{
    const __m128i halves = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    __m128i in_order[2][BLOCK_STEPS]; /* a step of columns 0-3 and 4-7 */
    for (int64_t q = 0; q < 2; ++q) {
        const int8_t *four = b + 4 * q * stride;
        const __m128i c0 = _mm_loadu_si128((const void *)four);
        const __m128i c1 = _mm_loadu_si128((const void *)(four + stride));
        const __m128i c2 = _mm_loadu_si128((const void *)(four + 2 * stride));
        const __m128i c3 = _mm_loadu_si128((const void *)(four + 3 * stride));
        const __m128i low01 = _mm_unpacklo_epi32(c0, c1);
        const __m128i high01 = _mm_unpackhi_epi32(c0, c1);
        const __m128i low23 = _mm_unpacklo_epi32(c2, c3);
        const __m128i high23 = _mm_unpackhi_epi32(c2, c3);
        in_order[q][0] = _mm_unpacklo_epi64(low01, low23);
        in_order[q][1] = _mm_unpackhi_epi64(low01, low23);
        in_order[q][2] = _mm_unpacklo_epi64(high01, high23);
        in_order[q][3] = _mm_unpackhi_epi64(high01, high23);
    }
    for (int64_t s = 0; s < steps; ++s) {
        const __m128i left = _mm_shuffle_epi8(in_order[0][s], halves);
        const __m128i right = _mm_shuffle_epi8(in_order[1][s], halves);
        start =
            pack_step(_mm_unpacklo_epi64(left, right), _mm_unpackhi_epi64(left, right), start, packed + s * STEP_BYTES);
    }
    return start;
}

static void
pack_block(const int8_t *b, int64_t stride, int64_t steps, struct column_sums *sums, char *packed)
{
    sums->low = pack_eight_columns(b, stride, steps, sums->low, packed);
    sums->high = pack_eight_columns(b + 8 * stride, stride, steps, sums->high, packed + STEP_BYTES / 2);
}

static void
pack_depths(const int8_t *b, int64_t stride, struct column_sums *sums, char *packed)
{
    const __m128i d0 = _mm_loadu_si128((const void *)b);
    const __m128i d1 = _mm_loadu_si128((const void *)(b + stride));
    const __m128i d2 = _mm_loadu_si128((const void *)(b + 2 * stride));
    const __m128i d3 = _mm_loadu_si128((const void *)(b + 3 * stride));
    sums->low = pack_step(_mm_unpacklo_epi8(d0, d1), _mm_unpacklo_epi8(d2, d3), sums->low, packed);
    sums->high = pack_step(_mm_unpackhi_epi8(d0, d1), _mm_unpackhi_epi8(d2, d3), sums->high, packed + STEP_BYTES / 2);
}

void
QB_FN(pack_qs8)(const int8_t *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                int64_t k, void *packed)
{
    (void)n;
    for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
        const int64_t columns = n1 - column < TILE_COLUMNS ? n1 - column : TILE_COLUMNS;
        char *panel = (char *)packed + column / TILE_COLUMNS * panel_bytes(k);
        struct column_sums starts = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        pack_columns(b + column * column_stride, column_stride, depth_stride, columns, k, &starts,
                     panel + STARTS_BYTES);
        _mm256_storeu_si256((void *)panel, starts.low);
        _mm256_storeu_si256((void *)(panel + sizeof starts.low), starts.high);
    }
}
