/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the code product on Advanced SIMD with products of matrices: up to 6 rows by 16 columns.  SMMLA
 * multiplies eight depths of two rows with eight depths of two columns and adds the four results to the four sums of a
 * register, all with their signs and modulo 2^32; so the sums start where they are told and no terms are taken away. It
 * does twice the work of SDOT, but a register has a square of sums, not a part of a row: they are rearranged when they
 * are loaded and stored.  Where rows are odd in number the last square's second row is multiplied with zeros and not
 * stored.
 *
 * One block of assembly per tile, for the reason given in avx512/product_tile.h.  24 accumulators, 4 registers of b and
 * 3 of a leave one of the 32.  A turn of the loop is at most 48 multiplications of 22 registers that 14 instructions
 * load.
 *
 *     a      a step of a row is its eight codes; the steps of the rows of a tile lie side by side
 *     panel  a step is 128 bytes: the eight codes of each column
 */
#ifndef QB_KERNELS_CPU_NEON_I8MM_PRODUCT_QS8_TILE_H
#define QB_KERNELS_CPU_NEON_I8MM_PRODUCT_QS8_TILE_H

#include <stdint.h>

#include "kernels/cpu/neon/vec.h"

enum {
    TILE_ROWS = 6,
    TILE_COLUMNS = 16,
    STEP_DEPTHS = 8,   /* of a panel, that lie together */
    CODE_STEP = 16,    /* depths of one turn of the loop; a chunk is padded to a multiple with zeros */
    CODE_DEPTH = 2048, /* of a chunk at most: 32 KiB of a panel and 12 KiB of a, in a level-1 cache of 64 KiB */
    CODE_BYTES = 1,    /* of a code of a */
    CODE_FLIP = 0,
    CODE_AHEAD_LEAST = 8, /* bytes that a tile fetches ahead per depth: 128 bytes per turn */
    CODE_AHEAD_MOST = CODE_AHEAD_LEAST,
    CODE_CACHE_BYTES = 256 * 1024 /* of a level-2 cache of 512 KiB or more, for the rows of a */
};

/* clang-format off */
/* One step of R rows, `D` steps after the base: two rows a register. */
#define ROWS_1(D) "ldur d4, [%[a], #" #D "*8]\n\t"
#define ROWS_2(D) "ldur q4, [%[a], #" #D "*16]\n\t"
#define ROWS_3(D) "ldur q4, [%[a], #" #D "*24]\n\t" "ldur d5, [%[a], #" #D "*24+16]\n\t"
#define ROWS_4(D) "ldur q4, [%[a], #" #D "*32]\n\t" "ldur q5, [%[a], #" #D "*32+16]\n\t"
#define ROWS_5(D)                                                                                                      \
    "ldur q4, [%[a], #" #D "*40]\n\t" "ldur q5, [%[a], #" #D "*40+16]\n\t" "ldur d6, [%[a], #" #D "*40+32]\n\t"
#define ROWS_6(D)                                                                                                      \
    "ldur q4, [%[a], #" #D "*48]\n\t" "ldur q5, [%[a], #" #D "*48+16]\n\t" "ldur q6, [%[a], #" #D "*48+32]\n\t"

/* One step of half the columns: two columns a register. */
#define LOAD(D, half)                                                                                                  \
    "ldp q0, q1, [%[b], #" #D "*128+" #half "*64]\n\t"                                                                 \
    "ldp q2, q3, [%[b], #" #D "*128+" #half "*64+32]\n\t"
#define SQUARES(rows, w, x, y, z)                                                                                      \
    "smmla v" #w ".4s, v" #rows ".16b, v0.16b\n\t"                                                                     \
    "smmla v" #x ".4s, v" #rows ".16b, v1.16b\n\t"                                                                     \
    "smmla v" #y ".4s, v" #rows ".16b, v2.16b\n\t"                                                                     \
    "smmla v" #z ".4s, v" #rows ".16b, v3.16b\n\t"
#define LEFT_2(D) LOAD(D, 0) SQUARES(4, 8, 9, 10, 11)
#define LEFT_4(D) LEFT_2(D) SQUARES(5, 16, 17, 18, 19)
#define LEFT_6(D) LEFT_4(D) SQUARES(6, 24, 25, 26, 27)
#define RIGHT_2(D) LOAD(D, 1) SQUARES(4, 12, 13, 14, 15)
#define RIGHT_4(D) RIGHT_2(D) SQUARES(5, 20, 21, 22, 23)
#define RIGHT_6(D) RIGHT_4(D) SQUARES(6, 28, 29, 30, 31)
#define STEP_1(D) ROWS_1(D) LEFT_2(D) RIGHT_2(D)
#define STEP_2(D) ROWS_2(D) LEFT_2(D) RIGHT_2(D)
#define STEP_3(D) ROWS_3(D) LEFT_4(D) RIGHT_4(D)
#define STEP_4(D) ROWS_4(D) LEFT_4(D) RIGHT_4(D)
#define STEP_5(D) ROWS_5(D) LEFT_6(D) RIGHT_6(D)
#define STEP_6(D) ROWS_6(D) LEFT_6(D) RIGHT_6(D)

/* A row of sums, four a register. */
#define START_ROW(w, x, y, z)                                                                                          \
    "ldp q" #w ", q" #x ", [%[start]]\n\t"                                                                             \
    "ldp q" #y ", q" #z ", [%[start], #32]\n\t"                                                                        \
    "add %[start], %[start], %[stride]\n\t"
