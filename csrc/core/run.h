/* SPDX-License-Identifier: Apache-2.0
 *
 * What a call carries down: where it runs, where it is, and whom it tells.  Passed as a const pointer; a layer that
 * enters a child makes a copy with a longer path (qb_run_enter).
 */
#ifndef QB_CORE_RUN_H
#define QB_CORE_RUN_H

#include "core/kernels.h"
#include "core/parallel.h"
#include "core/status.h"

typedef struct qb_run {
    const qb_kernels *kernels;
    qb_queue *queue;
    qb_heap *heap;                 /* for calls that may allocate (calibration); forward does not */
    qb_page_pool *packs;           /* where packed weights lie together; NULL: anywhere in the heap */
    const qb_interrupt *interrupt; /* may be NULL */
    const qb_path *path;           /* may be NULL */
    qb_error *error;               /* may be NULL */
    int is_again;                  /* this was computed before: quantizers that collect are not shown it twice */
    int uses_bf16;                 /* float products of linear layers round their operands to bfloat16 */
} qb_run;

/* qb_parallel_for with the run's queue and interrupt; an interruption is written into the run's error. */
static inline qb_status
qb_run_parallel(const qb_run *run, int64_t count, int64_t grain, qb_range_function function, void *argument)
{
    const qb_status status = qb_parallel_for(run->queue, run->interrupt, count, grain, function, argument);
    return status == QB_OK ? QB_OK : qb_fail(run->error, run->path, status, "stopped by the caller");
}

/* A copy of run whose path is `node`; node->parent must be run->path. */
static inline qb_run
qb_run_enter(const qb_run *run, const qb_path *node)
{
    qb_run inner = *run;
    inner.path = node;
    return inner;
}

#endif
