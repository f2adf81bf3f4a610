/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/observer.h"

#include <math.h>

#include "core/device.h"
#include "quant_check.h"

enum { COUNT = 70001 };
static float x[COUNT];

static qb_observer_options
case_options(int which)
{
    qb_observer_options options = max_options();
    switch (which) {
    case 0:
        return options;
    case 1:
        options.track_amax = 1;
        return options;
    case 2:
        return histogram_options(QB_HISTOGRAM_FROM_ZERO, 100);
    case 3:
        return histogram_options(QB_HISTOGRAM_FROM_MIN, 100);
    default:
        options = histogram_options(QB_HISTOGRAM_FIXED, 100);
        options.fixed_max = 100.0f;
        return options;
    }
}

enum { CASES = 5 };

static int
same(const qb_observer *a, const qb_observer *b)
{
    const int64_t *counts[2];
    const float *edges[2];
    int64_t bins[2];
    const float *values[2];
    int32_t rank;
    const int64_t *shape;
    if (qb_observer_has_data(a) != qb_observer_has_data(b)) {
        return 0;
    }
    if (!qb_observer_has_data(a)) {
        return 1;
    }
    if (qb_observer_histogram(a, &counts[0], &edges[0], &bins[0], NULL) == QB_OK) {
        return qb_observer_histogram(b, &counts[1], &edges[1], &bins[1], NULL) == QB_OK && bins[0] == bins[1] &&
               memcmp(counts[0], counts[1], (size_t)bins[0] * sizeof *counts[0]) == 0 &&
               memcmp(edges[0], edges[1], (size_t)(bins[0] + 1) * sizeof *edges[0]) == 0;
    }
    return qb_observer_amax(a, &values[0], &rank, &shape, NULL) == QB_OK &&
           qb_observer_amax(b, &values[1], &rank, &shape, NULL) == QB_OK && *values[0] == *values[1] &&
           qb_observer_tracked_count(a) == qb_observer_tracked_count(b);
}

static void
a_group_sees_what_each_would_see_alone(void)
{
    qb_device *device = open_device(3, NULL);
    const qb_run run = qb_device_run(device, NULL, NULL);
    qb_observer *group[CASES + 2];
    qb_observer *alone[CASES + 2];
    for (int i = 0; i < CASES + 2; i++) {
        group[i] = new_observer(device, case_options(i % CASES == 0 && i > 0 ? 2 : i % CASES));
        alone[i] = new_observer(device, case_options(i % CASES == 0 && i > 0 ? 2 : i % CASES));
    }
    /* one histogram of the group has a past of its own, so its edges differ from its neighbour's */
    CHECK(collect(group[2], (float[]){1.5f}, 1) == QB_OK && collect(alone[2], (float[]){1.5f}, 1) == QB_OK);
    for (int batch = 1; batch <= 3; batch++) {
        const int64_t count = COUNT / batch;
        fill_uniform(x, count, (float)batch * 3.0f, (unsigned long long)batch);
        CHECK(qb_observer_collect_group(group, CASES + 2, &run, x, 1, &count) == QB_OK);
        for (int i = 0; i < CASES + 2; i++) {
            CHECK(collect(alone[i], x, count) == QB_OK);
            CHECK(same(group[i], alone[i]));
        }
    }
    for (int i = 0; i < CASES + 2; i++) {
        qb_observer_release(group[i]);
        qb_observer_release(alone[i]);
    }
    qb_device_close(device);
}

