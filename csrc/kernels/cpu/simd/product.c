/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with a packed operand, for every variant that has a product_tile.h: `tiles[rows - 1]` computes rows x
 * TILE_COLUMNS raw sums over the whole depth given to it, in order, and this file does everything around it.
 *
 * Packing: b lies in panels of TILE_COLUMNS columns, depth by depth, the last one padded with zeros.  a is not packed:
 * a tile reads its rows in place, once per panel, so a block of rows that fits the level-2 cache is taken through all
 * panels before the next block starts (TILE_CACHE_BYTES), and a panel is read once per block.  Rows are divided into
 * tiles of equal height as far as possible (16 rows are 8 + 8 rather than 14 + 2).  A tile's sums go through a buffer
 * of a few KiB, in which bias, step, divisor and activation are applied while it is in the nearest cache.
 *
 * Code products run on the same tile: codes are packed as int8, widened to float32 per panel and per block of rows, and
 * every sum of up to QS8_CHUNK products of codes is an integer below 2^24 + 1, so float32 holds every partial sum
 * exactly in any order; longer depths are cut and their sums added as int32.  A variant with integer instructions
 * replaces the four qs8 slots in its overlay and nothing else.
 */
#include <math.h>
#include <string.h>

#include "kernels/cpu/variant.h"
#include "product_tile.h"

enum {
    QS8_CHUNK = 1024, /* 1024 * 128 * 128 = 2^24: float32 counts that far */
    LINE_FLOATS = 16, /* of a cache line */
    SET_PERIOD = 2048 /* bytes; rows this far apart share the few sets of a level-1 cache */
};

/* The epilogue of one panel, padded to its width, so that loops over it have a constant length. */
typedef struct panel_epilogue {
    float step[TILE_COLUMNS];
    float bias[TILE_COLUMNS]; /* without bias -0 in float products: v + -0 is v, for v = -0 too */
    float divisor;
    int64_t columns; /* that are stored, 1 .. TILE_COLUMNS */
    int scaled;      /* a code product */
    qb_activation activation;
} panel_epilogue;

static panel_epilogue
panel_epilogue_of(const qb_epilogue *epilogue, int scaled, int64_t column, int64_t end)
{
    panel_epilogue made;
    made.columns = end - column < TILE_COLUMNS ? end - column : TILE_COLUMNS;
    made.divisor = epilogue->divisor;
    made.activation = epilogue->activation;
    made.scaled = scaled;
    for (int64_t j = 0; j < TILE_COLUMNS; ++j) {
        made.step[j] = scaled && j < made.columns ? epilogue->step[column + j] : 0.0f;
        made.bias[j] = scaled ? 0.0f : -0.0f;
        if (epilogue->bias != NULL && j < made.columns) {
            made.bias[j] = epilogue->bias[column + j];
        }
    }
    return made;
}

/* c (rows, columns; row distance ldc) = epilogue of the raw sums in tile (rows, TILE_COLUMNS), which is overwritten.
 * Padding columns take part in the arithmetic and are not stored. */
static void
finish_tile(float *restrict tile, int64_t rows, const panel_epilogue *restrict panel, float *restrict c, int64_t ldc)
{
    const float divisor = panel->divisor;
    for (int64_t i = 0; i < rows; ++i) {
        float *row = tile + i * TILE_COLUMNS;
        if (panel->scaled) {
            for (int64_t j = 0; j < TILE_COLUMNS; ++j) {
                row[j] = fmaf(row[j], panel->step[j], panel->bias[j]);
            }
        }
        else {
            for (int64_t j = 0; j < TILE_COLUMNS; ++j) {
                row[j] = row[j] + panel->bias[j];
            }
        }
        if (divisor != 1.0f) {
            for (int64_t j = 0; j < TILE_COLUMNS; ++j) {
                row[j] = row[j] / divisor;
            }
        }
    }
    if (panel->activation != QB_ACTIVATION_NONE) {
        QB_FN(activation_f32)(panel->activation, tile, (size_t)(rows * TILE_COLUMNS), tile);
    }
    for (int64_t i = 0; i < rows; ++i) {
        const float *row = tile + i * TILE_COLUMNS;
        if (panel->columns == TILE_COLUMNS) {
            memcpy(c + i * ldc, row, TILE_COLUMNS * sizeof(float));
        }
        else {
            memcpy(c + i * ldc, row, (size_t)panel->columns * sizeof(float));
        }
    }
}

/* ---- blocks of rows ------------------------------------------------------------------------------------------------
 */

/* m rows in `tiles` tiles of nearly equal height, the tiles in `blocks` blocks of nearly equal size. */
typedef struct row_split {
    int64_t m;
    int64_t tiles;
    int64_t blocks;
} row_split;

/* Row distance, in floats, of rows copied to scratch: an odd number of cache lines, so that the rows of a tile lie in
 * different sets. */
static int64_t
copied_stride(int64_t k)
{
    return (((k + LINE_FLOATS - 1) / LINE_FLOATS) | 1) * LINE_FLOATS;
}

