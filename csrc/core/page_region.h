/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory on large pages: a span of addresses from which blocks are cut one behind the other, and which goes back to the
 * system with its last block.  Only a heap uses it (core/alloc.h).
 *
 * Twenty thousand small pages of packed weights cost more to make than the weights, and every short batch walks their
 * tables again.  Large pages are asked for, never insisted on: where the system has none to give, pages are small.
 */
#ifndef QB_CORE_PAGE_REGION_H
#define QB_CORE_PAGE_REGION_H

#include <stddef.h>

typedef struct qb_page_region qb_page_region;

/* A region for `bytes` bytes of blocks, zero, with one holder: the caller.  NULL where there is no memory, or no such
 * thing as large pages that can be asked for. */
qb_page_region *qb_page_region_map(size_t bytes);
/* The next `size` bytes, which hold the region; NULL: that many are not left.  size and every block are multiples of
 * QB_ALIGNMENT.  One thread at a time. */
void *qb_page_region_cut(qb_page_region *region, size_t size);
/* A holder lets go; the last one unmaps the region.  From any thread. */
void qb_page_region_release(qb_page_region *region);

/* Where large pages begin; 0 where there are none to ask for. */
size_t qb_page_region_alignment(void);
/* Ask for large pages where [start, end) will be filled; a part of a page counts as none.  A wish, as all of this. */
void qb_page_region_wish(char *start, char *end);

#endif
