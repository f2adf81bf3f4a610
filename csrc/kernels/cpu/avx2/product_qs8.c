/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes on AVX2: how the operands are packed for the tile of product_qs8_tile.h, whose comment has the
 * arithmetic and the two layouts.  A step of the tile has two of a panel.
 */
#include <immintrin.h>

#include "kernels/cpu/avx2/reduce.h"
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

/* Blocks of four rows, all of whose depths there are: rows of steps become steps of rows, a register each.  Sums of
 * terms are added to; they and the codes stay in registers. */
static void
pack_four_rows(const int8_t *a, int64_t lda, int64_t blocks, char *packed, __m256i sums[TILE_ROWS])
{
    enum { STEP_OF_ROWS = sizeof(__m256i) };
    _Static_assert((int)STEP_OF_ROWS == TILE_ROWS * STEP_DEPTHS * CODE_BYTES, "a step of rows must be a register");
    __m256i sum0 = sums[0];
    __m256i sum1 = sums[1];
    __m256i sum2 = sums[2];
    __m256i sum3 = sums[3];
    for (int64_t block = 0; block < blocks; ++block) {
        const __m256i row0 = load_wide(a);
        const __m256i row1 = load_wide(a + lda);
        const __m256i row2 = load_wide(a + 2 * lda);
        const __m256i row3 = load_wide(a + 3 * lda);
        const __m256i even01 = _mm256_unpacklo_epi64(row0, row1);
        const __m256i odd01 = _mm256_unpackhi_epi64(row0, row1);
        const __m256i even23 = _mm256_unpacklo_epi64(row2, row3);
        const __m256i odd23 = _mm256_unpackhi_epi64(row2, row3);
        sum0 = _mm256_add_epi32(sum0, row_terms(row0));
        sum1 = _mm256_add_epi32(sum1, row_terms(row1));
        sum2 = _mm256_add_epi32(sum2, row_terms(row2));
        sum3 = _mm256_add_epi32(sum3, row_terms(row3));
        _mm256_storeu_si256((void *)packed, _mm256_permute2x128_si256(even01, even23, 0x20));
        _mm256_storeu_si256((void *)(packed + STEP_OF_ROWS), _mm256_permute2x128_si256(odd01, odd23, 0x20));
        _mm256_storeu_si256((void *)(packed + 2 * STEP_OF_ROWS), _mm256_permute2x128_si256(even01, even23, 0x31));
        _mm256_storeu_si256((void *)(packed + 3 * STEP_OF_ROWS), _mm256_permute2x128_si256(odd01, odd23, 0x31));
        a += BLOCK_DEPTHS;
        packed += BLOCK_STEPS * STEP_OF_ROWS;
    }
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
}

/* `steps` steps of one row of so many, of which `depths` depths are there.  Returns the terms. */
static __m256i
pack_row(const int8_t *a, int64_t depths, int64_t rows, int64_t steps, char *packed)
{
    enum { BYTES = STEP_DEPTHS * CODE_BYTES };
    int8_t edge[BLOCK_DEPTHS] = {0};
    char row[sizeof(__m256i)];
    if (depths < BLOCK_DEPTHS) {
        memcpy(edge, a, (size_t)depths);
        a = edge;
    }
    const __m256i codes = load_wide(a);
    _mm256_storeu_si256((void *)row, codes);
    for (int64_t s = 0; s < steps; ++s) {
        memcpy(packed + s * rows * BYTES, row + s * BYTES, BYTES);
    }
    return row_terms(codes);
}

static void
pack_codes(const int8_t *a, int64_t lda, int64_t rows, int64_t depth, void *packed, int32_t *terms)
{
    enum { BYTES = STEP_DEPTHS * CODE_BYTES };
    const int64_t steps = padded_depth(depth) / STEP_DEPTHS;
    const int64_t blocks = rows == TILE_ROWS ? depth / BLOCK_DEPTHS : 0;
    __m256i sums[TILE_ROWS];
    for (int64_t r = 0; r < TILE_ROWS; ++r) {
        sums[r] = _mm256_setzero_si256();
    }
    pack_four_rows(a, lda, blocks, packed, sums);
    for (int64_t step = blocks * BLOCK_STEPS; step < steps; step += BLOCK_STEPS) {
        const int64_t first = step * STEP_DEPTHS;
        const int64_t depths = depth - first < BLOCK_DEPTHS ? depth - first : BLOCK_DEPTHS;
        const int64_t stored = steps - step < BLOCK_STEPS ? steps - step : BLOCK_STEPS;
        for (int64_t r = 0; r < rows; ++r) {
            char *of_row = (char *)packed + (step * rows + r) * BYTES;
            sums[r] = _mm256_add_epi32(sums[r], pack_row(a + r * lda + first, depths, rows, stored, of_row));
        }
    }
    for (int64_t r = 0; r < rows; ++r) {
        terms[r] = -reduce_add_s32(sums[r]);
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
