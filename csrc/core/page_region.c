/* SPDX-License-Identifier: Apache-2.0 */
#if defined(__linux__) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, madvise */
#endif

#include "core/page_region.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#if defined(__linux__) && defined(MADV_HUGEPAGE)

#include <stdatomic.h>
#include <stdint.h>

#include "core/alloc.h"

#define LARGE_PAGE ((size_t)2 << 20) /* of x86-64, and of Arm with small pages of 4 KiB; only a place to begin at */

/* At the start of the region. */
struct qb_page_region {
    size_t bytes; /* of all */
    size_t used;  /* of them, by this struct and blocks */
    _Atomic int64_t holders;
};

_Static_assert(sizeof(qb_page_region) <= QB_ALIGNMENT, "blocks must begin aligned");

/* `bytes`, a multiple of LARGE_PAGE, that begin at one; NULL if there are none. */
static char *
map_aligned(size_t bytes)
{
    char *start = mmap(NULL, bytes + LARGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        return NULL;
    }
    const size_t ahead = (LARGE_PAGE - (uintptr_t)start % LARGE_PAGE) % LARGE_PAGE;
    if (ahead > 0) {
        (void)munmap(start, ahead);
    }
    if (ahead < LARGE_PAGE) {
        (void)munmap(start + ahead + bytes, LARGE_PAGE - ahead);
    }
    return start + ahead;
}

qb_page_region *
qb_page_region_map(size_t bytes)
{
    if (bytes > SIZE_MAX - 3 * LARGE_PAGE) {
        return NULL;
    }
    const size_t total = (bytes + QB_ALIGNMENT + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    char *start = map_aligned(total);
    if (start == NULL) {
        return NULL;
    }
    (void)madvise(start, total, MADV_HUGEPAGE); /* a wish */
    qb_page_region *region = (qb_page_region *)(void *)start;
    region->bytes = total;
    region->used = QB_ALIGNMENT;
    atomic_init(&region->holders, 1);
    return region;
}

void *
qb_page_region_cut(qb_page_region *region, size_t size)
{
    if (size > region->bytes - region->used) {
        return NULL;
    }
    char *block = (char *)region + region->used;
    region->used += size;
    atomic_fetch_add_explicit(&region->holders, 1, memory_order_relaxed);
    return block;
}

void
qb_page_region_release(qb_page_region *region)
{
    if (atomic_fetch_sub_explicit(&region->holders, 1, memory_order_acq_rel) == 1) {
        (void)munmap(region, region->bytes);
    }
}

size_t
qb_page_region_alignment(void)
{
    return LARGE_PAGE;
}

void
qb_page_region_wish(char *start, char *end)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const size_t ahead = (size_t)((page - (uintptr_t)start % page) % page);
    const size_t behind = (size_t)((uintptr_t)end % page);
    if ((size_t)(end - start) > ahead + behind) {
        (void)madvise(start + ahead, (size_t)(end - start) - ahead - behind, MADV_HUGEPAGE);
    }
}

#else

qb_page_region *
qb_page_region_map(size_t bytes)
{
    (void)bytes;
    return NULL;
}

void *
qb_page_region_cut(qb_page_region *region, size_t size)
{
    (void)region;
    (void)size;
    return NULL;
}

void
qb_page_region_release(qb_page_region *region)
{
    (void)region;
}

size_t
qb_page_region_alignment(void)
{
    return 0;
}

void
qb_page_region_wish(char *start, char *end)
{
    (void)start;
    (void)end;
}

#endif
