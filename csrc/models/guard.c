/* SPDX-License-Identifier: Apache-2.0 */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#include "models/guard.h"

#include <sched.h>
#include <unistd.h>

qb_status
qb_guard_init(qb_guard *guard, qb_error *error)
{
    *guard = (qb_guard){.epoch = 1};
    atomic_init(&guard->process, getpid());
    if (pthread_mutex_init(&guard->mutex, NULL) != 0) {
        return qb_fail(error, NULL, QB_ERR_BACKEND, "the system refused a mutex");
    }
    if (pthread_cond_init(&guard->prepared_one, NULL) != 0) {
        (void)pthread_mutex_destroy(&guard->mutex);
        return qb_fail(error, NULL, QB_ERR_BACKEND, "the system refused a condition variable");
    }
    return QB_OK;
}

void
qb_guard_destroy(qb_guard *guard)
{
    (void)pthread_cond_destroy(&guard->prepared_one);
    (void)pthread_mutex_destroy(&guard->mutex);
}

/* The mutex may have been copied while another thread held it, so it is made anew. */
static void
forget_other_process(qb_guard *guard)
{
    (void)pthread_mutex_init(&guard->mutex, NULL);
    (void)pthread_cond_init(&guard->prepared_one, NULL);
    guard->readers = 0;
    guard->is_exclusive = 0;
    guard->is_backward = 0;
    guard->is_preparing = 0; /* what was being made is not of this epoch yet */
    guard->is_torn = guard->is_torn || guard->writers > 0;
    guard->writers = 0;
    guard->gradient_writers = 0;
}

/* Lock the mutex to begin something. */
static void
enter(qb_guard *guard)
{
    const pid_t self = getpid();
    pid_t process = atomic_load(&guard->process);
    while (process != self) {
        if (process == -self) { /* by another thread of the child */
            (void)sched_yield();
            process = atomic_load(&guard->process);
        }
        else if (atomic_compare_exchange_strong(&guard->process, &process, -self)) {
            forget_other_process(guard);
            atomic_store(&guard->process, self);
            break;
        }
    }
    (void)pthread_mutex_lock(&guard->mutex);
}

qb_status
qb_guard_begin_write(qb_guard *guard, qb_error *error)
{
    enter(guard);
    const int is_used = guard->readers > 0 || guard->is_preparing;
    guard->writers += !is_used;
    (void)pthread_mutex_unlock(&guard->mutex);
    return is_used ? qb_fail(error, NULL, QB_ERR_STATE, "the model runs a forward, expected it idle for a change")
                   : QB_OK;
}

void
qb_guard_end_write(qb_guard *guard)
{
    (void)pthread_mutex_lock(&guard->mutex);
    guard->writers--;
    guard->epoch++;
    (void)pthread_mutex_unlock(&guard->mutex);
}

qb_status
qb_guard_epoch(qb_guard *guard, uint64_t *epoch, qb_error *error)
{
    enter(guard);
    const int is_changing = guard->writers > 0;
    *epoch = guard->epoch;
    (void)pthread_mutex_unlock(&guard->mutex);
    return is_changing ? qb_fail(error, NULL, QB_ERR_STATE, "the model is being changed, expected it settled") : QB_OK;
}

/* Why a forward may not begin, or NULL.  The mutex is held and nobody prepares. */
static const char *
refusal(const qb_guard *guard, int is_exclusive)
{
    if (guard->writers > 0) {
        return "the model is being changed, expected it settled for a forward";
    }
    if (guard->is_torn) {
        return "this process was forked while a thread changed the model, so it has half of the change; expected a "
               "model that was idle then, or one made since";
    }
    if (guard->is_exclusive) {
        return "another session collects statistics, which takes the model for itself";
    }
    if (is_exclusive && guard->readers > 0) {
        return "collecting statistics takes the model for itself, but another session runs";
    }
    return NULL;
}

