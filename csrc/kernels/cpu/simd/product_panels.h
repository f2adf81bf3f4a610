/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with a packed operand, for every variant that has a product_tile.h: `tiles[rows - 1]` computes rows x
 * TILE_COLUMNS raw sums, and this file does what is around it, whatever the operands are: a depth is four bytes of
 * either, one float or a pair of bfloat16.
 *
 * b lies in panels of TILE_COLUMNS columns, depth by depth, the last one padded with zeros.  a is not packed: a tile
 * reads its rows in place, or in scratch where that is better for the cache or where they are made.
 *
 * Order (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008): blocks of rows, chunks of
 * depth, panels, tiles.  A chunk of a block of rows stays in the level-2 cache while all panels pass by, and a tile
 * asks for a slice of the next panel while it works.  Between chunks the raw sums wait in c: storing and loading a sum
 * does not change the chain.  Rows are divided into tiles of equal height as far as possible (16 rows are 8 + 8 rather
 * than 14 + 2).  A tile's sums go through a buffer of a few KiB, in which bias, step, divisor and activation are
 * applied while it is in the nearest cache.
 */
#ifndef QB_KERNELS_CPU_SIMD_PRODUCT_PANELS_H
#define QB_KERNELS_CPU_SIMD_PRODUCT_PANELS_H

#include <math.h>
#include <string.h>

#include "kernels/cpu/variant.h"
#include "product_tile.h"

#include "kernels/cpu/simd/product_epilogue.h"

enum {
    EXACT_DEPTH = 1024, /* 1024 * 128 * 128 = 2^24: float32 counts that far */
    BLOCK_TILES = 16,   /* rows of a block at most, in tiles */
    PACK_DEPTH = 64,    /* depths that are transposed while they lie in the level-1 cache */
    LINE_FLOATS = 16    /* of a cache line */
};

_Static_assert((int)TILE_DEPTH <= (int)EXACT_DEPTH && (int)TILE_DEPTH % (int)LINE_FLOATS == 0,
               "chunks must be exact for codes");

/* c (rows, columns; row distance ldc) = epilogue of the raw sums in tile (rows, TILE_COLUMNS), which is overwritten.
 * Padding columns take part in the arithmetic and are not stored. */
static void
finish_tile(float *restrict tile, int64_t rows, const panel_epilogue *restrict panel, float *restrict c, int64_t ldc)
{
    const float divisor = panel->divisor;
    const float factor = panel->factor;
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
        if (factor == 0.0f) {
            for (int64_t j = 0; j < TILE_COLUMNS; ++j) {
                row[j] = row[j] / divisor;
            }
        }
        else if (factor != 1.0f) {
            for (int64_t j = 0; j < TILE_COLUMNS; ++j) {
                row[j] = row[j] * factor;
            }
        }
    }
    if (panel->activation != QB_ACTIVATION_NONE) {
        PRODUCT_ACTIVATION(panel->activation, tile, (size_t)(rows * TILE_COLUMNS), tile);
    }
    for (int64_t i = 0; i < rows; ++i) {
        copy_columns(c + i * ldc, tile + i * TILE_COLUMNS, panel->columns);
    }
}

/* ---- blocks of rows and chunks of depth ------------------------------------------------------------------------ */

/* m rows in `tiles` tiles of nearly equal height, these in `blocks` blocks of nearly equal size, and k in chunks of
 * `depth`, at least one. */
typedef struct split {
    int64_t m;
    int64_t tiles;
    int64_t blocks;
    int64_t chunks;
    int64_t depth;
} split;

/* Row distance, in floats, of rows copied to scratch: an odd number of cache lines, so that the rows of a tile lie in
 * different sets. */
static int64_t
copied_stride(int64_t depth)
{
    return (((depth + LINE_FLOATS - 1) / LINE_FLOATS) | 1) * LINE_FLOATS;
}

