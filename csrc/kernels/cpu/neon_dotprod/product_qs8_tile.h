/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the code product on Advanced SIMD with dot products: up to 6 rows by 16 columns.  SDOT adds the
 * products of four codes of b in each of four columns and four codes of a, one word of a register, to four sums, all
 * with their signs and modulo 2^32; so the sums start where they are told and no terms are taken away.
 *
 * One block of assembly per tile, for the reason given in avx512/product_tile.h.  24 accumulators, 4 registers of b and
 * 3 of a leave one of the 32.  A turn of the loop is at most 48 multiplications of 11 registers that 6 instructions
 * load.
 *
 *     a      a step of a row is its four codes, a word; the words of the rows of a tile lie side by side
 *     panel  a step is 64 bytes: the four codes of each column
 */
#ifndef QB_KERNELS_CPU_NEON_DOTPROD_PRODUCT_QS8_TILE_H
#define QB_KERNELS_CPU_NEON_DOTPROD_PRODUCT_QS8_TILE_H

#include <stdint.h>

#include "kernels/cpu/neon/vec.h"

enum {
    TILE_ROWS = 6,
    TILE_COLUMNS = 16,
    STEP_DEPTHS = 4,   /* of a panel, that lie together */
    CODE_STEP = 8,     /* depths of one turn of the loop; a chunk is padded to a multiple with zeros */
    CODE_DEPTH = 2048, /* of a chunk at most: 32 KiB of a panel and 12 KiB of a, in a level-1 cache of 64 KiB */
    CODE_BYTES = 1,    /* of a code of a */
    CODE_FLIP = 0,
    CODE_AHEAD_LEAST = 8, /* bytes that a tile fetches ahead per depth: 64 bytes per turn */
    CODE_AHEAD_MOST = CODE_AHEAD_LEAST,
    CODE_CACHE_BYTES = 256 * 1024 /* of a level-2 cache of 512 KiB or more, for the rows of a */
};

/* clang-format off */
/* The words of a turn, in the order in which they lie: those of the first step's rows, then those of the second's. */
#define WORD_0 "v4.4b[0]"
#define WORD_1 "v4.4b[1]"
#define WORD_2 "v4.4b[2]"
#define WORD_3 "v4.4b[3]"
#define WORD_4 "v5.4b[0]"
#define WORD_5 "v5.4b[1]"
#define WORD_6 "v5.4b[2]"
#define WORD_7 "v5.4b[3]"
#define WORD_8 "v6.4b[0]"
#define WORD_9 "v6.4b[1]"
#define WORD_10 "v6.4b[2]"
#define WORD_11 "v6.4b[3]"

/* The words of a turn of R rows, 8 R bytes. */
#define WORDS_1 "ldr d4, [%[a]]\n\t"
#define WORDS_2 "ldr q4, [%[a]]\n\t"
#define WORDS_3 "ldr q4, [%[a]]\n\t" "ldr d5, [%[a], #16]\n\t"
#define WORDS_4 "ldp q4, q5, [%[a]]\n\t"
#define WORDS_5 "ldp q4, q5, [%[a]]\n\t" "ldr d6, [%[a], #32]\n\t"
#define WORDS_6 "ldp q4, q5, [%[a]]\n\t" "ldr q6, [%[a], #32]\n\t"

/* Four depths, `D` steps of four after the base. */
#define LOAD(D)                                                                                                        \
    "ldp q0, q1, [%[b], #" #D "*64]\n\t"                                                                               \
    "ldp q2, q3, [%[b], #" #D "*64+32]\n\t"
#define ROW(word, w, x, y, z)                                                                                          \
    "sdot v" #w ".4s, v0.16b, " word "\n\t"                                                                            \
    "sdot v" #x ".4s, v1.16b, " word "\n\t"                                                                            \
    "sdot v" #y ".4s, v2.16b, " word "\n\t"                                                                            \
    "sdot v" #z ".4s, v3.16b, " word "\n\t"
