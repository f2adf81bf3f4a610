/* SPDX-License-Identifier: Apache-2.0
 *
 * The roof of the code product on Advanced SIMD with dot products: the instruction of product_qs8_tile.h in
 * registers, in assembly as the tile is.
 */
#include "kernels/cpu/neon/peak_loop.h"

#define START(chain) "movi v" #chain ".16b, #0\n\t"
#define ADD(chain) "sdot v" #chain ".4s, v0.16b, v1.4b[0]\n\t"

void
peak_qs8__neon_dotprod(int64_t rounds, int64_t *operations)
{
    *operations = rounds > 0 ? 2 * 16 * PEAK_CHAINS * rounds : 0;
    PEAK_LOOP(rounds,
              "movi v0.16b, #129\n\t"
              "movi v1.16b, #127\n\t",
              START, ADD);
}
