/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes with integer instructions, around the tile of a variant.  Its product_qs8_tile.h has the vectors of
 * simd.h and the tile:
 *
 *     multiply_tile  sums (rows, TILE_COLUMNS) = start - terms + a (rows, depth) times panel (depth, TILE_COLUMNS),
 *                    modulo 2^32, rows <= TILE_ROWS, depth <= CODE_DEPTH a multiple of CODE_STEP.  Row r of start
 *                    lies r * stride elements after the first (stride 0: all are one row); sums may be start.
 *                    CODE_AHEAD_BYTES a depth are fetched from `ahead` on, which may be any address.
 *
 * Its product_qs8.c has how operands are packed for it:
 *
 *     pack_codes     a chunk of the rows of a tile becomes CODE_BYTES a code in the order in which the tile reads
 *                    them, padded to a multiple of CODE_STEP depths, and `terms`, one of each row, where the tile takes
 *                    any away;
 *     pack_block, pack_depths
 *                    a block of a panel, see below;
 *     pack_qs8       a panel of b is TILE_COLUMNS sums that its columns start from (int32), then TILE_COLUMNS bytes a
 *                    depth, padded with zeros alike, in steps of CODE_STEP depths, so that a chunk lies at its depth.
 *
 * Order: that of product_panels.h.  Sums of chunks wait in c as int32, where they are exact modulo 2^32.
 */
#ifndef QB_KERNELS_CPU_SIMD_PRODUCT_CODES_H
#define QB_KERNELS_CPU_SIMD_PRODUCT_CODES_H

#include "kernels/cpu/variant.h"
#include "product_qs8_tile.h"

#include "kernels/cpu/simd/product_epilogue.h"

enum {
    LANES = 16,                                    /* of a vector */
    BLOCK_TILES = 64,                              /* rows of a block at most, in tiles */
    STARTS_BYTES = TILE_COLUMNS * sizeof(int32_t), /* of a panel, before its codes */
    STEP_DEPTHS = 4,                               /* of a panel, that lie together */
    STEP_BYTES = STEP_DEPTHS * TILE_COLUMNS,       /* of these */
    BLOCK_COLUMNS = 16,                            /* of a block of b that is packed at once */
    BLOCK_DEPTHS = 16,
    BLOCK_STEPS = BLOCK_DEPTHS / STEP_DEPTHS,
    TERMS_BYTES = BLOCK_TILES * TILE_ROWS * sizeof(int32_t) /* at the start of scratch */
};

_Static_assert((int)CODE_DEPTH % (int)CODE_STEP == 0, "chunks must begin with a step");
_Static_assert((int)CODE_STEP % (int)STEP_DEPTHS == 0 && (int)TILE_COLUMNS % (int)BLOCK_COLUMNS == 0,
               "panels must be whole blocks");

/* a (rows, depth; row distance lda) as a tile reads it, with the rows' terms.  The variant's. */
static void pack_codes(const int8_t *a, int64_t lda, int64_t rows, int64_t depth, void *packed, int32_t *terms);

static int64_t
padded_depth(int64_t k)
{
    return (k + CODE_STEP - 1) / CODE_STEP * CODE_STEP;
}

static int64_t
panel_bytes(int64_t k)
{
    return STARTS_BYTES + TILE_COLUMNS * padded_depth(k);
}

/* k in chunks of equal depth but for the last. */
static int64_t
chunk_depth(int64_t k)
{
    const int64_t chunks = (k + CODE_DEPTH - 1) / CODE_DEPTH;
    return chunks > 1 ? padded_depth((k + chunks - 1) / chunks) : padded_depth(k);
}

static int64_t
tiles_per_block(int64_t k)
{
    const int64_t tile_bytes = TILE_ROWS * CODE_BYTES * chunk_depth(k);
    return tile_bytes * BLOCK_TILES <= CODE_CACHE_BYTES ? BLOCK_TILES : CODE_CACHE_BYTES / tile_bytes;
}

void
QB_FN(pack_qs8_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    *panel = TILE_COLUMNS;
    *bytes = (size_t)((n + TILE_COLUMNS - 1) / TILE_COLUMNS * panel_bytes(k));
    *scratch = TERMS_BYTES + (size_t)(tiles_per_block(k) * TILE_ROWS * CODE_BYTES * chunk_depth(k));
}

/* ---- packing columns of b -------------------------------------------------------------------------------------- */

