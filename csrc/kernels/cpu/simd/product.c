/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of floats on the tile of a variant; product_panels.h has what they share with other products.
 */
#include "product_panels.h"

void QB_FN(transpose_f32)(const float *x, size_t rows, size_t columns, size_t x_stride, float *y, size_t y_stride);

/* Bytes; rows this far apart share the few sets of a level-1 cache. */
enum { SET_PERIOD = 2048 };

void
QB_FN(pack_f32_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    const int64_t padded = (n + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
    *panel = TILE_COLUMNS;
    *bytes = (size_t)(padded * k) * sizeof(float);
    *scratch = (size_t)(tiles_per_block(k) * TILE_ROWS * copied_stride(chunk_depth(k))) * sizeof(float);
}

void
QB_FN(pack_f32)(const float *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                int64_t k, void *packed)
{
    (void)n;
    for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
        float *panel = (float *)packed + column * k;
        const int64_t columns = n1 - column < TILE_COLUMNS ? n1 - column : TILE_COLUMNS;
        if (columns < TILE_COLUMNS) {
            memset(panel, 0, (size_t)(TILE_COLUMNS * k) * sizeof(float));
        }
        if (column_stride == 1) {
            for (int64_t t = 0; t < k; ++t) {
                copy_columns(panel + t * TILE_COLUMNS, b + column + t * depth_stride, columns);
            }
            continue;
        }
        if (depth_stride == 1) {
            QB_FN(transpose_f32)
            (b + column * column_stride, (size_t)columns, (size_t)k, (size_t)column_stride, panel, TILE_COLUMNS);
            continue;
        }
        for (int64_t t = 0; t < k; ++t) {
            for (int64_t j = 0; j < columns; ++j) {
                panel[t * TILE_COLUMNS + j] = b[(column + j) * column_stride + t * depth_stride];
            }
        }
    }
}

/* Rows whose distance is a multiple of SET_PERIOD would evict each other from the level-1 cache inside one tile; they
 * are copied when the copy is used for several panels. */
static int
rows_need_copy(int64_t lda, int64_t m, int64_t columns)
{
    return lda * (int64_t)sizeof(float) % SET_PERIOD == 0 && m > TILE_ROWS / 2 && columns >= 4 * TILE_COLUMNS;
}

void
QB_FN(product_f32)(const float *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                   int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    (void)n;
    const split s = split_of(m, k);
    const int copy = rows_need_copy(lda, m, n1 - n0);
    panel_epilogue finish = panel_epilogue_begin(epilogue, 0);
    for (int64_t step = 0; step < s.blocks * s.chunks; ++step) {
        const int64_t first = step % s.chunks * s.depth;
        block_chunk chunk = block_chunk_of(&s, step / s.chunks, step % s.chunks, k);
        chunk.rows = a + chunk.row0 * lda + first;
        chunk.stride = lda;
        if (copy) {
            float *copied = scratch;
            chunk.stride = copied_stride(chunk.depth);
            for (int64_t i = 0; i < chunk.row1 - chunk.row0; ++i) {
                memcpy(copied + i * chunk.stride, chunk.rows + i * lda, (size_t)chunk.depth * sizeof(float));
            }
            chunk.rows = copied;
        }
        for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
            const float *panel = (const float *)packed + column * k + first * TILE_COLUMNS;
            fetch ahead = {(const char *)panel, 0};
            if (column + TILE_COLUMNS < n1) {
                ahead = (fetch){(const char *)(panel + k * TILE_COLUMNS),
                                chunk.depth * TILE_COLUMNS * (int64_t)sizeof(float)};
            }
            panel_epilogue_move(&finish, epilogue, column, n1);
            multiply_panel(&chunk, panel, ahead, &finish, c + chunk.row0 * ldc + column, ldc);
        }
    }
}
