/* SPDX-License-Identifier: Apache-2.0
 *
 * Large blocks of a pool: where they lie, that they are zero, what the heap counts, when their memory goes back, and
 * that a system which has no large pages to give changes nothing.
 */
#if defined(__linux__) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE /* mincore */
#endif

#include "core/page_region.h"

#include <pthread.h>
#include <stdint.h>

#include "check.h"
#include "core/alloc.h"

#if defined(__linux__)
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static int advice_is_refused;
static int advices;
static char *advised_start; /* of the last advice */
static char *advised_end;

/* In place of the C library's: large pages are asked for here and nowhere else. */
int
madvise(void *address, size_t length, int advice)
{
    advices += advice == MADV_HUGEPAGE;
    advised_start = address;
    advised_end = advised_start + length;
    errno = EINVAL;
    return advice_is_refused ? -1 : 0;
}
#endif

enum { LARGE = 2 << 20, BLOCK = 600000, REGION = 64 << 20 };

static int
is_zero(const unsigned char *bytes, size_t count)
{
    unsigned char all = 0;
    for (size_t i = 0; i < count; i++) {
        all |= bytes[i];
    }
    return all == 0;
}

/* Whether the first page of such memory is mapped; -1 where nobody can say. */
static int
is_mapped(void *block)
{
#if defined(__linux__)
    unsigned char resident = 0;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return mincore((char *)block - (uintptr_t)block % page, 1, &resident) == 0;
#else
    (void)block;
    return -1;
#endif
}

static int
has_large_pages(void)
{
    qb_page_region *region = qb_page_region_map(1);
    if (region != NULL) {
        qb_page_region_release(region);
    }
    return region != NULL;
}

/* ---- facts ------------------------------------------------------------------------------------------------------- */

static void
test_blocks_are_aligned_zero_and_side_by_side(void)
{
    qb_heap heap;
    qb_page_pool pool = {.region = NULL};
    unsigned char *blocks[8];
    qb_heap_init(&heap, NULL);
    for (size_t i = 0; i < 8; i++) {
        blocks[i] = qb_heap_allocate_pooled(&heap, &pool, BLOCK + i);
        CHECK(blocks[i] != NULL && (uintptr_t)blocks[i] % QB_ALIGNMENT == 0);
        CHECK(is_zero(blocks[i], BLOCK + i));
        memset(blocks[i], 0xA5, BLOCK + i);
        if (has_large_pages() && i > 0) {
            CHECK(blocks[i] - blocks[i - 1] > BLOCK && blocks[i] - blocks[i - 1] < BLOCK + 4 * QB_ALIGNMENT);
        }
    }
    if (has_large_pages()) {
        CHECK((uintptr_t)blocks[0] % LARGE < 4 * QB_ALIGNMENT); /* where a large page begins */
        CHECK(advices > 0);
    }
    for (size_t i = 0; i < 8; i++) {
        CHECK(blocks[i][0] == 0xA5 && blocks[i][BLOCK + i - 1] == 0xA5);
        qb_heap_release(&heap, blocks[i]);
    }
    qb_page_pool_clear(&pool);
}

static void
test_the_heap_counts_blocks_not_regions(void)
{
    qb_heap heap;
    qb_page_pool pool = {.region = NULL};
    qb_heap_init(&heap, NULL);
    void *first = qb_heap_allocate_pooled(&heap, &pool, BLOCK);
    void *second = qb_heap_allocate_pooled(&heap, &pool, 2 * BLOCK);
    qb_memory_statistics statistics = qb_heap_statistics(&heap);
    CHECK(statistics.allocations == 2 && statistics.live_blocks == 2);
    CHECK(statistics.live_bytes >= 3 * BLOCK && statistics.live_bytes < 3 * BLOCK + 6 * QB_ALIGNMENT);
    CHECK(statistics.peak_bytes == statistics.live_bytes);
    qb_heap_release(&heap, first);
    qb_heap_release(&heap, second);
    statistics = qb_heap_statistics(&heap);
    CHECK(statistics.live_blocks == 0 && statistics.live_bytes == 0 && statistics.allocations == 2);
    qb_page_pool_clear(&pool);
}

