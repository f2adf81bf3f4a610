/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the code product on AVX2: up to 4 rows by 16 columns, four depths a step, by Winograd's inner
 * product ("A new algorithm for inner product", 1968).  In 16 bits,
 *
 *     (a0 + b2) (a2 + b0) + (a1 + b3) (a3 + b1) = a0 b0 + a1 b1 + a2 b2 + a3 b3 + (a0 a2 + a1 a3) + (b0 b2 + b1 b3)
 *
 * so one VPMADDWD does the work of two, and the two additions that replace the other run on ports that are idle.  The
 * first bracket is a term of the row alone, the second one of the column alone: the tile starts from minus both.  A sum
 * of two codes is within 2^8, a product within 2^16 and a pair of products within 2^17, so nothing saturates, -128
 * included; the sums over depth are taken modulo 2^32, and the result, which fits, is exact.
 *
 * One block of assembly per tile, for the reason given in avx512/product_tile.h.  8 accumulators, 4 registers of b, two
 * broadcasts of a and two for sums fill the register file.  b stays int8 in memory and is widened when it is loaded:
 * on Zen 3, four rows alone take 9.6 cycles a step, and 8.7 of a panel that was widened before (its 32 operations want
 * 8), but in a product with its copies and its larger share of the level-1 cache a wide panel is no faster (within 1
 * %).
 *
 * A step loads 64 bytes of b in 9.6 cycles, which a level-2 cache delivers in two or three: so a chunk need not stay in
 * the level-1 cache, and one chunk of 3,072 depths is 8 % faster than three of 1,024, whose sums are stored and loaded.
 *
 * VPMADDUBSW of |a| and of b with the sign of a (VPSIGNB), two sums added in 16 bits, needs fewer operations and is no
 * faster on Zen 3 (30 products a cycle in registers alone, this one 32), and a hundredth of the weights of MiniLM
 * overflow it.
 *
 *     a      a step of a row is 8 bytes, its four depths as int16; the rows of a tile lie side by side
 *     panel  a step is 64 bytes: for columns 0-7 (b2, b3) of each, then (b0, b1); the same of columns 8-15
 */
#ifndef QB_KERNELS_CPU_AVX2_PRODUCT_QS8_TILE_H
#define QB_KERNELS_CPU_AVX2_PRODUCT_QS8_TILE_H

#include <stdint.h>

#include "kernels/cpu/avx2/vec.h"

enum {
    TILE_ROWS = 4,
    TILE_COLUMNS = 16,
    STEP_DEPTHS = 4,   /* of a panel, that lie together */
    CODE_STEP = 8,     /* depths of one turn of the loop; a chunk is padded to a multiple with zeros */
    CODE_DEPTH = 4096, /* of a chunk at most */
    CODE_BYTES = 2,    /* of a code of a */
    CODE_FLIP = 0,
    CODE_AHEAD_LEAST = 8, /* bytes that a tile fetches ahead per depth: a cache line per turn */
    CODE_AHEAD_MOST = CODE_AHEAD_LEAST,
    CODE_CACHE_BYTES = 256 * 1024 /* of a level-2 cache of 512 KiB or more, for the rows of a */
};

/* Four depths, `D` steps of four after the bases. */
#define LOAD(D)                                                                                                        \
    "vpmovsxbw " #D "*64(%[b]), %%ymm0\n\t"                                                                            \
    "vpmovsxbw " #D "*64+16(%[b]), %%ymm1\n\t"                                                                         \
    "vpmovsxbw " #D "*64+32(%[b]), %%ymm2\n\t"                                                                         \
    "vpmovsxbw " #D "*64+48(%[b]), %%ymm3\n\t"
#define ROW(D, R, row, x, y)                                                                                           \
    "vpbroadcastd " #D "*8*" #R "+8*" #row "(%[a]), %%ymm4\n\t"                                                        \
    "vpbroadcastd " #D "*8*" #R "+8*" #row "+4(%[a]), %%ymm5\n\t"                                                      \
    "vpaddw %%ymm0, %%ymm4, %%ymm6\n\t"                                                                                \
    "vpaddw %%ymm1, %%ymm5, %%ymm7\n\t"                                                                                \
    "vpmaddwd %%ymm6, %%ymm7, %%ymm6\n\t"                                                                              \
    "vpaddd %%ymm6, %%ymm" #x ", %%ymm" #x "\n\t"                                                                      \
    "vpaddw %%ymm2, %%ymm4, %%ymm4\n\t"                                                                                \
    "vpaddw %%ymm3, %%ymm5, %%ymm5\n\t"                                                                                \
    "vpmaddwd %%ymm4, %%ymm5, %%ymm4\n\t"                                                                              \
    "vpaddd %%ymm4, %%ymm" #y ", %%ymm" #y "\n\t"
