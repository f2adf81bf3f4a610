/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the float product on AVX-512: up to 14 rows by 32 columns.
 *
 * Each tile is one block of assembly from the first load to the last store, because gcc spills the accumulators of the
 * same loop written with intrinsics and then runs at half speed; so nothing here depends on the compiler.  28
 * accumulators, two registers of b and two broadcasts of a fill the register file.  Per depth: two loads of b, one
 * broadcast and two fused multiply-adds per row, 16 loads for 28 multiply-adds, which leaves the loads off the
 * critical path.  Rows are reached from three bases (rows 0, 5, 10) by stride multiples 0, 1, 2, 3, 4, so a needs no
 * packing.  Every accumulator is one chain over the depth, in order, so the result is that of the scalar reference.
 */
#ifndef QB_KERNELS_CPU_AVX512_PRODUCT_TILE_H
#define QB_KERNELS_CPU_AVX512_PRODUCT_TILE_H

#include <stdint.h>

enum {
    TILE_ROWS = 14,
    TILE_COLUMNS = 32,
    TILE_DEPTH = 768,              /* of a chunk */
    TILE_CACHE_BYTES = 768 * 1024, /* of a level-2 cache of 1 MiB or more, for the rows of a */
    TILE_AHEAD_LEAST = 16,         /* bytes that a tile fetches ahead per depth, and at most: all of a panel */
    TILE_AHEAD_MOST = 128
};

/* What adds the product of a broadcast of a, its third operand, and a register of b, its second, to a sum: of floats,
 * unless the includer says of what. */
#ifndef TILE_MULTIPLY_ADD
#define TILE_MULTIPLY_ADD "vfmadd231ps"
#endif
/* What the sums of a row begin with, where nothing is continued. */
#ifndef TILE_BEGIN
#define TILE_BEGIN(row, x, y)                                                                                          \
    "vpxord %%zmm" #x ", %%zmm" #x ", %%zmm" #x "\n\t"                                                                 \
    "vpxord %%zmm" #y ", %%zmm" #y ", %%zmm" #y "\n\t"
#endif

/* Two places ahead, so that any number of bytes up to two cache lines is fetched per depth. */
#define FETCH                                                                                                          \
    "prefetcht1 (%[ahead])\n\t"                                                                                        \
    "prefetcht1 (%[ahead],%[p])\n\t"                                                                                   \
    "lea (%[ahead],%[p],2), %[ahead]\n\t"

/* One depth, `D` steps after the bases. */
#define LOAD(D)                                                                                                        \
    "vmovups " #D "*128(%[b]), %%zmm0\n\t"                                                                             \
    "vmovups " #D "*128+64(%[b]), %%zmm1\n\t"
#define ROW(D, address, t, x, y)                                                                                       \
    "vbroadcastss " #D "*4" address ", %%zmm" #t "\n\t" TILE_MULTIPLY_ADD " %%zmm" #t ", %%zmm0, %%zmm" #x             \
    "\n\t" TILE_MULTIPLY_ADD " %%zmm" #t ", %%zmm1, %%zmm" #y "\n\t"
#define STEP_1(D) LOAD(D) ROW(D, "(%[a0])", 2, 4, 5)
#define STEP_2(D) STEP_1(D) ROW(D, "(%[a0],%[s])", 3, 6, 7)
#define STEP_3(D) STEP_2(D) ROW(D, "(%[a0],%[s],2)", 2, 8, 9)
#define STEP_4(D) STEP_3(D) ROW(D, "(%[a0],%[s3])", 3, 10, 11)
#define STEP_5(D) STEP_4(D) ROW(D, "(%[a0],%[s],4)", 2, 12, 13)
#define STEP_6(D) STEP_5(D) ROW(D, "(%[a5])", 3, 14, 15)
#define STEP_7(D) STEP_6(D) ROW(D, "(%[a5],%[s])", 2, 16, 17)
#define STEP_8(D) STEP_7(D) ROW(D, "(%[a5],%[s],2)", 3, 18, 19)
#define STEP_9(D) STEP_8(D) ROW(D, "(%[a5],%[s3])", 2, 20, 21)
#define STEP_10(D) STEP_9(D) ROW(D, "(%[a5],%[s],4)", 3, 22, 23)
#define STEP_11(D) STEP_10(D) ROW(D, "(%[a10])", 2, 24, 25)
#define STEP_12(D) STEP_11(D) ROW(D, "(%[a10],%[s])", 3, 26, 27)
#define STEP_13(D) STEP_12(D) ROW(D, "(%[a10],%[s],2)", 2, 28, 29)
#define STEP_14(D) STEP_13(D) ROW(D, "(%[a10],%[s3])", 3, 30, 31)

#define BEGIN_1 TILE_BEGIN(0, 4, 5)
#define BEGIN_2 BEGIN_1 TILE_BEGIN(1, 6, 7)
#define BEGIN_3 BEGIN_2 TILE_BEGIN(2, 8, 9)
#define BEGIN_4 BEGIN_3 TILE_BEGIN(3, 10, 11)
#define BEGIN_5 BEGIN_4 TILE_BEGIN(4, 12, 13)
#define BEGIN_6 BEGIN_5 TILE_BEGIN(5, 14, 15)
#define BEGIN_7 BEGIN_6 TILE_BEGIN(6, 16, 17)
#define BEGIN_8 BEGIN_7 TILE_BEGIN(7, 18, 19)
#define BEGIN_9 BEGIN_8 TILE_BEGIN(8, 20, 21)
#define BEGIN_10 BEGIN_9 TILE_BEGIN(9, 22, 23)
#define BEGIN_11 BEGIN_10 TILE_BEGIN(10, 24, 25)
#define BEGIN_12 BEGIN_11 TILE_BEGIN(11, 26, 27)
#define BEGIN_13 BEGIN_12 TILE_BEGIN(12, 28, 29)
#define BEGIN_14 BEGIN_13 TILE_BEGIN(13, 30, 31)

