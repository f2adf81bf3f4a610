/* SPDX-License-Identifier: Apache-2.0
 *
 * See histogram_check.h.
 */
#include "quant/histogram_check.h"

#include <inttypes.h>
#include <math.h>

qb_status
qb_histogram_check(const int64_t *counts, const float *edges, int64_t bins, int64_t *total, qb_error *error)
{
    if (counts == NULL || edges == NULL) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "%s is NULL, expected an array", counts == NULL ? "counts" : "edges");
    }
    if (bins < 1) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "bins is %" PRId64 ", expected at least 1", bins);
    }
    for (int64_t i = 0; i <= bins; i++) {
        if (!isfinite(edges[i]) || (i > 0 && edges[i] < edges[i - 1])) {
            return qb_fail(error, NULL, QB_ERR_VALUE,
                           "edges[%" PRId64 "] is %g, expected finite edges that do not decrease", i, (double)edges[i]);
        }
    }
    int64_t sum = 0;
    for (int64_t i = 0; i < bins; i++) {
        if (counts[i] < 0) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "counts[%" PRId64 "] is %" PRId64 ", expected counts >= 0", i,
                           counts[i]);
        }
        if (counts[i] > INT64_MAX - sum) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "counts add up to more than %" PRId64, INT64_MAX);
        }
        sum += counts[i];
    }
    if (sum == 0) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the histogram is empty: nothing was counted");
    }
    *total = sum;
    return QB_OK;
}
