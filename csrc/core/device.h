/* SPDX-License-Identifier: Apache-2.0
 *
 * A device: kernels, threads and memory of one machine.  Reference counted, because hosts with garbage collectors
 * destroy in any order: models, sessions, quantizers and observers retain it.
 */
#ifndef QB_CORE_DEVICE_H
#define QB_CORE_DEVICE_H

#include <stdatomic.h>

#include "core/run.h"

struct qb_device {
    _Atomic int64_t references;
    qb_heap heap;       /* counts everything the device's objects allocate */
    qb_kernels kernels; /* constant after open */
    qb_queue *queue;
    _Atomic int bf16_is_checked; /* its bf16 products were tried, and had the bits of their contract */
};

/* A run without interrupt and path. */
static inline qb_run
qb_device_run(qb_device *device, const qb_interrupt *interrupt, qb_error *error)
{
    return (qb_run){.kernels = &device->kernels,
                    .queue = device->queue,
                    .heap = &device->heap,
                    .interrupt = interrupt,
                    .path = NULL,
                    .error = error};
}

#endif
