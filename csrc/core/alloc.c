/* SPDX-License-Identifier: Apache-2.0 */
#include "core/alloc.h"

#include <stdlib.h>
#include <string.h>

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

void *
qb_heap_allocate(qb_heap *heap, size_t size)
{
    if (size > SIZE_MAX - 2 * QB_ALIGNMENT) {
        return NULL;
    }
    /* Rounded up because aligned_alloc wants a multiple of the alignment. */
    const size_t total = (size + 2 * QB_ALIGNMENT - 1) / QB_ALIGNMENT * QB_ALIGNMENT;
    char *block = heap->allocator.allocate(heap->allocator.context, total, QB_ALIGNMENT);
    if (block == NULL) {
        return NULL;
    }
    memcpy(block, &total, sizeof total);
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
qb_heap_allocate_zero(qb_heap *heap, size_t size)
{
    void *pointer = qb_heap_allocate(heap, size);
    if (pointer != NULL) {
        memset(pointer, 0, size);
    }
    return pointer;
}

void
qb_heap_release(qb_heap *heap, void *pointer)
{
    if (pointer == NULL) {
        return;
    }
    char *block = (char *)pointer - QB_ALIGNMENT;
    size_t total;
    memcpy(&total, block, sizeof total);
    atomic_fetch_sub_explicit(&heap->live_blocks, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&heap->live_bytes, total, memory_order_relaxed);
    heap->allocator.release(heap->allocator.context, block, total, QB_ALIGNMENT);
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
