/* SPDX-License-Identifier: Apache-2.0
 *
 * Workspace for the chunks of a parallel region: one slot per thread, planned with the session.
 *
 * A chunk claims a slot and gives it back.  Slots are claimed, not indexed by worker number, because a device's thread
 * count may be raised by another thread while a session runs: then chunks wait for a slot and nothing overflows.
 */
#ifndef QB_LAYERS_SCRATCH_H
#define QB_LAYERS_SCRATCH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"

typedef struct qb_scratch {
    char *base;        /* (count, bytes), 64-byte aligned */
    size_t bytes;      /* of one slot; a multiple of 64 */
    int32_t count;     /* >= 1 */
    _Atomic int *busy; /* (count) */
} qb_scratch;

/* Take the slots' memory from the arena. */
void qb_scratch_plan(qb_scratch *scratch, qb_arena *arena, int32_t count, size_t bytes);
/* All slots free; after binding. */
void qb_scratch_reset(qb_scratch *scratch);
/* Claim a slot, the `worker`th if it is free; returns its index. */
int32_t qb_scratch_claim(qb_scratch *scratch, int32_t worker);
void qb_scratch_release(qb_scratch *scratch, int32_t slot);
/* The slot's memory. */
qb_arena qb_scratch_arena(const qb_scratch *scratch, int32_t slot);

#endif
