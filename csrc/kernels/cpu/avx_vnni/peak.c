/* SPDX-License-Identifier: Apache-2.0
 *
 * The roof of the code product on AVX-VNNI: the instruction of product_qs8_tile.h in registers, in assembly as the tile
 * is.
 */
#include "kernels/cpu/avx2/peak_loop.h"

#define START(chain) "vpxor %%ymm" #chain ", %%ymm" #chain ", %%ymm" #chain "\n\t"
#define ADD(chain) "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm" #chain "\n\t"

void
peak_qs8__avx_vnni(int64_t rounds, int64_t *operations)
{
    static const int32_t codes = 0x7f81037e;
    *operations = rounds > 0 ? 2 * 32 * PEAK_CHAINS * rounds : 0;
    PEAK_LOOP(rounds,
              "vpbroadcastd %[codes], %%ymm0\n\t"
              "vpbroadcastd %[codes], %%ymm1\n\t",
              START, ADD, [codes] "m"(codes));
}
