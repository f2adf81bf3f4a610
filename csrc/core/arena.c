/* SPDX-License-Identifier: Apache-2.0 */
#include "core/arena.h"

#include "core/alloc.h"
#include "core/shape.h"

qb_arena
qb_arena_measuring(void)
{
    return (qb_arena){.base = NULL, .capacity = SIZE_MAX, .used = 0, .failed = 0};
}

qb_arena
qb_arena_bind(void *base, size_t capacity)
{
    return (qb_arena){.base = base, .capacity = capacity, .used = 0, .failed = 0};
}

void *
qb_arena_take(qb_arena *arena, int64_t count, size_t element_size)
{
    size_t bytes;
    if (count < 0 || !qb_size_multiply((size_t)count, element_size, &bytes) || bytes > SIZE_MAX - QB_ALIGNMENT) {
        arena->failed = 1;
        return NULL;
    }
    bytes = (bytes + QB_ALIGNMENT - 1) / QB_ALIGNMENT * QB_ALIGNMENT;
    if (arena->failed || bytes > arena->capacity - arena->used) {
        arena->failed = 1;
        return NULL;
    }
    void *taken = arena->base != NULL ? arena->base + arena->used : NULL;
    arena->used += bytes;
    return taken;
}

int
qb_arena_ok(const qb_arena *arena)
{
    return !arena->failed;
}

size_t
qb_arena_mark(const qb_arena *arena)
{
    return arena->used;
}

void
qb_arena_release(qb_arena *arena, size_t mark)
{
    arena->used = mark;
}
