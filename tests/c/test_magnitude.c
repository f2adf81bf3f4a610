/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/magnitude.h"

#include <math.h>

#include "core/device.h"
#include "quant_check.h"

static float x[3 * 5 * 8191];

static void
any_axes_equal_the_definition_on_any_number_of_threads(void)
{
    const int64_t shape[3] = {3, 5, 8191};
    fill_uniform(x, 3 * 5 * 8191, 3.0f, 1);
    for (int32_t threads = 1; threads <= 4; threads++) {
        qb_device *device = open_device(threads, NULL);
        const qb_run run = qb_device_run(device, NULL, NULL);
        for (int mask = 0; mask < 8; mask++) {
            const int kept[QB_MAX_RANK] = {mask & 1, mask >> 1 & 1, mask >> 2 & 1};
            int64_t kept_shape[3];
            const int64_t count = qb_magnitude_shape(3, shape, kept, kept_shape);
            float *largest = malloc((size_t)(2 * count) * sizeof *largest);
            float *expected = largest + count;
            for (int64_t i = 0; i < count; i++) {
                expected[i] = 0.0f;
            }
            for (int64_t i = 0; i < 3 * 5 * 8191; i++) {
                const int64_t at[3] = {i / (5 * 8191), i / 8191 % 5, i % 8191};
                int64_t to = 0;
                for (int d = 0; d < 3; d++) {
                    to = to * kept_shape[d] + (kept[d] ? at[d] : 0);
                }
                expected[to] = fabsf(x[i]) > expected[to] ? fabsf(x[i]) : expected[to];
            }
            CHECK(qb_magnitude_per_axis(&run, x, 3, shape, kept, largest) == QB_OK);
            CHECK(memcmp(largest, expected, (size_t)count * sizeof *largest) == 0);
            free(largest);
        }
        qb_device_close(device);
    }
}

static void
nan_sticks_wherever_it_stands(void)
{
    qb_device *device = open_device(2, NULL);
    const qb_run run = qb_device_run(device, NULL, NULL);
    fill_uniform(x, 50000, 1.0f, 2);
    for (int64_t at = 0; at < 50000; at += 7919) {
        const float before = x[at];
        float largest = 0.0f;
        x[at] = NAN;
        CHECK(qb_magnitude_largest(&run, x, 50000, &largest) == QB_OK && isnan(largest));
        CHECK(qb_magnitude_find_nonfinite(x, 50000) == at);
        x[at] = before;
    }
    CHECK(qb_magnitude_find_nonfinite(x, 50000) == -1);
    qb_device_close(device);
}

static void
nothing_is_zero(void)
{
    qb_device *device = open_device(2, NULL);
    const qb_run run = qb_device_run(device, NULL, NULL);
    float largest[3] = {9.0f, 9.0f, 9.0f};
    const int kept[QB_MAX_RANK] = {1};
    CHECK(qb_magnitude_largest(&run, x, 0, largest) == QB_OK && largest[0] == 0.0f);
    largest[0] = 9.0f;
    CHECK(qb_magnitude_per_axis(&run, x, 2, (int64_t[]){3, 0}, kept, largest) == QB_OK);
    CHECK(largest[0] == 0.0f && largest[1] == 0.0f && largest[2] == 0.0f);
    qb_device_close(device);
}

static void
finding_one_range_allocates_nothing(void)
{
    qb_device *device = open_device(2, NULL);
    const qb_run run = qb_device_run(device, NULL, NULL);
    float largest = 0.0f;
    (void)qb_magnitude_largest(&run, x, 3 * 5 * 8191, &largest); /* starts the threads */
    const uint64_t before = qb_device_memory_statistics(device).allocations;
    CHECK(qb_magnitude_largest(&run, x, 3 * 5 * 8191, &largest) == QB_OK);
    CHECK(qb_device_memory_statistics(device).allocations == before);
    qb_device_close(device);
}

int
main(void)
{
    RUN(any_axes_equal_the_definition_on_any_number_of_threads);
    RUN(nan_sticks_wherever_it_stands);
    RUN(nothing_is_zero);
    RUN(finding_one_range_allocates_nothing);
    return check_report();
}
