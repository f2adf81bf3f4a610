/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/scratch.h"

#include "layer_case.h"

typedef struct claim_job {
    qb_scratch *scratch;
    _Atomic int64_t *owners; /* one per slot: claims that are alive */
    _Atomic int collisions;
} claim_job;

static void
claim_and_write(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    claim_job *job = argument;
    for (int64_t i = begin; i < end; i++) {
        const int32_t slot = qb_scratch_claim(job->scratch, worker);
        if (atomic_fetch_add(&job->owners[slot], 1) != 0) {
            atomic_store(&job->collisions, 1);
        }
        const qb_arena arena = qb_scratch_arena(job->scratch, slot);
        memset(arena.base, (int)i, arena.capacity);
        atomic_fetch_sub(&job->owners[slot], 1);
        qb_scratch_release(job->scratch, slot);
    }
}

/* A device with more threads than slots: what happens when the thread count is raised while a session runs. */
static void
test_a_slot_has_one_owner_even_with_more_threads_than_slots(void)
{
    qb_device *device = case_device("ref", 4);
    qb_device *small = case_device("ref", 2);
    case_plan plan = {.arena_block = NULL};
    _Atomic int64_t owners[2];
    atomic_init(&owners[0], 0);
    atomic_init(&owners[1], 0);
    case_plan_scratch(&plan, small, 100);
    CHECK(plan.scratch.count == 2 && plan.scratch.bytes == 128);
    claim_job job = {.scratch = &plan.scratch, .owners = owners};
    atomic_init(&job.collisions, 0);
    CHECK(qb_parallel_for(device->queue, NULL, 20000, 1, claim_and_write, &job) == QB_OK);
    CHECK(!atomic_load(&job.collisions));
    case_plan_free(&plan);
    qb_device_close(device);
    qb_device_close(small);
}

int
main(void)
{
    RUN(test_a_slot_has_one_owner_even_with_more_threads_than_slots);
    return check_report();
}
