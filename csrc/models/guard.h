/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may do what to a model at the same time: any number of forwards, or one that collects statistics, or one change.
 * Beside forwards one backward may run, or changes of gradients alone.
 *
 * A change never waits: a caller that may hold an interpreter's lock must not block on a forward that wants that lock
 * to ask about interrupts.  It is refused with QB_ERR_STATE.  A forward waits only for another forward that is making
 * the packed weights of the present epoch.  There are packings of two kinds, for float32 and for bfloat16 products, and
 * each is made when the first forward that needs it begins, beside forwards that run on the other.
 *
 * The epoch counts changes (SQLite's schema cookie): what was made from parameters and quantizers remembers it.
 *
 * A forked child has one thread, and none of those that were using the model: its first entry forgets them.  Only a
 * change that one of them had begun cannot be undone, and refuses every forward of the child.
 */
#ifndef QB_MODELS_GUARD_H
#define QB_MODELS_GUARD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/status.h"

typedef enum qb_packing { QB_PACKING_F32 = 0, QB_PACKING_BF16, QB_PACKING_COUNT } qb_packing;

typedef struct qb_guard {
    _Atomic pid_t process; /* whose threads are counted below; negative while they are being forgotten */
    pthread_mutex_t mutex; /* protects everything below */
    pthread_cond_t prepared_one;
    int64_t readers;  /* forwards that run */
    int is_exclusive; /* the one reader collects statistics */
    int is_backward;  /* one of the readers is a backward */
    int is_preparing;
    int is_torn;                         /* a thread of another process had begun a change */
    int64_t writers;                     /* changes under way */
    int64_t gradient_writers;            /* changes of gradients under way */
    uint64_t epoch;                      /* starts at 1 */
    uint64_t prepared[QB_PACKING_COUNT]; /* the epoch for which packed weights are complete; 0: none */
} qb_guard;

/* Makes the packed weights of the present epoch; called while nobody else uses them. */
typedef qb_status (*qb_prepare_function)(void *context);

qb_status qb_guard_init(qb_guard *guard, qb_error *error);
void qb_guard_destroy(qb_guard *guard);

/* QB_ERR_STATE while a forward runs; otherwise qb_guard_end_write must follow, which advances the epoch. */
qb_status qb_guard_begin_write(qb_guard *guard, qb_error *error);
void qb_guard_end_write(qb_guard *guard);

/* The epoch; QB_ERR_STATE while a change is under way. */
qb_status qb_guard_epoch(qb_guard *guard, uint64_t *epoch, qb_error *error);

/* Enter a forward, after `prepare` brought the packed weights up to date if they are not.  QB_ERR_STATE: statistics are
 * being collected by another session, or are to be collected while another session runs, or a change is under way; or
 * whatever prepare returns. */
qb_status qb_guard_begin_forward(qb_guard *guard, int is_exclusive, qb_packing packing, qb_prepare_function prepare,
                                 void *context, qb_error *error);
void qb_guard_end_forward(qb_guard *guard);

/* Read parameters and quantizers, and no packed weights: a forward that needs none to be prepared, so that it never
 * waits.  QB_ERR_STATE as there; otherwise qb_guard_end_forward must follow. */
qb_status qb_guard_begin_read(qb_guard *guard, qb_error *error);

/* Enter the backward of a forward that ran in `epoch`.  QB_ERR_STATE: the epoch is another one by now, or another
 * backward runs, whose gradients must not mix with these, or a change is under way. */
qb_status qb_guard_begin_backward(qb_guard *guard, uint64_t epoch, qb_packing packing, qb_error *error);
void qb_guard_end_backward(qb_guard *guard);

/* A change of what only backward and optimizers look at: gradients, and whether there are any.  Forwards may run, and
 * the epoch stays.  QB_ERR_STATE while a backward runs. */
qb_status qb_guard_begin_gradient_write(qb_guard *guard, qb_error *error);
void qb_guard_end_gradient_write(qb_guard *guard);

#endif
