/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the code product on AVX-VNNI: that of the float product on AVX2 with another instruction, for the
 * arithmetic of avx_vnni/vpdpbusd_tile.h.  In its 256-bit form of VEX, which CPUs without AVX-512 have.
 */
#ifndef QB_KERNELS_CPU_AVX_VNNI_PRODUCT_QS8_TILE_H
#define QB_KERNELS_CPU_AVX_VNNI_PRODUCT_QS8_TILE_H

#include "kernels/cpu/avx2/vec.h"

#define TILE_MULTIPLY_ADD "%{vex%} vpdpbusd"
#define TILE_BEGIN(row, x, y)                                                                                          \
    "vpbroadcastd " #row "*4(%[start]), %%ymm" #x "\n\t"                                                               \
    "vmovdqa %%ymm" #x ", %%ymm" #y "\n\t"
#include "kernels/cpu/avx2/product_tile.h"

enum {
    CODE_DEPTH = 1536, /* of a chunk at most: 24 KiB of a panel and 9 KiB of a, in a level-1 cache of 48 KiB */
    CODE_CACHE_BYTES = TILE_CACHE_BYTES
};

#include "kernels/cpu/avx_vnni/vpdpbusd_tile.h"

#endif