static void
test_a_region_goes_back_with_its_last_block(void)
{
    qb_heap heap;
    qb_page_pool pool = {.region = NULL};
    qb_heap_init(&heap, NULL);
    char *first = qb_heap_allocate_pooled(&heap, &pool, BLOCK);
    char *second = qb_heap_allocate_pooled(&heap, &pool, BLOCK);
    qb_page_pool_clear(&pool);
    CHECK(pool.region == NULL);
    qb_heap_release(&heap, first);
    CHECK(is_mapped(second) != 0);
    memset(second, 1, BLOCK); /* its neighbour is gone, and it stays */
    qb_heap_release(&heap, second);
    CHECK(!has_large_pages() || is_mapped(second) == 0);
}

static void
test_a_pool_goes_on_when_a_region_is_full(void)
{
    enum { COUNT_OF_BLOCKS = 3 * REGION / (20 << 20) };
    qb_heap heap;
    qb_page_pool pool = {.region = NULL};
    unsigned char *blocks[COUNT_OF_BLOCKS];
    qb_heap_init(&heap, NULL);
    for (size_t i = 0; i < COUNT_OF_BLOCKS; i++) {
        blocks[i] = qb_heap_allocate_pooled(&heap, &pool, 20 << 20);
        CHECK(blocks[i] != NULL);
        blocks[i][0] = (unsigned char)i;
        blocks[i][(20 << 20) - 1] = (unsigned char)i;
    }
    unsigned char *huge = qb_heap_allocate_pooled(&heap, &pool, 2 * REGION); /* larger than any region of several */
    CHECK(huge != NULL && huge[0] == 0 && huge[2 * REGION - 1] == 0);
    huge[2 * REGION - 1] = 1;
    for (size_t i = 0; i < COUNT_OF_BLOCKS; i++) {
        CHECK(blocks[i][0] == i && blocks[i][(20 << 20) - 1] == i);
        qb_heap_release(&heap, blocks[i]);
    }
    qb_heap_release(&heap, huge);
    CHECK(!has_large_pages() || is_mapped(huge) == 0);
    CHECK(qb_heap_statistics(&heap).live_blocks == 0);
    qb_page_pool_clear(&pool);
}

static void
test_small_blocks_and_no_pool_are_the_heaps(void)
{
    qb_heap heap;
    qb_page_pool pool = {.region = NULL};
    qb_heap_init(&heap, NULL);
    unsigned char *small = qb_heap_allocate_pooled(&heap, &pool, 1000);
    CHECK(pool.region == NULL && is_zero(small, 1000));
    unsigned char *large = qb_heap_allocate_pooled(&heap, NULL, BLOCK);
    CHECK(is_zero(large, BLOCK) && (uintptr_t)large % QB_ALIGNMENT == 0);
    qb_heap_release(&heap, small);
    qb_heap_release(&heap, large);
    qb_page_pool_clear(&pool);
}

/* As in a child that was forked while another thread was cutting a block. */
static void
test_a_busy_pool_keeps_nobody_waiting(void)
{
    qb_heap heap;
    qb_page_pool pool = {.region = NULL};
    qb_heap_init(&heap, NULL);
    atomic_store(&pool.is_busy, 1);
    unsigned char *block = qb_heap_allocate_pooled(&heap, &pool, BLOCK);
    CHECK(pool.region == NULL && is_zero(block, BLOCK));
    qb_heap_release(&heap, block);
    qb_page_pool_clear(&pool);
}

static void
test_large_pages_that_are_refused_change_nothing(void)
{
#if defined(__linux__)
    advice_is_refused = 1;
#endif
    test_blocks_are_aligned_zero_and_side_by_side();
    test_a_region_goes_back_with_its_last_block();
#if defined(__linux__)
    advice_is_refused = 0;
#endif
}

static void
test_what_cannot_be_is_null(void)
{
    qb_heap heap;
    qb_page_pool pool = {.region = NULL};
    qb_heap_init(&heap, NULL);
    CHECK(qb_heap_allocate_pooled(&heap, &pool, SIZE_MAX) == NULL);
    CHECK(qb_page_region_map(SIZE_MAX) == NULL);
    CHECK(qb_page_region_map(SIZE_MAX / 4) == NULL);
    CHECK(qb_heap_statistics(&heap).allocations == 0);
    qb_page_pool_clear(&pool);
}

