/* SPDX-License-Identifier: Apache-2.0
 *
 * One region at a time.  The fields of the region are written while it is closed; `open` publishes them.  A worker
 * announces itself in `active` before it looks at `open`, and the caller closes the region before it waits for `active`
 * to become 0: with sequentially consistent order either the worker sees the region closed or the caller sees the
 * worker.  So no worker touches `function` or `argument` after qb_parallel_for has returned.
 */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#include "core/parallel.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/shape.h"

/* How long a thread looks before it sleeps: longer than the serial code between two regions of a layer, and short
 * beside the time slice that it takes from others, on a machine with more work than processors. */
#define SPIN_NS 50000
#define SPIN_ROUNDS 32           /* looks between two looks at the clock */
#define POLL_PERIOD_NS 20000000L /* how often an interrupt is asked */

/* A thread's part of a region, which it takes first, chunk by chunk; whoever is done with his takes from the others'.
 * So a thread walks through neighbouring chunks, whose operands lie side by side, and all end together. */
typedef struct share {
    _Atomic int64_t next; /* first element that nobody has taken */
    int64_t end;
    char apart[64 - 2 * sizeof(int64_t)]; /* from the next thread's cache line */
} share;

typedef struct worker {
    struct qb_queue *queue;
    pthread_t thread;
    int32_t number;
} worker;

struct qb_queue {
    qb_heap *heap;

    /* The process, by number, in which somebody owns everything below, up to the next group: a region or set_threads;
     * or 0.  A number of another process was copied by a fork, and its owner is not here. */
    _Atomic pid_t owner;
    _Atomic int32_t threads; /* callers included; asked for by anyone */
    int32_t started;         /* workers running in this process */
    worker *workers;         /* (threads - 1) */
    share *shares;           /* (threads) */
    pid_t process;           /* where the workers were started */
    int64_t last_poll_ns;

    qb_range_function function; /* the region; constant while open */
    void *argument;
    int64_t count;
    int64_t grain;
    _Atomic int open;
    _Atomic int32_t active;
    _Atomic int cancelled;

    _Atomic uint64_t generation; /* advances with every region and at the end */
    _Atomic int stopping;
    _Atomic int32_t sleepers;
    _Atomic int is_caller_asleep;
    pthread_mutex_t mutex; /* protects only the waits on `wake` and `all_left` */
    pthread_cond_t wake;
    pthread_cond_t all_left; /* `active` is 0 */
};

static int64_t
now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void
relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Compute one chunk of a share; return whether there was one. */
static int
work_on(qb_queue *queue, share *of, int32_t number)
{
    if (atomic_load_explicit(&of->next, memory_order_relaxed) >= of->end) {
        return 0;
    }
    const int64_t begin = atomic_fetch_add(&of->next, queue->grain);
    if (begin >= of->end) {
        return 0;
    }
    const int64_t left = of->end - begin;
    queue->function(queue->argument, begin, begin + (left < queue->grain ? left : queue->grain), number);
    return 1;
}

/* Take chunks until none is left.  The caller's thread (number 0) polls the interrupt between them. */
static void
work(qb_queue *queue, int32_t number, const qb_interrupt *interrupt)
{
    int32_t done = 0; /* shares, from the own one on */
    while (done < queue->threads && !atomic_load_explicit(&queue->cancelled, memory_order_relaxed)) {
        if (!work_on(queue, &queue->shares[(number + done) % queue->threads], number)) {
            done++;
            continue;
        }
        if (interrupt == NULL) {
            continue;
        }
        const int64_t now = now_ns();
        if (now - queue->last_poll_ns >= POLL_PERIOD_NS) {
            queue->last_poll_ns = now;
            if (interrupt->poll(interrupt->context)) {
                atomic_store(&queue->cancelled, 1);
            }
        }
    }
}

/* Parts of nearly equal numbers of chunks. */
static void
share_out(qb_queue *queue)
{
    const int64_t chunks = (queue->count - 1) / queue->grain + 1;
    for (int32_t i = 0; i < queue->threads; i++) {
        const int64_t first = chunks * i / queue->threads * queue->grain;
        const int64_t last = chunks * (i + 1) / queue->threads * queue->grain;
        queue->shares[i].end = last < queue->count ? last : queue->count;
        atomic_store_explicit(&queue->shares[i].next, first, memory_order_relaxed);
    }
}

static int
is_region_new(const qb_queue *queue, uint64_t seen)
{
    return atomic_load(&queue->generation) != seen;
}

static int
is_nobody_active(const qb_queue *queue, uint64_t unused)
{
    (void)unused;
    return atomic_load(&queue->active) == 0;
}

/* Look for a while whether a condition has come; return whether it has. */
static int
spin(const qb_queue *queue, int (*has_come)(const qb_queue *, uint64_t), uint64_t seen)
{
    int64_t begin = 0;
    for (;;) {
        for (int i = 0; i < SPIN_ROUNDS; i++) {
            if (has_come(queue, seen)) {
                return 1;
            }
            relax();
        }
        const int64_t now = now_ns();
        if (begin == 0) {
            begin = now;
        }
        else if (now - begin >= SPIN_NS) {
            return 0;
        }
    }
}