#define STEP_1(D, r0) LOAD(D) ROW(WORD_##r0, 8, 9, 10, 11)
#define STEP_2(D, r0, r1) STEP_1(D, r0) ROW(WORD_##r1, 12, 13, 14, 15)
#define STEP_3(D, r0, r1, r2) STEP_2(D, r0, r1) ROW(WORD_##r2, 16, 17, 18, 19)
#define STEP_4(D, r0, r1, r2, r3) STEP_3(D, r0, r1, r2) ROW(WORD_##r3, 20, 21, 22, 23)
#define STEP_5(D, r0, r1, r2, r3, r4) STEP_4(D, r0, r1, r2, r3) ROW(WORD_##r4, 24, 25, 26, 27)
#define STEP_6(D, r0, r1, r2, r3, r4, r5) STEP_5(D, r0, r1, r2, r3, r4) ROW(WORD_##r5, 28, 29, 30, 31)

#define TURN_1 WORDS_1 STEP_1(0, 0) STEP_1(1, 1)
#define TURN_2 WORDS_2 STEP_2(0, 0, 1) STEP_2(1, 2, 3)
#define TURN_3 WORDS_3 STEP_3(0, 0, 1, 2) STEP_3(1, 3, 4, 5)
#define TURN_4 WORDS_4 STEP_4(0, 0, 1, 2, 3) STEP_4(1, 4, 5, 6, 7)
#define TURN_5 WORDS_5 STEP_5(0, 0, 1, 2, 3, 4) STEP_5(1, 5, 6, 7, 8, 9)
#define TURN_6 WORDS_6 STEP_6(0, 0, 1, 2, 3, 4, 5) STEP_6(1, 6, 7, 8, 9, 10, 11)

#define START(w, x, y, z)                                                                                              \
    "ldp q" #w ", q" #x ", [%[start]]\n\t"                                                                             \
    "ldp q" #y ", q" #z ", [%[start], #32]\n\t"                                                                        \
    "add %[start], %[start], %[stride]\n\t"
#define START_1 START(8, 9, 10, 11)
#define START_2 START_1 START(12, 13, 14, 15)
#define START_3 START_2 START(16, 17, 18, 19)
#define START_4 START_3 START(20, 21, 22, 23)
#define START_5 START_4 START(24, 25, 26, 27)
#define START_6 START_5 START(28, 29, 30, 31)

#define STORE(row, w, x, y, z)                                                                                         \
    "stp q" #w ", q" #x ", [%[sums], #" #row "*64]\n\t"                                                                \
    "stp q" #y ", q" #z ", [%[sums], #" #row "*64+32]\n\t"
#define STORE_1 STORE(0, 8, 9, 10, 11)
#define STORE_2 STORE_1 STORE(1, 12, 13, 14, 15)
#define STORE_3 STORE_2 STORE(2, 16, 17, 18, 19)
#define STORE_4 STORE_3 STORE(3, 20, 21, 22, 23)
#define STORE_5 STORE_4 STORE(4, 24, 25, 26, 27)
#define STORE_6 STORE_5 STORE(5, 28, 29, 30, 31)

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
                         TURN_##R                                                                                      \
                         "add %[a], %[a], #8*" #R "\n\t"                                                               \
                         "add %[b], %[b], #128\n\t"                                                                    \
                         "add %[ahead], %[ahead], #64\n\t"                                                             \
                         "subs %[turns], %[turns], #1\n\t"                                                             \
                         "b.ne 1b\n\t"                                                                                 \
                         "2:\n\t"                                                                                      \
                         STORE_##R                                                                                     \
                         : [a] "+&r"(a), [b] "+&r"(panel), [start] "+&r"(start), [ahead] "+&r"(ahead),                 \
                           [turns] "+&r"(turns)                                                                        \
                         : [stride] "r"(stride * (int64_t)sizeof(int32_t)), [sums] "r"(sums)                           \
                         : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v8", "v9", "v10", "v11", "v12",  \
                           "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25",  \
                           "v26", "v27", "v28", "v29", "v30", "v31");                                                  \
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
