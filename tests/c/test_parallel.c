/* SPDX-License-Identifier: Apache-2.0 */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#include "core/parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#define COUNT 1009 /* a prime: no grain divides it */

typedef struct tally {
    _Atomic int visits[COUNT];
    _Atomic int inside[QB_MAX_THREADS]; /* two threads with one worker number at a time would be a race on scratch */
    _Atomic int clashes;
    int32_t threads;
} tally;

static void
visit(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    tally *t = argument;
    if (worker < 0 || worker >= t->threads || atomic_fetch_add(&t->inside[worker], 1) != 0) {
        atomic_fetch_add(&t->clashes, 1);
    }
    for (int64_t i = begin; i < end; i++) {
        atomic_fetch_add(&t->visits[i], 1);
    }
    atomic_fetch_sub(&t->inside[worker], 1);
}

static tally shared_tally;

static void
check_covers(qb_queue *queue, int64_t grain)
{
    memset(&shared_tally, 0, sizeof shared_tally);
    shared_tally.threads = qb_queue_threads(queue);
    CHECK(qb_parallel_for(queue, NULL, COUNT, grain, visit, &shared_tally) == QB_OK);
    int wrong = atomic_load(&shared_tally.clashes);
    for (int i = 0; i < COUNT; i++) {
        wrong += atomic_load(&shared_tally.visits[i]) != 1;
    }
    CHECK(wrong == 0);
}

static void
every_element_is_visited_once_whatever_grain_and_threads(void)
{
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    const int32_t threads[] = {1, 2, 3, 7};
    const int64_t grains[] = {0, 1, 2, 13, COUNT - 1, COUNT, COUNT + 1, 100000};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        qb_queue *queue = NULL;
        CHECK(qb_queue_create(&heap, threads[t], &queue, NULL) == QB_OK);
        for (size_t g = 0; g < sizeof grains / sizeof *grains; g++) {
            for (int repeat = 0; repeat < 20; repeat++) {
                check_covers(queue, grains[g]);
            }
        }
        CHECK(qb_parallel_for(queue, NULL, 0, 1, visit, &shared_tally) == QB_OK);
        qb_queue_destroy(queue);
    }
    CHECK(qb_heap_statistics(&heap).live_blocks == 0);
}

static void
threads_can_change_between_regions(void)
{
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    qb_queue *queue = NULL;
    CHECK(qb_queue_create(&heap, 2, &queue, NULL) == QB_OK);
    for (int32_t n = 1; n <= 5; n++) {
        check_covers(queue, 3);
        CHECK(qb_queue_set_threads(queue, n, NULL) == QB_OK);
        CHECK(qb_queue_threads(queue) == n);
        check_covers(queue, 3);
    }
    qb_error error;
    CHECK(qb_queue_set_threads(queue, -1, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "num_threads is -1");
    CHECK(qb_queue_threads(queue) == 5);
    CHECK(qb_queue_set_threads(queue, 0, NULL) == QB_OK);
    CHECK(qb_queue_threads(queue) == qb_available_threads());
    qb_queue_destroy(queue);
    CHECK(qb_heap_statistics(&heap).live_blocks == 0);
}

static void
a_child_after_fork_starts_its_own_workers(void)
{
#if defined(__SANITIZE_THREAD__)
    return; /* ThreadSanitizer does not support threads started after a fork with threads; the other builds test this */
#else
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    qb_queue *queue = NULL;
    CHECK(qb_queue_create(&heap, 3, &queue, NULL) == QB_OK);
    check_covers(queue, 5);
    (void)fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        const int before = check_failures;
        (void)alarm(20); /* a hang is a failure, not a stuck test run */
        check_covers(queue, 5);
        check_covers(queue, 1);
        qb_queue_destroy(queue);
        _exit(check_failures == before ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_covers(queue, 5);
    qb_queue_destroy(queue);
#endif
}

typedef struct gate {
    qb_queue *queue;
    _Atomic int entered;
    _Atomic int is_open;
} gate;

static void
sleep_a_moment(void)
{
    const struct timespec t = {.tv_sec = 0, .tv_nsec = 1000000};
    (void)nanosleep(&t, NULL);
}

static void
wait_at_gate(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    gate *g = argument;
    (void)begin;
    (void)end;
    (void)worker;
    atomic_fetch_add(&g->entered, 1);
    while (!atomic_load(&g->is_open)) {
        sleep_a_moment();
    }
}

static void *
run_to_the_gate(void *argument)
{
    gate *g = argument;
    (void)qb_parallel_for(g->queue, NULL, 5, 1, wait_at_gate, g);
    return NULL;
}

static void
note_worker(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)begin;
    (void)end;
    atomic_fetch_or((_Atomic int *)argument, 1 << worker);
    sleep_a_moment();
}

static void
a_child_has_the_pool_that_a_thread_of_its_parent_was_using(void)
{
#if !defined(__SANITIZE_THREAD__) /* as above */
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    gate g = {.queue = NULL};
    CHECK(qb_queue_create(&heap, 3, &g.queue, NULL) == QB_OK);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run_to_the_gate, &g) == 0);
    while (atomic_load(&g.entered) < 3) {
        sleep_a_moment();
    }
    (void)fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        const int before = check_failures;
        (void)alarm(20); /* as above */
        _Atomic int workers = 0;
        CHECK(qb_parallel_for(g.queue, NULL, 60, 1, note_worker, &workers) == QB_OK);
        CHECK(workers == 7);
        CHECK(qb_queue_set_threads(g.queue, 2, NULL) == QB_OK);
        check_covers(g.queue, 5);
        qb_queue_destroy(g.queue);
        _exit(check_failures == before ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    atomic_store(&g.is_open, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    check_covers(g.queue, 5);
    qb_queue_destroy(g.queue);
#endif
}

/* Memory whose release is seen by a child that is forked at that moment. */
typedef struct forking_memory {
    qb_queue *queue; /* NULL: nobody forks */
    int failures, forks;
} forking_memory;

static void *
allocate_plainly(void *context, size_t size, size_t alignment)
{
    (void)context;
    return aligned_alloc(alignment, size);
}

static void
release_and_fork(void *context, void *pointer, size_t size, size_t alignment)
{
    forking_memory *memory = context;
    (void)alignment;
    memset(pointer, 0xff, size); /* as good as gone */
    if (memory->queue != NULL) {
        (void)fflush(NULL);
        const pid_t child = fork();
        if (child == 0) {
            const int before = check_failures;
            (void)alarm(20); /* as above */
            check_covers(memory->queue, 5);
            _exit(check_failures == before ? 0 : 1);
        }
        int status = -1;
        memory->forks++;
        memory->failures += waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    free(pointer);
}

/* Whichever of the old tables is given back, a child that is forked then, as by another thread, has new ones. */
static void
a_child_has_the_pool_whose_threads_its_parent_was_changing(void)
{
#if !defined(__SANITIZE_THREAD__) /* as above */
    const int32_t threads[] = {5, 2};
    forking_memory memory = {.queue = NULL};
    const qb_allocator allocator = {allocate_plainly, release_and_fork, &memory};
    qb_heap heap;
    qb_heap_init(&heap, &allocator);
    qb_queue *queue = NULL;
    CHECK(qb_queue_create(&heap, 3, &queue, NULL) == QB_OK);
    check_covers(queue, 5);
    memory.queue = queue;
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        CHECK(qb_queue_set_threads(queue, threads[i], NULL) == QB_OK);
    }
    memory.queue = NULL;
    CHECK(memory.forks == 4 && memory.failures == 0);
    qb_queue_destroy(queue);
#endif
}

typedef struct caller {
    qb_queue *queue;
    _Atomic int64_t sum;
} caller;

static void
add_range(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        atomic_fetch_add((_Atomic int64_t *)argument, i);
    }
}

