/* SPDX-License-Identifier: Apache-2.0
 *
 * The roofs of the products on AVX-512: the instruction of product_tile.h in registers, in assembly as the tile is.
 * Codes are multiplied as floats here, so both are one.
 */
#include "kernels/cpu/avx512/peak_loop.h"

#define START(chain) "vmovaps %%zmm1, %%zmm" #chain "\n\t"
#define ADD(chain) "vfmadd213ps %%zmm1, %%zmm0, %%zmm" #chain "\n\t"

void
peak_f32__avx512(int64_t rounds, int64_t *operations)
{
    static const float factor = 0.999f;
    static const float term = 0.001f;
    *operations = rounds > 0 ? 2 * 16 * PEAK_CHAINS * rounds : 0;
    PEAK_LOOP(rounds,
              "vbroadcastss %[factor], %%zmm0\n\t"
              "vbroadcastss %[term], %%zmm1\n\t",
              START, ADD, [factor] "m"(factor), [term] "m"(term));
}

void
peak_qs8__avx512(int64_t rounds, int64_t *operations)
{
    peak_f32__avx512(rounds, operations);
}
