/* SPDX-License-Identifier: Apache-2.0
 *
 * Timing of products: every repeat gets a time, on every variant and number of threads, and wrong numbers get a name.
 */
#include "layer_case.h"

static const qb_product_trial usual = {
    .struct_size = sizeof usual, .is_integer = 1, .rows = 37, .n = 53, .k = 29, .weights = 3, .repeats = 7};

static void
test_every_repeat_is_timed(void)
{
    case_devices devices = case_devices_open();
    for (size_t i = 0; i < devices.count; i++) {
        for (int is_integer = 0; is_integer < 2; is_integer++) {
            qb_product_trial trial = usual;
            double seconds[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
            const uint64_t blocks = qb_device_memory_statistics(devices.at[i]).live_blocks;
            trial.is_integer = is_integer;
            CHECK(qb_device_time_product(devices.at[i], &trial, NULL, seconds, NULL) == QB_OK);
            for (int r = 0; r < 7; r++) {
                CHECK(seconds[r] >= 0.0);
            }
            CHECK(seconds[7] == -1);
            CHECK(qb_device_memory_statistics(devices.at[i]).live_blocks == blocks);
        }
    }
    case_devices_close(&devices);
}

static void
test_a_number_out_of_range_is_named(void)
{
    qb_device *device = case_device("ref", 1);
    const struct {
        size_t offset;
        const char *name;
        int64_t most;
    } numbers[] = {{offsetof(qb_product_trial, rows), "rows", 65536},
                   {offsetof(qb_product_trial, n), "n", 65536},
                   {offsetof(qb_product_trial, k), "k", 65536},
                   {offsetof(qb_product_trial, weights), "weights", 1024},
                   {offsetof(qb_product_trial, repeats), "repeats", 1000000}};
    for (size_t i = 0; i < COUNT(numbers); i++) {
        const int64_t wrong[] = {0, -1, numbers[i].most + 1};
        for (size_t j = 0; j < COUNT(wrong); j++) {
            qb_product_trial trial = usual;
            qb_error error = {.status = QB_OK};
            memcpy((char *)&trial + numbers[i].offset, &wrong[j], sizeof wrong[j]);
            CHECK(qb_device_time_product(device, &trial, NULL, NULL, &error) == QB_ERR_VALUE);
            CHECK(strncmp(error.message, numbers[i].name, strlen(numbers[i].name)) == 0);
        }
    }
    qb_device_close(device);
}

static int
always_stop(void *context)
{
    (void)context;
    return 1;
}

static void
test_it_can_be_interrupted(void)
{
    qb_device *device = case_device(NULL, 2);
    const qb_interrupt interrupt = {.poll = always_stop};
    double seconds[7];
    const uint64_t blocks = qb_device_memory_statistics(device).live_blocks;
    CHECK(qb_device_time_product(device, &usual, &interrupt, seconds, NULL) == QB_ERR_INTERRUPTED);
    CHECK(qb_device_memory_statistics(device).live_blocks == blocks);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_every_repeat_is_timed);
    RUN(test_a_number_out_of_range_is_named);
    RUN(test_it_can_be_interrupted);
    return check_report();
}