static void
wait_for_region(qb_queue *queue, uint64_t seen)
{
    if (spin(queue, is_region_new, seen)) {
        return;
    }
    (void)pthread_mutex_lock(&queue->mutex);
    atomic_fetch_add(&queue->sleepers, 1);
    while (atomic_load(&queue->generation) == seen) {
        (void)pthread_cond_wait(&queue->wake, &queue->mutex);
    }
    atomic_fetch_sub(&queue->sleepers, 1);
    (void)pthread_mutex_unlock(&queue->mutex);
}

/* The caller sleeps as well when a worker is late: that worker may be waiting for the very processor on which the
 * caller would spin. */
static void
wait_for_workers(qb_queue *queue)
{
    if (spin(queue, is_nobody_active, 0)) {
        return;
    }
    (void)pthread_mutex_lock(&queue->mutex);
    atomic_store(&queue->is_caller_asleep, 1);
    while (atomic_load(&queue->active) > 0) {
        (void)pthread_cond_wait(&queue->all_left, &queue->mutex);
    }
    atomic_store(&queue->is_caller_asleep, 0);
    (void)pthread_mutex_unlock(&queue->mutex);
}

/* Either the last worker to leave sees the caller asleep, or the caller sees that it has left: see the top. */
static void
leave_region(qb_queue *queue)
{
    if (atomic_fetch_sub(&queue->active, 1) == 1 && atomic_load(&queue->is_caller_asleep)) {
        (void)pthread_mutex_lock(&queue->mutex);
        (void)pthread_cond_signal(&queue->all_left);
        (void)pthread_mutex_unlock(&queue->mutex);
    }
}

static void *
worker_main(void *argument)
{
    const worker *self = argument;
    qb_queue *queue = self->queue;
    uint64_t seen = 0;
    for (;;) {
        wait_for_region(queue, seen);
        seen = atomic_load(&queue->generation);
        if (atomic_load(&queue->stopping)) {
            return NULL;
        }
        atomic_fetch_add(&queue->active, 1);
        if (atomic_load(&queue->open)) {
            work(queue, self->number, NULL);
        }
        leave_region(queue);
    }
}

static void
wake_workers(qb_queue *queue)
{
    atomic_fetch_add(&queue->generation, 1);
    if (atomic_load(&queue->sleepers) > 0) {
        (void)pthread_mutex_lock(&queue->mutex);
        (void)pthread_cond_broadcast(&queue->wake);
        (void)pthread_mutex_unlock(&queue->mutex);
    }
}

/* Everything about threads as in a new process: after fork the parent's workers do not exist here, and its mutex may
 * have been copied while locked. */
static void
forget_workers(qb_queue *queue)
{
    queue->started = 0;
    queue->process = getpid();
    atomic_store(&queue->open, 0);
    atomic_store(&queue->active, 0);
    atomic_store(&queue->sleepers, 0);
    atomic_store(&queue->is_caller_asleep, 0);
    atomic_store(&queue->stopping, 0);
    atomic_store(&queue->generation, 0);
    (void)pthread_mutex_init(&queue->mutex, NULL);
    (void)pthread_cond_init(&queue->wake, NULL);
    (void)pthread_cond_init(&queue->all_left, NULL);
}

/* Best effort: with fewer workers the result is the same and only later. */
static void
start_workers(qb_queue *queue)
{
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all); /* signals belong to the host's threads */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    while (queue->started < queue->threads - 1) {
        worker *w = &queue->workers[queue->started];
        w->queue = queue;
        w->number = queue->started + 1;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            break;
        }
        queue->started++;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void
stop_workers(qb_queue *queue)
{
    if (queue->process != getpid()) {
        forget_workers(queue);
        return;
    }
    if (queue->started == 0) {
        return;
    }
    atomic_store(&queue->stopping, 1);
    wake_workers(queue);
    for (int32_t i = 0; i < queue->started; i++) {
        (void)pthread_join(queue->workers[i].thread, NULL);
    }
    queue->started = 0;
    atomic_store(&queue->stopping, 0);
    /* New workers start from "seen 0": they must not take the stop for a region. */
    atomic_store(&queue->generation, 0);
}

static qb_status
resolve_threads(int32_t threads, int32_t *resolved, qb_error *error)
{
    if (threads < 0 || threads > QB_MAX_THREADS) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "num_threads is %d, expected 1 .. %d, or 0 for the default",
                       (int)threads, QB_MAX_THREADS);
    }
    *resolved = threads == 0 ? qb_available_threads() : threads;
    return QB_OK;
}

