/* SPDX-License-Identifier: Apache-2.0
 *
 * What the three range finders demand of a histogram, in one place.
 */
#ifndef QB_QUANT_HISTOGRAM_CHECK_H
#define QB_QUANT_HISTOGRAM_CHECK_H

#include "core/status.h"

/* QB_ERR_VALUE: NULL, no bins, a negative count, an edge that is not finite or smaller than the one before, or a total
 * beyond int64_t.  QB_ERR_STATE: nothing was counted.  Edges may be equal: a calibrator that saw only zeros has a range
 * of width zero. */
qb_status qb_histogram_check(const int64_t *counts, const float *edges, int64_t bins, int64_t *total, qb_error *error);

#endif
