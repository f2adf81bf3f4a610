/* SPDX-License-Identifier: Apache-2.0
 *
 * The roof of the code product on Advanced SIMD with products of matrices: the instruction of product_qs8_tile.h in
 * registers, in assembly as the tile is.
 */
#include "kernels/cpu/variant.h"

enum { CHAINS = 24 }; /* those of the tile */

/* clang-format off */
#define START(chain) "movi v" #chain ".16b, #0\n\t"
#define ADD(chain) "smmla v" #chain ".4s, v0.16b, v1.16b\n\t"

void
peak_qs8__neon_i8mm(int64_t rounds, int64_t *operations)
{
    *operations = rounds > 0 ? 2 * 32 * CHAINS * rounds : 0;
    __asm__ volatile("movi v0.16b, #129\n\t"
                     "movi v1.16b, #127\n\t"
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