/* What the starts of BLOCK_COLUMNS columns follow from.  The variant's. */
struct column_sums;

/* Pack `steps` steps of BLOCK_COLUMNS columns whose depths lie side by side: b[j * stride] on are the BLOCK_DEPTHS
 * depths of column j.  A step lies STEP_BYTES after the one before.  The variant's. */
static void pack_block(const int8_t *b, int64_t stride, int64_t steps, struct column_sums *sums, char *packed);

/* Pack one step of BLOCK_COLUMNS columns that lie side by side, depths `stride` apart.  The variant's. */
static void pack_depths(const int8_t *b, int64_t stride, struct column_sums *sums, char *packed);

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

/* Up to BLOCK_COLUMNS columns of a panel: blocks are read as they lie; what hangs over an edge is copied into one of
 * zeros first. */
static void
pack_columns(const int8_t *b, int64_t column_stride, int64_t depth_stride, int64_t columns, int64_t k,
             struct column_sums *sums, char *codes)
{
    const int64_t steps = padded_depth(k) / STEP_DEPTHS;
    for (int64_t step = 0; step < steps; step += BLOCK_STEPS) {
        const int64_t first = step * STEP_DEPTHS;
        const int64_t depths = k - first < BLOCK_DEPTHS ? k - first : BLOCK_DEPTHS;
        const int64_t stored = steps - step < BLOCK_STEPS ? steps - step : BLOCK_STEPS;
        const int is_whole = columns == BLOCK_COLUMNS && depths == BLOCK_DEPTHS;
        const int8_t *source = b + first * depth_stride;
        char *packed = codes + step * STEP_BYTES;
        if (is_whole && depth_stride == 1) {
            pack_block(source, column_stride, stored, sums, packed);
        }
        else if (is_whole && column_stride == 1) {
            for (int64_t s = 0; s < BLOCK_STEPS; ++s) {
                pack_depths(source + s * STEP_DEPTHS * depth_stride, depth_stride, sums, packed + s * STEP_BYTES);
            }
        }
        else {
            int8_t block[BLOCK_COLUMNS * BLOCK_DEPTHS];
            gather_block(source, column_stride, depth_stride, columns, depths, block);
            pack_block(block, BLOCK_DEPTHS, stored, sums, packed);
        }
    }
}

/* ---- one panel against one chunk of one block of rows ---------------------------------------------------------- */

/* One chunk of one block of rows. */
typedef struct code_chunk {
    int64_t m, tiles;     /* rows of the product, in so many tiles of nearly equal height */
    int64_t tile0, tile1; /* of the block */
    int64_t first, depth; /* depths, padded */
    int is_first, is_last;
    const char *rows; /* packed */
    const int32_t *terms;
} code_chunk;

static int64_t
row_of_tile(const code_chunk *chunk, int64_t tile)
{
    return chunk->m * tile / chunk->tiles;
}

/* c (rows, columns of the panel; row distance ldc) = the epilogue of the sums (rows, TILE_COLUMNS): that of
 * finish_tile, whose loops gcc 12 turns into many times as many instructions when it sees them together with the tile.
 */
static void
finish_sums(const int32_t *sums, int64_t rows, const panel_epilogue *panel, float *c, int64_t ldc)
{
    _Alignas(64) float tile[TILE_ROWS * TILE_COLUMNS];
    const int is_direct = panel->columns == TILE_COLUMNS && panel->activation == QB_ACTIVATION_NONE;
    const int divides = panel->divisor != 1.0f;
    const vec_f32 divisor = vec_set(panel->divisor);
    for (int64_t i = 0; i < rows; ++i) {
        float *row = is_direct ? c + i * ldc : tile + i * TILE_COLUMNS;
        for (int64_t j = 0; j < TILE_COLUMNS; j += LANES) {
            const vec_f32 sum = vec_load_s32(sums + i * TILE_COLUMNS + j);
            const vec_f32 y = vec_fma(sum, vec_load(panel->step + j), vec_load(panel->bias + j));
            vec_store(row + j, divides ? vec_div(y, divisor) : y);
        }
    }
    if (is_direct) {
        return;
    }
    if (panel->activation != QB_ACTIVATION_NONE) {
        PRODUCT_ACTIVATION(panel->activation, tile, (size_t)(rows * TILE_COLUMNS), tile);
    }
    for (int64_t i = 0; i < rows; ++i) {
        copy_columns(c + i * ldc, tile + i * TILE_COLUMNS, panel->columns);
    }
}

