/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/quantizer.h"

#include <float.h>
#include <math.h>

#include "core/device.h"
#include "quant/quantize_tensor.h"
#include "quant_check.h"

enum { ROWS = 37, COLUMNS = 131 };
static float x[ROWS * COLUMNS];
static float y[ROWS * COLUMNS];
static const int64_t shape[2] = {ROWS, COLUMNS};

static float
fake(float value, float amax, float lower, float upper)
{
    if (amax <= 0x1p-24f) {
        return 0.0f;
    }
    const float scale = upper / amax;
    float q = rintf(value * scale);
    q = q < lower ? lower : q;
    q = q > upper ? upper : q;
    return q / scale;
}

static qb_status
forward(qb_quantizer *quantizer, const float *values, float *out)
{
    return qb_quantizer_forward(quantizer, NULL, values, 2, shape, out, NULL, NULL);
}

static void
a_static_range_quantizes_and_clamps(void)
{
    qb_device *device = open_device(2, NULL);
    qb_quantizer *quantizer = new_quantizer(device, int8_options());
    const float amax = 0.7f;
    fill_uniform(x, ROWS * COLUMNS, 1.0f, 1);
    CHECK(qb_quantizer_set_amax(quantizer, &amax, 0, NULL, NULL) == QB_OK);
    CHECK(forward(quantizer, x, y) == QB_OK);
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        CHECK(y[i] == fake(x[i], amax, -128.0f, 127.0f));
    }
    CHECK(forward(quantizer, x, x) == QB_OK); /* in place */
    CHECK(memcmp(x, y, sizeof x) == 0);
    CHECK(forward(quantizer, y, y) == QB_OK); /* idempotent up to the clamped ends */
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
a_dynamic_range_is_the_largest_magnitude(void)
{
    qb_device *device = open_device(2, NULL);
    qb_quantizer_options options = int8_options();
    options.scale_amax = 0.9f;
    qb_quantizer *quantizer = new_quantizer(device, options);
    fill_uniform(x, ROWS * COLUMNS, 3.0f, 2);
    float largest = 0.0f;
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    float used = 0.0f;
    CHECK(qb_quantizer_forward(quantizer, NULL, x, 2, shape, y, &used, NULL) == QB_OK);
    CHECK(used == largest * 0.9f);
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        CHECK(y[i] == fake(x[i], largest * 0.9f, -128.0f, 127.0f));
    }
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
negative_axes_are_honoured_by_dynamic_ranges(void)
{
    qb_device *device = open_device(3, NULL);
    float results[2][ROWS * COLUMNS];
    fill_uniform(x, ROWS * COLUMNS, 3.0f, 3);
    for (int axis = 0; axis < 2; axis++) {
        for (int negative = 0; negative < 2; negative++) {
            qb_quantizer_options options = int8_options();
            options.axis_count = 1;
            options.axes[0] = negative ? axis - 2 : axis;
            qb_quantizer *quantizer = new_quantizer(device, options);
            CHECK(forward(quantizer, x, results[negative]) == QB_OK);
            qb_quantizer_release(quantizer);
        }
        CHECK(memcmp(results[0], results[1], sizeof results[0]) == 0);
        for (int r = 0; r < ROWS; r++) {
            for (int c = 0; c < COLUMNS; c++) {
                float amax = 0.0f;
                for (int i = 0; i < (axis ? ROWS : COLUMNS); i++) {
                    const float m = fabsf(axis ? x[i * COLUMNS + c] : x[r * COLUMNS + i]);
                    amax = m > amax ? m : amax;
                }
                CHECK(results[0][r * COLUMNS + c] == fake(x[r * COLUMNS + c], amax, -128.0f, 127.0f));
            }
        }
    }
    qb_device_close(device);
}

