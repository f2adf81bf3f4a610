/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes on the float tile of a variant, for those without integer instructions that are faster: a variant
 * that has them has a product_qs8.c of its own, which the build takes instead of this one.
 *
 * Codes are packed as int8 and widened to float32 per chunk of a panel and block of rows.  A sum of up to EXACT_DEPTH
 * products of codes is an integer of magnitude 2^24 at most, so float32 holds every partial sum exactly in any order;
 * sums of chunks are added as int32.  Where results become codes, a panel's floats wait for that in scratch.
 */
#include "product_panels.h"

/* Where things lie in scratch, in floats. */
typedef struct code_scratch {
    int64_t panel;   /* of a chunk, widened; the rows of a block and chunk, widened, come before it */
    int64_t results; /* (rows of a block, TILE_COLUMNS) */
    int64_t end;
} code_scratch;

static code_scratch
code_scratch_of(int64_t k)
{
    const int64_t block_rows = tiles_per_block(k) * TILE_ROWS;
    const int64_t panel = block_rows * copied_stride(chunk_depth(k));
    const int64_t results = panel + chunk_depth(k) * TILE_COLUMNS;
    return (code_scratch){.panel = panel, .results = results, .end = results + block_rows * TILE_COLUMNS};
}

void
QB_FN(pack_qs8_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    const int64_t padded = (n + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
    *panel = TILE_COLUMNS;
    *bytes = (size_t)(padded * k);
    *scratch = (size_t)code_scratch_of(k).end * sizeof(float);
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
        for (int64_t first = 0; first < k; first += PACK_DEPTH) {
            const int64_t last = first + PACK_DEPTH < k ? first + PACK_DEPTH : k;
            for (int64_t j = 0; j < columns; ++j) {
                const int8_t *source = b + (column + j) * column_stride;
                for (int64_t t = first; t < last; ++t) {
                    panel[t * TILE_COLUMNS + j] = source[t * depth_stride];
                }
            }
        }
    }
}

void
QB_FN(unpack_qs8)(const void *packed, int64_t n0, int64_t n1, int64_t n, int64_t k, int8_t *codes)
{
    (void)n;
    for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
        const int8_t *panel = (const int8_t *)packed + column * k;
        const int64_t columns = n1 - column < TILE_COLUMNS ? n1 - column : TILE_COLUMNS;
        for (int64_t first = 0; first < k; first += PACK_DEPTH) {
            const int64_t last = first + PACK_DEPTH < k ? first + PACK_DEPTH : k;
            for (int64_t j = 0; j < columns; ++j) {
                for (int64_t t = first; t < last; ++t) {
                    codes[(column + j) * k + t] = panel[t * TILE_COLUMNS + j];
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

/* One block of rows and one chunk of depth, the rows widened. */
static block_chunk
widened_chunk(const split *s, int64_t block, int64_t number, const int8_t *a, int64_t lda, int64_t k, float *rows)
{
    block_chunk chunk = block_chunk_of(s, block, number, k);
    chunk.rows = rows;
    chunk.stride = copied_stride(chunk.depth);
    for (int64_t i = chunk.row0; i < chunk.row1; ++i) {
        widen_codes(a + i * lda + number * s->depth, chunk.depth, rows + (i - chunk.row0) * chunk.stride);
    }
    return chunk;
}

/* Columns `column` on, up to n1 or a panel, of the chunk that begins at depth `first`; c as multiply_panel has it. */
static void
multiply_codes(const block_chunk *chunk, const int8_t *packed, int64_t column, int64_t n1, int64_t first, int64_t k,
               const qb_epilogue *epilogue, panel_epilogue *finish, float *panel, float *c, int64_t ldc)
{
    const int8_t *codes = packed + column * k + first * TILE_COLUMNS;
    fetch ahead = {(const char *)codes, 0};
    if (column + TILE_COLUMNS < n1) {
        ahead = (fetch){(const char *)(codes + k * TILE_COLUMNS), chunk->depth * TILE_COLUMNS};
    }
    widen_codes(codes, chunk->depth * TILE_COLUMNS, panel);
    panel_epilogue_move(finish, epilogue, column, n1);
    multiply_panel(chunk, panel, ahead, finish, c, ldc);
}

void
QB_FN(product_qs8)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                   int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    (void)n;
    const split s = split_of(m, k);
    const code_scratch lies = code_scratch_of(k);
    float *rows = scratch;
    panel_epilogue finish = panel_epilogue_begin(epilogue, 1);
    for (int64_t step = 0; step < s.blocks * s.chunks; ++step) {
        const int64_t first = step % s.chunks * s.depth;
        const block_chunk chunk = widened_chunk(&s, step / s.chunks, step % s.chunks, a, lda, k, rows);
        for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
            multiply_codes(&chunk, packed, column, n1, first, k, epilogue, &finish, rows + lies.panel,
                           c + chunk.row0 * ldc + column, ldc);
        }
    }
}

/* Chunk after chunk of one panel, since their sums wait in scratch; so the rows are widened once per panel, or once per
 * block where there is one chunk. */
void
QB_FN(product_qs8_codes)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                         int64_t k, const qb_epilogue *epilogue, const qb_quant_range *range, int8_t *c, int64_t ldc,
                         uint32_t *nonfinite, void *scratch)
{
    (void)n;
    const split s = split_of(m, k);
    const code_scratch lies = code_scratch_of(k);
    float *rows = scratch;
    panel_epilogue finish = panel_epilogue_begin(epilogue, 1);
    for (int64_t block = 0; block < s.blocks; ++block) {
        block_chunk chunk = {.split = NULL};
        for (int64_t column = n0; column < n1; column += TILE_COLUMNS) {
            const int64_t columns = n1 - column < TILE_COLUMNS ? n1 - column : TILE_COLUMNS;
            for (int64_t number = 0; number < s.chunks; ++number) {
                if (s.chunks > 1 || chunk.split == NULL) {
                    chunk = widened_chunk(&s, block, number, a, lda, k, rows);
                }
                multiply_codes(&chunk, packed, column, n1, number * s.depth, k, epilogue, &finish, rows + lies.panel,
                               rows + lies.results, TILE_COLUMNS);
            }
            for (int64_t i = chunk.row0; i < chunk.row1; ++i) {
                QB_FN(quantize_qs8)
                (rows + lies.results + (i - chunk.row0) * TILE_COLUMNS, (size_t)columns, range, c + i * ldc + column,
                 nonfinite);
            }
        }
    }
}
