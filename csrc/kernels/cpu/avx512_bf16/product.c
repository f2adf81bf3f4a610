/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of operands that are rounded to bfloat16: the order of simd/product_panels.h, in which a depth is a pair.
 *
 * b is rounded when it is packed, and a, which nobody rounds twice the same way, chunk by chunk into scratch: x86
 * stores the lower half of a word first, so rows of bfloat16 in their order are rows of pairs.  The rounding is a loop
 * over integers (kernels/bf16.h) and not the processor's instruction, so VDPBF16PS is all that is taken on trust, until
 * core/bf16_check.h has tried it.
 */
#include "kernels/bf16.h"
#include "kernels/cpu/variant.h"

/* This variant has no activation of its own. */
void activation_f32__avx512(qb_activation activation, const float *x, size_t n, float *y);
#define PRODUCT_ACTIVATION activation_f32__avx512

#include "kernels/cpu/simd/product_panels.h"

static int64_t
pairs_of(int64_t k)
{
    return (k + 1) / 2;
}

void
QB_FN(pack_bf16_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    const int64_t padded = (n + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
    const int64_t pairs = pairs_of(k);
    *panel = TILE_COLUMNS;
    *bytes = (size_t)(padded * pairs) * sizeof(uint32_t);
    *scratch = (size_t)(tiles_per_block(pairs) * TILE_ROWS * copied_stride(chunk_depth(pairs))) * sizeof(uint32_t);
}

/* The pairs of `columns` columns, whose elements lie side by side: rows of depths are read as they lie. */
static void
pack_rows(const float *b, int64_t depth_stride, int64_t columns, int64_t k, uint32_t *panel)
{
    for (int64_t p = 0; p < k / 2; ++p) {
        const float *even = b + 2 * p * depth_stride;
        const float *odd = even + depth_stride;
        uint32_t *words = panel + p * TILE_COLUMNS;
        for (int64_t j = 0; j < columns; ++j) {
            words[j] = qb_bf16_pair(even[j], odd[j]);
        }
    }
    if (k % 2 != 0) {
        const float *last = b + (k - 1) * depth_stride;
        for (int64_t j = 0; j < columns; ++j) {
            panel[k / 2 * TILE_COLUMNS + j] = qb_bf16_pair(last[j], 0.0f);
        }
    }
}

/* The same wherever they lie, some depths of every column at a time. */
static void
pack_columns(const float *b, int64_t column_stride, int64_t depth_stride, int64_t columns, int64_t k, uint32_t *panel)
{
    const int64_t pairs = pairs_of(k);
    for (int64_t first = 0; first < pairs; first += PACK_DEPTH / 2) {
        const int64_t last = first + PACK_DEPTH / 2 < pairs ? first + PACK_DEPTH / 2 : pairs;
        for (int64_t j = 0; j < columns; ++j) {
            const float *source = b + j * column_stride;
            for (int64_t p = first; p < last; ++p) {
                const float odd = 2 * p + 1 < k ? source[(2 * p + 1) * depth_stride] : 0.0f;
                panel[p * TILE_COLUMNS + j] = qb_bf16_pair(source[2 * p * depth_stride], odd);
            }
        }
    }
}

void
QB_FN(pack_bf16)(const float *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                 int64_t k, void *packed)
{
    const int64_t pairs = pairs_of(k);
    (void)n;
    for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
        uint32_t *panel = (uint32_t *)packed + column * pairs;
        const int64_t columns = n1 - column < TILE_COLUMNS ? n1 - column : TILE_COLUMNS;
        if (columns < TILE_COLUMNS) {
            memset(panel, 0, (size_t)(TILE_COLUMNS * pairs) * sizeof *panel);
        }
        if (column_stride == 1) {
            pack_rows(b + column, depth_stride, columns, k, panel);
        }
        else {
            pack_columns(b + column * column_stride, column_stride, depth_stride, columns, k, panel);
        }
    }
}

/* y (pairs of n) = x (n) rounded. */
static void
round_row(const float *restrict x, int64_t n, uint16_t *restrict y)
{
    for (int64_t i = 0; i < n; ++i) {
        y[i] = (uint16_t)qb_bf16_bits(x[i]);
    }
    if (n % 2 != 0) {
        y[n] = 0;
    }
}

void
QB_FN(product_bf16)(const float *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                    int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    const int64_t pairs = pairs_of(k);
    const split s = split_of(m, pairs);
    panel_epilogue finish = panel_epilogue_begin(epilogue, 0);
    (void)n;
    for (int64_t step = 0; step < s.blocks * s.chunks; ++step) {
        const int64_t first = step % s.chunks * s.depth;
        block_chunk chunk = block_chunk_of(&s, step / s.chunks, step % s.chunks, pairs);
        const int64_t depths = k - 2 * first < 2 * chunk.depth ? k - 2 * first : 2 * chunk.depth;
        chunk.rows = scratch;
        chunk.stride = copied_stride(chunk.depth);
        for (int64_t i = chunk.row0; i < chunk.row1; ++i) {
            round_row(a + i * lda + 2 * first, depths, (uint16_t *)scratch + (i - chunk.row0) * 2 * chunk.stride);
        }
        for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
            const float *panel = (const float *)packed + column * pairs + first * TILE_COLUMNS;
            fetch ahead = {(const char *)panel, 0};
            if (column + TILE_COLUMNS < n1) {
                ahead = (fetch){(const char *)(panel + pairs * TILE_COLUMNS),
                                chunk.depth * TILE_COLUMNS * (int64_t)sizeof(float)};
            }
            panel_epilogue_move(&finish, epilogue, column, n1);
            multiply_panel(&chunk, panel, ahead, &finish, c + chunk.row0 * ldc + column, ldc);
        }
    }
}
