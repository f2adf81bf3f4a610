/* SPDX-License-Identifier: Apache-2.0
 *
 * Bump allocation in two passes.  A plan is one function that takes buffers from an arena.  Run on a measuring arena it
 * hands out nothing and counts; the caller allocates exactly that much and runs the same function again, and now the
 * pointers are real.  Size and layout cannot disagree because they are the same code.
 *
 *     qb_arena arena = qb_arena_measuring();
 *     plan(&work, &arena);
 *     base = qb_heap_allocate(heap, arena.used);
 *     arena = qb_arena_bind(base, arena.used);
 *     plan(&work, &arena);
 *
 * Overflow of the size arithmetic is sticky: take once, check once with qb_arena_ok.
 */
#ifndef QB_CORE_ARENA_H
#define QB_CORE_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct qb_arena {
    char *base;      /* NULL while measuring */
    size_t capacity; /* bytes behind base */
    size_t used;     /* a multiple of QB_ALIGNMENT */
    int failed;      /* a size overflowed, or the bound arena is too small */
} qb_arena;

qb_arena qb_arena_measuring(void);
/* base is QB_ALIGNMENT-aligned. */
qb_arena qb_arena_bind(void *base, size_t capacity);
/* count elements of element_size bytes, QB_ALIGNMENT-aligned; NULL while measuring or after a failure.  A negative
 * count is a failure; 0 is not. */
void *qb_arena_take(qb_arena *arena, int64_t count, size_t element_size);
int qb_arena_ok(const qb_arena *arena);

/* Scratch discipline: everything taken after mark is given back by release. */
size_t qb_arena_mark(const qb_arena *arena);
void qb_arena_release(qb_arena *arena, size_t mark);

#endif
