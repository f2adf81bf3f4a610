/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums in 16 lanes: lane l takes elements l, l + 16, ... in increasing order, starting at +0; then the tree.
 */
#ifndef QB_KERNELS_CPU_REF_LANES_H
#define QB_KERNELS_CPU_REF_LANES_H

#include <stddef.h>

enum { REF_LANES = 16 };

/* Combine lanes as (l, l+8), (l, l+4), (l, l+2), (l, l+1); `lane` is overwritten. */
static inline float
ref_lanes_total(float *lane)
{
    for (size_t distance = REF_LANES / 2; distance > 0; distance /= 2) {
        for (size_t l = 0; l < distance; ++l) {
            lane[l] = lane[l] + lane[l + distance];
        }
    }
    return lane[0];
}

static inline float
ref_lanes_sum(const float *x, size_t n)
{
    float lane[REF_LANES] = {0};
    for (size_t i = 0; i < n; ++i) {
        lane[i % REF_LANES] = lane[i % REF_LANES] + x[i];
    }
    return ref_lanes_total(lane);
}

#endif
