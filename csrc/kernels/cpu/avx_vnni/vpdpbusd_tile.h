/* SPDX-License-Identifier: Apache-2.0
 *
 * The tile of a code product out of one of a float product whose instruction is VPDPBUSD, of any register width.  Four
 * codes are as wide as a float, and VPDPBUSD adds the products of four bytes without and four with a sign to an int32,
 * without saturation.  b goes in as b + 128, so that
 *
 *     sum of a (b + 128) = sum of a b + 128 times the sum of a
 *
 * and a row starts from minus the second term.  On the way a sum is that of a b over the depths that are done and of
 * -128 a over the others, each within 2^14: it fits like the result.  It is b that gets the 128, which is packed once:
 * so rows of a are read where they lie.
 *
 *     panel  a step of four depths is the four codes + 128 of each column
 *
 * The includer has its vec.h, its float tile with TILE_MULTIPLY_ADD and with TILE_BEGIN, which takes the term `row` of
 * start for the sums of its row, CODE_DEPTH and CODE_CACHE_BYTES.
 */
#ifndef QB_KERNELS_CPU_AVX_VNNI_VPDPBUSD_TILE_H
#define QB_KERNELS_CPU_AVX_VNNI_VPDPBUSD_TILE_H

#include <stdint.h>
#include <string.h>

#define CODES_IN_PLACE

enum {
    STEP_DEPTHS = 4,  /* of a panel, that lie together */
    CODE_STEP = 4,    /* a float of the tile */
    CODE_FLIP = 0x80, /* adds 128 modulo 256 */
    CODE_AHEAD_LEAST = TILE_AHEAD_LEAST / CODE_STEP,
    CODE_AHEAD_MOST = TILE_AHEAD_MOST / CODE_STEP
};

static void
multiply_tile(int64_t rows, int64_t depth, code_rows a, const void *panel, const int32_t *start, int64_t stride,
              int32_t *sums, code_ahead ahead)
{
    const int32_t *begin = start == NULL ? a.terms : start;
    tiles[rows - 1](depth / CODE_STEP, (const float *)(const void *)a.codes, a.row_distance / CODE_STEP, panel,
                    (const float *)(const void *)begin, stride, (float *)(void *)sums, ahead.start,
                    ahead.bytes * CODE_STEP);
}

#endif