static void *
call_many_times(void *argument)
{
    caller *c = argument;
    for (int i = 0; i < 300; i++) {
        (void)qb_parallel_for(c->queue, NULL, COUNT, 7, add_range, &c->sum);
    }
    return NULL;
}

static void
two_callers_share_a_pool_without_waiting_for_each_other(void)
{
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    qb_queue *queue = NULL;
    CHECK(qb_queue_create(&heap, 3, &queue, NULL) == QB_OK);
    caller callers[2] = {{.queue = queue}, {.queue = queue}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, call_many_times, &callers[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(atomic_load(&callers[i].sum) == 300LL * COUNT * (COUNT - 1) / 2);
    }
    qb_queue_destroy(queue);
}

static void *
ask_many_times(void *argument)
{
    caller *c = argument;
    int32_t threads = 2;
    while (threads != 4) { /* the last change */
        threads = qb_queue_threads(c->queue);
        c->sum += threads < 1 || threads > 4;
    }
    return NULL;
}

static void
threads_can_be_asked_for_while_they_change(void)
{
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    caller c = {.queue = NULL};
    CHECK(qb_queue_create(&heap, 2, &c.queue, NULL) == QB_OK);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, ask_many_times, &c) == 0);
    for (int32_t i = 0; i < 60; i++) {
        CHECK(qb_queue_set_threads(c.queue, 1 + i % 3, NULL) == QB_OK);
    }
    CHECK(qb_queue_set_threads(c.queue, 4, NULL) == QB_OK);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(atomic_load(&c.sum) == 0);
    qb_queue_destroy(c.queue);
}

static int
count_polls(void *context)
{
    int *polls = context;
    return ++*polls >= 2;
}

static void
sleep_a_millisecond(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    atomic_fetch_add((_Atomic int64_t *)argument, end - begin);
    sleep_a_moment();
}

static void
an_interrupt_stops_a_region_early(void)
{
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    qb_queue *queue = NULL;
    for (int32_t threads = 1; threads <= 3; threads++) {
        CHECK(qb_queue_create(&heap, threads, &queue, NULL) == QB_OK);
        int polls = 0;
        const qb_interrupt interrupt = {count_polls, &polls};
        _Atomic int64_t done = 0;
        CHECK(qb_parallel_for(queue, &interrupt, 100000, 1, sleep_a_millisecond, &done) == QB_ERR_INTERRUPTED);
        CHECK(polls == 2);
        CHECK(done < 50000);
        check_covers(queue, 5); /* and the pool is as good as before */
        qb_queue_destroy(queue);
    }
}

static void
available_threads_is_at_least_one(void)
{
    CHECK(qb_available_threads() >= 1);
    CHECK(qb_available_threads() <= QB_MAX_THREADS);
}

int
main(void)
{
    RUN(every_element_is_visited_once_whatever_grain_and_threads);
    RUN(threads_can_change_between_regions);
    RUN(a_child_after_fork_starts_its_own_workers);
    RUN(a_child_has_the_pool_that_a_thread_of_its_parent_was_using);
    RUN(a_child_has_the_pool_whose_threads_its_parent_was_changing);
    RUN(two_callers_share_a_pool_without_waiting_for_each_other);
    RUN(threads_can_be_asked_for_while_they_change);
    RUN(an_interrupt_stops_a_region_early);
    RUN(available_threads_is_at_least_one);
    return check_report();
}
