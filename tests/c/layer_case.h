/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests of layers share: devices of every variant and several thread counts, quantizers, planned memory, and the
 * naive arithmetic of NUMERICS section 4 that layers are compared with.
 */
#ifndef QB_TESTS_LAYER_CASE_H
#define QB_TESTS_LAYER_CASE_H

#include <math.h>
#include <stdint.h>

#include "check.h"
#include "core/arena.h"
#include "core/device.h"
#include "layers/scratch.h"
#include "layers/visit.h"
#include "quant/observer.h"
#include "quant/quantizer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { MAX_DEVICES = 24 };

/* Every variant that this machine runs, with 1, 2 and 3 threads; at[0] is the reference on one thread. */
typedef struct case_devices {
    qb_device *at[MAX_DEVICES];
    size_t count;
} case_devices;

static inline qb_device *
case_device(const char *isa, int32_t threads)
{
    const qb_device_options options = {.struct_size = sizeof options, .isa = isa, .num_threads = threads};
    qb_device *device = NULL;
    qb_error error;
    if (qb_device_open(&options, &device, &error) != QB_OK) {
        (void)fprintf(stderr, "%s\n", error.message);
        exit(EXIT_FAILURE);
    }
    return device;
}

static inline case_devices
case_devices_open(void)
{
    case_devices devices = {.count = 0};
    for (size_t i = 0; i < qb_variant_count(); i++) {
        for (int32_t threads = 1; qb_variant_is_supported(i) && threads <= 3; threads++) {
            devices.at[devices.count++] = case_device(qb_variant_name(i), threads);
        }
    }
    return devices;
}

/* Those of them that have bf16 products. */
static inline case_devices
case_bf16_devices_open(void)
{
    const case_devices all = case_devices_open();
    case_devices kept = {.count = 0};
    for (size_t i = 0; i < all.count; i++) {
        if (all.at[i]->kernels.has_bf16) {
            kept.at[kept.count++] = all.at[i];
        }
        else {
            qb_device_close(all.at[i]);
        }
    }
    return kept;
}

static inline void
case_devices_close(case_devices *devices)
{
    for (size_t i = 0; i < devices->count; i++) {
        qb_device_close(devices->at[i]);
    }
}

static inline void *
case_memory(size_t bytes)
{
    void *memory = calloc(1, bytes == 0 ? 1 : bytes);
    if (memory == NULL) {
        (void)fprintf(stderr, "no memory for a test\n");
        exit(EXIT_FAILURE);
    }
    return memory;
}

/* n numbers, uniform in [-size, size). */
static inline float *
case_random(int64_t n, float size, unsigned long long seed)
{
    float *x = case_memory((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = size * check_uniform(&seed);
    }
    return x;
}

static inline int
same_bits(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a) != 0) {
            (void)fprintf(stderr, "element %lld of %lld: %a and %a\n", (long long)i, (long long)n, (double)a[i],
                          (double)b[i]);
            return 0;
        }
    }
    return 1;
}

/* Every element is +0; NaN, as tests fill memory with, is not. */
static inline int
all_zero(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (!(x[i] == 0.0f) || signbit(x[i])) {
            return 0;
        }
    }
    return 1;
}

/* ---- quantizers ------------------------------------------------------------------------------------------------- */

/* Signed, full range, per tensor (axis_count -1) or along axis 0. */
static inline qb_quantizer_options
case_quantizer_options(int32_t num_bits, int keeps_axis_0)
{
    qb_quantizer_options options = {.struct_size = sizeof options,
                                    .format = QB_FORMAT_INTEGER,
                                    .num_bits = num_bits,
                                    .fake_quant = 1,
                                    .axis_count = keeps_axis_0 ? 1 : -1};
    return options;
}

static inline qb_quantizer *
case_quantizer(qb_device *device, int32_t num_bits, int keeps_axis_0)
{
    const qb_quantizer_options options = case_quantizer_options(num_bits, keeps_axis_0);
    qb_quantizer *quantizer = NULL;
    CHECK(qb_quantizer_create(device, &options, &quantizer, NULL) == QB_OK);
    return quantizer;
}

/* Fixed per-tensor range. */
static inline void
case_set_amax(qb_quantizer *quantizer, float amax)
{
    CHECK(qb_quantizer_set_amax(quantizer, &amax, 0, NULL, NULL) == QB_OK);
}

static inline qb_observer *
case_max_observer(qb_device *device)
{
    const qb_observer_options options = {.struct_size = sizeof options, .kind = QB_OBSERVER_MAX, .axis_count = -1};
    qb_observer *observer = NULL;
    CHECK(qb_observer_create(device, &options, &observer, NULL) == QB_OK);
    return observer;
}

static inline float
case_observed(const qb_observer *observer)
{
    const float *values = NULL;
    int32_t rank = 0;
    const int64_t *shape = NULL;
    return qb_observer_amax(observer, &values, &rank, &shape, NULL) == QB_OK ? values[0] : -1.0f;
}

/* ---- naive arithmetic ------------------------------------------------------------------------------------------- */

static inline float
naive_amax(const float *x, int64_t n)
{
    float amax = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    }
    return amax;
}

static inline float
naive_scale(float amax, int32_t num_bits)
{
    return (float)((1 << (num_bits - 1)) - 1) / amax;
}

static inline int32_t
naive_code(float x, float scale, int32_t num_bits)
{
    const float bound = (float)((1 << (num_bits - 1)) - 1);
    float q = rintf(x * scale);
    q = q > bound ? bound : q;
    q = q < -bound - 1.0f ? -bound - 1.0f : q;
    return (int32_t)q;
}

/* ---- memory of one layer ---------------------------------------------------------------------------------------- */

typedef struct case_plan {
    void *arena_block;
    void *scratch_block;
    qb_scratch scratch;
} case_plan;

/* Scratch for the device's threads. */
static inline void
case_plan_scratch(case_plan *plan, const qb_device *device, size_t bytes)
{
    const int32_t threads = qb_queue_threads(device->queue);
    qb_arena arena = qb_arena_measuring();
    qb_scratch_plan(&plan->scratch, &arena, threads, bytes);
    plan->scratch_block = aligned_alloc(64, arena.used);
    arena = qb_arena_bind(plan->scratch_block, arena.used);
    qb_scratch_plan(&plan->scratch, &arena, threads, bytes);
    qb_scratch_reset(&plan->scratch);
}

static inline void *
case_aligned(size_t bytes)
{
    return aligned_alloc(64, (bytes + 64) / 64 * 64);
}

static inline void
case_plan_free(case_plan *plan)
{
    free(plan->arena_block);
    free(plan->scratch_block);
}

#endif
