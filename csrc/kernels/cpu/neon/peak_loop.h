/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop of roofs on Advanced SIMD: 24 chains of one instruction, six cycles of latency times four ports, and the
 * sums of the code tiles.  In assembly as they are.
 */
#ifndef QB_KERNELS_CPU_NEON_PEAK_LOOP_H
#define QB_KERNELS_CPU_NEON_PEAK_LOOP_H

#include "kernels/cpu/variant.h"

enum { PEAK_CHAINS = 24 };

/* clang-format off */
#define PEAK_EACH(DO) \
    DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15) \
    DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23) \
    DO(24) DO(25) DO(26) DO(27) DO(28) DO(29) DO(30) DO(31)

/* `count` times ADD(chain) of every chain, each after START(chain) and all after OPERANDS, which sets registers 0 and 1;
 * count is used up. */
#define PEAK_LOOP(count, OPERANDS, START, ADD) \
    __asm__ volatile(OPERANDS \
                     PEAK_EACH(START) \
                     "cmp %[rounds], #0\n\t" \
                     "b.le 2f\n\t" \
                     ".p2align 6\n\t" \
                     "1:\n\t" \
                     PEAK_EACH(ADD) \
                     "subs %[rounds], %[rounds], #1\n\t" \
                     "b.ne 1b\n\t" \
                     "2:\n\t" \
                     : [rounds] "+r"(count) \
                     : \
                     : "cc", "v0", "v1", "v8", "v9", "v10", "v11", "v12", "v13", "v14", \
                       "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", \
                       "v25", "v26", "v27", "v28", "v29", "v30", "v31")
/* clang-format on */

#endif
