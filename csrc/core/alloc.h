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

/* Where large blocks of one owner lie side by side (core/page_region.h).  Zero is an empty one. */
typedef struct qb_page_pool {
    _Atomic int is_busy; /* a thread is cutting a block */
    struct qb_page_region *region;
} qb_page_pool;

/* NULL means the C library's allocator. */
void qb_heap_init(qb_heap *heap, const qb_allocator *allocator);
/* QB_ALIGNMENT-aligned block of uninitialised memory; NULL when there is none.  size 0 gives a valid block. */
void *qb_heap_allocate(qb_heap *heap, size_t size);
/* The same, zeroed. */
void *qb_heap_allocate_zero(qb_heap *heap, size_t size);
/* Zeroed as well, and if it is large, beside the blocks that the pool gave before, on large pages.  As
 * qb_heap_allocate_zero for a pool of NULL, on a heap with an allocator of its own, where the system has no such pages,
 * and while another thread takes from the pool: nobody waits, so that a fork at any moment leaves nobody waiting. */
void *qb_heap_allocate_pooled(qb_heap *heap, qb_page_pool *pool, size_t size);
/* `size` bytes of a block, from offset on, are about to be filled: where that is much, on large pages, and with it what
 * shares these with the neighbours.  For blocks of which large parts may never be touched. */
void qb_heap_fill(const qb_heap *heap, void *pointer, size_t offset, size_t size);
/* The pool is empty again; its blocks stay until they are released. */
void qb_page_pool_clear(qb_page_pool *pool);
void qb_heap_release(qb_heap *heap, void *pointer);
qb_memory_statistics qb_heap_statistics(const qb_heap *heap);

#endif