static void
an_observer_named_twice_counts_twice(void)
{
    qb_device *device = open_device(1, NULL);
    const qb_run run = qb_device_run(device, NULL, NULL);
    qb_observer *observer = new_observer(device, case_options(2));
    qb_observer *list[2] = {observer, observer};
    const int64_t count = 3;
    CHECK(qb_observer_collect_group(list, 2, &run, (float[]){1, 2, 3}, 1, &count) == QB_OK);
    CHECK(counted(observer) == 6);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
threads_change_nothing(void)
{
    fill_uniform(x, COUNT, 5.0f, 3);
    qb_observer *reference[CASES];
    qb_device *one = open_device(1, NULL);
    for (int i = 0; i < CASES; i++) {
        reference[i] = new_observer(one, case_options(i));
        CHECK(collect(reference[i], x, COUNT) == QB_OK);
    }
    for (int32_t threads = 2; threads < 6; threads++) {
        qb_device *device = open_device(threads, NULL);
        for (int i = 0; i < CASES; i++) {
            qb_observer *observer = new_observer(device, case_options(i));
            CHECK(collect(observer, x, COUNT) == QB_OK);
            CHECK(same(observer, reference[i]));
            qb_observer_release(observer);
        }
        qb_device_close(device);
    }
    for (int i = 0; i < CASES; i++) {
        qb_observer_release(reference[i]);
    }
    qb_device_close(one);
}

static void
a_nan_or_infinity_is_told_by_its_index_and_changes_nothing(void)
{
    qb_device *device = open_device(2, NULL);
    fill_uniform(x, COUNT, 5.0f, 4);
    for (int i = 0; i < CASES; i++) {
        qb_observer *observer = new_observer(device, case_options(i));
        qb_observer *before = new_observer(device, case_options(i));
        CHECK(collect(observer, x, 100) == QB_OK && collect(before, x, 100) == QB_OK);
        const float bad[2] = {NAN, -INFINITY};
        for (int b = 0; b < 2; b++) {
            const float saved = x[40123];
            x[40123] = bad[b];
            qb_error error;
            const int64_t count = COUNT;
            CHECK(qb_observer_collect(observer, NULL, x, 1, &count, &error) == QB_ERR_VALUE);
            CHECK_CONTAINS(error.message, "element 40123");
            CHECK(same(observer, before));
            x[40123] = saved;
        }
        qb_observer_release(observer);
        qb_observer_release(before);
    }
    qb_device_close(device);
}

static void
a_rollback_puts_back_what_begin_saw(void)
{
    qb_device *device = open_device(1, NULL);
    const qb_run run = qb_device_run(device, NULL, NULL);
    fill_uniform(x, COUNT, 5.0f, 5);
    for (int i = 0; i < CASES; i++) {
        for (int with_past = 0; with_past < 2; with_past++) {
            qb_observer *observer = new_observer(device, case_options(i));
            qb_observer *expected = new_observer(device, case_options(i));
            if (with_past) {
                CHECK(collect(observer, x, 500) == QB_OK && collect(expected, x, 500) == QB_OK);
            }
            for (int again = 0; again < 2; again++) {
                CHECK(qb_observer_begin(observer, &run) == QB_OK);
                CHECK(collect(observer, x + 500, 700) == QB_OK);
                CHECK(collect(observer, (float[]){50.0f}, 1) == QB_OK); /* grows */
                CHECK(!same(observer, expected));
                qb_observer_rollback(observer);
                CHECK(same(observer, expected));
                qb_observer_rollback(observer);
                qb_observer_commit(observer);
                CHECK(same(observer, expected));
            }
            CHECK(qb_observer_begin(observer, &run) == QB_OK);
            CHECK(qb_observer_begin(observer, &run) == QB_OK);
            CHECK(collect(observer, x + 500, 700) == QB_OK && collect(expected, x + 500, 700) == QB_OK);
            qb_observer_commit(observer);
            qb_observer_rollback(observer);
            CHECK(same(observer, expected));
            qb_observer_release(observer);
            qb_observer_release(expected);
        }
    }
    CHECK(qb_observer_begin(NULL, &run) == QB_OK);
    qb_observer_commit(NULL);
    qb_observer_rollback(NULL);
    qb_device_close(device);
}

static int
stop_at_once(void *context)
{
    (void)context;
    return 1;
}

static void
an_interrupted_collect_changes_nothing(void)
{
    qb_device *device = open_device(1, NULL);
    const qb_interrupt interrupt = {stop_at_once, NULL};
    static float long_x[1 << 22];
    fill_uniform(long_x, 1 << 22, 1.0f, 6);
    qb_observer *observer = new_observer(device, case_options(2));
    const int64_t count = 1 << 22;
    int interrupted = 0;
    /* the poll comes at most every 20 ms, so a quick machine may need several tries */
    for (int i = 0; i < 1000 && !interrupted; i++) {
        const int64_t before = counted(observer);
        const qb_status status = qb_observer_collect(observer, &interrupt, long_x, 1, &count, NULL);
        interrupted = status == QB_ERR_INTERRUPTED;
        CHECK(interrupted || status == QB_OK);
        CHECK(!interrupted || counted(observer) == before);
    }
    CHECK(interrupted);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
running_out_of_memory_anywhere_changes_nothing(void)
{
    fill_uniform(x, COUNT, 5.0f, 7);
    for (int i = 0; i < CASES; i++) {
        int succeeded = 0;
        for (long left = 0; left < 60 && !succeeded; left++) {
            rationed_memory memory = {-1};
            qb_device *device = open_device(2, &memory);
            qb_observer *observer = NULL;
            qb_observer_options options = case_options(i);
            const int64_t count = COUNT;
            qb_error error;
            memory.left = left;
            qb_status status = qb_observer_create(device, &options, &observer, &error);
            CHECK(status == QB_OK || (status == QB_ERR_NOMEM && observer == NULL));
            if (status == QB_OK) {
                status = qb_observer_collect(observer, NULL, x, 1, &count, &error);
                CHECK(status == QB_OK || (status == QB_ERR_NOMEM && !qb_observer_has_data(observer)));
            }
            if (status == QB_OK) {
                const qb_run run = qb_device_run(device, NULL, &error);
                status = qb_observer_begin(observer, &run);
                CHECK(status == QB_OK || status == QB_ERR_NOMEM);
            }
            if (status == QB_OK) {
                status = qb_observer_collect(observer, NULL, (float[]){60.0f}, 0, NULL, &error);
                CHECK(status == QB_OK || status == QB_ERR_NOMEM);
                qb_observer_rollback(observer);
                CHECK(options.kind != QB_OBSERVER_HISTOGRAM || counted(observer) == COUNT);
            }
            memory.left = -1;
            qb_observer_release(observer);
            CHECK(qb_device_memory_statistics(device).live_blocks > 0);
            qb_device_close(device);
            succeeded = status == QB_OK;
        }
        CHECK(succeeded);
    }
}

static void
nothing_leaks(void)
{
    qb_device *device = open_device(2, NULL);
    fill_uniform(x, COUNT, 5.0f, 8);
    qb_observer *warm = new_observer(device, case_options(2));
    CHECK(collect(warm, x, COUNT) == QB_OK); /* starts the threads */
    qb_observer_release(warm);
    const uint64_t live = qb_device_memory_statistics(device).live_blocks;
    const qb_run run = qb_device_run(device, NULL, NULL);
    for (int i = 0; i < CASES; i++) {
        qb_observer *observer = new_observer(device, case_options(i));
        CHECK(collect(observer, x, COUNT) == QB_OK);
        CHECK(qb_observer_begin(observer, &run) == QB_OK);
        CHECK(collect(observer, (float[]){70.0f}, 1) == QB_OK);
        qb_observer_release(observer); /* with an open journal */
    }
    CHECK(qb_device_memory_statistics(device).live_blocks == live);
    qb_device_close(device);
}

static void
memory_does_not_grow_with_batches(void)
{
    qb_device *device = open_device(2, NULL);
    fill_uniform(x, COUNT, 5.0f, 9);
    qb_observer *observer = new_observer(device, case_options(2));
    CHECK(collect(observer, x, COUNT) == QB_OK && collect(observer, x, COUNT) == QB_OK);
    const uint64_t peak = qb_device_memory_statistics(device).peak_bytes;
    for (int i = 0; i < 50; i++) {
        CHECK(collect(observer, x, COUNT) == QB_OK);
    }
    CHECK(qb_device_memory_statistics(device).peak_bytes == peak);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
a_frozen_observer_can_be_read_but_not_changed(void)
{
    qb_device *device = open_device(1, NULL);
    for (int which = 0; which < CASES; which++) {
        const qb_observer_options options = case_options(which);
        const int64_t shape[1] = {2};
        const float values[2] = {1.0f, -2.0f};
        qb_observer *observer = NULL;
        qb_error error;
        CHECK(qb_observer_create(device, &options, &observer, &error) == QB_OK);
        CHECK(qb_observer_collect(observer, NULL, values, 1, shape, &error) == QB_OK);

        CHECK(qb_observer_freeze(observer, &error) == QB_OK);
        CHECK(same(observer, observer));
        CHECK(qb_observer_collect(observer, NULL, values, 1, shape, &error) == QB_ERR_STATE);
        CHECK_CONTAINS(error.message, "in use");
        CHECK(qb_observer_reset(observer) == QB_ERR_STATE);
        CHECK(qb_observer_freeze(observer, &error) == QB_ERR_STATE);
        qb_observer_thaw(observer);

        CHECK(qb_observer_collect(observer, NULL, values, 1, shape, &error) == QB_OK);
        CHECK(qb_observer_reset(observer) == QB_OK);
        qb_observer_release(observer);
    }
    qb_device_close(device);
}

static void
wrong_options_are_named(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = NULL;
    qb_error error;
    qb_observer_options options = histogram_options(QB_HISTOGRAM_FROM_ZERO, 0);
    CHECK(qb_observer_create(device, &options, &observer, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "num_bins is 0");
    options = histogram_options(QB_HISTOGRAM_FIXED, 8);
    CHECK(qb_observer_create(device, &options, &observer, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "fixed_max");
    options = histogram_options(QB_HISTOGRAM_FROM_ZERO, 8);
    options.axis_count = 1;
    CHECK(qb_observer_create(device, &options, &observer, &error) == QB_ERR_UNSUPPORTED);
    CHECK_CONTAINS(error.message, "per tensor");
    CHECK(observer == NULL);
    qb_device_close(device);
}

int
main(void)
{
    RUN(a_group_sees_what_each_would_see_alone);
    RUN(an_observer_named_twice_counts_twice);
    RUN(threads_change_nothing);
    RUN(a_nan_or_infinity_is_told_by_its_index_and_changes_nothing);
    RUN(a_rollback_puts_back_what_begin_saw);
    RUN(an_interrupted_collect_changes_nothing);
    RUN(running_out_of_memory_anywhere_changes_nothing);
    RUN(nothing_leaks);
    RUN(memory_does_not_grow_with_batches);
    RUN(a_frozen_observer_can_be_read_but_not_changed);
    RUN(wrong_options_are_named);
    return check_report();
}