#define RESUME(x, y)                                                                                                   \
    "vmovups (%[start]), %%zmm" #x "\n\t"                                                                              \
    "vmovups 64(%[start]), %%zmm" #y "\n\t"                                                                            \
    "add %[start_stride], %[start]\n\t"
#define RESUME_1 RESUME(4, 5)
#define RESUME_2 RESUME_1 RESUME(6, 7)
#define RESUME_3 RESUME_2 RESUME(8, 9)
#define RESUME_4 RESUME_3 RESUME(10, 11)
#define RESUME_5 RESUME_4 RESUME(12, 13)
#define RESUME_6 RESUME_5 RESUME(14, 15)
#define RESUME_7 RESUME_6 RESUME(16, 17)
#define RESUME_8 RESUME_7 RESUME(18, 19)
#define RESUME_9 RESUME_8 RESUME(20, 21)
#define RESUME_10 RESUME_9 RESUME(22, 23)
#define RESUME_11 RESUME_10 RESUME(24, 25)
#define RESUME_12 RESUME_11 RESUME(26, 27)
#define RESUME_13 RESUME_12 RESUME(28, 29)
#define RESUME_14 RESUME_13 RESUME(30, 31)

#define STORE(row, x, y)                                                                                               \
    "vmovups %%zmm" #x ", " #row "*128(%[tile])\n\t"                                                                   \
    "vmovups %%zmm" #y ", " #row "*128+64(%[tile])\n\t"
#define STORE_1 STORE(0, 4, 5)
#define STORE_2 STORE_1 STORE(1, 6, 7)
#define STORE_3 STORE_2 STORE(2, 8, 9)
#define STORE_4 STORE_3 STORE(3, 10, 11)
#define STORE_5 STORE_4 STORE(4, 12, 13)
#define STORE_6 STORE_5 STORE(5, 14, 15)
#define STORE_7 STORE_6 STORE(6, 16, 17)
#define STORE_8 STORE_7 STORE(7, 18, 19)
#define STORE_9 STORE_8 STORE(8, 20, 21)
#define STORE_10 STORE_9 STORE(9, 22, 23)
#define STORE_11 STORE_10 STORE(10, 24, 25)
#define STORE_12 STORE_11 STORE(11, 26, 27)
#define STORE_13 STORE_12 STORE(12, 28, 29)
#define STORE_14 STORE_13 STORE(13, 30, 31)

#define ADVANCE(D)                                                                                                     \
    "add $" #D "*4, %[a0]\n\t"                                                                                         \
    "add $" #D "*4, %[a5]\n\t"                                                                                         \
    "add $" #D "*4, %[a10]\n\t"                                                                                        \
    "add $" #D "*128, %[b]\n\t"

/* clang-format off */
/* tile (R, 32) = start (R, 32; row distance start_stride, in elements) + a (R, k; row distance lda) times panel (k, 32);
 * start_stride 0: what TILE_BEGIN makes of start; it may be tile.  ahead_bytes a depth are fetched from `ahead` on,
 * which may be any address; they are TILE_AHEAD_LEAST to TILE_AHEAD_MOST, and even. */
#define DEFINE_TILE(R)                                                                                                 \
    static void tile_##R(int64_t k, const float *a, int64_t lda, const float *panel, const float *start,               \
                         int64_t start_stride, float *tile, const char *ahead, int64_t ahead_bytes)                    \
    {                                                                                                                  \
        const int64_t stride = lda * (int64_t)sizeof(float);                                                           \
        const int64_t stride3 = 3 * stride;                                                                            \
        const char *a0 = (const char *)a;                                                                              \
        const char *a5 = a0 + ((R) > 5 ? 5 * stride : 0);                                                              \
        const char *a10 = a0 + ((R) > 10 ? 10 * stride : 0);                                                           \
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
                         ".p2align 6\n\t"                                                                              \
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
                         : [a0] "+&r"(a0), [a5] "+&r"(a5), [a10] "+&r"(a10), [b] "+&r"(panel), [ahead] "+&r"(ahead),   \
                           [quads] "+&r"(quads), [rest] "+&r"(rest), [start] "+&r"(start)                              \
                         : [s] "r"(stride), [s3] "r"(stride3), [tile] "r"(tile), [p] "r"(ahead_bytes / 2),             \
                           [start_stride] "m"(start_stride)                                                            \
                         : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",     \
                           "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",    \
                           "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28",   \
                           "xmm29", "xmm30", "xmm31");                                                                 \
    }
/* clang-format on */

DEFINE_TILE(1)
DEFINE_TILE(2)
DEFINE_TILE(3)
DEFINE_TILE(4)
DEFINE_TILE(5)
DEFINE_TILE(6)
DEFINE_TILE(7)
DEFINE_TILE(8)
DEFINE_TILE(9)
DEFINE_TILE(10)
DEFINE_TILE(11)
DEFINE_TILE(12)
DEFINE_TILE(13)
DEFINE_TILE(14)

static void (*const tiles[TILE_ROWS])(int64_t, const float *, int64_t, const float *, const float *, int64_t, float *,
                                      const char *, int64_t) = {tile_1,  tile_2,  tile_3,  tile_4, tile_5,
                                                                tile_6,  tile_7,  tile_8,  tile_9, tile_10,
                                                                tile_11, tile_12, tile_13, tile_14};

#endif
