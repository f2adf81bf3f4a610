/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "quant_check.h"

static qb_tensor
tensor(const float *data, int32_t rank, const int64_t *shape)
{
    return (qb_tensor){data, rank, shape};
}

/* The vector of the original's user guide. */
static void
the_user_guides_vector_comes_out(void)
{
    qb_device *device = open_device(1, NULL);
    const float x[10] = {.9817f, .8796f, .9921f, .4611f, .0832f, .1784f, .3674f, .5676f, .3376f, .2119f};
    const float expected[10] = {.9843f, .8828f, .9921f, .4609f, .0859f, .1797f, .3672f, .5703f, .3359f, .2109f};
    const float codes[10] = {126, 113, 127, 59, 11, 23, 47, 73, 43, 27};
    const float amax = 0.9921f;
    const int64_t n = 10;
    float y[10];
    float scale = 0.0f;
    CHECK(qb_tensor_quant(device, tensor(x, 1, &n), tensor(&amax, 0, NULL), 8, 0, 1, 1, y, NULL, NULL) == QB_OK);
    for (int i = 0; i < 10; i++) {
        CHECK(fabsf(y[i] - expected[i]) < 1e-4f);
    }
    CHECK(qb_tensor_quant(device, tensor(x, 1, &n), tensor(&amax, 0, NULL), 8, 0, 1, 0, y, &scale, NULL) == QB_OK);
    CHECK(memcmp(y, codes, sizeof y) == 0 && scale == 127.0f / 0.9921f);
    qb_device_close(device);
}

static void
odd_ranges_follow_ieee_arithmetic(void)
{
    qb_device *device = open_device(1, NULL);
    const float x[4] = {0.0f, 1.0f, -2.0f, NAN};
    const int64_t n = 4;
    float y[4];
    float scale = 0.0f;
    const float infinite = INFINITY;
    CHECK(qb_tensor_quant(device, tensor(x, 1, &n), tensor(&infinite, 0, NULL), 8, 0, 1, 1, y, NULL, NULL) == QB_OK);
    CHECK(isnan(y[0]) && isnan(y[1]) && isnan(y[2]) && isnan(y[3]));
    CHECK(qb_tensor_quant(device, tensor(x, 1, &n), tensor(&infinite, 0, NULL), 8, 0, 1, 0, y, &scale, NULL) == QB_OK);
    CHECK(y[1] == 0.0f && scale == 0.0f);
    const float none = 0.0f;
    CHECK(qb_tensor_quant(device, tensor(x, 1, &n), tensor(&none, 0, NULL), 8, 0, 1, 0, y, &scale, NULL) == QB_OK);
    CHECK(y[1] == 0.0f && y[2] == 0.0f && isnan(y[3]) && scale == 1.0f);
    const float one = 1.0f;
    CHECK(qb_tensor_quant(device, tensor(x, 1, &n), tensor(&one, 0, NULL), 1, 0, 1, 1, y, NULL, NULL) == QB_OK);
    CHECK(isnan(y[1])); /* 0 / 0: one signed bit has no scale */
    CHECK(qb_tensor_quant(device, tensor(x, 1, &n), tensor(&one, 0, NULL), 0, 0, 1, 0, y, &scale, NULL) == QB_OK);
    CHECK(y[0] == -0.5f && y[1] == -0.5f && scale == -0.5f);
    /* the same along the last axis, where ranges differ from element to element */
    const float amax[4] = {INFINITY, 0.0f, 2.0f, 1.0f};
    const float z[4] = {1.0f, 1.0f, -2.0f, NAN};
    CHECK(qb_tensor_quant(device, tensor(z, 1, &n), tensor(amax, 1, &n), 8, 0, 1, 1, y, NULL, NULL) == QB_OK);
    CHECK(isnan(y[0]) && y[1] == 0.0f && y[2] == -2.0f && isnan(y[3]));
    qb_device_close(device);
}

