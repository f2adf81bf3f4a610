/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/observer_max.h"

#include <math.h>

#include "quant_check.h"

static void
single_values_have_no_dimensions(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer_options options = max_options();
    const float x[6] = {1.0f, -5.0f, 2.0f, 0.0f, 3.0f, -4.0f};
    for (int with_axis = 0; with_axis < 2; with_axis++) {
        options.axis_count = with_axis ? 1 : -1;
        options.axes[0] = 0;
        qb_observer *observer = new_observer(device, options);
        CHECK(qb_observer_collect(observer, NULL, x, 2, (int64_t[]){1, 6}, NULL) == QB_OK);
        const float *values = NULL;
        int32_t rank = -1;
        const int64_t *shape = NULL;
        CHECK(qb_observer_amax(observer, &values, &rank, &shape, NULL) == QB_OK);
        CHECK(rank == 0 && values[0] == 5.0f);
        qb_observer_release(observer);
    }
    qb_device_close(device);
}

static void
slices_keep_their_own_maximum_over_batches(void)
{
    qb_device *device = open_device(2, NULL);
    qb_observer_options options = max_options();
    options.axis_count = 1;
    options.axes[0] = -2;
    options.track_amax = 1;
    qb_observer *observer = new_observer(device, options);
    const int64_t shape[2] = {2, 3};
    CHECK(qb_observer_collect(observer, NULL, (float[]){1, 2, -3, 9, 8, 7}, 2, shape, NULL) == QB_OK);
    CHECK(qb_observer_collect(observer, NULL, (float[]){0, -4, 1, 1, 1, 1}, 2, shape, NULL) == QB_OK);
    const float *values = NULL;
    int32_t rank = 0;
    const int64_t *kept = NULL;
    CHECK(qb_observer_amax(observer, &values, &rank, &kept, NULL) == QB_OK);
    CHECK(rank == 2 && kept[0] == 2 && kept[1] == 1);
    CHECK(values[0] == 4.0f && values[1] == 9.0f);
    /* the list holds each batch's own values, the first one included */
    CHECK(qb_observer_tracked_count(observer) == 2);
    CHECK(qb_observer_tracked(observer, 0)[0] == 3.0f && qb_observer_tracked(observer, 0)[1] == 9.0f);
    CHECK(qb_observer_tracked(observer, 1)[0] == 4.0f && qb_observer_tracked(observer, 1)[1] == 1.0f);
    CHECK(qb_observer_tracked(observer, 2) == NULL && qb_observer_tracked(observer, -1) == NULL);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
another_shape_is_refused_and_changes_nothing(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer_options options = max_options();
    options.axis_count = 1;
    qb_observer *observer = new_observer(device, options);
    qb_error error;
    CHECK(qb_observer_collect(observer, NULL, (float[]){1, 2}, 2, (int64_t[]){2, 1}, NULL) == QB_OK);
    CHECK(qb_observer_collect(observer, NULL, (float[]){5, 5, 5}, 2, (int64_t[]){3, 1}, &error) == QB_ERR_SHAPE);
    CHECK_CONTAINS(error.message, "amax shape changed");
    CHECK_CONTAINS(error.message, "(3, 1)");
    const float *values = NULL;
    int32_t rank = 0;
    const int64_t *shape = NULL;
    CHECK(qb_observer_amax(observer, &values, &rank, &shape, NULL) == QB_OK);
    CHECK(values[0] == 1.0f && values[1] == 2.0f);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
merging_equals_seeing_everything(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *all = new_observer(device, max_options());
    qb_observer *first = new_observer(device, max_options());
    qb_observer *second = new_observer(device, max_options());
    const float x[4] = {1.0f, -7.0f, 3.0f, 2.0f};
    CHECK(collect(all, x, 4) == QB_OK);
    CHECK(collect(first, x, 1) == QB_OK);
    CHECK(collect(second, x + 1, 3) == QB_OK);
    CHECK(qb_observer_merge(first, second, NULL) == QB_OK);
    const float *merged = NULL;
    const float *expected = NULL;
    int32_t rank = 0;
    const int64_t *shape = NULL;
    CHECK(qb_observer_amax(first, &merged, &rank, &shape, NULL) == QB_OK);
    CHECK(qb_observer_amax(all, &expected, &rank, &shape, NULL) == QB_OK);
    CHECK(*merged == *expected);
    CHECK(qb_observer_merge(first, first, NULL) == QB_ERR_STATE);
    qb_observer_release(all);
    qb_observer_release(first);
    qb_observer_release(second);
    qb_device_close(device);
}

static void
contents_can_be_put_back(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = new_observer(device, max_options());
    CHECK(!qb_observer_has_data(observer));
    CHECK(qb_observer_set_amax(observer, (float[]){2.5f}, 0, NULL, NULL) == QB_OK);
    CHECK(qb_observer_has_data(observer));
    CHECK(collect(observer, (float[]){1.0f}, 1) == QB_OK);
    const float *values = NULL;
    int32_t rank = 0;
    const int64_t *shape = NULL;
    CHECK(qb_observer_amax(observer, &values, &rank, &shape, NULL) == QB_OK && *values == 2.5f);
    CHECK(qb_observer_set_amax(observer, (float[]){NAN}, 0, NULL, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_set_amax(observer, (float[]){-1.0f}, 0, NULL, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_reset(observer) == QB_OK);
    qb_error error;
    CHECK(qb_observer_amax(observer, &values, &rank, &shape, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "no data");
    qb_observer_release(observer);
    qb_device_close(device);
}

int
main(void)
{
    RUN(single_values_have_no_dimensions);
    RUN(slices_keep_their_own_maximum_over_batches);
    RUN(another_shape_is_refused_and_changes_nothing);
    RUN(merging_equals_seeing_everything);
    RUN(contents_can_be_put_back);
    return check_report();
}