static void
a_disabled_quantizer_is_the_identity_even_with_a_factor(void)
{
    qb_device *device = open_device(1, NULL);
    qb_quantizer *quantizer = new_quantizer(device, int8_options());
    const float factor = 2.0f;
    fill_uniform(x, ROWS * COLUMNS, 1.0f, 4);
    CHECK(qb_quantizer_set_pre_quant_scale(quantizer, &factor, 0, NULL, NULL) == QB_OK);
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_DISABLED | QB_STAGE_QUANT) == QB_OK);
    CHECK(qb_quantizer_is_off(quantizer) && qb_quantizer_is_identity(quantizer));
    CHECK(forward(quantizer, x, y) == QB_OK && memcmp(x, y, sizeof x) == 0);
    CHECK(qb_quantizer_set_stages(quantizer, 0) == QB_OK);
    CHECK(!qb_quantizer_is_off(quantizer));
    CHECK(forward(quantizer, x, y) == QB_OK && y[5] == x[5] * 2.0f);
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
clipping_rests_while_collecting(void)
{
    qb_device *device = open_device(1, NULL);
    qb_quantizer_options options = int8_options();
    options.learn_amax = 1;
    qb_quantizer *quantizer = new_quantizer(device, options);
    qb_observer *observer = new_observer(device, max_options());
    fill_uniform(x, ROWS * COLUMNS, 5.0f, 5);
    x[7] = 5.0f;
    CHECK(qb_quantizer_set_clip(quantizer, -0.5f, 0.5f, NULL) == QB_OK);
    CHECK(qb_quantizer_set_observer(quantizer, observer) == QB_OK);
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_CLIP) == QB_OK);
    CHECK(forward(quantizer, x, y) == QB_OK && y[7] == 0.5f);
    CHECK(!qb_observer_has_data(observer));
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_CLIP | QB_STAGE_CALIB) == QB_OK);
    CHECK(forward(quantizer, x, y) == QB_OK && memcmp(x, y, sizeof x) == 0);
    const float *values = NULL;
    int32_t rank = 0;
    const int64_t *kept = NULL;
    CHECK(qb_observer_amax(observer, &values, &rank, &kept, NULL) == QB_OK && *values == 5.0f);
    qb_observer_release(observer);
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
a_factor_is_seen_by_the_observer(void)
{
    qb_device *device = open_device(1, NULL);
    qb_quantizer *quantizers[2] = {new_quantizer(device, int8_options()), new_quantizer(device, int8_options())};
    qb_observer *observers[2] = {new_observer(device, max_options()), new_observer(device, max_options())};
    const float factor = 3.0f;
    CHECK(qb_quantizer_set_pre_quant_scale(quantizers[1], &factor, 0, NULL, NULL) == QB_OK);
    for (int i = 0; i < 2; i++) {
        CHECK(qb_quantizer_set_observer(quantizers[i], observers[i]) == QB_OK);
        CHECK(qb_quantizer_set_stages(quantizers[i], QB_STAGE_CALIB) == QB_OK);
    }
    const qb_run run = qb_device_run(device, NULL, NULL);
    CHECK(qb_quantizer_collect_group(quantizers, 2, &run, (float[]){1.0f, -2.0f}, 1, (int64_t[]){2}) == QB_OK);
    for (int i = 0; i < 2; i++) {
        const float *values = NULL;
        int32_t rank = 0;
        const int64_t *kept = NULL;
        CHECK(qb_observer_amax(observers[i], &values, &rank, &kept, NULL) == QB_OK);
        CHECK(*values == (i == 0 ? 2.0f : 6.0f));
        qb_quantizer_release(quantizers[i]);
        qb_observer_release(observers[i]);
    }
    qb_device_close(device);
}

