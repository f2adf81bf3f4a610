/* SPDX-License-Identifier: Apache-2.0
 *
 * The roof of the code product on AVX512-VNNI: the instruction of product_qs8_tile.h in registers, in assembly as the
 * tile is.
 */
#include "kernels/cpu/variant.h"

enum { CHAINS = 28 }; /* those of the tile */

/* clang-format off */
#define START(chain) "vpxord %%zmm" #chain ", %%zmm" #chain ", %%zmm" #chain "\n\t"
#define ADD(chain) "vpdpbusd %%zmm1, %%zmm0, %%zmm" #chain "\n\t"

void
peak_qs8__avx512_vnni(int64_t rounds, int64_t *operations)
{
    static const int32_t codes = 0x7f81037e;
    *operations = rounds > 0 ? 2 * 64 * CHAINS * rounds : 0;
    __asm__ volatile("vpbroadcastd %[codes], %%zmm0\n\t"
                     "vpbroadcastd %[codes], %%zmm1\n\t"
                     START(4) START(5) START(6) START(7) START(8) START(9) START(10)
                     START(11) START(12) START(13) START(14) START(15) START(16) START(17)
                     START(18) START(19) START(20) START(21) START(22) START(23) START(24)
                     START(25) START(26) START(27) START(28) START(29) START(30) START(31)
                     "test %[rounds], %[rounds]\n\t"
                     "jle 2f\n\t"
                     ".p2align 6\n\t"
                     "1:\n\t"
                     ADD(4) ADD(5) ADD(6) ADD(7) ADD(8) ADD(9) ADD(10)
                     ADD(11) ADD(12) ADD(13) ADD(14) ADD(15) ADD(16) ADD(17)
                     ADD(18) ADD(19) ADD(20) ADD(21) ADD(22) ADD(23) ADD(24)
                     ADD(25) ADD(26) ADD(27) ADD(28) ADD(29) ADD(30) ADD(31)
                     "dec %[rounds]\n\t"
                     "jnz 1b\n\t"
                     "2:\n\t"
                     "vzeroupper\n\t"
                     : [rounds] "+r"(rounds)
                     : [codes] "m"(codes)
                     : "cc", "xmm0", "xmm1", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",
                       "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
}
/* clang-format on */
