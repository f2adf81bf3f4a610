/* SPDX-License-Identifier: Apache-2.0
 *
 * Running largest magnitudes, of the whole tensor or of every slice along some axes, and on request every batch's own.
 * Exact, so neither order nor split of the data matters.  (MaxCalibrator, REFERENCE 2.8; the tracked list is the true
 * one, REFERENCE 10.3.)
 */
#ifndef QB_QUANT_OBSERVER_MAX_H
#define QB_QUANT_OBSERVER_MAX_H

#include "core/run.h"

typedef struct qb_max_statistics {
    float *amax;   /* (count); NULL before any data; owned */
    int64_t count; /* product of shape */
    int32_t rank;  /* 0 if there is a single value, whatever the tensor's rank */
    int64_t shape[QB_MAX_RANK];
    float *tracked; /* (tracked_count, count), one row for each batch; owned */
    int64_t tracked_count;
    int64_t tracked_capacity;
} qb_max_statistics;

/* What one tensor adds, ready to be folded in without any chance of failure. */
typedef struct qb_max_step {
    float *amax; /* (count); owned */
    int64_t count;
    int32_t rank;
    int64_t shape[QB_MAX_RANK];
} qb_max_step;

/* Compute the step of x and make room for it.  `largest` is the largest magnitude of all of x.  `times` is how often it
 * will be folded.  QB_ERR_SHAPE ("amax shape changed"), QB_ERR_NOMEM, QB_ERR_INTERRUPTED; the statistics keep their
 * values. */
qb_status qb_max_prepare(qb_max_statistics *statistics, const qb_observer_options *options, const qb_run *run,
                         const float *x, int32_t rank, const int64_t *shape, float largest, int32_t times,
                         qb_max_step *step);
/* Fold it in; gives step's memory to the statistics or back to the heap. */
void qb_max_fold(qb_max_statistics *statistics, const qb_observer_options *options, qb_heap *heap, int32_t times,
                 qb_max_step *step);
void qb_max_step_release(qb_max_step *step, qb_heap *heap);

/* Add all that `other` has.  QB_ERR_STATE: another shape. */
qb_status qb_max_merge(qb_max_statistics *statistics, const qb_max_statistics *other, int tracks, const qb_run *run);
/* Replace the values, and forget the list. */
qb_status qb_max_set(qb_max_statistics *statistics, const float *values, int32_t rank, const int64_t *shape,
                     const qb_run *run);
/* A copy with its own memory. */
qb_status qb_max_copy(const qb_max_statistics *statistics, qb_max_statistics *copy, const qb_run *run);
void qb_max_clear(qb_max_statistics *statistics, qb_heap *heap);

#endif
