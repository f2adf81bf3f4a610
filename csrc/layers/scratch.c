/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/scratch.h"

#include "core/alloc.h"

void
qb_scratch_plan(qb_scratch *scratch, qb_arena *arena, int32_t count, size_t bytes)
{
    const size_t units = bytes / QB_ALIGNMENT + (bytes % QB_ALIGNMENT != 0);
    scratch->count = count;
    scratch->bytes = units * QB_ALIGNMENT;
    scratch->base = qb_arena_take(arena, count, scratch->bytes);
    scratch->busy = qb_arena_take(arena, count, sizeof *scratch->busy);
}

void
qb_scratch_reset(qb_scratch *scratch)
{
    for (int32_t i = 0; i < scratch->count; i++) {
        atomic_init(&scratch->busy[i], 0);
    }
}

int32_t
qb_scratch_claim(qb_scratch *scratch, int32_t worker)
{
    int32_t slot = worker % scratch->count;
    for (;;) {
        if (atomic_exchange_explicit(&scratch->busy[slot], 1, memory_order_acquire) == 0) {
            return slot;
        }
        slot = slot + 1 == scratch->count ? 0 : slot + 1;
    }
}

void
qb_scratch_release(qb_scratch *scratch, int32_t slot)
{
    atomic_store_explicit(&scratch->busy[slot], 0, memory_order_release);
}

qb_arena
qb_scratch_arena(const qb_scratch *scratch, int32_t slot)
{
    return qb_arena_bind(scratch->base + (size_t)slot * scratch->bytes, scratch->bytes);
}
