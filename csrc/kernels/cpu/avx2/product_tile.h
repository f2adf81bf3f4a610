/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the float product on AVX2: up to 6 rows by 16 columns.
 *
 * One block of assembly per tile, for the reason given in avx512/product_tile.h.  12 accumulators, two registers of b
 * and two broadcasts of a fill the register file.  Rows are reached from one base by stride multiples 0 .. 5.
 */
#ifndef QB_KERNELS_CPU_AVX2_PRODUCT_TILE_H
#define QB_KERNELS_CPU_AVX2_PRODUCT_TILE_H

#include <stdint.h>

enum {
    TILE_ROWS = 6,
    TILE_COLUMNS = 16,
    TILE_DEPTH = 768,              /* of a chunk */
    TILE_CACHE_BYTES = 384 * 1024, /* of a level-2 cache of 512 KiB or more, for the rows of a */
    TILE_AHEAD_LEAST = 16,         /* bytes that a tile fetches ahead per depth, and at most: all of a panel */
    TILE_AHEAD_MOST = 64
};

/* What adds the product of a broadcast of a, its third operand, and a register of b, its second, to a sum: of floats,
 * unless the includer says of what. */
#ifndef TILE_MULTIPLY_ADD
#define TILE_MULTIPLY_ADD "vfmadd231ps"
#endif
/* What the sums of a row begin with, where nothing is continued. */
#ifndef TILE_BEGIN
#define TILE_BEGIN(row, x, y)                                                                                          \
    "vxorps %%ymm" #x ", %%ymm" #x ", %%ymm" #x "\n\t"                                                                 \
    "vxorps %%ymm" #y ", %%ymm" #y ", %%ymm" #y "\n\t"
#endif

#define FETCH                                                                                                          \
    "prefetcht1 (%[ahead])\n\t"                                                                                        \
    "add %[p], %[ahead]\n\t"

/* One depth, `D` steps after the bases. */
#define LOAD(D)                                                                                                        \
    "vmovups " #D "*64(%[b]), %%ymm0\n\t"                                                                              \
    "vmovups " #D "*64+32(%[b]), %%ymm1\n\t"
#define ROW(D, address, t, x, y)                                                                                       \
    "vbroadcastss " #D "*4" address ", %%ymm" #t "\n\t" TILE_MULTIPLY_ADD " %%ymm" #t ", %%ymm0, %%ymm" #x             \
    "\n\t" TILE_MULTIPLY_ADD " %%ymm" #t ", %%ymm1, %%ymm" #y "\n\t"
#define STEP_1(D) LOAD(D) ROW(D, "(%[a0])", 2, 4, 5)
#define STEP_2(D) STEP_1(D) ROW(D, "(%[a0],%[s])", 3, 6, 7)
#define STEP_3(D) STEP_2(D) ROW(D, "(%[a0],%[s],2)", 2, 8, 9)
#define STEP_4(D) STEP_3(D) ROW(D, "(%[a0],%[s3])", 3, 10, 11)
#define STEP_5(D) STEP_4(D) ROW(D, "(%[a0],%[s],4)", 2, 12, 13)
#define STEP_6(D) STEP_5(D) ROW(D, "(%[a0],%[s5])", 3, 14, 15)

#define BEGIN_1 TILE_BEGIN(0, 4, 5)
#define BEGIN_2 BEGIN_1 TILE_BEGIN(1, 6, 7)
#define BEGIN_3 BEGIN_2 TILE_BEGIN(2, 8, 9)
#define BEGIN_4 BEGIN_3 TILE_BEGIN(3, 10, 11)
#define BEGIN_5 BEGIN_4 TILE_BEGIN(4, 12, 13)
#define BEGIN_6 BEGIN_5 TILE_BEGIN(5, 14, 15)

#define RESUME(x, y)                                                                                                   \
    "vmovups (%[start]), %%ymm" #x "\n\t"                                                                              \
    "vmovups 32(%[start]), %%ymm" #y "\n\t"                                                                            \
    "add %[start_stride], %[start]\n\t"
#define RESUME_1 RESUME(4, 5)
#define RESUME_2 RESUME_1 RESUME(6, 7)
#define RESUME_3 RESUME_2 RESUME(8, 9)
#define RESUME_4 RESUME_3 RESUME(10, 11)
#define RESUME_5 RESUME_4 RESUME(12, 13)
#define RESUME_6 RESUME_5 RESUME(14, 15)

