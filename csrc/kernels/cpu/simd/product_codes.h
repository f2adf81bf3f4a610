/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes with integer instructions, around the tile of a variant.  Its product_qs8_tile.h has the vectors of
 * simd.h and the tile:
 *
 *     multiply_tile  sums (rows, TILE_COLUMNS) = start + terms + a (rows, depth) times panel (depth, TILE_COLUMNS),
 *                    modulo 2^32, rows <= TILE_ROWS, depth <= CODE_DEPTH a multiple of CODE_STEP.  Row r of start
 *                    lies r * stride elements after the first (stride 0: all are one row); sums may be start.
 *                    ahead.bytes a depth are fetched from ahead.start on, which may be any address, at least
 *                    CODE_AHEAD_LEAST and at most CODE_AHEAD_MOST; a tile where these are one number reads only the
 *                    start.
 *     STEP_DEPTHS    depths of a panel that lie together
 *     CODE_FLIP      what codes in a panel are XORed with
 *     CODES_IN_PLACE defined: the tile reads rows of a as they lie, row_distance apart, and its panels have no starts:
 *                    the sums of the first chunk start from terms alone (start NULL), those of the others have none.
 *                    Not defined: rows are packed for it.
 *
 * Its product_qs8.c has how operands are packed for it:
 *
 *     pack_codes     a chunk of the rows of a tile becomes CODE_BYTES a code in the order in which the tile reads
 *                    them, padded to a multiple of CODE_STEP depths, and `terms`, one of each row, where the tile has
 *                    any; with CODES_IN_PLACE instead
 *     sum_codes      the terms of whole rows;
 *     pack_block, pack_depths
 *                    a block of a panel, see below;
 *     pack_qs8       a panel of b is the TILE_COLUMNS sums that its columns start from (int32), if they do, then
 *                    TILE_COLUMNS bytes a depth, padded with codes 0 alike, in steps of CODE_STEP depths, so that a
 *                    chunk lies at its depth.
 *
 * Order (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008): blocks of rows, panels,
 * chunks of depth, tiles.  All chunks of a block of rows, packed or not, stay in the level-2 cache while all panels
 * pass by; a chunk of a panel stays in the level-1 cache while the tiles of the block pass by, whose sums of chunks
 * wait in scratch.  Meanwhile the tiles fetch the next panel, each its share: with few rows that is what the time goes
 * into.  Sums are finished as soon as their tile is, or, before an activation, GROUP_TILES tiles at a time, so that it
 * gets more than a handful of elements and gets them from the level-1 cache.  Nothing but results is written to c, so
 * it may hold floats or codes.
 */
#ifndef QB_KERNELS_CPU_SIMD_PRODUCT_CODES_H
#define QB_KERNELS_CPU_SIMD_PRODUCT_CODES_H

#include <string.h>

#include "kernels/cpu/variant.h"

/* A chunk of the rows of a tile. */
typedef struct code_rows {
    const char *codes;
    int64_t row_distance; /* in bytes, with CODES_IN_PLACE */
    const int32_t *terms; /* one of each row */
} code_rows;

/* What a tile fetches while it works. */
typedef struct code_ahead {
    const char *start;
    int64_t bytes; /* a depth */
} code_ahead;

#include "product_qs8_tile.h"

#include "kernels/cpu/simd/code_results.h"

enum {
    LINE_BYTES = 64,  /* of a cache line */
    BLOCK_TILES = 64, /* rows of a block at most, in tiles */
#ifdef CODES_IN_PLACE
    STARTS_BYTES = 0,
#else
    STARTS_BYTES = TILE_COLUMNS * sizeof(int32_t), /* of a panel, before its codes */
#endif
    STEP_BYTES = STEP_DEPTHS * TILE_COLUMNS, /* of a panel's step */
    BLOCK_COLUMNS = 16,                      /* of a block of b that is packed at once */
    BLOCK_DEPTHS = 16,
    BLOCK_STEPS = BLOCK_DEPTHS / STEP_DEPTHS
};

_Static_assert((int)CODE_DEPTH % (int)CODE_STEP == 0, "chunks must begin with a step");
_Static_assert(0 < (int)CODE_AHEAD_LEAST && (int)CODE_AHEAD_LEAST <= (int)CODE_AHEAD_MOST, "tiles must fetch");
_Static_assert((int)CODE_STEP % (int)STEP_DEPTHS == 0 && (int)TILE_COLUMNS % (int)BLOCK_COLUMNS == 0,
               "panels must be whole blocks");