static int64_t
chunk_depth(int64_t k)
{
    const int64_t chunks = (k + TILE_DEPTH - 1) / TILE_DEPTH;
    const int64_t depth = chunks > 0 ? (k + chunks - 1) / chunks : 0;
    return (depth + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS;
}

static int64_t
tiles_per_block(int64_t k)
{
    const int64_t tile_bytes = TILE_ROWS * copied_stride(chunk_depth(k)) * (int64_t)sizeof(float);
    const int64_t tiles_that_fit = TILE_CACHE_BYTES / tile_bytes;
    return tiles_that_fit < BLOCK_TILES ? tiles_that_fit : BLOCK_TILES;
}

static split
split_of(int64_t m, int64_t k)
{
    const int64_t per_block = tiles_per_block(k);
    const int64_t count = (m + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t depth = chunk_depth(k);
    return (split){.m = m,
                   .tiles = count,
                   .blocks = (count + per_block - 1) / per_block,
                   .chunks = depth > 0 ? (k + depth - 1) / depth : 1,
                   .depth = depth};
}

static int64_t
first_tile(const split *s, int64_t block)
{
    return s->tiles * block / s->blocks;
}

static int64_t
first_row(const split *s, int64_t tile)
{
    return s->m * tile / s->tiles;
}

/* ---- one panel against one chunk of one block of rows ---------------------------------------------------------- */

typedef struct block_chunk {
    const split *split;
    int64_t tile0, tile1; /* tiles of the block */
    int64_t row0, row1;   /* rows of the block */
    const float *rows;    /* element (row0, first depth of the chunk) */
    int64_t stride;       /* between rows */
    int64_t depth;        /* of the chunk */
    int is_first, is_last;
} block_chunk;

/* What the tiles of a panel fetch ahead of its use. */
typedef struct fetch {
    const char *start;
    int64_t bytes;
} fetch;

/* Of them, per depth of a tile, if the tiles have so many depths together: few tiles fetch in larger parts. */
static int64_t
ahead_bytes_of(fetch ahead, int64_t depths)
{
    const int64_t share = depths > 0 ? (ahead.bytes + depths - 1) / depths : 0;
    const int64_t even = (share + 1) / 2 * 2;
    return even < TILE_AHEAD_LEAST ? TILE_AHEAD_LEAST : even > TILE_AHEAD_MOST ? TILE_AHEAD_MOST : even;
}

static block_chunk
block_chunk_of(const split *s, int64_t block, int64_t chunk, int64_t k)
{
    block_chunk made;
    made.split = s;
    made.tile0 = first_tile(s, block);
    made.tile1 = first_tile(s, block + 1);
    made.row0 = first_row(s, made.tile0);
    made.row1 = first_row(s, made.tile1);
    made.rows = NULL;
    made.stride = 0;
    made.depth = k - chunk * s->depth < s->depth ? k - chunk * s->depth : s->depth;
    made.is_first = chunk == 0;
    made.is_last = chunk == s->chunks - 1;
    return made;
}

/* The raw sums that wait in c (rows, columns), padded with zeros. */
static void
load_sums(float *tile, int64_t rows, int64_t columns, const float *c, int64_t ldc)
{
    if (columns < TILE_COLUMNS) {
        memset(tile, 0, (size_t)(rows * TILE_COLUMNS) * sizeof(float));
    }
    for (int64_t i = 0; i < rows; ++i) {
        copy_columns(tile + i * TILE_COLUMNS, c + i * ldc, columns);
    }
}

static void
store_sums(const float *tile, int64_t rows, int64_t columns, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < rows; ++i) {
        copy_columns(c + i * ldc, tile + i * TILE_COLUMNS, columns);
    }
}

/* Add a chunk's sums of codes to those of the chunks before, which wait as int32 in c: as float32 after the last chunk,
 * as int32 bits, to be stored, before. */
static void
add_counts(float *tile, int64_t rows, int64_t columns, const float *c, int64_t ldc, int is_first, int is_last)
{
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
            int32_t before = 0;
            if (!is_first) {
                memcpy(&before, c + i * ldc + j, sizeof(before));
            }
            const int32_t sum = before + (int32_t)tile[i * TILE_COLUMNS + j];
            if (is_last) {
                tile[i * TILE_COLUMNS + j] = (float)sum;
            }
            else {
                memcpy(tile + i * TILE_COLUMNS + j, &sum, sizeof(sum));
            }
        }
    }
}

/* c points to the first row of the block and the panel's first column. */
static void
multiply_panel(const block_chunk *chunk, const float *panel, fetch ahead, const panel_epilogue *finish, float *c,
               int64_t ldc)
{
    _Alignas(64) float tile[TILE_ROWS * TILE_COLUMNS];
    const int resume = !chunk->is_first && !finish->scaled;
    const int64_t ahead_bytes = ahead_bytes_of(ahead, chunk->depth * (chunk->tile1 - chunk->tile0));
    for (int64_t t = chunk->tile0; t < chunk->tile1; ++t) {
        const int64_t row = first_row(chunk->split, t);
        const int64_t height = first_row(chunk->split, t + 1) - row;
        const int64_t fetched = (t - chunk->tile0) * chunk->depth * ahead_bytes;
        float *out = c + (row - chunk->row0) * ldc;
        if (resume) {
            load_sums(tile, height, finish->columns, out, ldc);
        }
        tiles[height - 1](chunk->depth, chunk->rows + (row - chunk->row0) * chunk->stride, chunk->stride, panel, tile,
                          resume ? TILE_COLUMNS : 0, tile,
                          fetched < ahead.bytes ? ahead.start + fetched : (const char *)panel, ahead_bytes);
        if (finish->scaled && !(chunk->is_first && chunk->is_last)) {
            add_counts(tile, height, finish->columns, out, ldc, chunk->is_first, chunk->is_last);
        }
        if (chunk->is_last) {
            finish_tile(tile, height, finish, out, ldc);
        }
        else {
            store_sums(tile, height, finish->columns, out, ldc);
        }
    }
}

#endif
