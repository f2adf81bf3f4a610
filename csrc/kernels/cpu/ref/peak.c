/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference has no roof worth the name: one element after the other, so that there is an answer everywhere.
 */
#include <math.h>

#include "kernels/cpu/variant.h"

/* Chains that do not wait for each other. */
#define CHAINS 8

void
peak_f32__ref(int64_t rounds, int64_t *operations)
{
    float sums[CHAINS] = {0.0f};
    for (int64_t r = 0; r < rounds; ++r) {
        for (int i = 0; i < CHAINS; ++i) {
            sums[i] = fmaf(sums[i], 0.999f, 0.001f);
        }
    }
    volatile float kept = 0.0f;
    for (int i = 0; i < CHAINS; ++i) {
        kept = sums[i];
    }
    (void)kept;
    *operations = rounds > 0 ? 2 * CHAINS * rounds : 0;
}

void
peak_qs8__ref(int64_t rounds, int64_t *operations)
{
    uint32_t sums[CHAINS] = {0};
    for (int64_t r = 0; r < rounds; ++r) {
        for (int i = 0; i < CHAINS; ++i) {
            sums[i] = sums[i] * 127u + 3u; /* no sum of a series that a compiler would know */
        }
    }
    volatile uint32_t kept = 0;
    for (int i = 0; i < CHAINS; ++i) {
        kept = sums[i];
    }
    (void)kept;
    *operations = rounds > 0 ? 2 * CHAINS * rounds : 0;
}
