/* SPDX-License-Identifier: Apache-2.0
 *
 * What a calibrator has seen, for the storeys above: collecting one tensor for several observers at the price of one
 * pass, and the journal that lets a failed or interrupted forward leave every statistic as it was.
 *
 * The two kinds live in observer_max.c and observer_histogram.c.
 */
#ifndef QB_QUANT_OBSERVER_H
#define QB_QUANT_OBSERVER_H

#include <stdint.h>

#include "core/run.h"
#include "qdqbert/qdqbert.h"

#define QB_OBSERVER_GROUP 8 /* most distinct observers in one group */

/* Let each of `count` observers see x (rank dims in shape).  The tensor is read once for all largest magnitudes and
 * once more for each distinct set of histogram edges, so observers with equal edges (query, key, value and residual
 * quantizers of one tensor) share their passes.  An observer that stands twice in the list counts twice.
 * All or nothing: on failure no observer has changed.
 * QB_ERR_VALUE: NaN or infinity, with its flat index; a magnitude above a fixed range.  QB_ERR_SHAPE: the kept axes'
 * shape changed.  QB_ERR_NOMEM, QB_ERR_INTERRUPTED. */
qb_status qb_observer_collect_group(qb_observer *const *observers, int32_t count, const qb_run *run, const float *x,
                                    int32_t rank, const int64_t *shape);

/* Journal.  `begin` remembers the statistics; until `commit` or `rollback` any number of collects may follow.  A
 * rollback puts back what `begin` saw and cannot fail.  A second `begin` while one is open, and a commit or rollback
 * while none is, do nothing: an observer that serves several quantizers may be named once for each.
 * NULL observers are skipped.  QB_ERR_NOMEM leaves the journal closed. */
qb_status qb_observer_begin(qb_observer *observer, const qb_run *run);
void qb_observer_commit(qb_observer *observer);
void qb_observer_rollback(qb_observer *observer);

/* 1 if seeing the same tensor again would change nothing: a running maximum that keeps no list.  A layer may then
 * skip its weight when neither the weight nor the observer changed. */
int qb_observer_is_idempotent(const qb_observer *observer);

/* Advances with every change of the statistics. */
uint64_t qb_observer_revision(const qb_observer *observer);

#endif
