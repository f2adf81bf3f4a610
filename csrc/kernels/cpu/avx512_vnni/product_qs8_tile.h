/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the code product on AVX512-VNNI: that of the float product on AVX-512 with another instruction, for
 * the arithmetic of avx_vnni/vpdpbusd_tile.h.
 */
#ifndef QB_KERNELS_CPU_AVX512_VNNI_PRODUCT_QS8_TILE_H
#define QB_KERNELS_CPU_AVX512_VNNI_PRODUCT_QS8_TILE_H

#include "kernels/cpu/avx512/vec.h"

#define TILE_MULTIPLY_ADD "vpdpbusd"
#define TILE_BEGIN(row, x, y)                                                                                          \
    "vpbroadcastd " #row "*4(%[start]), %%zmm" #x "\n\t"                                                               \
    "vmovdqa32 %%zmm" #x ", %%zmm" #y "\n\t"
#include "kernels/cpu/avx512/product_tile.h"

enum {
    CODE_DEPTH = 1536, /* of a chunk at most: rows a multiple of 2 KiB apart would share few sets of a cache */
    CODE_CACHE_BYTES = TILE_CACHE_BYTES / 2 /* 1,024 rows of 3,072 are 3 % faster than in all of it */
};

#include "kernels/cpu/avx_vnni/vpdpbusd_tile.h"

#endif