#ifdef CODES_IN_PLACE
/* The terms of rows of k codes.  The variant's. */
static void sum_codes(const char *rows, int64_t row_distance, int64_t count, int64_t k, int32_t *terms);
#else
/* a (rows, depth; row distance lda) as a tile reads it, with the rows' terms.  The variant's. */
static void pack_codes(const int8_t *a, int64_t lda, int64_t rows, int64_t depth, void *packed, int32_t *terms);
#endif

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

/* k in chunks of equal depth but for the last, of which there is at least one. */
static int64_t
chunk_depth(int64_t k)
{
    const int64_t chunks = (k + CODE_DEPTH - 1) / CODE_DEPTH;
    return chunks > 1 ? padded_depth((k + chunks - 1) / chunks) : padded_depth(k);
}

static int64_t
chunks_of(int64_t k)
{
    const int64_t depth = chunk_depth(k);
    return depth > 0 ? (k + depth - 1) / depth : 1;
}

/* Bytes of a row of a in scratch. */
static int64_t
row_bytes(int64_t k)
{
#ifdef CODES_IN_PLACE
    return ((padded_depth(k) + LINE_BYTES - 1) / LINE_BYTES | 1) * LINE_BYTES; /* rows lie in different sets */
#else
    return CODE_BYTES * padded_depth(k);
#endif
}

static int64_t
tiles_per_block(int64_t k)
{
    const int64_t tile_bytes = TILE_ROWS * row_bytes(k);
    const int64_t most = tile_bytes > 0 ? CODE_CACHE_BYTES / tile_bytes : BLOCK_TILES;
    return most > BLOCK_TILES ? BLOCK_TILES : most > 0 ? most : 1;
}

/* What scratch holds, for a block of rows. */
typedef struct code_scratch {
    int32_t *sums;  /* (rows, TILE_COLUMNS) of one panel */
    int32_t *terms; /* (chunks, rows) */
    char *codes;    /* packed: tile by tile, chunk by chunk; or copied, row by row */
    size_t bytes;   /* of all */
} code_scratch;