static void
a_failed_forward_leaves_statistics_alone(void)
{
    qb_device *device = open_device(1, NULL);
    qb_quantizer *quantizer = new_quantizer(device, int8_options());
    qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 64));
    fill_uniform(x, ROWS * COLUMNS, 1.0f, 6);
    CHECK(qb_quantizer_set_observer(quantizer, observer) == QB_OK);
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_CALIB | QB_STAGE_QUANT) == QB_OK);
    CHECK(forward(quantizer, x, y) == QB_OK);
    const int64_t before = counted(observer);
    CHECK(before == ROWS * COLUMNS);
    const float amax[3] = {1.0f, 1.0f, 1.0f};
    CHECK(qb_quantizer_set_amax(quantizer, amax, 1, (int64_t[]){3}, NULL) == QB_OK);
    qb_error error;
    CHECK(qb_quantizer_forward(quantizer, NULL, x, 2, shape, y, NULL, &error) == QB_ERR_SHAPE);
    CHECK_CONTAINS(error.message, "amax has shape (3)");
    CHECK(counted(observer) == before);
    qb_quantizer_release(quantizer);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
nan_stays_nan_and_dead_ranges_give_zero(void)
{
    qb_device *device = open_device(1, NULL);
    qb_quantizer *quantizer = new_quantizer(device, int8_options());
    const float values[4] = {NAN, INFINITY, -INFINITY, 0.5f};
    float out[4];
    const float amaxes[3] = {1.0f, 0x1p-24f, NAN};
    for (int i = 0; i < 3; i++) {
        CHECK(qb_quantizer_set_amax(quantizer, &amaxes[i], 0, NULL, NULL) == QB_OK);
        CHECK(qb_quantizer_forward(quantizer, NULL, values, 1, (int64_t[]){4}, out, NULL, NULL) == QB_OK);
        CHECK(isnan(out[0]));
        CHECK(i != 0 || (out[1] == 1.0f && out[2] == -128.0f / 127.0f && out[3] == fake(0.5f, 1, -128, 127)));
        CHECK(i != 1 || out[3] == 0.0f);
        CHECK(i != 2 || isnan(out[3]));
    }
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
unsigned_quantizers_refuse_negative_elements(void)
{
    qb_device *device = open_device(1, NULL);
    qb_quantizer_options options = int8_options();
    options.is_unsigned = 1;
    qb_quantizer *quantizer = new_quantizer(device, options);
    float out[3];
    qb_error error;
    const float bad[3] = {1.0f, 0.0f, -0.5f};
    CHECK(qb_quantizer_forward(quantizer, NULL, bad, 1, (int64_t[]){3}, out, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "element 2");
    const float good[3] = {1.0f, -0.0f, 0.5f};
    CHECK(qb_quantizer_forward(quantizer, NULL, good, 1, (int64_t[]){3}, out, NULL, NULL) == QB_OK);
    CHECK(out[0] == 1.0f && out[1] == 0.0f);
    /* and so does the integer path, static or dynamic */
    options.num_bits = 7;
    const qb_run run = qb_device_run(device, NULL, NULL);
    const float one = 1.0f;
    qb_quant_range range;
    CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
    for (int is_static = 0; is_static < 2; is_static++) {
        CHECK(qb_quantizer_set_amax(quantizer, is_static ? &one : NULL, 0, NULL, NULL) == QB_OK);
        CHECK(qb_quantizer_integer_reason(quantizer) == NULL);
        CHECK(qb_quantizer_range(quantizer, &run, bad, 1, (int64_t[]){3}, &range) == QB_ERR_VALUE);
        CHECK(qb_quantizer_range(quantizer, &run, good, 1, (int64_t[]){3}, &range) == QB_OK);
    }
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
reason_is(qb_quantizer *quantizer, const char *activation, const char *weight)
{
    const char *reasons[2] = {qb_quantizer_integer_reason(quantizer), qb_quantizer_weight_reason(quantizer)};
    const char *expected[2] = {activation, weight};
    for (int i = 0; i < 2; i++) {
        CHECK((reasons[i] == NULL) == (expected[i] == NULL));
        CHECK(reasons[i] == NULL || expected[i] == NULL || strstr(reasons[i], expected[i]) != NULL);
    }
}

static void
integer_sites_say_why_not(void)
{
    qb_device *device = open_device(1, NULL);
    const struct {
        int32_t num_bits, is_unsigned, axis_count, axis;
        const char *activation, *weight;
    } cases[] = {
        {8, 0, -1, 0, NULL, NULL},        {2, 0, -1, 0, NULL, NULL},     {7, 1, -1, 0, NULL, NULL},
        {8, 1, -1, 0, "int8", "int8"},    {9, 0, -1, 0, "int8", "int8"}, {1, 0, -1, 0, "zero", "zero"},
        {8, 0, 1, 0, "slice", NULL},      {8, 0, 1, -2, "slice", NULL},  {8, 0, 1, 1, "slice", "column"},
        {8, 0, 1, -1, "slice", "column"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qb_quantizer_options options = int8_options();
        options.num_bits = cases[i].num_bits;
        options.is_unsigned = cases[i].is_unsigned;
        options.axis_count = cases[i].axis_count;
        options.axes[0] = cases[i].axis;
        qb_quantizer *quantizer = new_quantizer(device, options);
        reason_is(quantizer, cases[i].activation, cases[i].weight);
        qb_quantizer_release(quantizer);
    }
    qb_quantizer *quantizer = new_quantizer(device, int8_options());
    const float values[3] = {1.0f, 2.0f, 3.0f};
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_DISABLED | QB_STAGE_QUANT) == QB_OK);
    reason_is(quantizer, "off", "off");
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_QUANT) == QB_OK);
    CHECK(qb_quantizer_set_amax(quantizer, values, 2, (int64_t[]){3, 1}, NULL) == QB_OK);
    reason_is(quantizer, "slice", NULL);
    CHECK(qb_quantizer_set_amax(quantizer, values, 1, (int64_t[]){3}, NULL) == QB_OK);
    reason_is(quantizer, "slice", "row");
    CHECK(qb_quantizer_set_amax(quantizer, (float[]){NAN}, 0, NULL, NULL) == QB_OK);
    reason_is(quantizer, "finite", "finite");
    CHECK(qb_quantizer_set_amax(quantizer, NULL, 0, NULL, NULL) == QB_OK);
    CHECK(qb_quantizer_set_pre_quant_scale(quantizer, values, 0, NULL, NULL) == QB_OK);
    reason_is(quantizer, "pre_quant_scale", "pre_quant_scale");
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
weight_ranges_are_one_scale_for_each_row(void)
{
    qb_device *device = open_device(2, NULL);
    const qb_run run = qb_device_run(device, NULL, NULL);
    qb_quantizer_options options = int8_options();
    options.axis_count = 1;
    options.narrow_range = 1;
    qb_quantizer *quantizer = new_quantizer(device, options);
    fill_uniform(x, ROWS * COLUMNS, 1.0f, 8);
    for (int c = 0; c < COLUMNS; c++) {
        x[3 * COLUMNS + c] = 0.0f;
    }
    float scale[ROWS];
    float lower = 0.0f;
    float upper = 0.0f;
    CHECK(qb_quantizer_weight_range(quantizer, &run, x, ROWS, COLUMNS, scale, &lower, &upper) == QB_OK);
    CHECK(lower == -127.0f && upper == 127.0f && scale[3] == 0.0f && qb_quant_scale_step(scale[3]) == 0.0f);
    float amax[ROWS];
    for (int r = 0; r < ROWS; r++) {
        amax[r] = 0.0f;
        for (int c = 0; c < COLUMNS; c++) {
            amax[r] = fabsf(x[r * COLUMNS + c]) > amax[r] ? fabsf(x[r * COLUMNS + c]) : amax[r];
        }
        CHECK(r == 3 || scale[r] == 127.0f / amax[r]);
    }
    float fixed[ROWS];
    CHECK(qb_quantizer_set_amax(quantizer, amax, 2, (int64_t[]){ROWS, 1}, NULL) == QB_OK);
    CHECK(qb_quantizer_weight_range(quantizer, &run, x, ROWS, COLUMNS, fixed, &lower, &upper) == QB_OK);
    CHECK(memcmp(scale, fixed, sizeof scale) == 0);
    qb_error error;
    const qb_run told = qb_device_run(device, NULL, &error);
    CHECK(qb_quantizer_weight_range(quantizer, &told, x, ROWS - 1, COLUMNS, fixed, &lower, &upper) == QB_ERR_SHAPE);
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
ranges_that_are_not_finite_are_named_where_they_would_be_used(void)
{
    qb_device *device = open_device(1, NULL);
    qb_error error;
    const qb_path path = {NULL, "query._input_quantizer"};
    qb_run run = qb_device_run(device, NULL, &error);
    run.path = &path;
    qb_quantizer_options options = int8_options();
    qb_quantizer *quantizer = new_quantizer(device, options);
    CHECK(qb_quantizer_check_range(quantizer, &run) == QB_OK); /* dynamic */
    CHECK(qb_quantizer_set_amax(quantizer, (float[]){1.0f, NAN, INFINITY}, 1, (int64_t[]){3}, NULL) == QB_OK);
    CHECK(qb_quantizer_check_range(quantizer, &run) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "query._input_quantizer: amax is nan at element 1");
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_CALIB) == QB_OK);
    CHECK(qb_quantizer_check_range(quantizer, &run) == QB_OK);
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_CALIB | QB_STAGE_QUANT) == QB_OK);
    CHECK(qb_quantizer_check_range(quantizer, &run) == QB_ERR_VALUE);

    CHECK(qb_quantizer_set_amax(quantizer, (float[]){FLT_MAX}, 0, NULL, NULL) == QB_OK);
    CHECK(qb_quantizer_check_range(quantizer, &run) == QB_OK);
    options.scale_amax = 2.0f;
    CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
    CHECK(qb_quantizer_check_range(quantizer, &run) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "amax * scale_amax is inf");

    options.learn_amax = 1;
    CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
    CHECK(qb_quantizer_check_range(quantizer, &run) == QB_OK); /* the bounds are -1 and 1 */
    CHECK(qb_quantizer_set_clip(quantizer, -1.0f, INFINITY, NULL) == QB_OK);
    CHECK(qb_quantizer_check_range(quantizer, &run) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "the learned bounds are -1 and inf");
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
dynamic_integer_ranges_name_a_nan(void)
{
    qb_device *device = open_device(1, NULL);
    qb_error error;
    const qb_path path = {NULL, "query._input_quantizer"};
    qb_run run = qb_device_run(device, NULL, &error);
    run.path = &path;
    qb_quantizer *quantizer = new_quantizer(device, int8_options());
    qb_quant_range range;
    const float values[3] = {1.0f, NAN, 2.0f};
    CHECK(qb_quantizer_range(quantizer, &run, values, 1, (int64_t[]){3}, &range) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "query._input_quantizer: element 1 is nan");
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
a_range_per_tensor_allocates_nothing(void)
{
    qb_device *device = open_device(2, NULL);
    qb_quantizer *quantizer = new_quantizer(device, int8_options());
    const qb_run run = qb_device_run(device, NULL, NULL);
    CHECK(forward(quantizer, x, y) == QB_OK);
    const uint64_t before = qb_device_memory_statistics(device).allocations;
    CHECK(qb_quantizer_apply(quantizer, &run, x, 2, shape, y, NULL) == QB_OK);
    CHECK(qb_device_memory_statistics(device).allocations == before);
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
every_change_advances_the_revision(void)
{
    qb_device *device = open_device(1, NULL);
    qb_quantizer *quantizer = new_quantizer(device, int8_options());
    uint64_t last = quantizer->revision;
    const float one = 1.0f;
    const qb_quantizer_options options = int8_options();
    for (int i = 0; i < 6; i++) {
        switch (i) {
        case 0:
            CHECK(qb_quantizer_set_amax(quantizer, &one, 0, NULL, NULL) == QB_OK);
            break;
        case 1:
            CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_CALIB) == QB_OK);
            break;
        case 2:
            CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
            break;
        case 3:
            CHECK(qb_quantizer_set_clip(quantizer, -2.0f, 2.0f, NULL) == QB_OK);
            break;
        case 4:
            CHECK(qb_quantizer_set_pre_quant_scale(quantizer, &one, 0, NULL, NULL) == QB_OK);
            break;
        default:
            CHECK(qb_quantizer_set_observer(quantizer, NULL) == QB_OK);
        }
        CHECK(quantizer->revision > last);
        last = quantizer->revision;
    }
    CHECK(qb_quantizer_set_amax(quantizer, (float[]){-1.0f}, 0, NULL, NULL) == QB_ERR_VALUE);
    CHECK(qb_quantizer_set_clip(quantizer, NAN, 1.0f, NULL) == QB_ERR_VALUE);
    CHECK(quantizer->revision == last);
    const float *values = NULL;
    int32_t rank = 0;
    const int64_t *kept = NULL;
    qb_quantizer_amax(quantizer, &values, &rank, &kept);
    CHECK(values != &one && *values == 1.0f); /* a copy */
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

typedef struct fake_owner {
    int references, locks, is_running;
} fake_owner;

static void
owner_retain(void *context)
{
    ((fake_owner *)context)->references++;
}

static void
owner_release(void *context)
{
    ((fake_owner *)context)->references--;
}

static qb_status
owner_begin(void *context, qb_error *error)
{
    fake_owner *owner = context;
    if (owner->is_running) {
        return qb_fail(error, NULL, QB_ERR_STATE, "a session runs");
    }
    owner->locks++;
    return QB_OK;
}

static void
owner_end(void *context)
{
    ((fake_owner *)context)->locks--;
}

static void
an_owner_counts_references_and_forbids_writes(void)
{
    qb_device *device = open_device(1, NULL);
    qb_quantizer *quantizer = new_quantizer(device, int8_options());
    fake_owner owner = {0};
    const qb_quantizer_owner hooks = {&owner, owner_retain, owner_release, owner_begin, owner_end};
    qb_quantizer_set_owner(quantizer, &hooks);
    CHECK(qb_quantizer_retain(quantizer) == quantizer && owner.references == 1);
    qb_quantizer_release(quantizer);
    CHECK(owner.references == 0);
    CHECK(qb_quantizer_set_stages(quantizer, 0) == QB_OK && owner.locks == 0);
    owner.is_running = 1;
    const float one = 1.0f;
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_QUANT) == QB_ERR_STATE);
    CHECK(qb_quantizer_set_amax(quantizer, &one, 0, NULL, NULL) == QB_ERR_STATE);
    CHECK(qb_quantizer_set_observer(quantizer, NULL) == QB_ERR_STATE);
    CHECK(forward(quantizer, x, y) == QB_ERR_STATE);
    CHECK(qb_quantizer_stages(quantizer) == 0 && quantizer->amax.data == NULL);
    qb_quantizer_destroy(quantizer);
    qb_device_close(device);
}