static void
wrong_arguments_are_named_and_nothing_is_written(void)
{
    qb_device *device = open_device(1, NULL);
    const float x[6] = {1, 2, 3, 4, 5, 6};
    const int64_t shape[2] = {2, 3};
    const float negative[2] = {1.0f, -1e-9f};
    const int64_t pair[2] = {2, 1};
    float y[6] = {9, 9, 9, 9, 9, 9};
    qb_error error;
    CHECK(qb_tensor_quant(device, tensor(x, 2, shape), tensor(negative, 2, pair), 8, 0, 1, 1, y, NULL, &error) ==
          QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "Negative values in amax");
    CHECK(qb_tensor_quant(device, tensor(x, 2, shape), tensor(x, 1, pair), 8, 0, 1, 1, y, NULL, &error) ==
          QB_ERR_SHAPE);
    CHECK_CONTAINS(error.message, "(2, 3)");
    CHECK(qb_tensor_quant(device, tensor(x, 2, shape), tensor(x, 0, NULL), 17, 0, 1, 1, y, NULL, NULL) == QB_ERR_VALUE);
    CHECK(qb_tensor_quant(device, tensor(NULL, 2, shape), tensor(x, 0, NULL), 8, 0, 1, 1, y, NULL, &error) ==
          QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "x is NULL");
    const float below[2] = {0.5f, -0.5f};
    const int64_t two = 2;
    CHECK(qb_tensor_quant(device, tensor(below, 1, &two), tensor(x, 0, NULL), 8, 1, 1, 1, y, NULL, &error) ==
          QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "Negative values encountered");
    CHECK(qb_reduce_amax(device, tensor(x, 2, shape), 1, (int32_t[]){2}, y, &error) == QB_ERR_INDEX);
    CHECK_CONTAINS(error.message, "axis 2");
    for (int i = 0; i < 6; i++) {
        CHECK(y[i] == 9.0f);
    }
    qb_device_close(device);
}

static void
gradients_pass_inside_the_range_only(void)
{
    qb_device *device = open_device(1, NULL);
    const float x[6] = {0.5f, -1.0f, 1.5f, NAN, -3.0f, 2.0f};
    const float dy[6] = {1, 2, 3, 4, 5, 6};
    const int64_t shape[2] = {2, 3};
    const float amax[2] = {1.0f, 2.5f};
    float dx[6];
    CHECK(qb_tensor_quant_grad(device, tensor(x, 2, shape), tensor(amax, 2, (int64_t[]){2, 1}), dy, dx, NULL) == QB_OK);
    const float expected[6] = {1, 2, 0, 0, 0, 6};
    CHECK(memcmp(dx, expected, sizeof dx) == 0);
    qb_device_close(device);
}

static void
clip_bounds_stretch_and_cross(void)
{
    qb_device *device = open_device(2, NULL);
    const float x[6] = {-5, 0.25f, 5, -5, 0.25f, 5};
    const int64_t shape[2] = {2, 3};
    const float low[2] = {-1.0f, 0.5f};
    const float high[3] = {1.0f, 2.0f, 3.0f};
    float y[6];
    CHECK(qb_clip(device, tensor(x, 2, shape), tensor(low, 2, (int64_t[]){2, 1}), tensor(high, 1, (int64_t[]){3}), y,
                  NULL) == QB_OK);
    const float expected[6] = {-1, 0.25f, 3, 0.5f, 0.5f, 3};
    CHECK(memcmp(y, expected, sizeof y) == 0);
    const float up = 0.3f;
    const float down = -0.3f;
    CHECK(qb_clip(device, tensor(x, 2, shape), tensor(&up, 0, NULL), tensor(&down, 0, NULL), y, NULL) == QB_OK);
    for (int i = 0; i < 6; i++) {
        CHECK(y[i] == 0.3f);
    }
    qb_device_close(device);
}

