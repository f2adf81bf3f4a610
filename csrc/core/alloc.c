/* SPDX-License-Identifier: Apache-2.0 */
#include "core/alloc.h"

#include <stdlib.h>
#include <string.h>

#include "core/page_region.h"

static void *
library_allocate(void *context, size_t size, size_t alignment)
{
    (void)context;
    return aligned_alloc(alignment, size);
}

static void
library_release(void *context, void *pointer, size_t size, size_t alignment)
{
    (void)context;
    (void)size;
    (void)alignment;
    free(pointer);
}

void
qb_heap_init(qb_heap *heap, const qb_allocator *allocator)
{
    static const qb_allocator library = {library_allocate, library_release, NULL};
    heap->allocator = allocator != NULL ? *allocator : library;
    atomic_init(&heap->allocations, 0);
    atomic_init(&heap->live_blocks, 0);
    atomic_init(&heap->live_bytes, 0);
    atomic_init(&heap->peak_bytes, 0);
}

/* What stands before the memory that is handed out. */
typedef struct heap_header {
    size_t total;           /* bytes of the block */
    void *origin;           /* what the allocator gave, the block or a little before it */
    qb_page_region *region; /* that the block was cut from; NULL: the allocator gave it */
} heap_header;

_Static_assert(sizeof(heap_header) <= QB_ALIGNMENT, "a header must fit before the memory");

/* 0 if a block of that size cannot be.  Rounded up because aligned_alloc wants a multiple of the alignment. */
static size_t
total_of(size_t size)
{
    return size > SIZE_MAX - 3 * QB_ALIGNMENT ? 0 : (size + 2 * QB_ALIGNMENT - 1) / QB_ALIGNMENT * QB_ALIGNMENT;
}

static void *
hand_out(qb_heap *heap, char *block, heap_header header)
{
    const size_t total = header.total;
    memcpy(block, &header, sizeof header);
    atomic_fetch_add_explicit(&heap->allocations, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&heap->live_blocks, 1, memory_order_relaxed);
    const uint64_t live = atomic_fetch_add_explicit(&heap->live_bytes, total, memory_order_relaxed) + total;
    uint64_t peak = atomic_load_explicit(&heap->peak_bytes, memory_order_relaxed);
    while (live > peak && !atomic_compare_exchange_weak_explicit(&heap->peak_bytes, &peak, live, memory_order_relaxed,
                                                                 memory_order_relaxed)) {
    }
    return block + QB_ALIGNMENT;
}

void *
qb_heap_allocate(qb_heap *heap, size_t size)
{
    const size_t total = total_of(size);
    void *block = total == 0 ? NULL : heap->allocator.allocate(heap->allocator.context, total, QB_ALIGNMENT);
    return block == NULL ? NULL : hand_out(heap, block, (heap_header){.total = total, .origin = block});
}

/* Blocks from this size on come from calloc, for which the system has pages of zeros: none of them is touched before
 * its first use, by the thread that uses it. */
#define FRESH_BYTES ((size_t)1 << 20)

static void *
allocate_fresh(qb_heap *heap, size_t size)
{
    const size_t total = total_of(size);
    char *origin = total == 0 ? NULL : calloc(1, total + QB_ALIGNMENT);
    if (origin == NULL) {
        return NULL;
    }
    const size_t ahead = (QB_ALIGNMENT - (uintptr_t)origin % QB_ALIGNMENT) % QB_ALIGNMENT;
    return hand_out(heap, origin + ahead, (heap_header){.total = total, .origin = origin});
}

void *
qb_heap_allocate_zero(qb_heap *heap, size_t size)
{
    if (size >= FRESH_BYTES && heap->allocator.allocate == library_allocate) {
        return allocate_fresh(heap, size);
    }
    void *pointer = qb_heap_allocate(heap, size);
    if (pointer != NULL) {
        memset(pointer, 0, size);
    }
    return pointer;
}

