/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests of quantizers and observers share: a device whose memory can run out at a chosen allocation, and short
 * forms of common calls.
 */
#ifndef QB_TESTS_QUANT_CHECK_H
#define QB_TESTS_QUANT_CHECK_H

#include <stdlib.h>

#include "check.h"
#include "qdqbert/qdqbert.h"

/* Allocations that may still succeed; negative: all. */
typedef struct rationed_memory {
    long left;
} rationed_memory;

static inline void *
rationed_allocate(void *context, size_t size, size_t alignment)
{
    rationed_memory *memory = context;
    if (memory->left == 0) {
        return NULL;
    }
    if (memory->left > 0) {
        memory->left--;
    }
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static inline void
rationed_release(void *context, void *pointer, size_t size, size_t alignment)
{
    (void)context;
    (void)size;
    (void)alignment;
    free(pointer);
}

/* A device with `threads` threads; `memory` may be NULL. */
static inline qb_device *
open_device(int32_t threads, rationed_memory *memory)
{
    const qb_allocator allocator = {rationed_allocate, rationed_release, memory};
    const qb_device_options options = {
        .struct_size = sizeof options, .num_threads = threads, .allocator = memory != NULL ? &allocator : NULL};
    qb_device *device = NULL;
    qb_error error;
    if (qb_device_open(&options, &device, &error) != QB_OK) {
        (void)fprintf(stderr, "device: %s\n", error.message);
        exit(EXIT_FAILURE);
    }
    return device;
}

static inline qb_observer_options
max_options(void)
{
    return (qb_observer_options){.struct_size = sizeof(qb_observer_options), .kind = QB_OBSERVER_MAX, .axis_count = -1};
}

static inline qb_observer_options
histogram_options(qb_histogram_rule rule, int64_t bins)
{
    return (qb_observer_options){.struct_size = sizeof(qb_observer_options),
                                 .kind = QB_OBSERVER_HISTOGRAM,
                                 .axis_count = -1,
                                 .num_bins = bins,
                                 .rule = rule};
}

static inline qb_quantizer_options
int8_options(void)
{
    return (qb_quantizer_options){.struct_size = sizeof(qb_quantizer_options),
                                  .format = QB_FORMAT_INTEGER,
                                  .num_bits = 8,
                                  .fake_quant = 1,
                                  .axis_count = -1};
}

static inline qb_observer *
new_observer(qb_device *device, qb_observer_options options)
{
    qb_observer *observer = NULL;
    CHECK(qb_observer_create(device, &options, &observer, NULL) == QB_OK);
    return observer;
}

static inline qb_quantizer *
new_quantizer(qb_device *device, qb_quantizer_options options)
{
    qb_quantizer *quantizer = NULL;
    CHECK(qb_quantizer_create(device, &options, &quantizer, NULL) == QB_OK);
    return quantizer;
}

static inline qb_status
collect(qb_observer *observer, const float *x, int64_t count)
{
    return qb_observer_collect(observer, NULL, x, 1, &count, NULL);
}

/* Sum of the counts, or -1 before any data. */
static inline int64_t
counted(const qb_observer *observer)
{
    const int64_t *counts = NULL;
    const float *edges = NULL;
    int64_t bins = 0;
    if (qb_observer_histogram(observer, &counts, &edges, &bins, NULL) != QB_OK) {
        return -1;
    }
    int64_t sum = 0;
    for (int64_t i = 0; i < bins; i++) {
        sum += counts[i];
    }
    return sum;
}

static inline void
fill_uniform(float *x, int64_t count, float range, unsigned long long seed)
{
    for (int64_t i = 0; i < count; i++) {
        x[i] = check_uniform(&seed) * range;
    }
}

#endif
