/* SPDX-License-Identifier: Apache-2.0
 *
 * Philox4x32-10 of one counter, as kernels/philox.h defines it.
 */
#ifndef QB_KERNELS_CPU_REF_PHILOX_H
#define QB_KERNELS_CPU_REF_PHILOX_H

#include <stdint.h>

#include "kernels/philox.h"

typedef struct ref_philox_words {
    uint32_t word[4];
} ref_philox_words;

static inline ref_philox_words
ref_philox(ref_philox_words counter, uint32_t key0, uint32_t key1)
{
    ref_philox_words c = counter;
    for (int round = 0; round < QB_PHILOX_ROUNDS; ++round) {
        const uint64_t product0 = (uint64_t)QB_PHILOX_M0 * c.word[0];
        const uint64_t product1 = (uint64_t)QB_PHILOX_M1 * c.word[2];
        c = (ref_philox_words){{(uint32_t)(product1 >> 32) ^ c.word[1] ^ key0, (uint32_t)product1,
                                (uint32_t)(product0 >> 32) ^ c.word[3] ^ key1, (uint32_t)product0}};
        key0 += QB_PHILOX_W0;
        key1 += QB_PHILOX_W1;
    }
    return c;
}

#endif
