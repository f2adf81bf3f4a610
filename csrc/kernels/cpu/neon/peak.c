/* SPDX-License-Identifier: Apache-2.0
 *
 * The roofs of the products on Advanced SIMD: fused multiply-adds in registers.  Codes are multiplied as floats here,
 * so both are one.
 */
#include "kernels/cpu/variant.h"

enum { CHAINS = 24 }; /* six cycles of latency times four ports */

/* clang-format off */
#define START(chain) "movi v" #chain ".16b, #0\n\t"
#define ADD(chain) "fmla v" #chain ".4s, v0.4s, v1.4s\n\t"

void
peak_f32__neon(int64_t rounds, int64_t *operations)
{
    *operations = rounds > 0 ? 2 * 4 * CHAINS * rounds : 0;
    __asm__ volatile("fmov v0.4s, #0.125\n\t"
                     "fmov v1.4s, #0.125\n\t"
                     START(8) START(9) START(10) START(11) START(12) START(13) START(14) START(15)
                     START(16) START(17) START(18) START(19) START(20) START(21) START(22) START(23)
                     START(24) START(25) START(26) START(27) START(28) START(29) START(30) START(31)
                     "cmp %[rounds], #0\n\t"
                     "b.le 2f\n\t"
                     ".p2align 6\n\t"
                     "1:\n\t"
                     ADD(8) ADD(9) ADD(10) ADD(11) ADD(12) ADD(13) ADD(14) ADD(15)
                     ADD(16) ADD(17) ADD(18) ADD(19) ADD(20) ADD(21) ADD(22) ADD(23)
                     ADD(24) ADD(25) ADD(26) ADD(27) ADD(28) ADD(29) ADD(30) ADD(31)
                     "subs %[rounds], %[rounds], #1\n\t"
                     "b.ne 1b\n\t"
                     "2:\n\t"
                     : [rounds] "+r"(rounds)
                     :
                     : "cc", "v0", "v1", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19",
                       "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}
/* clang-format on */

void
peak_qs8__neon(int64_t rounds, int64_t *operations)
{
    peak_f32__neon(rounds, operations);
}
