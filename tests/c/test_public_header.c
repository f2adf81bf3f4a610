/* SPDX-License-Identifier: Apache-2.0
 *
 * The public header stands alone as C11 here and as C++17 in test_public_header_cxx.cpp, and so does device.h, which
 * comes before all else in it; the library's first words work through it alone.
 */
#include "qdqbert/qdqbert.h"

#include "check.h"

static void
kernels_and_variants_are_listed(void)
{
    CHECK(qb_kernel_count() > 10);
    for (size_t i = 0; i < qb_kernel_count(); i++) {
        CHECK(qb_kernel_name(i) != NULL);
    }
    CHECK(qb_kernel_name(qb_kernel_count()) == NULL);
    CHECK(strcmp(qb_variant_name(0), "ref") == 0 && qb_variant_is_supported(0));
    CHECK(qb_variant_name(qb_variant_count()) == NULL);
}

static void
every_supported_variant_opens_by_name(void)
{
    for (size_t i = 0; i < qb_variant_count(); i++) {
        const qb_device_options options = {.struct_size = sizeof options, .isa = qb_variant_name(i), .num_threads = 1};
        qb_device *device = NULL;
        qb_error error;
        const qb_status status = qb_device_open(&options, &device, &error);
        if (!qb_variant_is_supported(i)) {
            CHECK(status == QB_ERR_UNSUPPORTED && device == NULL);
            CHECK_CONTAINS(error.message, qb_variant_name(i));
            continue;
        }
        CHECK(status == QB_OK);
        CHECK(strcmp(qb_device_isa(device), qb_variant_name(i)) == 0);
        CHECK(qb_device_num_threads(device) == 1);
        for (size_t k = 0; k < qb_kernel_count(); k++) {
            CHECK(qb_device_kernel_variant(device, k) != NULL);
        }
        qb_device_close(device);
    }
}

static void
an_unknown_isa_is_refused_with_the_known_ones(void)
{
    const qb_device_options options = {.struct_size = sizeof options, .isa = "avx9000"};
    qb_device *device = NULL;
    qb_error error;
    CHECK(qb_device_open(&options, &device, &error) == QB_ERR_VALUE);
    CHECK(device == NULL);
    CHECK_CONTAINS(error.message, "avx9000");
    CHECK_CONTAINS(error.message, "ref");
}

static void
thread_counts_out_of_range_are_refused(void)
{
    qb_device_options options = {.struct_size = sizeof options, .num_threads = 1025};
    qb_device *device = NULL;
    qb_error error;
    CHECK(qb_device_open(&options, &device, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "1025");
    options.num_threads = -1;
    CHECK(qb_device_open(&options, &device, &error) == QB_ERR_VALUE);
}

static void
older_option_structs_read_as_zero_beyond_their_size(void)
{
    qb_device_options options = {.struct_size = sizeof options.struct_size, .isa = "nonsense", .num_threads = -7};
    qb_device *device = NULL;
    CHECK(qb_device_open(&options, &device, NULL) == QB_OK);
    CHECK(qb_device_num_threads(device) >= 1);
    CHECK(qb_device_set_num_threads(device, 3, NULL) == QB_OK);
    CHECK(qb_device_num_threads(device) == 3);
    CHECK(qb_device_retain(device) == device);
    qb_device_close(device);
    CHECK(qb_device_num_threads(device) == 3); /* still alive */
    qb_device_close(device);
    qb_device_close(NULL);
}

int
main(void)
{
    RUN(kernels_and_variants_are_listed);
    RUN(every_supported_variant_opens_by_name);
    RUN(an_unknown_isa_is_refused_with_the_known_ones);
    RUN(thread_counts_out_of_range_are_refused);
    RUN(older_option_structs_read_as_zero_beyond_their_size);
    return check_report();
}