/* Sums of the chunks before, which wait in c (rows, columns): padding columns get zeros. */
static void
load_counts(int32_t *sums, int64_t rows, int64_t columns, const float *c, int64_t ldc)
{
    if (columns < TILE_COLUMNS) {
        memset(sums, 0, (size_t)(rows * TILE_COLUMNS) * sizeof *sums);
    }
    for (int64_t i = 0; i < rows; ++i) {
        memcpy(sums + i * TILE_COLUMNS, c + i * ldc, (size_t)columns * sizeof *sums);
    }
}

static void
store_counts(const int32_t *sums, int64_t rows, int64_t columns, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < rows; ++i) {
        memcpy(c + i * ldc, sums + i * TILE_COLUMNS, (size_t)columns * sizeof *sums);
    }
}

/* c points to row 0 and the panel's first column.  The panel is followed by another one, which the tiles fetch, or by
 * none. */
static void
multiply_codes(const code_chunk *chunk, const char *panel, int64_t bytes_to_next, const panel_epilogue *finish,
               float *c, int64_t ldc)
{
    _Alignas(64) int32_t sums[TILE_ROWS * TILE_COLUMNS];
    const char *codes = panel + STARTS_BYTES + chunk->first * TILE_COLUMNS;
    const int64_t row0 = row_of_tile(chunk, chunk->tile0);
    for (int64_t t = chunk->tile0; t < chunk->tile1; ++t) {
        const int64_t row = row_of_tile(chunk, t);
        const int64_t height = row_of_tile(chunk, t + 1) - row;
        const int64_t fetched = (t - chunk->tile0) * chunk->depth * CODE_AHEAD_BYTES;
        const int fetches = bytes_to_next > 0 && fetched < chunk->depth * TILE_COLUMNS;
        const char *rows = chunk->rows + (row - row0) * chunk->depth * CODE_BYTES;
        float *out = c + row * ldc;
        const int32_t *start = (const int32_t *)(const void *)panel;
        if (!chunk->is_first) {
            load_counts(sums, height, finish->columns, out, ldc);
            start = sums;
        }
        multiply_tile(height, chunk->depth, rows, codes, chunk->terms + (row - row0), start,
                      chunk->is_first ? 0 : TILE_COLUMNS, sums,
                      fetches ? codes + bytes_to_next + fetched : (const char *)sums);
        if (chunk->is_last) {
            finish_sums(sums, height, finish, out, ldc);
        }
        else {
            store_counts(sums, height, finish->columns, out, ldc);
        }
    }
}

void
QB_FN(product_qs8)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                   int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    (void)n;
    const int64_t per_block = tiles_per_block(k);
    const int64_t depth = chunk_depth(k);
    const int64_t chunks = depth > 0 ? (k + depth - 1) / depth : 1;
    const int64_t tile_count = (m + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t blocks = (tile_count + per_block - 1) / per_block;
    int32_t *terms = scratch;
    char *rows = (char *)scratch + TERMS_BYTES;
    for (int64_t step = 0; step < blocks * chunks; ++step) {
        const int64_t block = step / chunks;
        const int64_t first = step % chunks * depth;
        const int64_t real = k - first < depth ? k - first : depth;
        const code_chunk chunk = {.m = m,
                                  .tiles = tile_count,
                                  .tile0 = tile_count * block / blocks,
                                  .tile1 = tile_count * (block + 1) / blocks,
                                  .first = first,
                                  .depth = padded_depth(real),
                                  .is_first = first == 0,
                                  .is_last = first + depth >= k,
                                  .rows = rows,
                                  .terms = terms};
        const int64_t row0 = row_of_tile(&chunk, chunk.tile0);
        for (int64_t t = chunk.tile0; t < chunk.tile1; ++t) {
            const int64_t row = row_of_tile(&chunk, t);
            pack_codes(a + row * lda + first, lda, row_of_tile(&chunk, t + 1) - row, real,
                       rows + (row - row0) * chunk.depth * CODE_BYTES, terms + (row - row0));
        }
        for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
            const char *panel = (const char *)packed + column / TILE_COLUMNS * panel_bytes(k);
            const panel_epilogue finish = panel_epilogue_of(epilogue, 1, column, n1);
            multiply_codes(&chunk, panel, column + TILE_COLUMNS < n1 ? panel_bytes(k) : 0, &finish, c + column, ldc);
        }
    }
}

#endif