static code_scratch
code_scratch_of(void *scratch, int64_t k)
{
    const int64_t rows = tiles_per_block(k) * TILE_ROWS;
    const size_t sums = (size_t)rows * TILE_COLUMNS * sizeof(int32_t);
    const size_t terms =
        (size_t)((rows * chunks_of(k) + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS) * sizeof(int32_t);
    char *start = scratch;
    return (code_scratch){.sums = scratch,
                          .terms = start == NULL ? NULL : (int32_t *)(void *)(start + sums),
                          .codes = start == NULL ? NULL : start + sums + terms,
                          .bytes = sums + terms + (size_t)(rows * row_bytes(k))};
}

void
QB_FN(pack_qs8_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    *panel = TILE_COLUMNS;
    *bytes = (size_t)((n + TILE_COLUMNS - 1) / TILE_COLUMNS * panel_bytes(k));
    *scratch = code_scratch_of(NULL, k).bytes;
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

/* ---- and back -------------------------------------------------------------------------------------------------- */

/* Where the bytes of a packed block come from: element p of a step's BLOCK_COLUMNS columns, of step s, is element
 * order[s][p] of a block whose columns lie BLOCK_DEPTHS apart.  Packing moves bytes and changes none, so a block that
 * holds the numbers of its elements says it for every block of the variant. */
typedef struct block_order {
    uint8_t of[BLOCK_STEPS][STEP_DEPTHS * BLOCK_COLUMNS];
} block_order;

_Static_assert(BLOCK_COLUMNS *BLOCK_DEPTHS == UINT8_MAX + 1, "the elements of a block must have numbers of a byte");
_Static_assert((int)BLOCK_DEPTHS % (int)CODE_STEP == 0, "a block must be whole steps of the tile");

/* Codes of up to BLOCK_COLUMNS columns of a panel, stored as columns k apart. */
static void
unpack_columns(const char *packed, const block_order *order, int64_t columns, int64_t k, int8_t *codes)
{
    for (int64_t first = 0; first < k; first += BLOCK_DEPTHS) {
        const int64_t depths = k - first < BLOCK_DEPTHS ? k - first : BLOCK_DEPTHS;
        const char *source = packed + first / STEP_DEPTHS * STEP_BYTES;
        int8_t block[BLOCK_COLUMNS * BLOCK_DEPTHS];
        for (int64_t s = 0; s * STEP_DEPTHS < depths; ++s) {
            for (int64_t p = 0; p < STEP_DEPTHS * BLOCK_COLUMNS; ++p) {
                block[order->of[s][p]] = (int8_t)(source[s * STEP_BYTES + p] ^ CODE_FLIP);
            }
        }
        for (int64_t j = 0; j < columns; ++j) {
            memcpy(codes + j * k + first, block + j * BLOCK_DEPTHS, (size_t)depths);
        }
    }
}

/* `packed` is BLOCK_STEPS steps, of which the first BLOCK_COLUMNS columns hold the numbers, packed. */
static block_order
block_order_of(const char *packed)
{
    block_order order;
    for (int64_t s = 0; s < BLOCK_STEPS; ++s) {
        for (size_t p = 0; p < sizeof order.of[s]; ++p) {
            order.of[s][p] = (uint8_t)(packed[s * STEP_BYTES + (int64_t)p] ^ CODE_FLIP);
        }
    }
    return order;
}

void
QB_FN(unpack_qs8)(const void *packed, int64_t n0, int64_t n1, int64_t n, int64_t k, int8_t *codes)
{
    (void)n;
    int8_t numbers[BLOCK_COLUMNS * BLOCK_DEPTHS];
    _Alignas(64) char panel[STARTS_BYTES + TILE_COLUMNS * BLOCK_DEPTHS];
    for (int64_t i = 0; i < BLOCK_COLUMNS * BLOCK_DEPTHS; ++i) {
        numbers[i] = (int8_t)(uint8_t)i;
    }
    QB_FN(pack_qs8)(numbers, BLOCK_DEPTHS, 1, 0, BLOCK_COLUMNS, BLOCK_COLUMNS, BLOCK_DEPTHS, panel);
    const block_order order = block_order_of(panel + STARTS_BYTES);
    for (int64_t column = n0; column < n1; column += BLOCK_COLUMNS) {
        const int64_t columns = n1 - column < BLOCK_COLUMNS ? n1 - column : BLOCK_COLUMNS;
        const char *source = (const char *)packed + column / TILE_COLUMNS * panel_bytes(k) + STARTS_BYTES;
        unpack_columns(source + column % TILE_COLUMNS * STEP_DEPTHS, &order, columns, k, codes + column * k);
    }
}

/* ---- a block of rows ------------------------------------------------------------------------------------------- */

/* Rows row0 .. of a product, in tiles of nearly equal height, as the tile reads them. */
typedef struct code_block {
    int64_t k;
    int64_t height, higher;              /* of all tiles of the product, and how many of them are a row higher */
    int64_t tile0, tile1;                /* of the block */
    int64_t row0, rows;                  /* of the block */
    int64_t chunks, chunk_depth, padded; /* of k */
#ifdef CODES_IN_PLACE
    const char *rows_at; /* row0 */
    int64_t row_distance;
#endif
    code_scratch scratch;
} code_block;

static int64_t
row_of_tile(const code_block *block, int64_t tile)
{
    return tile * block->height + (tile < block->higher ? tile : block->higher);
}

/* Depths of a chunk, padded. */
static int64_t
depth_of_chunk(const code_block *block, int64_t chunk)
{
    const int64_t left = block->padded - chunk * block->chunk_depth;
    return left < block->chunk_depth ? left : block->chunk_depth;
}

#ifdef CODES_IN_PLACE
/* Whether a tile can read rows of a where they lie: whole steps, and in more sets of a level-1 cache than one or two.
 */
static int
rows_lie_well(int64_t lda, int64_t k)
{
    enum { SET_PERIOD = 2048 };
    return k % CODE_STEP == 0 && lda % CODE_STEP == 0 && lda % SET_PERIOD != 0;
}

static void
prepare_rows(code_block *block, const int8_t *a, int64_t lda)
{
    const char *rows = (const char *)a + block->row0 * lda;
    block->rows_at = rows;
    block->row_distance = lda;
    if (!rows_lie_well(lda, block->k)) {
        block->row_distance = row_bytes(block->k);
        block->rows_at = block->scratch.codes;
        for (int64_t r = 0; r < block->rows; ++r) {
            char *copy = block->scratch.codes + r * block->row_distance;
            memcpy(copy, rows + r * lda, (size_t)block->k);
            memset(copy + block->k, 0, (size_t)(block->padded - block->k));
        }
    }
    sum_codes(block->rows_at, block->row_distance, block->rows, block->k, block->scratch.terms);
}

static code_rows
rows_of_tile(const code_block *block, int64_t row, int64_t height, int64_t chunk)
{
    const int64_t first = row - block->row0;
    (void)height;
    return (code_rows){.codes = block->rows_at + first * block->row_distance + chunk * block->chunk_depth,
                       .row_distance = block->row_distance,
                       .terms = block->scratch.terms + first};
}
#else
static char *
packed_rows(const code_block *block, int64_t row, int64_t height, int64_t chunk)
{
    return block->scratch.codes +
           ((row - block->row0) * block->padded + height * chunk * block->chunk_depth) * CODE_BYTES;
}

static void
prepare_rows(code_block *block, const int8_t *a, int64_t lda)
{
    for (int64_t t = block->tile0; t < block->tile1; ++t) {
        const int64_t row = row_of_tile(block, t);
        const int64_t height = row_of_tile(block, t + 1) - row;
        for (int64_t chunk = 0; chunk < block->chunks; ++chunk) {
            const int64_t first = chunk * block->chunk_depth;
            const int64_t depth = block->k - first < block->chunk_depth ? block->k - first : block->chunk_depth;
            pack_codes(a + row * lda + first, lda, height, depth, packed_rows(block, row, height, chunk),
                       block->scratch.terms + chunk * block->rows + (row - block->row0));
        }
    }
}

static code_rows
rows_of_tile(const code_block *block, int64_t row, int64_t height, int64_t chunk)
{
    return (code_rows){.codes = packed_rows(block, row, height, chunk),
                       .terms = block->scratch.terms + chunk * block->rows + (row - block->row0)};
}
#endif

/* What tile t of a block fetches of the next panel, whose codes of this chunk begin at `next` (NULL: there is none):
 * the block's tiles share it, few tiles in larger parts. */
static code_ahead
ahead_of_tile(const code_block *block, int64_t t, int64_t depth, const char *next, const int32_t *sums)
{
    const int64_t sharing = block->tile1 - block->tile0;
    const int64_t shared = (TILE_COLUMNS + sharing - 1) / sharing;
    const int64_t bytes = shared < CODE_AHEAD_LEAST  ? CODE_AHEAD_LEAST
                          : shared > CODE_AHEAD_MOST ? CODE_AHEAD_MOST
                                                     : shared;
    const int64_t fetched = (t - block->tile0) * depth * bytes;
    if (next == NULL || fetched >= depth * TILE_COLUMNS) {
        return (code_ahead){.start = (const char *)sums, .bytes = CODE_AHEAD_LEAST}; /* is in the cache */
    }
    return (code_ahead){.start = next + fetched, .bytes = bytes};
}

/* Add one chunk of tiles tile0 .. tile1-1 to their sums, which begin at `sums`.  The panel is followed by another one
 * after bytes_to_next, or by none (0). */
static void
multiply_chunk(const code_block *block, int64_t chunk, int64_t tile0, int64_t tile1, const char *panel,
               int64_t bytes_to_next, int32_t *sums)
{
    const int64_t depth = depth_of_chunk(block, chunk);
    const char *codes = panel + STARTS_BYTES + chunk * block->chunk_depth * TILE_COLUMNS;
    const char *next = bytes_to_next > 0 ? codes + bytes_to_next : NULL;
    const int64_t row0 = row_of_tile(block, tile0);
    for (int64_t t = tile0; t < tile1; ++t) {
        const int64_t row = row_of_tile(block, t);
        const int64_t height = row_of_tile(block, t + 1) - row;
        int32_t *of_tile = sums + (row - row0) * TILE_COLUMNS;
        const int32_t *start = chunk > 0 ? of_tile : STARTS_BYTES > 0 ? (const int32_t *)(const void *)panel : NULL;
        multiply_tile(height, depth, rows_of_tile(block, row, height, chunk), codes, start,
                      chunk == 0 ? 0 : TILE_COLUMNS, of_tile, ahead_of_tile(block, t, depth, next, of_tile));
    }
}

/* That of gelu_screen_distance, for a panel that finish_gelu_codes takes and whose sums are always finite; or 0. */
static float
screen_distance(const panel_epilogue *finish, const code_output *out)
{
    const int is_whole = finish->columns == TILE_COLUMNS && divides_of(finish) == DIVIDES_NOT;
    const int is_gelu = out->floats == NULL && finish->activation == QB_ACTIVATION_GELU;
    return is_gelu && is_whole ? gelu_screen_distance(out->range->scale) : 0.0f;
}

/* One panel, which is columns `column` on of the output. */
static void
multiply_codes(const code_block *block, const char *panel, int64_t bytes_to_next, const panel_epilogue *finish,
               const code_output *out, int64_t column)
{
    const int64_t last = block->chunks - 1;
    const int looks = out->floats == NULL && !is_always_finite(finish);
    const float screen = looks ? 0.0f : screen_distance(finish, out);
    const int64_t group = finish->activation == QB_ACTIVATION_NONE || screen > 0.0f ? 1 : GROUP_TILES;
    for (int64_t chunk = 0; chunk < last; ++chunk) {
        multiply_chunk(block, chunk, block->tile0, block->tile1, panel, bytes_to_next, block->scratch.sums);
    }
    for (int64_t t = block->tile0; t < block->tile1; t += group) {
        const int64_t end = block->tile1 - t < group ? block->tile1 : t + group;
        const int64_t row = row_of_tile(block, t);
        const int64_t rows = row_of_tile(block, end) - row;
        const int64_t at = row * out->stride + column;
        int32_t *sums = block->scratch.sums + (last > 0 ? (row - block->row0) * TILE_COLUMNS : 0);
        multiply_chunk(block, last, t, end, panel, bytes_to_next, sums);
        if (finish->activation == QB_ACTIVATION_NONE) {
            finish_without_activation(sums, rows, finish, out, at, looks);
            continue;
        }
#ifdef VEC_HAS_LOOKUP
        if (screen > 0.0f) {
            finish_gelu_codes(sums, rows, finish, out, at, screen);
            continue;
        }
#endif
        finish_with_activation(sums, rows, finish, out, at);
    }
}

/* The columns after n1 are fetched too: whoever asks for a range often asks for the next one then. */
static void
multiply(const int8_t *a, int64_t lda, int64_t m, const char *packed, int64_t n0, int64_t n1, int64_t n, int64_t k,
         const qb_epilogue *epilogue, const code_output *out, void *scratch)
{
    const int64_t per_block = tiles_per_block(k);
    const int64_t tile_count = (m + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t blocks = (tile_count + per_block - 1) / per_block;
    panel_epilogue finish = panel_epilogue_begin(epilogue, 1);
    code_block block = {.k = k,
                        .height = tile_count > 0 ? m / tile_count : 0,
                        .higher = tile_count > 0 ? m % tile_count : 0,
                        .chunks = chunks_of(k),
                        .chunk_depth = chunk_depth(k),
                        .padded = padded_depth(k),
                        .scratch = code_scratch_of(scratch, k)};
    for (int64_t b = 0; b < blocks; ++b) {
        block.tile0 = tile_count * b / blocks;
        block.tile1 = tile_count * (b + 1) / blocks;
        block.row0 = row_of_tile(&block, block.tile0);
        block.rows = row_of_tile(&block, block.tile1) - block.row0;
        prepare_rows(&block, a, lda);
        for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
            panel_epilogue_move(&finish, epilogue, column, n1);
            multiply_codes(&block, packed + column / TILE_COLUMNS * panel_bytes(k),
                           column + TILE_COLUMNS < n ? panel_bytes(k) : 0, &finish, out, column);
        }
    }
}

void
QB_FN(product_qs8)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                   int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    const code_output out = {.floats = c, .stride = ldc};
    multiply(a, lda, m, packed, n0, n1, n, k, epilogue, &out, scratch);
}

void
QB_FN(product_qs8_codes)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                         int64_t k, const qb_epilogue *epilogue, const qb_quant_range *range, int8_t *c, int64_t ldc,
                         uint32_t *nonfinite, void *scratch)
{
    const code_output out = {.codes = c, .stride = ldc, .range = range, .nonfinite = nonfinite};
    multiply(a, lda, m, packed, n0, n1, n, k, epilogue, &out, scratch);
}

#endif
