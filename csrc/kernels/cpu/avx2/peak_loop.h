/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop of roofs on registers of 256 bits: 12 chains of one instruction, which cover its latency on two ports.  In
 * assembly for the reason that the tiles have: what is measured must not depend on the compiler.
 */
#ifndef QB_KERNELS_CPU_AVX2_PEAK_LOOP_H
#define QB_KERNELS_CPU_AVX2_PEAK_LOOP_H

#include "kernels/cpu/variant.h"

enum { PEAK_CHAINS = 12 };

/* clang-format off */
#define PEAK_EACH(DO) \
    DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) \
    DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)

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
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
/* clang-format on */

#endif