static void
running_out_of_memory_anywhere_changes_nothing(void)
{
    fill_uniform(x, ROWS * COLUMNS, 1.0f, 9);
    int succeeded = 0;
    for (long left = 0; left < 60 && !succeeded; left++) {
        rationed_memory memory = {-1};
        qb_device *device = open_device(1, &memory);
        qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 50));
        qb_quantizer_options options = int8_options();
        options.axis_count = 1;
        qb_quantizer *quantizer = NULL;
        const float factor = 2.0f;
        memory.left = left;
        qb_status status = qb_quantizer_create(device, &options, &quantizer, NULL);
        CHECK(status == QB_OK || (status == QB_ERR_NOMEM && quantizer == NULL));
        if (status == QB_OK) {
            CHECK(qb_quantizer_set_observer(quantizer, observer) == QB_OK);
            CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_CALIB | QB_STAGE_QUANT) == QB_OK);
            status = qb_quantizer_set_pre_quant_scale(quantizer, &factor, 0, NULL, NULL);
            CHECK(status == QB_OK || (status == QB_ERR_NOMEM && quantizer->pre_quant_scale.data == NULL));
        }
        if (status == QB_OK) {
            status = forward(quantizer, x, y);
            CHECK(status == QB_OK || status == QB_ERR_NOMEM);
            CHECK(qb_observer_has_data(observer) == (status == QB_OK));
        }
        succeeded = status == QB_OK;
        memory.left = -1;
        qb_quantizer_release(quantizer);
        qb_observer_release(observer);
        qb_device_close(device);
    }
    CHECK(succeeded);
}

