/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the bfloat16 product on AVX512-BF16: that of the float product on AVX-512 with another instruction.
 * A pair of bfloat16 is as wide as a float, and VDPBF16PS adds the products of two pairs to a float, the odd depth's
 * first and then the even one's, each rounded as the contract says.
 */
#ifndef QB_KERNELS_CPU_AVX512_BF16_PRODUCT_TILE_H
#define QB_KERNELS_CPU_AVX512_BF16_PRODUCT_TILE_H

#define TILE_MULTIPLY_ADD "vdpbf16ps"
#include "kernels/cpu/avx512/product_tile.h"

#endif
