/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "core/kernel_types.h"
#include "quant_check.h"

enum { BATCH = 3, TOKENS = 7, IN = 67, OUT = 29, ROWS = BATCH * TOKENS };
static float x[ROWS * IN];
static float weight[OUT * IN];
static float bias[OUT];
static float y[ROWS * OUT];
static const int64_t x_shape[3] = {BATCH, TOKENS, IN};
static const int64_t weight_shape[2] = {OUT, IN};

static void
fill_all(void)
{
    fill_uniform(x, ROWS * IN, 1.0f, 21);
    fill_uniform(weight, OUT * IN, 0.2f, 22);
    fill_uniform(bias, OUT, 1.0f, 23);
}

static qb_status
call(qb_device *device, qb_quantizer *input, qb_quantizer *weights, const float *b, qb_error *error)
{
    return qb_quant_linear(device, input, weights, (qb_tensor){x, 3, x_shape}, (qb_tensor){weight, 2, weight_shape}, b,
                           y, error);
}

/* codes * codes, exact, and the epilogue of the contract */
static void
codes_are_multiplied_exactly(void)
{
    qb_device *device = open_device(2, NULL);
    fill_all();
    qb_quantizer_options options = int8_options();
    qb_quantizer *input = new_quantizer(device, options);
    options.axis_count = 1;
    qb_quantizer *weights = new_quantizer(device, options);
    const float amax = 0.75f;
    CHECK(qb_quantizer_set_amax(input, &amax, 0, NULL, NULL) == QB_OK);
    CHECK(call(device, input, weights, bias, NULL) == QB_OK);
    const float x_scale = 127.0f / amax;
    for (int n = 0; n < OUT; n++) {
        float largest = 0.0f;
        for (int k = 0; k < IN; k++) {
            largest = fmaxf(largest, fabsf(weight[n * IN + k]));
        }
        const float w_scale = 127.0f / largest;
        const float step = (1.0f / x_scale) * (1.0f / w_scale);
        for (int m = 0; m < ROWS; m++) {
            int32_t acc = 0;
            for (int k = 0; k < IN; k++) {
                const float a = fminf(fmaxf(rintf(x[m * IN + k] * x_scale), -128.0f), 127.0f);
                const float b = fminf(fmaxf(rintf(weight[n * IN + k] * w_scale), -128.0f), 127.0f);
                acc += (int32_t)a * (int32_t)b;
            }
            CHECK(y[m * OUT + n] == fmaf((float)acc, step, bias[n]));
        }
    }
    qb_quantizer_release(input);
    qb_quantizer_release(weights);
    qb_device_close(device);
}

/* The lowest code times itself gives the largest sum: 2^14 k, beyond int32 from k = 2^17 on. */
static void
sums_beyond_32_bits_take_the_float_product(void)
{
    qb_device *device = open_device(1, NULL);
    qb_quantizer *input = new_quantizer(device, int8_options());
    qb_quantizer *weights = new_quantizer(device, int8_options());
    const float amax = 0.5f;
    CHECK(qb_quantizer_set_amax(input, &amax, 0, NULL, NULL) == QB_OK);
    CHECK(qb_quantizer_set_amax(weights, &amax, 0, NULL, NULL) == QB_OK);
    float *ones = malloc((QB_DEPTH_MAX + 1) * sizeof *ones);
    CHECK(ones != NULL);
    for (int64_t k = 0; k <= QB_DEPTH_MAX; k++) {
        ones[k] = -1.0f;
    }
    for (int64_t k = QB_DEPTH_MAX; k <= QB_DEPTH_MAX + 1; k++) {
        const int64_t shape[2] = {1, k};
        const float step = 1.0f / (127.0f / amax);
        const float exact = 16384.0f * (float)k * (step * step);
        float sum = 0.0f;
        CHECK(qb_quant_linear(device, input, weights, (qb_tensor){ones, 2, shape}, (qb_tensor){ones, 2, shape}, NULL,
                              &sum, NULL) == QB_OK);
        /* k additions of one sign, each rounded: at most k / 2^24 of the sum. */
        CHECK(fabsf(sum - exact) <= (k > QB_DEPTH_MAX ? 0.008f : 1e-6f) * exact);
    }
    free(ones);
    qb_quantizer_release(input);
    qb_quantizer_release(weights);
    qb_device_close(device);
}

static void
without_quantizers_it_is_a_float_product(void)
{
    qb_device *device = open_device(2, NULL);
    fill_all();
    qb_quantizer *off = new_quantizer(device, int8_options());
    CHECK(qb_quantizer_set_stages(off, QB_STAGE_DISABLED) == QB_OK);
    for (int which = 0; which < 2; which++) {
        CHECK(call(device, which ? off : NULL, which ? off : NULL, NULL, NULL) == QB_OK);
        for (int m = 0; m < ROWS; m++) {
            for (int n = 0; n < OUT; n++) {
                float acc = 0.0f;
                for (int k = 0; k < IN; k++) {
                    acc = fmaf(x[m * IN + k], weight[n * IN + k], acc);
                }
                CHECK(y[m * OUT + n] == acc);
            }
        }
    }
    qb_quantizer_release(off);
    qb_device_close(device);
}

