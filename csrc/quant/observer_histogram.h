/* SPDX-License-Identifier: Apache-2.0
 *
 * Counts of magnitudes in bins of equal width that grow with the data: HistogramCalibrator (REFERENCE 2.8), once, with
 * 64-bit counts and both of its rules for edges.
 *
 *   FROM_ZERO  the first tensor gives [0, max] in num_bins; a larger one later gives edges 0, w, 2 w, ... beyond its
 *              max, w the width of the first bin.  A magnitude m falls in bin m * bins / last_edge (torch.histc).
 *   FROM_MIN   the first tensor gives [min, max] of its magnitudes; a larger one later appends edges of the same
 *              width.  A magnitude falls between its edges (numpy.histogram); one below the first edge is lost, as
 *              there.
 *   FIXED      [0, fixed_max] in num_bins for good.
 *
 * Counts are integers, so the split of one tensor over threads does not matter.  The split of the data into tensors
 * does for the first two rules, because the first tensor sets the width; FIXED is the form for which nothing matters.
 *
 * Under FROM_MIN appended edges are float64, as there, while those that are read are float32: a calibration that is to
 * be resumed exactly needs the fine edges too.  Under the other rules they are the same.
 *
 * A first tensor of zeros gives edges of width zero.  Under FROM_ZERO they stay so until other data come; then the
 * edges are those of that tensor and the zeros move to bin 0.
 */
#ifndef QB_QUANT_OBSERVER_HISTOGRAM_H
#define QB_QUANT_OBSERVER_HISTOGRAM_H

#include "core/run.h"

typedef struct qb_histogram {
    int64_t bins;    /* 0 before any data */
    int64_t *counts; /* (bins); the start of the only block */
    double *fine;    /* (bins + 1) the edges that decide; of FROM_MIN they have more digits than float32 */
    float *edges;    /* (bins + 1) the same, rounded */
    float largest;   /* largest magnitude seen, exact whatever the edges are */
    int is_appended; /* FROM_MIN: edges were appended, so arithmetic on them is float64 from then on */
} qb_histogram;

#define QB_HISTOGRAM_BINS_MAX ((int64_t)1 << 24) /* bin numbers must be exact in float32 */

/* What a tensor with these largest and smallest magnitudes makes of the edges.  next->bins is 0 when they stay;
 * otherwise *next is a histogram of its own that holds what was counted.  `smallest` is that of the counted elements
 * (zeros aside, when they are skipped) and is read only for the first tensor under FROM_MIN.
 * QB_ERR_VALUE: a magnitude above fixed_max, or growth beyond QB_HISTOGRAM_BINS_MAX; QB_ERR_NOMEM. */
qb_status qb_histogram_grow(const qb_histogram *now, const qb_observer_options *options, const qb_run *run,
                            float largest, float smallest, qb_histogram *next);
/* Smallest magnitude of x (count), zeros aside if they are skipped. */
float qb_histogram_smallest(const float *x, int64_t count, int skip_zeros);
/* Add the elements of x (count) to added (bins) by the edges of `histogram`.  QB_ERR_NOMEM, QB_ERR_INTERRUPTED. */
qb_status qb_histogram_count(const qb_histogram *histogram, const qb_observer_options *options, const qb_run *run,
                             const float *x, int64_t count, int64_t *added);
/* 1 if a tensor is counted the same way by both. */
int qb_histogram_counts_like(const qb_histogram *a, const qb_observer_options *a_options, const qb_histogram *b,
                             const qb_observer_options *b_options);

/* Memory for `bins` bins, counts zero, edges not set. */
qb_status qb_histogram_allocate(int64_t bins, const qb_run *run, qb_histogram *histogram);
/* Make *copy equal, with its own memory, which is used again if it fits. */
qb_status qb_histogram_copy(const qb_histogram *histogram, qb_histogram *copy, const qb_run *run);
void qb_histogram_clear(qb_histogram *histogram, qb_heap *heap);

#endif
