/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the code product on AVX512-VNNI: that of the float product on AVX-512 with another instruction.
 * Four codes are as wide as a float, and VPDPBUSD adds the products of four bytes without and four with a sign to an
 * int32, without saturation.  a goes in as a + 128, so that
 *
 *     sum of (a + 128) b = sum of a b + 128 times the sum of b
 *
 * and a column starts from minus the second term.  It and the sums may leave 32 bits on the way; they are taken modulo
 * 2^32, and the result, which fits, is exact.
 *
 *     a      a row is its codes + 128, one after the other; the rows of a tile lie `depth` bytes apart
 *     panel  four depths are 128 bytes: the four codes of each column
 */
#ifndef QB_KERNELS_CPU_AVX512_VNNI_PRODUCT_QS8_TILE_H
#define QB_KERNELS_CPU_AVX512_VNNI_PRODUCT_QS8_TILE_H

#include <string.h>

#include "kernels/cpu/avx512/vec.h"

#define TILE_MULTIPLY_ADD "vpdpbusd"
#include "kernels/cpu/avx512/product_tile.h"

enum {
    STEP_DEPTHS = 4,      /* of a panel, that lie together */
    CODE_STEP = 4,        /* a float of the tile */
    CODE_DEPTH = 1536,    /* of a chunk at most: rows a multiple of 2 KiB apart would share few sets of a cache */
    CODE_BYTES = 1,       /* of a code of a */
    CODE_AHEAD_BYTES = 4, /* that a tile fetches ahead per depth: a quarter of a cache line per step */
    CODE_CACHE_BYTES = TILE_CACHE_BYTES
};

/* The tile continues from what is in its buffer and knows no terms of rows. */
static void
multiply_tile(int64_t rows, int64_t depth, const void *a, const void *panel, const int32_t *terms, const int32_t *start,
              int64_t stride, int32_t *sums, const char *ahead)
{
    (void)terms;
    if (start != sums) {
        for (int64_t r = 0; r < rows; ++r) {
            memcpy(sums + r * TILE_COLUMNS, start + r * stride, TILE_COLUMNS * sizeof *sums);
        }
    }
    tiles[rows - 1](depth / CODE_STEP, a, depth / CODE_STEP, panel, 1, (float *)(void *)sums, ahead);
}

#endif
