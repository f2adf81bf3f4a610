/* SPDX-License-Identifier: Apache-2.0
 *
 * The roofs of the products on AVX2: the instructions of product_tile.h and product_qs8_tile.h in registers.
 *
 * 10 groups of Winograd's inner product leave five registers for its operands.
 */
#include "kernels/cpu/avx2/peak_loop.h"

enum { QS8_CHAINS = 10 };

/* clang-format off */
#define START(chain) "vmovaps %%ymm1, %%ymm" #chain "\n\t"
#define ADD(chain) "vfmadd213ps %%ymm1, %%ymm0, %%ymm" #chain "\n\t"

void
peak_f32__avx2(int64_t rounds, int64_t *operations)
{
    static const float factor = 0.999f;
    static const float term = 0.001f;
    *operations = rounds > 0 ? 2 * 8 * PEAK_CHAINS * rounds : 0;
    PEAK_LOOP(rounds, "vbroadcastss %[factor], %%ymm0\n\t"
              "vbroadcastss %[term], %%ymm1\n\t",
              START, ADD, [factor] "m"(factor), [term] "m"(term));
}

/* Two sums, a product of pairs and its addition: the work of 32 multiply-adds. */
#define GROUP(chain)                                                                                                   \
    "vpaddw %%ymm0, %%ymm1, %%ymm2\n\t"                                                                                \
    "vpaddw %%ymm3, %%ymm1, %%ymm4\n\t"                                                                                \
    "vpmaddwd %%ymm2, %%ymm4, %%ymm2\n\t"                                                                              \
    "vpaddd %%ymm2, %%ymm" #chain ", %%ymm" #chain "\n\t"

void
peak_qs8__avx2(int64_t rounds, int64_t *operations)
{
    static const int32_t codes = 0x7f0081;
    *operations = rounds > 0 ? 2 * 32 * QS8_CHAINS * rounds : 0;
    __asm__ volatile("vpbroadcastd %[codes], %%ymm0\n\t"
                     "vpbroadcastd %[codes], %%ymm1\n\t"
                     "vpbroadcastd %[codes], %%ymm3\n\t"
                     "test %[rounds], %[rounds]\n\t"
                     "jle 2f\n\t"
                     ".p2align 6\n\t"
                     "1:\n\t"
                     GROUP(6) GROUP(7) GROUP(8) GROUP(9) GROUP(10) GROUP(11) GROUP(12) GROUP(13) GROUP(14) GROUP(15)
                     "dec %[rounds]\n\t"
                     "jnz 1b\n\t"
                     "2:\n\t"
                     "vzeroupper\n\t"
                     : [rounds] "+r"(rounds)
                     : [codes] "m"(codes)
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15");
}
/* clang-format on */