qb_status
qb_guard_begin_forward(qb_guard *guard, int is_exclusive, qb_packing packing, qb_prepare_function prepare,
                       void *context, qb_error *error)
{
    enter(guard);
    while (guard->is_preparing) {
        (void)pthread_cond_wait(&guard->prepared_one, &guard->mutex);
    }
    const char *why = refusal(guard, is_exclusive);
    qb_status status = why == NULL ? QB_OK : qb_fail(error, NULL, QB_ERR_STATE, "%s", why);
    /* An epoch that is not prepared implies that nobody runs on this packing: a change is refused while somebody does,
     * and nobody begins before it is prepared. */
    if (status == QB_OK && guard->prepared[packing] != guard->epoch) {
        guard->is_preparing = 1;
        (void)pthread_mutex_unlock(&guard->mutex);
        status = prepare(context);
        (void)pthread_mutex_lock(&guard->mutex);
        guard->is_preparing = 0;
        guard->prepared[packing] = status == QB_OK ? guard->epoch : 0;
        (void)pthread_cond_broadcast(&guard->prepared_one);
    }
    if (status == QB_OK) {
        guard->readers++;
        guard->is_exclusive = is_exclusive;
    }
    (void)pthread_mutex_unlock(&guard->mutex);
    return status;
}

qb_status
qb_guard_begin_read(qb_guard *guard, qb_error *error)
{
    enter(guard);
    const char *why = refusal(guard, 0);
    if (why == NULL) {
        guard->readers++;
    }
    (void)pthread_mutex_unlock(&guard->mutex);
    return why == NULL ? QB_OK : qb_fail(error, NULL, QB_ERR_STATE, "%s", why);
}

void
qb_guard_end_forward(qb_guard *guard)
{
    (void)pthread_mutex_lock(&guard->mutex);
    guard->readers--;
    guard->is_exclusive = 0;
    (void)pthread_mutex_unlock(&guard->mutex);
}

/* Why a backward may not begin, or NULL.  The mutex is held and nobody prepares. */
static const char *
refusal_of_backward(const qb_guard *guard, uint64_t epoch, qb_packing packing)
{
    if (guard->epoch != epoch || guard->prepared[packing] != epoch) {
        return "the model has changed since the forward, expected backward before the change";
    }
    if (guard->is_backward) {
        return "another thread runs backward on the model, whose gradients are added up by one at a time";
    }
    if (guard->gradient_writers > 0) {
        return "another thread changes the gradients of the model, expected them settled for backward";
    }
    return refusal(guard, 0);
}

qb_status
qb_guard_begin_backward(qb_guard *guard, uint64_t epoch, qb_packing packing, qb_error *error)
{
    enter(guard);
    while (guard->is_preparing) {
        (void)pthread_cond_wait(&guard->prepared_one, &guard->mutex);
    }
    const char *why = refusal_of_backward(guard, epoch, packing);
    if (why == NULL) {
        guard->readers++;
        guard->is_backward = 1;
    }
    (void)pthread_mutex_unlock(&guard->mutex);
    return why == NULL ? QB_OK : qb_fail(error, NULL, QB_ERR_STATE, "%s", why);
}

void
qb_guard_end_backward(qb_guard *guard)
{
    (void)pthread_mutex_lock(&guard->mutex);
    guard->readers--;
    guard->is_backward = 0;
    (void)pthread_mutex_unlock(&guard->mutex);
}

qb_status
qb_guard_begin_gradient_write(qb_guard *guard, qb_error *error)
{
    enter(guard);
    const int is_used = guard->is_backward;
    guard->gradient_writers += !is_used;
    (void)pthread_mutex_unlock(&guard->mutex);
    return is_used ? qb_fail(error, NULL, QB_ERR_STATE,
                             "the model runs a backward, expected none while its gradients are changed")
                   : QB_OK;
}

void
qb_guard_end_gradient_write(qb_guard *guard)
{
    (void)pthread_mutex_lock(&guard->mutex);
    guard->gradient_writers--;
    (void)pthread_mutex_unlock(&guard->mutex);
}
