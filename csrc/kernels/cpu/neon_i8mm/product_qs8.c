/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes on Advanced SIMD with products of matrices: how the operands are packed for the tile of
 * product_qs8_tile.h, whose comment has the two layouts.  Both are rows, of a or of columns of b, of which eight codes
 * at a time lie beside those of the other rows.
 */
#include <arm_neon.h>

#include "kernels/cpu/variant.h"

/* This variant has no activation of its own. */
void activation_f32__neon(qb_activation activation, const float *x, size_t n, float *y);
#define PRODUCT_ACTIVATION activation_f32__neon

#include "kernels/cpu/simd/product_codes.h"

/* The two steps of a block. */
typedef struct two_steps {
    int8x16_t step[BLOCK_STEPS];
} two_steps;

/* Of two rows of 16 codes: the first eight of each, and the others. */
static two_steps
steps_of_two(int8x16_t first, int8x16_t second)
{
    return (two_steps){
        {vcombine_s8(vget_low_s8(first), vget_low_s8(second)), vcombine_s8(vget_high_s8(first), vget_high_s8(second))}};
}

/* ---- rows of a ------------------------------------------------------------------------------------------------- */

static void
pack_codes(const int8_t *a, int64_t lda, int64_t rows, int64_t depth, void *packed, int32_t *terms)
{
    const int64_t steps = padded_depth(depth) / STEP_DEPTHS;
    const int64_t step_bytes = rows * STEP_DEPTHS;
    (void)terms;
    for (int64_t step = 0; step < steps; step += BLOCK_STEPS) {
        const int64_t first = step * STEP_DEPTHS;
        const int64_t real = depth - first < BLOCK_DEPTHS ? depth - first : BLOCK_DEPTHS;
        int8_t *next = (int8_t *)packed + step * step_bytes;
        int8x16_t codes[TILE_ROWS];
        for (int64_t r = 0; r < rows; ++r) {
            const int8_t *source = a + r * lda + first;
            int8_t edge[BLOCK_DEPTHS] = {0};
            if (real < BLOCK_DEPTHS) {
                memcpy(edge, source, (size_t)real);
                source = edge;
            }
            codes[r] = vld1q_s8(source);
        }
        for (int64_t r = 0; r < rows / 2 * 2; r += 2) {
            const two_steps both = steps_of_two(codes[r], codes[r + 1]);
            vst1q_s8(next + r * STEP_DEPTHS, both.step[0]);
            vst1q_s8(next + r * STEP_DEPTHS + step_bytes, both.step[1]);
        }
        if (rows % 2 != 0) {
            vst1_s8(next + (rows - 1) * STEP_DEPTHS, vget_low_s8(codes[rows - 1]));
            vst1_s8(next + (rows - 1) * STEP_DEPTHS + step_bytes, vget_high_s8(codes[rows - 1]));
        }
    }
}

/* ---- panels of b ----------------------------------------------------------------------------------------------- */

static void
pack_block(const int8_t *b, int64_t stride, int64_t steps, struct column_sums *sums, char *packed)
{
    (void)sums;
    for (int64_t j = 0; j < BLOCK_COLUMNS; j += 2) {
        const two_steps both = steps_of_two(vld1q_s8(b + j * stride), vld1q_s8(b + (j + 1) * stride));
        for (int64_t s = 0; s < steps; ++s) {
            vst1q_s8((int8_t *)packed + s * STEP_BYTES + j * STEP_DEPTHS, both.step[s]);
        }
    }
}

/* Depths are put together by two, then four pairs of them. */
static void
pack_depths(const int8_t *b, int64_t stride, struct column_sums *sums, char *packed)
{
    enum { PAIRS = STEP_DEPTHS / 2 };
    int16x8x4_t left;
    int16x8x4_t right;
    (void)sums;
    for (int64_t p = 0; p < PAIRS; ++p) {
        const int8x16_t even = vld1q_s8(b + 2 * p * stride);
        const int8x16_t odd = vld1q_s8(b + (2 * p + 1) * stride);
        left.val[p] = vreinterpretq_s16_s8(vzip1q_s8(even, odd));
        right.val[p] = vreinterpretq_s16_s8(vzip2q_s8(even, odd));
    }
    vst4q_s16((int16_t *)(void *)packed, left);
    vst4q_s16((int16_t *)(void *)(packed + STEP_BYTES / 2), right);
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