/* Of a block of which parts are filled, large pages that these reach into, as far as they are the block's. */
static void
test_large_pages_are_asked_for_where_a_block_is_filled(void)
{
#if defined(__linux__)
    enum { BYTES = 64 << 20, FILLED = 3 << 20 };
    static const size_t offsets[] = {0, 100, 5 << 20, (5 << 20) + 64, BYTES - FILLED};
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    char *block = qb_heap_allocate_zero(&heap, BYTES);
    CHECK(block != NULL);
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        char *start = block + offsets[i];
        advised_start = advised_end = NULL;
        qb_heap_fill(&heap, block, offsets[i], FILLED);
        CHECK(advised_start >= block && advised_start < start + page);
        CHECK(advised_end <= block + BYTES && advised_end + page > start + FILLED);
        CHECK((uintptr_t)advised_start % LARGE == 0 || advised_start - block < (ptrdiff_t)page);
        CHECK((uintptr_t)advised_end % LARGE == 0 || block + BYTES - advised_end < (ptrdiff_t)page + QB_ALIGNMENT);
    }
    const int before = advices;
    qb_heap_fill(&heap, block, 64, 1000); /* not worth a page */
    CHECK(advices == before);
    advice_is_refused = 1;
    qb_heap_fill(&heap, block, 0, FILLED);
    advice_is_refused = 0;
    CHECK(is_zero((unsigned char *)block, FILLED));
    qb_heap_release(&heap, block);
#endif
}

static void *
counting_allocate(void *context, size_t size, size_t alignment)
{
    ++*(int *)context;
    return aligned_alloc(alignment, size);
}

static void
counting_release(void *context, void *pointer, size_t size, size_t alignment)
{
    (void)size;
    (void)alignment;
    --*(int *)context;
    free(pointer);
}

static void
test_an_allocator_of_the_callers_gets_every_byte(void)
{
    int live = 0;
    const qb_allocator allocator = {counting_allocate, counting_release, &live};
    qb_heap heap;
    qb_page_pool pool = {.region = NULL};
    qb_heap_init(&heap, &allocator);
    unsigned char *block = qb_heap_allocate_pooled(&heap, &pool, BLOCK);
    CHECK(live == 1 && pool.region == NULL && is_zero(block, BLOCK));
    qb_heap_release(&heap, block);
    CHECK(live == 0);
#if defined(__linux__)
    const int before = advices;
    block = qb_heap_allocate_zero(&heap, 4 << 20);
    qb_heap_fill(&heap, block, 0, 4 << 20);
    CHECK(advices == before); /* nobody knows what it is */
    qb_heap_release(&heap, block);
#endif
}

typedef struct crowd {
    qb_heap heap;
    qb_page_pool pool;
} crowd;

static void *
take_and_release(void *argument)
{
    crowd *c = argument;
    uintptr_t wrong = 0;
    for (int i = 0; i < 40; i++) {
        unsigned char *block = qb_heap_allocate_pooled(&c->heap, &c->pool, 5 << 20);
        wrong += block == NULL;
        if (block != NULL) {
            block[0]++;
            wrong += block[0] != 1;
            qb_heap_release(&c->heap, block);
        }
    }
    return wrong == 0 ? argument : NULL;
}

static void
test_threads_take_from_one_pool(void)
{
    crowd c = {.pool = {.region = NULL}};
    pthread_t threads[3];
    qb_heap_init(&c.heap, NULL);
    for (size_t i = 0; i < 3; i++) {
        CHECK(pthread_create(&threads[i], NULL, take_and_release, &c) == 0);
    }
    for (size_t i = 0; i < 3; i++) {
        void *result = NULL;
        CHECK(pthread_join(threads[i], &result) == 0 && result == &c);
    }
    CHECK(qb_heap_statistics(&c.heap).live_blocks == 0);
    qb_page_pool_clear(&c.pool);
}

int
main(void)
{
    RUN(test_blocks_are_aligned_zero_and_side_by_side);
    RUN(test_the_heap_counts_blocks_not_regions);
    RUN(test_a_region_goes_back_with_its_last_block);
    RUN(test_a_pool_goes_on_when_a_region_is_full);
    RUN(test_small_blocks_and_no_pool_are_the_heaps);
    RUN(test_a_busy_pool_keeps_nobody_waiting);
    RUN(test_large_pages_that_are_refused_change_nothing);
    RUN(test_what_cannot_be_is_null);
    RUN(test_large_pages_are_asked_for_where_a_block_is_filled);
    RUN(test_an_allocator_of_the_callers_gets_every_byte);
    RUN(test_threads_take_from_one_pool);
    return check_report();
}
