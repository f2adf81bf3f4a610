/* SPDX-License-Identifier: Apache-2.0
 *
 * The only way to memory.  A heap counts what its allocator gives, so that tests can assert "no allocation in forward"
 * and fail the n-th allocation of every create call (SQLite's test_malloc idea).  Blocks carry their size in a header
 * of one alignment unit, so release needs only the pointer.
 */
#ifndef QB_CORE_ALLOC_H
#define QB_CORE_ALLOC_H

#include <stdatomic.h>

#include "qdqbert/qdqbert.h"

#define QB_ALIGNMENT 64 /* bytes; a cache line and the widest vector */

typedef struct qb_heap {
    qb_allocator allocator; /* constant after init */
    _Atomic uint64_t allocations;
    _Atomic uint64_t live_blocks;
    _Atomic uint64_t live_bytes;
    _Atomic uint64_t peak_bytes;
} qb_heap;

/* NULL means the C library's allocator. */
void qb_heap_init(qb_heap *heap, const qb_allocator *allocator);
/* QB_ALIGNMENT-aligned block of uninitialised memory; NULL when there is none.  size 0 gives a valid block. */
void *qb_heap_allocate(qb_heap *heap, size_t size);
/* The same, zeroed. */
void *qb_heap_allocate_zero(qb_heap *heap, size_t size);
void qb_heap_release(qb_heap *heap, void *pointer);
qb_memory_statistics qb_heap_statistics(const qb_heap *heap);

#endif
