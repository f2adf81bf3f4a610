/* SPDX-License-Identifier: Apache-2.0
 *
 * Largest magnitudes of a tensor: of the whole, or of every slice that some axes cut out.  Maxima are exact, so the
 * result does not depend on how the work is split.  The result is NaN where a NaN was seen.
 */
#ifndef QB_QUANT_MAGNITUDE_H
#define QB_QUANT_MAGNITUDE_H

#include "core/run.h"

/* Of x (count); 0 for count 0.  No allocation. */
qb_status qb_magnitude_largest(const qb_run *run, const float *x, int64_t count, float *largest);
/* Of every slice: `largest` has one element for each position of the kept axes, in row-major order, and need not be
 * initialised.  Allocates when several threads share a result. */
qb_status qb_magnitude_per_axis(const qb_run *run, const float *x, int32_t rank, const int64_t *shape,
                                const int kept[QB_MAX_RANK], float *largest);
/* Shape of that result: kept dimensions, 1 elsewhere; returns the number of elements. */
int64_t qb_magnitude_shape(int32_t rank, const int64_t *shape, const int kept[QB_MAX_RANK], int64_t *kept_shape);
/* Flat index of the first NaN or infinity of x (count), or -1. */
int64_t qb_magnitude_find_nonfinite(const float *x, int64_t count);
/* The sentence about it: "argument element 17 is nan, expected ...". */
qb_status qb_magnitude_fail_nonfinite(const qb_run *run, const float *x, int64_t count, const char *purpose);

#endif
