/* SPDX-License-Identifier: Apache-2.0
 *
 * The roof of the code product on AVX-VNNI: the instruction of product_qs8_tile.h in registers, in assembly as the tile
 * is.
 */
#include "kernels/cpu/variant.h"

enum { CHAINS = 12 }; /* those of the tile */

/* clang-format off */
#define START(chain) "vpxor %%ymm" #chain ", %%ymm" #chain ", %%ymm" #chain "\n\t"
#define ADD(chain) "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm" #chain "\n\t"

void
peak_qs8__avx_vnni(int64_t rounds, int64_t *operations)
{
    static const int32_t codes = 0x7f81037e;
    *operations = rounds > 0 ? 2 * 32 * CHAINS * rounds : 0;
    __asm__ volatile("vpbroadcastd %[codes], %%ymm0\n\t"
                     "vpbroadcastd %[codes], %%ymm1\n\t"
                     START(4) START(5) START(6) START(7) START(8) START(9)
                     START(10) START(11) START(12) START(13) START(14) START(15)
                     "test %[rounds], %[rounds]\n\t"
                     "jle 2f\n\t"
                     ".p2align 6\n\t"
                     "1:\n\t"
                     ADD(4) ADD(5) ADD(6) ADD(7) ADD(8) ADD(9)
                     ADD(10) ADD(11) ADD(12) ADD(13) ADD(14) ADD(15)
                     "dec %[rounds]\n\t"
                     "jnz 1b\n\t"
                     "2:\n\t"
                     "vzeroupper\n\t"
                     : [rounds] "+r"(rounds)
                     : [codes] "m"(codes)
                     : "cc", "xmm0", "xmm1", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                       "xmm13", "xmm14", "xmm15");
}
/* clang-format on */
