/* SPDX-License-Identifier: Apache-2.0
 *
 * The range below which a share of the magnitudes lies.
 *
 * The cumulative distribution is the running float64 sum of counts / total, in this order of operations, and the first
 * bin where it reaches percentile / 100 is taken by its left edge: exactly what the original computes, so that the same
 * histogram gives the same range.  (REFERENCE 2.8; Wu et al. 2020, section 3)
 */
#include <inttypes.h>

#include "quant/histogram_check.h"

qb_status
qb_amax_percentile(const int64_t *counts, const float *edges, int64_t bins, double percentile, float *amax,
                   qb_error *error)
{
    if (!(percentile >= 0.0 && percentile <= 100.0)) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "percentile is %g, expected it in the range [0, 100]", percentile);
    }
    int64_t total = 0;
    QB_TRY(qb_histogram_check(counts, edges, bins, &total, error));
    const double wanted = percentile / 100.0;
    double reached = 0.0;
    int64_t bin = 0;
    for (; bin < bins; bin++) {
        reached += (double)counts[bin] / (double)total;
        if (reached >= wanted) {
            break;
        }
    }
    *amax = edges[bin];
    return QB_OK;
}