static int64_t
tiles_per_block(int64_t k)
{
    const int64_t tile_bytes = TILE_ROWS * copied_stride(k) * (int64_t)sizeof(float);
    const int64_t tiles_that_fit = TILE_CACHE_BYTES / tile_bytes;
    return tiles_that_fit < 1 ? 1 : tiles_that_fit > 16 ? 16 : tiles_that_fit;
}

static row_split
split_rows(int64_t m, int64_t k)
{
    const int64_t per_block = tiles_per_block(k);
    const int64_t count = (m + TILE_ROWS - 1) / TILE_ROWS;
    return (row_split){.m = m, .tiles = count, .blocks = (count + per_block - 1) / per_block};
}

static int64_t
first_tile(const row_split *split, int64_t block)
{
    return split->tiles * block / split->blocks;
}

static int64_t
first_row(const row_split *split, int64_t tile)
{
    return split->m * tile / split->tiles;
}

/* ---- float products
 * -------------------------------------------------------------------------------------------------- */

void
QB_FN(pack_f32_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    const int64_t padded = (n + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
    *panel = TILE_COLUMNS;
    *bytes = (size_t)(padded * k) * sizeof(float);
    *scratch = (size_t)(tiles_per_block(k) * TILE_ROWS * copied_stride(k)) * sizeof(float);
}

void
QB_FN(pack_f32)(const float *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                int64_t k, void *packed)
{
    (void)n;
    for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
        float *panel = (float *)packed + column * k;
        const int64_t columns = n1 - column < TILE_COLUMNS ? n1 - column : TILE_COLUMNS;
        for (int64_t first = 0; first < k; first += LINE_FLOATS) {
            const int64_t last = first + LINE_FLOATS < k ? first + LINE_FLOATS : k;
            for (int64_t j = 0; j < columns; ++j) {
                const float *source = b + (column + j) * column_stride;
                for (int64_t t = first; t < last; ++t) {
                    panel[t * TILE_COLUMNS + j] = source[t * depth_stride];
                }
            }
            for (int64_t t = first; t < last; ++t) {
                for (int64_t j = columns; j < TILE_COLUMNS; ++j) {
                    panel[t * TILE_COLUMNS + j] = 0.0f;
                }
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
    _Alignas(64) float tile[TILE_ROWS * TILE_COLUMNS];
    const row_split split = split_rows(m, k);
    const int copy = rows_need_copy(lda, m, n1 - n0);
    for (int64_t block = 0; block < split.blocks; ++block) {
        const int64_t tile0 = first_tile(&split, block);
        const int64_t tile1 = first_tile(&split, block + 1);
        const int64_t row0 = first_row(&split, tile0);
        const float *rows = a + row0 * lda;
        int64_t stride = lda;
        if (copy) {
            float *copied = scratch;
            stride = copied_stride(k);
            for (int64_t i = 0; i < first_row(&split, tile1) - row0; ++i) {
                memcpy(copied + i * stride, rows + i * lda, (size_t)k * sizeof(float));
            }
            rows = copied;
        }
        for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
            const float *panel = (const float *)packed + column * k;
            const panel_epilogue finish = panel_epilogue_of(epilogue, 0, column, n1);
            for (int64_t t = tile0; t < tile1; ++t) {
                const int64_t row = first_row(&split, t);
                const int64_t height = first_row(&split, t + 1) - row;
                tiles[height - 1](k, rows + (row - row0) * stride, stride, panel, tile);
                finish_tile(tile, height, &finish, c + row * ldc + column, ldc);
            }
        }
    }
}

/* ---- code products
 * --------------------------------------------------------------------------------------------------- */

static int64_t
chunk_depth(int64_t k)
{
    return k < QS8_CHUNK ? k : QS8_CHUNK;
}

void
QB_FN(pack_qs8_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    const int64_t padded = (n + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
    const int64_t block_rows = tiles_per_block(k) * TILE_ROWS;
    *panel = TILE_COLUMNS;
    *bytes = (size_t)(padded * k);
    *scratch = (size_t)(block_rows * copied_stride(k) + chunk_depth(k) * TILE_COLUMNS) * sizeof(float) +
               (size_t)(block_rows * TILE_COLUMNS) * sizeof(int32_t);
}

void
QB_FN(pack_qs8)(const int8_t *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                int64_t k, void *packed)
{
    (void)n;
    for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
        int8_t *panel = (int8_t *)packed + column * k;
        const int64_t columns = n1 - column < TILE_COLUMNS ? n1 - column : TILE_COLUMNS;
        if (columns < TILE_COLUMNS) {
            memset(panel, 0, (size_t)(TILE_COLUMNS * k));
        }
        if (column_stride == 1) {
            for (int64_t t = 0; t < k; ++t) {
                memcpy(panel + t * TILE_COLUMNS, b + column + t * depth_stride, (size_t)columns);
            }
            continue;
        }
        for (int64_t first = 0; first < k; first += 64) {
            const int64_t last = first + 64 < k ? first + 64 : k;
            for (int64_t j = 0; j < columns; ++j) {
                const int8_t *source = b + (column + j) * column_stride;
                for (int64_t t = first; t < last; ++t) {
                    panel[t * TILE_COLUMNS + j] = source[t * depth_stride];
                }
            }
        }
    }
}

/* y = x as float32. */
static void
widen_codes(const int8_t *restrict x, int64_t n, float *restrict y)
{
    for (int64_t i = 0; i < n; ++i) {
        y[i] = (float)x[i];
    }
}

/* Where one call works: the rows of a block and one chunk of a panel as floats, and sums over chunks. */
typedef struct qs8_work {
    float *rows;
    int64_t stride;
    float *panel;
    int32_t *sums; /* (rows of the block, TILE_COLUMNS) */
} qs8_work;

/* One panel for one block of rows whose depth is one chunk or less. */
static void
panel_of_one_chunk(const qs8_work *work, const row_split *split, int64_t tile0, int64_t tile1, int64_t k,
                   const int8_t *codes, const panel_epilogue *finish, float *c, int64_t ldc)
{
    _Alignas(64) float tile[TILE_ROWS * TILE_COLUMNS];
    const int64_t row0 = first_row(split, tile0);
    widen_codes(codes, k * TILE_COLUMNS, work->panel);
    for (int64_t t = tile0; t < tile1; ++t) {
        const int64_t row = first_row(split, t);
        const int64_t height = first_row(split, t + 1) - row;
        tiles[height - 1](k, work->rows + (row - row0) * work->stride, work->stride, work->panel, tile);
        finish_tile(tile, height, finish, c + row * ldc, ldc);
    }
}

/* One panel for one block of rows, any depth: exact float sums per chunk, int32 sums over chunks. */
static void
panel_of_chunks(const qs8_work *work, const row_split *split, int64_t tile0, int64_t tile1, int64_t k,
                const int8_t *codes, const panel_epilogue *finish, float *c, int64_t ldc)
{
    _Alignas(64) float tile[TILE_ROWS * TILE_COLUMNS];
    const int64_t row0 = first_row(split, tile0);
    const int64_t rows = first_row(split, tile1) - row0;
    memset(work->sums, 0, (size_t)(rows * TILE_COLUMNS) * sizeof(int32_t));
    for (int64_t first = 0; first < k; first += QS8_CHUNK) {
        const int64_t depth = k - first < QS8_CHUNK ? k - first : QS8_CHUNK;
        widen_codes(codes + first * TILE_COLUMNS, depth * TILE_COLUMNS, work->panel);
        for (int64_t t = tile0; t < tile1; ++t) {
            const int64_t row = first_row(split, t) - row0;
            const int64_t height = first_row(split, t + 1) - row0 - row;
            int32_t *sums = work->sums + row * TILE_COLUMNS;
            tiles[height - 1](depth, work->rows + row * work->stride + first, work->stride, work->panel, tile);
            for (int64_t i = 0; i < height * TILE_COLUMNS; ++i) {
                sums[i] += (int32_t)tile[i];
            }
        }
    }
    for (int64_t t = tile0; t < tile1; ++t) {
        const int64_t row = first_row(split, t);
        const int64_t height = first_row(split, t + 1) - row;
        const int32_t *sums = work->sums + (row - row0) * TILE_COLUMNS;
        for (int64_t i = 0; i < height * TILE_COLUMNS; ++i) {
            tile[i] = (float)sums[i];
        }
        finish_tile(tile, height, finish, c + row * ldc, ldc);
    }
}

void
QB_FN(product_qs8)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                   int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    (void)n;
    const row_split split = split_rows(m, k);
    const int64_t block_rows = tiles_per_block(k) * TILE_ROWS;
    qs8_work work;
    work.rows = scratch;
    work.stride = copied_stride(k);
    work.panel = work.rows + block_rows * work.stride;
    work.sums = (int32_t *)(void *)(work.panel + chunk_depth(k) * TILE_COLUMNS);
    for (int64_t block = 0; block < split.blocks; ++block) {
        const int64_t tile0 = first_tile(&split, block);
        const int64_t tile1 = first_tile(&split, block + 1);
        const int64_t row0 = first_row(&split, tile0);
        for (int64_t i = row0; i < first_row(&split, tile1); ++i) {
            widen_codes(a + i * lda, k, work.rows + (i - row0) * work.stride);
        }
        for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
            const int8_t *codes = (const int8_t *)packed + column * k;
            const panel_epilogue finish = panel_epilogue_of(epilogue, 1, column, n1);
            if (k <= QS8_CHUNK) {
                panel_of_one_chunk(&work, &split, tile0, tile1, k, codes, &finish, c + column, ldc);
            }
            else {
                panel_of_chunks(&work, &split, tile0, tile1, k, codes, &finish, c + column, ldc);
            }
        }
    }
}