/* Smaller ones would not be missed among small pages, and models that have no others need no region. */
#define POOLED_BYTES ((size_t)64 << 10)
/* Addresses, not memory: what is never touched costs nothing. */
#define REGION_BYTES ((size_t)64 << 20)

/* A block from the pool's region, or from the next one; pool->is_busy is ours. */
static char *
cut(qb_page_pool *pool, size_t total, qb_page_region **region)
{
    if (total > REGION_BYTES / 2) { /* has one of its own, which it alone holds */
        *region = qb_page_region_map(total);
        char *block = *region != NULL ? qb_page_region_cut(*region, total) : NULL;
        if (block != NULL) {
            qb_page_region_release(*region);
        }
        return block;
    }
    char *block = pool->region != NULL ? qb_page_region_cut(pool->region, total) : NULL;
    if (block == NULL) {
        qb_page_region *next = qb_page_region_map(REGION_BYTES);
        if (next == NULL) {
            return NULL;
        }
        qb_page_pool_clear(pool);
        pool->region = next;
        block = qb_page_region_cut(next, total);
    }
    *region = pool->region;
    return block;
}

void *
qb_heap_allocate_pooled(qb_heap *heap, qb_page_pool *pool, size_t size)
{
    const size_t total = total_of(size);
    heap_header header = {.total = total};
    char *block = NULL;
    if (pool != NULL && total >= POOLED_BYTES && heap->allocator.allocate == library_allocate &&
        !atomic_exchange_explicit(&pool->is_busy, 1, memory_order_acquire)) {
        block = cut(pool, total, &header.region);
        atomic_store_explicit(&pool->is_busy, 0, memory_order_release);
    }
    return block != NULL ? hand_out(heap, block, header) : qb_heap_allocate_zero(heap, size);
}

void
qb_heap_fill(const qb_heap *heap, void *pointer, size_t offset, size_t size)
{
    const size_t large = qb_page_region_alignment();
    heap_header header;
    if (size < FRESH_BYTES || large == 0 || heap->allocator.allocate != library_allocate) {
        return;
    }
    memcpy(&header, (char *)pointer - QB_ALIGNMENT, sizeof header);
    char *start = (char *)pointer + offset;
    const size_t ahead = (size_t)((uintptr_t)start % large);
    const size_t behind = (large - (uintptr_t)(start + size) % large) % large;
    const size_t after = header.total - QB_ALIGNMENT - offset - size; /* of the block */
    qb_page_region_wish(start - (ahead < offset ? ahead : offset), start + size + (behind < after ? behind : after));
}

void
qb_page_pool_clear(qb_page_pool *pool)
{
    qb_page_region *region = pool->region;
    pool->region = NULL; /* before it is given back: a child that is forked in between must not find it */
    atomic_thread_fence(memory_order_seq_cst);
    if (region != NULL) {
        qb_page_region_release(region);
    }
}

void
qb_heap_release(qb_heap *heap, void *pointer)
{
    if (pointer == NULL) {
        return;
    }
    heap_header header;
    memcpy(&header, (char *)pointer - QB_ALIGNMENT, sizeof header);
    atomic_fetch_sub_explicit(&heap->live_blocks, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&heap->live_bytes, header.total, memory_order_relaxed);
    if (header.region != NULL) {
        qb_page_region_release(header.region);
        return;
    }
    heap->allocator.release(heap->allocator.context, header.origin, header.total, QB_ALIGNMENT);
}

qb_memory_statistics
qb_heap_statistics(const qb_heap *heap)
{
    return (qb_memory_statistics){
        .allocations = atomic_load_explicit(&heap->allocations, memory_order_relaxed),
        .live_blocks = atomic_load_explicit(&heap->live_blocks, memory_order_relaxed),
        .live_bytes = atomic_load_explicit(&heap->live_bytes, memory_order_relaxed),
        .peak_bytes = atomic_load_explicit(&heap->peak_bytes, memory_order_relaxed),
    };
}