#define STEP_1(D, R) LOAD(D) ROW(D, R, 0, 8, 9)
#define STEP_2(D, R) STEP_1(D, R) ROW(D, R, 1, 10, 11)
#define STEP_3(D, R) STEP_2(D, R) ROW(D, R, 2, 12, 13)
#define STEP_4(D, R) STEP_3(D, R) ROW(D, R, 3, 14, 15)

#define START(row, x, y)                                                                                               \
    "vpbroadcastd 4*" #row "(%[terms]), %%ymm0\n\t"                                                                    \
    "vmovdqu (%[start]), %%ymm" #x "\n\t"                                                                              \
    "vmovdqu 32(%[start]), %%ymm" #y "\n\t"                                                                            \
    "vpaddd %%ymm0, %%ymm" #x ", %%ymm" #x "\n\t"                                                                      \
    "vpaddd %%ymm0, %%ymm" #y ", %%ymm" #y "\n\t"                                                                      \
    "add %[stride], %[start]\n\t"
#define START_1 START(0, 8, 9)
#define START_2 START_1 START(1, 10, 11)
#define START_3 START_2 START(2, 12, 13)
#define START_4 START_3 START(3, 14, 15)

#define STORE(row, x, y)                                                                                               \
    "vmovdqu %%ymm" #x ", " #row "*64(%[sums])\n\t"                                                                    \
    "vmovdqu %%ymm" #y ", " #row "*64+32(%[sums])\n\t"
#define STORE_1 STORE(0, 8, 9)
#define STORE_2 STORE_1 STORE(1, 10, 11)
#define STORE_3 STORE_2 STORE(2, 12, 13)
#define STORE_4 STORE_3 STORE(3, 14, 15)

/* clang-format off */
/* The contract of multiply_tile (simd/product_codes.h) for R rows, whose terms are minus a0 a2 + a1 a3, added up. */
#define DEFINE_TILE(R)                                                                                                 \
    static void tile_##R(int64_t depth, const void *a, const void *panel, const int32_t *terms, const int32_t *start,  \
                         int64_t stride, int32_t *sums, const char *ahead)                                             \
    {                                                                                                                  \
        int64_t turns = depth / CODE_STEP;                                                                             \
        __asm__ volatile(START_##R                                                                                     \
                         "test %[turns], %[turns]\n\t"                                                                 \
                         "jz 2f\n\t"                                                                                   \
                         ".p2align 6\n\t"                                                                              \
                         "1:\n\t"                                                                                      \
                         "prefetcht1 (%[ahead])\n\t"                                                                   \
                         STEP_##R(0, R) STEP_##R(1, R)                                                                 \
                         "add $2*8*" #R ", %[a]\n\t"                                                                   \
                         "sub $-128, %[b]\n\t"                                                                         \
                         "add $64, %[ahead]\n\t"                                                                       \
                         "dec %[turns]\n\t"                                                                            \
                         "jnz 1b\n\t"                                                                                  \
                         "2:\n\t"                                                                                      \
                         STORE_##R                                                                                     \
                         "vzeroupper\n\t"                                                                              \
                         : [a] "+&r"(a), [b] "+&r"(panel), [start] "+&r"(start), [ahead] "+&r"(ahead),                 \
                           [turns] "+&r"(turns)                                                                        \
                         : [terms] "r"(terms), [stride] "r"(stride * (int64_t)sizeof(int32_t)), [sums] "r"(sums)       \
                         : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",     \
                           "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                              \
    }
/* clang-format on */

DEFINE_TILE(1)
DEFINE_TILE(2)
DEFINE_TILE(3)
DEFINE_TILE(4)

static void
multiply_tile(int64_t rows, int64_t depth, code_rows a, const void *panel, const int32_t *start, int64_t stride,
              int32_t *sums, code_ahead ahead)
{
    static void (*const tiles[TILE_ROWS])(int64_t, const void *, const void *, const int32_t *, const int32_t *,
                                          int64_t, int32_t *, const char *) = {tile_1, tile_2, tile_3, tile_4};
    tiles[rows - 1](depth, a.codes, panel, a.terms, start, stride, sums, ahead.start);
}

#endif
