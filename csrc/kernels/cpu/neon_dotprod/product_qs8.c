/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes on Advanced SIMD with dot products: how the operands are packed for the tile of product_qs8_tile.h,
 * whose comment has the two layouts.  Both are rows of words, of a or of columns of b, that become words of rows.
 */
#include <arm_neon.h>

#include "kernels/cpu/variant.h"

/* This variant has no activation of its own. */
void activation_f32__neon(qb_activation activation, const float *x, size_t n, float *y);
#define PRODUCT_ACTIVATION activation_f32__neon

#include "kernels/cpu/simd/product_codes.h"

enum {
    FOUR = 4,    /* words of a register */
    QUARTERS = 4 /* registers of four columns in a step of a block */
};

/* Word j of words[i] and word i of words[j] change places. */
static void
transpose_words(int32x4_t words[FOUR])
{
    const int32x4_t low01 = vzip1q_s32(words[0], words[1]);
    const int32x4_t high01 = vzip2q_s32(words[0], words[1]);
    const int32x4_t low23 = vzip1q_s32(words[2], words[3]);
    const int32x4_t high23 = vzip2q_s32(words[2], words[3]);
    words[0] = vcombine_s32(vget_low_s32(low01), vget_low_s32(low23));
    words[1] = vcombine_s32(vget_high_s32(low01), vget_high_s32(low23));
    words[2] = vcombine_s32(vget_low_s32(high01), vget_low_s32(high23));
    words[3] = vcombine_s32(vget_high_s32(high01), vget_high_s32(high23));
}

static int32x4_t
load_words(const int8_t *codes)
{
    return vreinterpretq_s32_s8(vld1q_s8(codes));
}

static void
store_words(char *packed, int32x4_t words)
{
    vst1q_s8((int8_t *)packed, vreinterpretq_s8_s32(words));
}

/* ---- rows of a ------------------------------------------------------------------------------------------------- */

/* `steps` of four steps of `rows` rows, words[r] being row r: four rows together, then two, then one. */
static void
store_rows(int32x4_t words[TILE_ROWS], int64_t rows, int64_t steps, char *packed)
{
    const int64_t step_bytes = rows * STEP_DEPTHS;
    int64_t r = 0;
    if (rows >= FOUR) {
        transpose_words(words);
        for (int64_t s = 0; s < steps; ++s) {
            store_words(packed + s * step_bytes, words[s]);
        }
        r = FOUR;
    }
    if (rows - r >= 2) {
        const int32x4x2_t two = {{words[r], words[r + 1]}};
        int32_t pairs[2 * FOUR];
        vst2q_s32(pairs, two);
        for (int64_t s = 0; s < steps; ++s) {
            memcpy(packed + s * step_bytes + r * STEP_DEPTHS, pairs + 2 * s, 2 * sizeof *pairs);
        }
        r += 2;
    }
    if (r < rows) {
        int32_t row[FOUR];
        vst1q_s32(row, words[r]);
        for (int64_t s = 0; s < steps; ++s) {
            memcpy(packed + s * step_bytes + r * STEP_DEPTHS, row + s, sizeof *row);
        }
    }
}

static void
pack_codes(const int8_t *a, int64_t lda, int64_t rows, int64_t depth, void *packed, int32_t *terms)
{
    const int64_t steps = padded_depth(depth) / STEP_DEPTHS;
    char *next = packed;
    (void)terms;
    for (int64_t step = 0; step < steps; step += BLOCK_STEPS) {
        const int64_t first = step * STEP_DEPTHS;
        const int64_t real = depth - first < BLOCK_DEPTHS ? depth - first : BLOCK_DEPTHS;
        const int64_t stored = steps - step < BLOCK_STEPS ? steps - step : BLOCK_STEPS;
        int32x4_t words[TILE_ROWS];
        for (int64_t r = 0; r < rows; ++r) {
            const int8_t *source = a + r * lda + first;
            int8_t edge[BLOCK_DEPTHS] = {0};
            if (real < BLOCK_DEPTHS) {
                memcpy(edge, source, (size_t)real);
                source = edge;
            }
            words[r] = load_words(source);
        }
        store_rows(words, rows, stored, next);
        next += stored * rows * STEP_DEPTHS;
    }
}

/* ---- panels of b ----------------------------------------------------------------------------------------------- */

static void
pack_block(const int8_t *b, int64_t stride, int64_t steps, struct column_sums *sums, char *packed)
{
    (void)sums;
    for (int64_t q = 0; q < QUARTERS; ++q) {
        int32x4_t words[FOUR];
        for (int64_t j = 0; j < FOUR; ++j) {
            words[j] = load_words(b + (FOUR * q + j) * stride);
        }
        transpose_words(words);
        for (int64_t s = 0; s < steps; ++s) {
            store_words(packed + s * STEP_BYTES + q * (int64_t)sizeof(int32x4_t), words[s]);
        }
    }
}

static void
pack_depths(const int8_t *b, int64_t stride, struct column_sums *sums, char *packed)
{
    (void)sums;
    const int8x16x4_t depths = {
        {vld1q_s8(b), vld1q_s8(b + stride), vld1q_s8(b + 2 * stride), vld1q_s8(b + 3 * stride)}};
    vst4q_s8((int8_t *)packed, depths);
}

/* Columns start from 0, so there is nothing to add up for them. */
void
QB_FN(pack_qs8)(const int8_t *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                int64_t k, void *packed)
{
    (void)n;
    for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
        const int64_t columns = n1 - column < TILE_COLUMNS ? n1 - column : TILE_COLUMNS;
        char *panel = (char *)packed + column / TILE_COLUMNS * panel_bytes(k);
        memset(panel, 0, STARTS_BYTES);
        pack_columns(b + column * column_stride, column_stride, depth_stride, columns, k, NULL, panel + STARTS_BYTES);
    }
}
