/* SPDX-License-Identifier: Apache-2.0
 *
 * The roofs of the products on Advanced SIMD: fused multiply-adds in registers.  Codes are multiplied as floats here,
 * so both are one.
 */
#include "kernels/cpu/neon/peak_loop.h"

#define START(chain) "movi v" #chain ".16b, #0\n\t"
#define ADD(chain) "fmla v" #chain ".4s, v0.4s, v1.4s\n\t"

void
peak_f32__neon(int64_t rounds, int64_t *operations)
{
    *operations = rounds > 0 ? 2 * 4 * PEAK_CHAINS * rounds : 0;
    PEAK_LOOP(rounds,
              "fmov v0.4s, #0.125\n\t"
              "fmov v1.4s, #0.125\n\t",
              START, ADD);
}

void
peak_qs8__neon(int64_t rounds, int64_t *operations)
{
    peak_f32__neon(rounds, operations);
}