static void
clip_gradients_add_up_at_the_bounds(void)
{
    qb_device *device = open_device(1, NULL);
    const float x[5] = {-2, -1, 0, 1, 2};
    const float dy[5] = {1, 2, 4, 8, 16};
    const int64_t n = 5;
    const float low = -1.0f;
    const float high = 1.0f;
    float dx[5];
    float dlow = 0.0f;
    float dhigh = 0.0f;
    CHECK(qb_clip_grad(device, tensor(x, 1, &n), tensor(&low, 0, NULL), tensor(&high, 0, NULL), dy, dx, &dlow, &dhigh,
                       NULL) == QB_OK);
    CHECK(dlow == 3.0f && dhigh == 24.0f);
    CHECK(dx[0] == 0 && dx[1] == 0 && dx[2] == 4 && dx[3] == 0 && dx[4] == 0);
    qb_error error;
    CHECK(qb_clip_grad(device, tensor(x, 1, &n), tensor(x, 1, &n), tensor(&high, 0, NULL), dy, dx, NULL, NULL,
                       &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "can only be scalar");
    qb_device_close(device);
}

static void
affine_reproduces_its_own_grid(void)
{
    qb_device *device = open_device(1, NULL);
    float x[256];
    float y[256];
    for (int i = 0; i < 256; i++) {
        x[i] = (float)(i - 128);
    }
    const int64_t n = 256;
    CHECK(qb_fake_affine(device, tensor(x, 1, &n), -128.0f, 127.0f, 8, y, NULL) == QB_OK);
    CHECK(memcmp(x, y, sizeof x) == 0);
    CHECK(qb_fake_affine(device, tensor((float[]){500.0f}, 0, NULL), -128.0f, 127.0f, 8, y, NULL) == QB_OK);
    CHECK(y[0] == 127.0f);
    CHECK(qb_fake_affine(device, tensor(x, 1, &n), -1.0f, 1.0f, 0, y, NULL) == QB_ERR_VALUE);
    qb_device_close(device);
}

static void
reduced_axes_become_one(void)
{
    qb_device *device = open_device(1, NULL);
    const float x[6] = {1, -2, 3, -4, 5, -6};
    const int64_t shape[2] = {2, 3};
    float y[6];
    CHECK(qb_reduce_amax(device, tensor(x, 2, shape), 0, NULL, y, NULL) == QB_OK && y[0] == 6.0f);
    CHECK(qb_reduce_amax(device, tensor(x, 2, shape), 1, (int32_t[]){-1}, y, NULL) == QB_OK);
    CHECK(y[0] == 4.0f && y[1] == 5.0f && y[2] == 6.0f);
    CHECK(qb_reduce_amax(device, tensor(x, 2, shape), 2, (int32_t[]){0, 1}, y, NULL) == QB_OK);
    CHECK(y[3] == 4.0f && y[5] == 6.0f);
    qb_device_close(device);
}

static void
e4m3_without_a_range_is_a_cast(void)
{
    qb_device *device = open_device(1, NULL);
    const float x[4] = {-1.8f, 1.0f, 0.2f, INFINITY};
    const int64_t n = 4;
    float y[4];
    CHECK(qb_scaled_e4m3(device, tensor(x, 1, &n), (qb_tensor){0}, y, NULL) == QB_OK);
    CHECK(y[0] == -1.75f && y[1] == 1.0f && y[2] == 0.203125f && y[3] == 448.0f);
    const float two = 2.0f;
    CHECK(qb_scaled_e4m3(device, tensor(x, 1, &n), tensor(&two, 0, NULL), y, NULL) == QB_OK);
    CHECK(fabsf(y[0] + 1.8571f) < 1e-4f && y[1] == 1.0f && y[3] == 2.0f);
    qb_device_close(device);
}

int
main(void)
{
    RUN(the_user_guides_vector_comes_out);
    RUN(odd_ranges_follow_ieee_arithmetic);
    RUN(wrong_arguments_are_named_and_nothing_is_written);
    RUN(gradients_pass_inside_the_range_only);
    RUN(clip_bounds_stretch_and_cross);
    RUN(clip_gradients_add_up_at_the_bounds);
    RUN(affine_reproduces_its_own_grid);
    RUN(reduced_axes_become_one);
    RUN(e4m3_without_a_range_is_a_cast);
    return check_report();
}
