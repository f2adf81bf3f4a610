/* SPDX-License-Identifier: Apache-2.0
 *
 * The roof of the code product on AVX512-VNNI: the instruction of product_qs8_tile.h in registers, in assembly as the
 * tile is.
 */
#include "kernels/cpu/avx512/peak_loop.h"

#define START(chain) "vpxord %%zmm" #chain ", %%zmm" #chain ", %%zmm" #chain "\n\t"
#define ADD(chain) "vpdpbusd %%zmm1, %%zmm0, %%zmm" #chain "\n\t"

void
peak_qs8__avx512_vnni(int64_t rounds, int64_t *operations)
{
    static const int32_t codes = 0x7f81037e;
    *operations = rounds > 0 ? 2 * 64 * PEAK_CHAINS * rounds : 0;
    PEAK_LOOP(rounds,
              "vpbroadcastd %[codes], %%zmm0\n\t"
              "vpbroadcastd %[codes], %%zmm1\n\t",
              START, ADD, [codes] "m"(codes));
}