#define SQUARES_OF(upper, lower, left, right)                                                                          \
    "zip1 v" #left ".2d, v" #upper ".2d, v" #lower ".2d\n\t"                                                           \
    "zip2 v" #right ".2d, v" #upper ".2d, v" #lower ".2d\n\t"
#define START_TWO(s, t, u, v, w, x, y, z)                                                                              \
    START_ROW(0, 1, 2, 3) START_ROW(4, 5, 6, 7)                                                                        \
    SQUARES_OF(0, 4, s, t) SQUARES_OF(1, 5, u, v) SQUARES_OF(2, 6, w, x) SQUARES_OF(3, 7, y, z)
#define START_LAST(s, t, u, v, w, x, y, z)                                                                             \
    START_ROW(0, 1, 2, 3) SQUARES_OF(0, 0, s, t) SQUARES_OF(1, 1, u, v) SQUARES_OF(2, 2, w, x) SQUARES_OF(3, 3, y, z)
#define START_1 START_LAST(8, 9, 10, 11, 12, 13, 14, 15)
#define START_2 START_TWO(8, 9, 10, 11, 12, 13, 14, 15)
#define START_3 START_2 START_LAST(16, 17, 18, 19, 20, 21, 22, 23)
#define START_4 START_2 START_TWO(16, 17, 18, 19, 20, 21, 22, 23)
#define START_5 START_4 START_LAST(24, 25, 26, 27, 28, 29, 30, 31)
#define START_6 START_4 START_TWO(24, 25, 26, 27, 28, 29, 30, 31)

#define STORE_ROW(row, which, s, t, u, v, w, x, y, z)                                                                  \
    which " v0.2d, v" #s ".2d, v" #t ".2d\n\t"                                                                         \
    which " v1.2d, v" #u ".2d, v" #v ".2d\n\t"                                                                         \
    which " v2.2d, v" #w ".2d, v" #x ".2d\n\t"                                                                         \
    which " v3.2d, v" #y ".2d, v" #z ".2d\n\t"                                                                         \
    "stp q0, q1, [%[sums], #" #row "*64]\n\t"                                                                          \
    "stp q2, q3, [%[sums], #" #row "*64+32]\n\t"
#define STORE_1 STORE_ROW(0, "zip1", 8, 9, 10, 11, 12, 13, 14, 15)
#define STORE_2 STORE_1 STORE_ROW(1, "zip2", 8, 9, 10, 11, 12, 13, 14, 15)
#define STORE_3 STORE_2 STORE_ROW(2, "zip1", 16, 17, 18, 19, 20, 21, 22, 23)
#define STORE_4 STORE_3 STORE_ROW(3, "zip2", 16, 17, 18, 19, 20, 21, 22, 23)
#define STORE_5 STORE_4 STORE_ROW(4, "zip1", 24, 25, 26, 27, 28, 29, 30, 31)
#define STORE_6 STORE_5 STORE_ROW(5, "zip2", 24, 25, 26, 27, 28, 29, 30, 31)

/* The contract of multiply_tile (simd/product_codes.h) for R rows. */
#define DEFINE_TILE(R)                                                                                                 \
    static void tile_##R(int64_t depth, const void *a, const void *panel, const int32_t *start, int64_t stride,        \
                         int32_t *sums, const char *ahead)                                                             \
    {                                                                                                                  \
        int64_t turns = depth / CODE_STEP;                                                                             \
        __asm__ volatile(START_##R                                                                                     \
                         "cbz %[turns], 2f\n\t"                                                                        \
                         ".p2align 5\n\t"                                                                              \
                         "1:\n\t"                                                                                      \
                         "prfm pldl2keep, [%[ahead]]\n\t"                                                              \
                         "prfm pldl2keep, [%[ahead], #64]\n\t"                                                         \
                         STEP_##R(0) STEP_##R(1)                                                                       \
                         "add %[a], %[a], #16*" #R "\n\t"                                                              \
                         "add %[b], %[b], #256\n\t"                                                                    \
                         "add %[ahead], %[ahead], #128\n\t"                                                            \
                         "subs %[turns], %[turns], #1\n\t"                                                             \
                         "b.ne 1b\n\t"                                                                                 \
                         "2:\n\t"                                                                                      \
                         STORE_##R                                                                                     \
                         : [a] "+&r"(a), [b] "+&r"(panel), [start] "+&r"(start), [ahead] "+&r"(ahead),                 \
                           [turns] "+&r"(turns)                                                                        \
                         : [stride] "r"(stride * (int64_t)sizeof(int32_t)), [sums] "r"(sums)                           \
                         : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",   \
                           "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24",  \
                           "v25", "v26", "v27", "v28", "v29", "v30", "v31");                                           \
    }
/* clang-format on */

DEFINE_TILE(1)
DEFINE_TILE(2)
DEFINE_TILE(3)
DEFINE_TILE(4)
DEFINE_TILE(5)
DEFINE_TILE(6)

static void
multiply_tile(int64_t rows, int64_t depth, code_rows a, const void *panel, const int32_t *start, int64_t stride,
              int32_t *sums, code_ahead ahead)
{
    static void (*const tiles[TILE_ROWS])(int64_t, const void *, const void *, const int32_t *, int64_t, int32_t *,
                                          const char *) = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};
    tiles[rows - 1](depth, a.codes, panel, start, stride, sums, ahead.start);
}

#endif
