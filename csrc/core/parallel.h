/* SPDX-License-Identifier: Apache-2.0
 *
 * The project's only threads: one small persistent pool per device.
 *
 * qb_parallel_for cuts [0, count) into chunks of `grain`, gives every thread a share of neighbouring ones, and lets a
 * thread that has done its share take from the others'.  Which thread computes a chunk is arbitrary; that results do
 * not depend on it is the contract of the kernels (work is split by rows or columns, never inside a reduction).  OpenMP
 * was rejected: its pools do not survive fork, fight with other copies of the runtime in one process, and cannot be
 * interrupted.
 *
 * A region ends when its chunks are done, so a worker that is still asleep delays nobody.  Workers spin for some
 * microseconds between regions and then sleep.  After fork the child finds no workers and starts its own, also if a
 * thread of the parent was inside a region.  When the pool is busy with another caller's region, the region runs in the
 * calling thread alone: no queueing, no oversubscription.
 */
#ifndef QB_CORE_PARALLEL_H
#define QB_CORE_PARALLEL_H

#include "core/alloc.h"
#include "core/status.h"

typedef struct qb_queue qb_queue;

/* Compute [begin, end); `worker` is 0 .. qb_queue_threads - 1, one thread per number at a time within one region. */
typedef void (*qb_range_function)(void *argument, int64_t begin, int64_t end, int32_t worker);

/* threads 1 .. QB_MAX_THREADS, or 0: as many as affinity and cgroup allow.  Threads start with the first region. */
qb_status qb_queue_create(qb_heap *heap, int32_t threads, qb_queue **queue, qb_error *error);
void qb_queue_destroy(qb_queue *queue);
int32_t qb_queue_threads(const qb_queue *queue);
/* Waits for a running region.  Fails only for values out of range. */
qb_status qb_queue_set_threads(qb_queue *queue, int32_t threads, qb_error *error);

/* Run function over [0, count).  Must not be called from inside a region.  `interrupt` (may be NULL) is polled from the
 * calling thread between chunks, at most every 20 ms; QB_ERR_INTERRUPTED when it asked to stop, and then some chunks
 * were not computed.  If threads cannot be started, the region runs with those that exist. */
qb_status qb_parallel_for(qb_queue *queue, const qb_interrupt *interrupt, int64_t count, int64_t grain,
                          qb_range_function function, void *argument);

#define QB_MAX_THREADS 1024

/* Threads that affinity mask and cgroup quota give this process; >= 1. */
int32_t qb_available_threads(void);
/* Threads that the CPU quotas of the groups in `groups_file` (/proc/self/cgroup) are worth below `mount`
 * (/sys/fs/cgroup), at most QB_MAX_THREADS, rounded up; 0: no limit. */
int32_t qb_quota_threads(const char *groups_file, const char *mount);

#endif
