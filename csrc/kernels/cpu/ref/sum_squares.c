/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/cpu/ref/lanes.h"
#include "kernels/cpu/variant.h"

static double
block_total(const float *x, size_t n)
{
    double lane[REF_LANES] = {0};
    for (size_t i = 0; i < n; ++i) {
        lane[i % REF_LANES] = fma((double)x[i], (double)x[i], lane[i % REF_LANES]);
    }
    for (size_t distance = REF_LANES / 2; distance > 0; distance /= 2) {
        for (size_t l = 0; l < distance; ++l) {
            lane[l] = lane[l] + lane[l + distance];
        }
    }
    return lane[0];
}

void
sum_squares_f32__ref(const float *x, size_t n, double *sum)
{
    for (size_t i = 0; i < n; i += QB_SUM_SQUARES_BLOCK) {
        *sum = *sum + block_total(x + i, n - i < QB_SUM_SQUARES_BLOCK ? n - i : QB_SUM_SQUARES_BLOCK);
    }
}
