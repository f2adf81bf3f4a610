/* SPDX-License-Identifier: Apache-2.0
 *
 * Dropout.  16 counters of Philox run in the lanes of a vector and give the words of 64 elements, word w of all
 * counters in vector w.  Counter k + 4 i is in lane 4 k + i, so that exchanging lanes and vectors within every group of
 * four puts the elements in order, and nothing has to cross groups.
 */
#include "kernels/cpu/simd/simd.h"
#include "kernels/philox.h"

enum { STRIDE = 4 * LANES }; /* elements of 16 counters */

static const uint32_t counter_of_lane[LANES] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};

/* What elements 4 * counter .. 4 * counter + STRIDE - 1 are multiplied with. */
static inline void
factors_of(const qb_dropout *dropout, uint32_t counter, vec_f32 factor[4])
{
    vec_u32 c0 = vec_u32_add(vec_u32_set(counter), vec_u32_load(counter_of_lane));
    vec_u32 c1 = vec_u32_set(dropout->node);
    vec_u32 c2 = vec_u32_set((uint32_t)dropout->step);
    vec_u32 c3 = vec_u32_set((uint32_t)(dropout->step >> 32));
    uint32_t key0 = (uint32_t)dropout->seed;
    uint32_t key1 = (uint32_t)(dropout->seed >> 32);
    for (int round = 0; round < QB_PHILOX_ROUNDS; ++round) {
        vec_u32 low0;
        vec_u32 low1;
        const vec_u32 high0 = vec_u32_multiply(vec_u32_set(QB_PHILOX_M0), c0, &low0);
        const vec_u32 high1 = vec_u32_multiply(vec_u32_set(QB_PHILOX_M1), c2, &low1);
        c0 = vec_u32_xor(vec_u32_xor(high1, c1), vec_u32_set(key0));
        c1 = low1;
        c2 = vec_u32_xor(vec_u32_xor(high0, c3), vec_u32_set(key1));
        c3 = low0;
        key0 += QB_PHILOX_W0;
        key1 += QB_PHILOX_W1;
    }
    const vec_u32 threshold = vec_u32_set(dropout->threshold);
    const vec_f32 kept = vec_set(dropout->factor);
    const vec_f32 dropped = vec_set(0.0f);
    factor[0] = vec_u32_select_at_least(c0, threshold, kept, dropped);
    factor[1] = vec_u32_select_at_least(c1, threshold, kept, dropped);
    factor[2] = vec_u32_select_at_least(c2, threshold, kept, dropped);
    factor[3] = vec_u32_select_at_least(c3, threshold, kept, dropped);
    vec_transpose_fours(factor);
}

void
QB_FN(dropout_f32)(const float *x, size_t n, const qb_dropout *dropout, uint64_t first, float *y)
{
    const qb_dropout d = *dropout; /* a copy that no store can change */
    size_t i = 0;
    while (i < n) {
        vec_f32 factor[4];
        const uint64_t element = first + i;
        const size_t skipped = element % 4; /* only where the range begins */
        factors_of(&d, (uint32_t)(element / 4), factor);
        if (skipped == 0 && n - i >= STRIDE) {
            for (size_t w = 0; w < 4; ++w, i += LANES) {
                vec_store(y + i, vec_mul(vec_load(x + i), factor[w]));
            }
        }
        else {
            float factors[STRIDE];
            for (size_t w = 0; w < 4; ++w) {
                vec_store(factors + w * LANES, factor[w]);
            }
            for (size_t at = skipped; at < STRIDE && i < n; ++at, ++i) {
                y[i] = x[i] * factors[at];
            }
        }
    }
}