qb_status
qb_queue_create(qb_heap *heap, int32_t threads, qb_queue **queue, qb_error *error)
{
    int32_t resolved = 0;
    QB_TRY(resolve_threads(threads, &resolved, error));
    qb_queue *made = qb_heap_allocate_zero(heap, sizeof *made);
    worker *workers = qb_heap_allocate_zero(heap, (size_t)resolved * sizeof *workers);
    share *shares = qb_heap_allocate_zero(heap, (size_t)resolved * sizeof *shares);
    if (made == NULL || workers == NULL || shares == NULL) {
        qb_heap_release(heap, shares);
        qb_heap_release(heap, workers);
        qb_heap_release(heap, made);
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for a pool of %d threads", (int)resolved);
    }
    made->heap = heap;
    made->threads = resolved;
    made->workers = workers;
    made->shares = shares;
    forget_workers(made);
    *queue = made;
    return QB_OK;
}

void
qb_queue_destroy(qb_queue *queue)
{
    if (queue == NULL) {
        return;
    }
    stop_workers(queue);
    (void)pthread_cond_destroy(&queue->all_left);
    (void)pthread_cond_destroy(&queue->wake);
    (void)pthread_mutex_destroy(&queue->mutex);
    qb_heap_release(queue->heap, queue->shares);
    qb_heap_release(queue->heap, queue->workers);
    qb_heap_release(queue->heap, queue);
}

int32_t
qb_queue_threads(const qb_queue *queue)
{
    return queue->threads;
}

static int
try_own(qb_queue *queue)
{
    const pid_t self = getpid();
    pid_t owner = 0;
    while (!atomic_compare_exchange_strong(&queue->owner, &owner, self)) {
        if (owner == self) {
            return 0;
        }
    }
    return 1;
}

/* Another thread may fork the process at any moment, and its child goes on with what it finds: tables that are there
 * and hold `threads` at least. */
static void
replace_tables(qb_queue *queue, worker *workers, share *shares, int32_t threads)
{
    worker *old_workers = queue->workers;
    share *old_shares = queue->shares;
    queue->threads = threads < queue->threads ? threads : queue->threads;
    atomic_thread_fence(memory_order_seq_cst);
    queue->workers = workers;
    queue->shares = shares;
    atomic_thread_fence(memory_order_seq_cst);
    queue->threads = threads;
    qb_heap_release(queue->heap, old_shares);
    qb_heap_release(queue->heap, old_workers);
}

qb_status
qb_queue_set_threads(qb_queue *queue, int32_t threads, qb_error *error)
{
    int32_t resolved = 0;
    QB_TRY(resolve_threads(threads, &resolved, error));
    worker *workers = qb_heap_allocate_zero(queue->heap, (size_t)resolved * sizeof *workers);
    share *shares = qb_heap_allocate_zero(queue->heap, (size_t)resolved * sizeof *shares);
    if (workers == NULL || shares == NULL) {
        qb_heap_release(queue->heap, shares);
        qb_heap_release(queue->heap, workers);
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for a pool of %d threads", (int)resolved);
    }
    while (!try_own(queue)) {
        const struct timespec pause = {.tv_sec = 0, .tv_nsec = 50000};
        (void)nanosleep(&pause, NULL);
    }
    stop_workers(queue);
    replace_tables(queue, workers, shares, resolved);
    atomic_store(&queue->owner, 0);
    return QB_OK;
}

/* The region in the calling thread alone, without touching the queue, which belongs to somebody else. */
static qb_status
run_alone(const qb_interrupt *interrupt, int64_t count, int64_t grain, qb_range_function function, void *argument)
{
    int64_t last_poll_ns = now_ns();
    for (int64_t begin = 0; begin < count; begin += grain) {
        function(argument, begin, count - begin < grain ? count : begin + grain, 0);
        const int64_t now = interrupt == NULL ? last_poll_ns : now_ns();
        if (now - last_poll_ns >= POLL_PERIOD_NS) {
            last_poll_ns = now;
            if (interrupt->poll(interrupt->context)) {
                return QB_ERR_INTERRUPTED;
            }
        }
    }
    return QB_OK;
}

qb_status
qb_parallel_for(qb_queue *queue, const qb_interrupt *interrupt, int64_t count, int64_t grain,
                qb_range_function function, void *argument)
{
    if (count <= 0) {
        return QB_OK;
    }
    grain = grain < 1 ? 1 : grain;
    if (!try_own(queue)) {
        return run_alone(interrupt, count, grain, function, argument);
    }
    if (queue->process != getpid()) {
        forget_workers(queue);
    }
    queue->function = function;
    queue->argument = argument;
    queue->count = count;
    queue->grain = grain;
    share_out(queue);
    atomic_store(&queue->cancelled, 0);
    const int shared = queue->threads > 1 && count > grain;
    if (shared) {
        if (queue->started < queue->threads - 1) {
            start_workers(queue);
        }
        atomic_store(&queue->open, 1);
        wake_workers(queue);
    }
    work(queue, 0, interrupt);
    if (shared) {
        atomic_store(&queue->open, 0);
        wait_for_workers(queue);
    }
    const int cancelled = atomic_load(&queue->cancelled);
    atomic_store(&queue->owner, 0);
    return cancelled ? QB_ERR_INTERRUPTED : QB_OK;
}
