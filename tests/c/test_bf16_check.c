/* SPDX-License-Identifier: Apache-2.0
 *
 * Which devices have bf16 products, and that kernels which compute something else are found out.
 */
#include "core/bf16_check.h"

#include "kernels/bf16.h"
#include "layer_case.h"

static float
rounded(float x)
{
    const uint32_t bits = qb_bf16_bits(x) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- what a chip might do instead
 * ------------------------------------------------------------------------------------- */

/* A product of rounded operands in an order and with an accumulator of its own, on b as the reference packs it, which
 * the forged pack leaves as it was. */
typedef struct reading {
    int even_first, keeps_denormals, flushes_before_rounding, adds_pairs_first;
} reading;

static reading chosen; /* a kernel has no place for an argument of its own */

static void
forged_size(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    *panel = 1;
    *bytes = (size_t)(n * k) * sizeof(float);
    *scratch = 0;
}

static void
forged_pack(const float *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n, int64_t k,
            void *packed)
{
    float *out = packed;
    (void)n;
    for (int64_t i = n0 * k; i < n1 * k; i++) {
        out[i] = rounded(b[i / k * column_stride + i % k * depth_stride]);
    }
}

static float
flushed(float value, double exact)
{
    if (chosen.keeps_denormals) {
        return value;
    }
    if (chosen.flushes_before_rounding) {
        return fabs(exact) < 0x1p-126 ? copysignf(0.0f, value) : value;
    }
    return fabs(exact) < 0x1p-126 - 0x1p-151 ? copysignf(0.0f, value) : value;
}

static void
forged_product(const float *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n, int64_t k,
               const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    (void)n;
    (void)epilogue;
    (void)scratch;
    for (int64_t i = 0; i < m * (n1 - n0); i++) {
        const float *x = a + i / (n1 - n0) * lda;
        const float *y = (const float *)packed + (n0 + i % (n1 - n0)) * k;
        float sum = 0.0f;
        for (int64_t p = 0; 2 * p < k; p++) {
            const int has_odd = 2 * p + 1 < k;
            float factors[2][2] = {{rounded(x[2 * p]), y[2 * p]}, {0.0f, 0.0f}};
            if (has_odd) {
                factors[1][0] = rounded(x[2 * p + 1]);
                factors[1][1] = y[2 * p + 1];
            }
            if (chosen.adds_pairs_first) {
                const double pair =
                    (double)factors[0][0] * (double)factors[0][1] + (double)factors[1][0] * (double)factors[1][1];
                sum = flushed((float)(pair + (double)sum), pair + (double)sum);
                continue;
            }
            for (int second = 0; second < 2; second++) {
                const float *f = factors[chosen.even_first ? second : !second];
                sum = flushed(fmaf(f[0], f[1], sum), (double)f[0] * (double)f[1] + (double)sum);
            }
        }
        c[i / (n1 - n0) * ldc + n0 + i % (n1 - n0)] = sum;
    }
}

static qb_status
check_reading(qb_device *device, reading how, qb_error *error)
{
    const qb_kernels *reference = &device->kernels;
    qb_kernels forged = *reference;
    forged.pack_bf16_size = forged_size;
    forged.pack_bf16 = forged_pack;
    forged.product_bf16 = forged_product;
    forged.variant[QB_KERNEL_INDEX_product_bf16] = "forged";
    chosen = how;
    return qb_bf16_check(&forged, reference, &device->heap, error);
}

static void
test_any_other_reading_of_the_instruction_is_found_out(void)
{
    static const reading wrong[] = {
        {.even_first = 1}, {.keeps_denormals = 1}, {.flushes_before_rounding = 1}, {.adds_pairs_first = 1}};
    qb_device *device = case_device("ref", 1);
    qb_error error;
    const uint64_t live = qb_device_memory_statistics(device).live_bytes;

    CHECK(check_reading(device, (reading){.even_first = 0}, &error) == QB_OK);

    for (size_t i = 0; i < COUNT(wrong); i++) {
        CHECK(check_reading(device, wrong[i], &error) == QB_ERR_UNSUPPORTED);
        CHECK_CONTAINS(error.message, "bf16 products of the forged kernels are not what the instruction is documented");
    }
    CHECK(qb_device_memory_statistics(device).live_bytes == live);
    qb_device_close(device);
}

static void
test_a_device_has_them_where_they_are_as_fast_as_its_float_products(void)
{
    for (size_t v = 0; v < qb_variant_count(); v++) {
        if (!qb_variant_is_supported(v)) {
            continue;
        }
        const char *name = qb_variant_name(v);
        qb_device *device = case_device(name, 1);
        qb_error error;
        const int has = strcmp(name, "ref") == 0 || strcmp(name, "openblas") == 0 || strcmp(name, "avx512_bf16") == 0;
        const qb_status status = qb_device_check_bf16(device, &error);
        CHECK(device->kernels.has_bf16 == has);
        CHECK(status == (has ? QB_OK : QB_ERR_UNSUPPORTED));
        if (!has) {
            CHECK_CONTAINS(error.message, name);
            CHECK_CONTAINS(error.message, "AVX512-BF16");
        }
        qb_device_close(device);
    }
}

/* The reference has nothing to be compared with; others are compared once. */
static void
test_they_are_tried_once_and_leave_nothing_behind(void)
{
    case_devices devices = case_bf16_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        qb_device *device = devices.at[d];
        const int is_reference = strcmp(device->kernels.variant[QB_KERNEL_INDEX_product_bf16], "ref") == 0;
        const qb_memory_statistics before = qb_device_memory_statistics(device);
        CHECK(qb_device_check_bf16(device, NULL) == QB_OK);
        const qb_memory_statistics after = qb_device_memory_statistics(device);
        CHECK((after.allocations == before.allocations) == is_reference && after.live_bytes == before.live_bytes);
        CHECK(qb_device_check_bf16(device, NULL) == QB_OK);
        CHECK(qb_device_memory_statistics(device).allocations == after.allocations);
    }
    case_devices_close(&devices);
}

int
main(void)
{
    RUN(test_any_other_reading_of_the_instruction_is_found_out);
    RUN(test_a_device_has_them_where_they_are_as_fast_as_its_float_products);
    RUN(test_they_are_tried_once_and_leave_nothing_behind);
    return check_report();
}