static void
any_input_axes_are_served(void)
{
    qb_device *device = open_device(1, NULL);
    fill_all();
    qb_quantizer_options options = int8_options();
    options.axis_count = 2;
    options.axes[0] = 0;
    options.axes[1] = -1;
    qb_quantizer *input = new_quantizer(device, options);
    qb_quantizer *weights = new_quantizer(device, int8_options());
    CHECK(call(device, input, weights, bias, NULL) == QB_OK);
    static float quantized[ROWS * IN];
    static float quantized_weight[OUT * IN];
    CHECK(qb_quantizer_forward(input, NULL, x, 3, x_shape, quantized, NULL, NULL) == QB_OK);
    CHECK(qb_quantizer_forward(weights, NULL, weight, 2, weight_shape, quantized_weight, NULL, NULL) == QB_OK);
    float acc = 0.0f;
    for (int k = 0; k < IN; k++) {
        acc = fmaf(quantized[k], quantized_weight[k], acc);
    }
    CHECK(y[0] == acc + bias[0]);
    qb_quantizer_release(input);
    qb_quantizer_release(weights);
    qb_device_close(device);
}

static void
collecting_quantizers_see_both_operands_or_none(void)
{
    qb_device *device = open_device(1, NULL);
    fill_all();
    qb_quantizer *quantizers[2];
    qb_observer *observers[2];
    for (int i = 0; i < 2; i++) {
        quantizers[i] = new_quantizer(device, int8_options());
        observers[i] = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 32));
        CHECK(qb_quantizer_set_observer(quantizers[i], observers[i]) == QB_OK);
        CHECK(qb_quantizer_set_stages(quantizers[i], QB_STAGE_CALIB) == QB_OK);
    }
    CHECK(call(device, quantizers[0], quantizers[1], bias, NULL) == QB_OK);
    CHECK(counted(observers[0]) == ROWS * IN && counted(observers[1]) == OUT * IN);
    weight[3] = NAN;
    qb_error error;
    CHECK(call(device, quantizers[0], quantizers[1], bias, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "_weight_quantizer: element 3 is nan");
    CHECK(counted(observers[0]) == ROWS * IN && counted(observers[1]) == OUT * IN);
    for (int i = 0; i < 2; i++) {
        qb_quantizer_release(quantizers[i]);
        qb_observer_release(observers[i]);
    }
    qb_device_close(device);
}

static void
shapes_that_do_not_fit_are_told(void)
{
    qb_device *device = open_device(1, NULL);
    qb_error error;
    CHECK(qb_quant_linear(device, NULL, NULL, (qb_tensor){x, 2, (int64_t[]){2, IN + 1}},
                          (qb_tensor){weight, 2, weight_shape}, NULL, y, &error) == QB_ERR_SHAPE);
    CHECK_CONTAINS(error.message, "(2, 68)");
    CHECK_CONTAINS(error.message, "(29, 67)");
    CHECK(qb_quant_linear(device, NULL, NULL, (qb_tensor){x, 2, (int64_t[]){0, IN}},
                          (qb_tensor){weight, 2, weight_shape}, NULL, y, &error) == QB_OK);
    qb_device_close(device);
}

static void
running_out_of_memory_anywhere_leaks_nothing(void)
{
    fill_all();
    for (int is_integer = 0; is_integer < 2; is_integer++) {
        int succeeded = 0;
        for (long left = 0; left < 60 && !succeeded; left++) {
            rationed_memory memory = {-1};
            qb_device *device = open_device(1, &memory);
            qb_quantizer_options options = int8_options();
            options.num_bits = is_integer ? 8 : 12;
            qb_quantizer *quantizer = new_quantizer(device, options);
            const uint64_t live = qb_device_memory_statistics(device).live_blocks;
            memory.left = left;
            const qb_status status = call(device, quantizer, quantizer, bias, NULL);
            CHECK(status == QB_OK || status == QB_ERR_NOMEM);
            CHECK(qb_device_memory_statistics(device).live_blocks == live);
            succeeded = status == QB_OK;
            memory.left = -1;
            qb_quantizer_release(quantizer);
            qb_device_close(device);
        }
        CHECK(succeeded);
    }
}

int
main(void)
{
    RUN(codes_are_multiplied_exactly);
    RUN(sums_beyond_32_bits_take_the_float_product);
    RUN(without_quantizers_it_is_a_float_product);
    RUN(any_input_axes_are_served);
    RUN(collecting_quantizers_see_both_operands_or_none);
    RUN(shapes_that_do_not_fit_are_told);
    RUN(running_out_of_memory_anywhere_leaks_nothing);
    return check_report();
}
