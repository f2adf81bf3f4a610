/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop of roofs on registers of 512 bits: 28 chains of one instruction, those of the tiles.  In assembly as they
 * are.
 */
#ifndef QB_KERNELS_CPU_AVX512_PEAK_LOOP_H
#define QB_KERNELS_CPU_AVX512_PEAK_LOOP_H

#include "kernels/cpu/variant.h"

enum { PEAK_CHAINS = 28 };

/* clang-format off */
#define PEAK_EACH(DO) \
    DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) \
    DO(11) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) \
    DO(18) DO(19) DO(20) DO(21) DO(22) DO(23) DO(24) \
    DO(25) DO(26) DO(27) DO(28) DO(29) DO(30) DO(31)

/* `count` times ADD(chain) of every chain, each after START(chain) and all after OPERANDS, which sets registers 0 and 1;
 * count is used up.  What follows are the inputs of the assembly. */
#define PEAK_LOOP(count, OPERANDS, START, ADD, ...) \
    __asm__ volatile(OPERANDS \
                     PEAK_EACH(START) \
                     "test %[rounds], %[rounds]\n\t" \
                     "jle 2f\n\t" \
                     ".p2align 6\n\t" \
                     "1:\n\t" \
                     PEAK_EACH(ADD) \
                     "dec %[rounds]\n\t" \
                     "jnz 1b\n\t" \
                     "2:\n\t" \
                     "vzeroupper\n\t" \
                     : [rounds] "+r"(count) \
                     : __VA_ARGS__ \
                     : "cc", "xmm0", "xmm1", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", \
                       "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", \
                       "xmm31")
/* clang-format on */

#endif