#define STORE(row, x, y)                                                                                               \
    "vmovups %%ymm" #x ", " #row "*64(%[tile])\n\t"                                                                    \
    "vmovups %%ymm" #y ", " #row "*64+32(%[tile])\n\t"
#define STORE_1 STORE(0, 4, 5)
#define STORE_2 STORE_1 STORE(1, 6, 7)
#define STORE_3 STORE_2 STORE(2, 8, 9)
#define STORE_4 STORE_3 STORE(3, 10, 11)
#define STORE_5 STORE_4 STORE(4, 12, 13)
#define STORE_6 STORE_5 STORE(5, 14, 15)

#define ADVANCE(D)                                                                                                     \
    "add $" #D "*4, %[a0]\n\t"                                                                                         \
    "add $" #D "*64, %[b]\n\t"

/* clang-format off */
/* tile (R, 16) = start (R, 16; row distance start_stride, in elements) + a (R, k; row distance lda) times panel (k, 16);
 * start_stride 0: what TILE_BEGIN makes of start; it may be tile.  ahead_bytes a depth are fetched from `ahead` on,
 * which may be any address; they are TILE_AHEAD_LEAST to TILE_AHEAD_MOST. */
#define DEFINE_TILE(R)                                                                                                 \
    static void tile_##R(int64_t k, const float *a, int64_t lda, const float *panel, const float *start,               \
                         int64_t start_stride, float *tile, const char *ahead, int64_t ahead_bytes)                    \
    {                                                                                                                  \
        const int64_t stride = lda * (int64_t)sizeof(float);                                                           \
        const int64_t stride3 = 3 * stride;                                                                            \
        const int64_t stride5 = 5 * stride;                                                                            \
        int64_t quads = k / 4;                                                                                         \
        int64_t rest = k % 4;                                                                                          \
        start_stride *= (int64_t)sizeof(float);                                                                        \
        __asm__ volatile("cmpq $0, %[start_stride]\n\t"                                                                 \
                         "jnz 1f\n\t"                                                                                  \
                         BEGIN_##R                                                                                     \
                         "jmp 2f\n\t"                                                                                  \
                         "1:\n\t"                                                                                      \
                         RESUME_##R                                                                                    \
                         "2:\n\t"                                                                                      \
                         "test %[quads], %[quads]\n\t"                                                                 \
                         "jz 4f\n\t"                                                                                   \
                         ".p2align 5\n\t"                                                                              \
                         "3:\n\t"                                                                                      \
                         FETCH STEP_##R(0) FETCH STEP_##R(1) FETCH STEP_##R(2) FETCH STEP_##R(3) ADVANCE(4)            \
                         "dec %[quads]\n\t"                                                                            \
                         "jnz 3b\n\t"                                                                                  \
                         "4:\n\t"                                                                                      \
                         "test %[rest], %[rest]\n\t"                                                                   \
                         "jz 6f\n\t"                                                                                   \
                         "5:\n\t"                                                                                      \
                         STEP_##R(0) ADVANCE(1)                                                                        \
                         "dec %[rest]\n\t"                                                                             \
                         "jnz 5b\n\t"                                                                                  \
                         "6:\n\t"                                                                                      \
                         STORE_##R                                                                                     \
                         "vzeroupper\n\t"                                                                              \
                         : [a0] "+&r"(a), [b] "+&r"(panel), [ahead] "+&r"(ahead), [quads] "+&r"(quads),                \
                           [rest] "+&r"(rest), [start] "+&r"(start)                                                    \
                         : [s] "r"(stride), [s3] "r"(stride3), [s5] "r"(stride5), [tile] "r"(tile),                    \
                           [p] "r"(ahead_bytes), [start_stride] "m"(start_stride)                                      \
                         : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",     \
                           "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                              \
    }
/* clang-format on */

DEFINE_TILE(1)
DEFINE_TILE(2)
DEFINE_TILE(3)
DEFINE_TILE(4)
DEFINE_TILE(5)
DEFINE_TILE(6)

static void (*const tiles[TILE_ROWS])(int64_t, const float *, int64_t, const float *, const float *, int64_t, float *,
                                      const char *, int64_t) = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

#endif
