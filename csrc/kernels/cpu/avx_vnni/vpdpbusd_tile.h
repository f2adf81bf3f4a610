/* SPDX-License-Identifier: Apache-2.0
 *
 * The tile of a code product out of one of a float product whose instruction is VPDPBUSD, of any register width.  Four
 * codes are as wide as a float, and VPDPBUSD adds the products of four bytes without and four with a sign to an int32,
 * without saturation.  a goes in as a + 128, so that
 *
 *     sum of (a + 128) b = sum of a b + 128 times the sum of b
 *
 * and a column starts from minus the second term.  On the way a sum is that of a b over the depths that are done and of
 * -128 b over the others, each within 2^14: it fits like the result.
 *
 *     a      a row is its codes + 128, one after the other; the rows of a tile lie `depth` bytes apart
 *     panel  a step of four depths is the four codes of each column
 *
 * The includer has its vec.h, its float tile with TILE_MULTIPLY_ADD, CODE_DEPTH and CODE_CACHE_BYTES.
 */
#ifndef QB_KERNELS_CPU_AVX_VNNI_VPDPBUSD_TILE_H
#define QB_KERNELS_CPU_AVX_VNNI_VPDPBUSD_TILE_H

#include <stdint.h>
#include <string.h>

enum {
    STEP_DEPTHS = 4, /* of a panel, that lie together */
    CODE_STEP = 4,   /* a float of the tile */
    CODE_BYTES = 1,  /* of a code of a */
    CODE_AHEAD_LEAST = TILE_AHEAD_LEAST / CODE_STEP,
    CODE_AHEAD_MOST = TILE_AHEAD_MOST / CODE_STEP
};

/* The tile knows no terms of rows. */
static void
multiply_tile(int64_t rows, int64_t depth, const void *a, const void *panel, const int32_t *terms, const int32_t *start,
              int64_t stride, int32_t *sums, code_ahead ahead)
{
    (void)terms;
    tiles[rows - 1](depth / CODE_STEP, a, depth / CODE_STEP, panel, (const float *)(const void *)start, stride,
                    (float *)(void *)sums, ahead.start, ahead.bytes * CODE_STEP);
}

#endif
