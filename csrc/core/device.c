/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device.h"

#include <stdlib.h>
#include <string.h>

#include "core/bf16_check.h"

/* The caller's options, with zero for what its older struct lacks. */
static qb_device_options
read_options(const qb_device_options *options)
{
    qb_device_options known = {.struct_size = sizeof known};
    if (options != NULL) {
        const size_t size = options->struct_size < sizeof known ? options->struct_size : sizeof known;
        memcpy(&known, options, size);
    }
    return known;
}

qb_status
qb_device_open(const qb_device_options *options, qb_device **device, qb_error *error)
{
    const qb_device_options wanted = read_options(options);
    const char *isa = wanted.isa;
    if (isa == NULL) {
        isa = getenv("QDQBERT_CPU_ISA"); /* the only environment variable that C reads, and only here */
        isa = isa != NULL && *isa != '\0' ? isa : NULL;
    }
    /* The device holds its own heap, so its block comes from a temporary one and the heap is moved into it: the device
     * itself is then the first block that it counts. */
    qb_heap heap;
    qb_heap_init(&heap, wanted.allocator);
    qb_device *made = qb_heap_allocate_zero(&heap, sizeof *made);
    if (made == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for a device");
    }
    memcpy(&made->heap, &heap, sizeof heap);
    atomic_init(&made->references, 1);
    atomic_init(&made->bf16_is_checked, 0);
    qb_status status = qb_cpu_kernels_select(isa, &made->kernels, error);
    if (status == QB_OK) {
        status = qb_queue_create(&made->heap, wanted.num_threads, &made->queue, error);
    }
    if (status != QB_OK) {
        qb_device_close(made);
        return status;
    }
    *device = made;
    return QB_OK;
}

qb_device *
qb_device_retain(qb_device *device)
{
    if (device != NULL) {
        atomic_fetch_add(&device->references, 1);
    }
    return device;
}

void
qb_device_close(qb_device *device)
{
    if (device == NULL || atomic_fetch_sub(&device->references, 1) != 1) {
        return;
    }
    qb_queue_destroy(device->queue);
    qb_heap heap;
    memcpy(&heap, &device->heap, sizeof heap);
    qb_heap_release(&heap, device);
}

const char *
qb_device_isa(const qb_device *device)
{
    return device->kernels.isa;
}

qb_status
qb_device_check_bf16(qb_device *device, qb_error *error)
{
    if (!device->kernels.has_bf16) {
        return qb_fail(error, NULL, QB_ERR_UNSUPPORTED,
                       "the device's kernels are '%s', which have no bf16 products; 'avx512_bf16', of CPUs with "
                       "AVX512-BF16, has them, and so has 'ref', slowly",
                       device->kernels.isa);
    }
    if (atomic_load_explicit(&device->bf16_is_checked, memory_order_relaxed)) {
        return QB_OK;
    }
    qb_kernels reference;
    QB_TRY(qb_cpu_kernels_select("ref", &reference, error));
    if (device->kernels.product_bf16 != reference.product_bf16) {
        QB_TRY(qb_bf16_check(&device->kernels, &reference, &device->heap, error));
    }
    atomic_store_explicit(&device->bf16_is_checked, 1, memory_order_relaxed);
    return QB_OK;
}

int64_t
qb_device_peak(const qb_device *device, int32_t is_integer, int64_t rounds)
{
    int64_t operations = 0;
    (is_integer ? device->kernels.peak_qs8 : device->kernels.peak_f32)(rounds, &operations);
    return operations;
}

int32_t
qb_device_num_threads(const qb_device *device)
{
    return qb_queue_threads(device->queue);
}

qb_status
qb_device_set_num_threads(qb_device *device, int32_t num_threads, qb_error *error)
{
    return qb_queue_set_threads(device->queue, num_threads, error);
}

qb_memory_statistics
qb_device_memory_statistics(const qb_device *device)
{
    return qb_heap_statistics(&device->heap);
}

const char *
qb_device_kernel_variant(const qb_device *device, size_t index)
{
    return index < QB_KERNEL_COUNT ? device->kernels.variant[index] : NULL;
}