static void
quantizing_over_a_plan_equals_element_by_element(void)
{
    /* The general path with ranges along several axes against the definition, odd lengths, real and fake. */
    qb_device *device = open_device(3, NULL);
    const qb_run run = qb_device_run(device, NULL, NULL);
    const int64_t dims[4] = {3, 5, 7, 11};
    enum { N = 3 * 5 * 7 * 11 };
    static float in[N];
    static float out[N];
    fill_uniform(in, N, 2.0f, 10);
    for (int mask = 0; mask < 16; mask++) {
        int64_t small[4];
        int64_t count = 1;
        for (int d = 0; d < 4; d++) {
            small[d] = mask >> d & 1 ? dims[d] : 1;
            count *= small[d];
        }
        static float amax[N];
        for (int64_t i = 0; i < count; i++) {
            amax[i] = i % 5 == 3 ? 0.0f : 0.5f + (float)(i % 13) * 0.1f;
        }
        qb_broadcast plan;
        CHECK(qb_plan_over(&run, 4, dims, "amax", 4, small, &plan) == QB_OK);
        for (int is_fake = 0; is_fake < 2; is_fake++) {
            const qb_quantization q = {.format = QB_FORMAT_INTEGER, .num_bits = 5, .narrow_range = 1, .fake = is_fake};
            CHECK(qb_quantize_over(&run, &q, in, amax, &plan, out) == QB_OK);
            for (int64_t i = 0; i < N; i++) {
                const float a = amax[qb_broadcast_element(&plan, i)];
                const float value = fake(in[i], a, -15.0f, 15.0f);
                CHECK(out[i] == (is_fake || a == 0.0f ? value : rintf(value * (15.0f / a))));
            }
        }
    }
    qb_device_close(device);
}

int
main(void)
{
    RUN(a_static_range_quantizes_and_clamps);
    RUN(a_dynamic_range_is_the_largest_magnitude);
    RUN(negative_axes_are_honoured_by_dynamic_ranges);
    RUN(a_disabled_quantizer_is_the_identity_even_with_a_factor);
    RUN(clipping_rests_while_collecting);
    RUN(a_factor_is_seen_by_the_observer);
    RUN(a_failed_forward_leaves_statistics_alone);
    RUN(nan_stays_nan_and_dead_ranges_give_zero);
    RUN(unsigned_quantizers_refuse_negative_elements);
    RUN(integer_sites_say_why_not);
    RUN(weight_ranges_are_one_scale_for_each_row);
    RUN(dynamic_integer_ranges_name_a_nan);
    RUN(ranges_that_are_not_finite_are_named_where_they_would_be_used);
    RUN(a_range_per_tensor_allocates_nothing);
    RUN(every_change_advances_the_revision);
    RUN(an_owner_counts_references_and_forbids_writes);
    RUN(running_out_of_memory_anywhere_changes_nothing);
    RUN(quantizing_over_a_plan_equals_element_by_element);
    return check_report();
}
