/* SPDX-License-Identifier: Apache-2.0
 *
 * A linear layer whose float products round their operands to bfloat16: how far forward and backward are from the exact
 * products, on every device that has them, and which paths are left alone.
 */
#include "layers/linear.h"

#include "layer_case.h"

/* A layer with all its memory on one device. */
typedef struct bf16_case {
    qb_device *device;
    qb_linear layer;
    qb_linear_work work;
    qb_gradient_work gradient;
    case_plan plan;
    float *parameters; /* weight, then bias */
    float *gradients;  /* the same */
} bf16_case;

static void
plan_case(bf16_case *c, qb_arena *arena, int64_t rows, const qb_gradient_sizes *sizes)
{
    const int64_t elements = rows * c->layer.in_features;
    int8_t *codes = qb_arena_take(arena, elements, sizeof *codes);
    float *values = qb_arena_take(arena, elements, sizeof *values);
    qb_linear_plan(&c->layer, &c->work, arena, codes, values, &c->plan.scratch);
    qb_gradient_plan(sizes, &c->gradient, arena, &c->plan.scratch);
}

static bf16_case *
make_case(qb_device *device, int64_t rows, int64_t k, int64_t n, int is_quantized)
{
    bf16_case *c = case_memory(sizeof *c);
    c->device = device;
    qb_linear_init(&c->layer, k, n, is_quantized);
    c->parameters = case_random(n * k + n, 0.5f, 7);
    c->gradients = case_memory((size_t)(n * k + n) * sizeof *c->gradients);
    c->layer.weight.data = c->parameters;
    c->layer.bias.data = c->parameters + n * k;
    c->layer.weight.gradient = c->gradients;
    c->layer.bias.gradient = c->gradients + n * k;
    if (is_quantized) {
        c->layer.input_quantizer = case_quantizer(device, 8, 0);
        c->layer.weight_quantizer = case_quantizer(device, 8, 1);
    }
    qb_gradient_sizes sizes = {.values = 0};
    qb_linear_gradient_sizes(&c->layer, &device->kernels, rows, &sizes);
    const size_t forward = qb_linear_scratch_bytes(&c->layer, &device->kernels);
    case_plan_scratch(&c->plan, device, forward > sizes.scratch ? forward : sizes.scratch);
    qb_arena arena = qb_arena_measuring();
    plan_case(c, &arena, rows, &sizes);
    c->plan.arena_block = case_aligned(arena.used);
    arena = qb_arena_bind(c->plan.arena_block, arena.used);
    plan_case(c, &arena, rows, &sizes);
    CHECK(qb_arena_ok(&arena));
    return c;
}

static void
free_case(bf16_case *c)
{
    qb_linear_clear(&c->layer, &c->device->heap);
    qb_quantizer_destroy(c->layer.input_quantizer);
    qb_quantizer_destroy(c->layer.weight_quantizer);
    case_plan_free(&c->plan);
    free(c->parameters);
    free(c->gradients);
    free(c);
}

static qb_run
run_of(const bf16_case *c, int uses_bf16)
{
    qb_run run = qb_device_run(c->device, NULL, NULL);
    run.uses_bf16 = uses_bf16;
    return run;
}

static void
forward(bf16_case *c, int uses_bf16, const float *x, int64_t rows, float *y)
{
    const qb_run run = run_of(c, uses_bf16);
    CHECK(qb_linear_prepare(&c->layer, &run) == QB_OK);
    CHECK(qb_linear_forward(&c->layer, &c->work, &run, x, rows, QB_ACTIVATION_NONE, y) == QB_OK);
}

static void
backward(bf16_case *c, int uses_bf16, const float *x, int64_t rows, const float *dy, float *dx)
{
    const qb_run run = run_of(c, uses_bf16);
    memset(c->gradients, 0, (size_t)(c->layer.out_features * (c->layer.in_features + 1)) * sizeof *c->gradients);
    CHECK(qb_linear_backward(&c->layer, &c->gradient, &run, x, rows, dy, dx) == QB_OK);
}

/* ---- facts ------------------------------------------------------------------------------------------------------ */

/* One element of a product of depth k against its float64 value: as test_product_bf16.c derives, with u = 2^-8
 *
 *     |y - sum a b| <= (2u + u^2 + 1.01 k 2^-24 (1 + u)^2) sum |a b|
 *
 * and a bias adds one rounding of the result. */
static int
is_near(float y, const float *a, int64_t a_stride, const float *b, int64_t b_stride, int64_t k, float bias)
{
    const double u = 0x1p-8;
    double sum = 0.0;
    double size = 0.0;
    for (int64_t t = 0; t < k; t++) {
        const double term = (double)a[t * a_stride] * (double)b[t * b_stride];
        sum += term;
        size += fabs(term);
    }
    const double bound = (2.0 * u + u * u + 1.01 * (double)k * 0x1p-24 * (1.0 + u) * (1.0 + u)) * size;
    return fabs((double)y - (sum + (double)bias)) <= bound + 0x1p-24 * (fabs(sum + (double)bias) + bound);
}

/* M, K, N around tiles, odd, and one row; the three products have depths K, N and M. */
static const int64_t shapes[][3] = {{1, 30, 70}, {17, 71, 30}, {31, 129, 257}, {70, 64, 5}, {45, 1, 33}};

static void
test_forward_and_both_products_of_backward_are_within_two_roundings(void)
{
    case_devices devices = case_bf16_devices_open();
    for (size_t s = 0; s < COUNT(shapes); s++) {
        const int64_t m = shapes[s][0], k = shapes[s][1], n = shapes[s][2];
        float *x = case_random(m * k, 2.0f, 1);
        float *dy = case_random(m * n, 1.0f, 2);
        float *y = case_memory((size_t)(m * n) * sizeof *y);
        float *dx = case_memory((size_t)(m * k) * sizeof *dx);
        for (size_t d = 0; d < devices.count; d++) {
            bf16_case *c = make_case(devices.at[d], m, k, n, 0);
            const float *w = c->layer.weight.data;
            forward(c, 1, x, m, y);
            backward(c, 1, x, m, dy, dx);
            int64_t far = 0;
            for (int64_t i = 0; i < m * n; i++) {
                far += !is_near(y[i], x + i / n * k, 1, w + i % n * k, 1, k, c->layer.bias.data[i % n]);
            }
            for (int64_t i = 0; i < m * k; i++) {
                far += !is_near(dx[i], dy + i / k * n, 1, w + i % k, k, n, 0.0f);
            }
            for (int64_t i = 0; i < n * k; i++) {
                far += !is_near(c->gradients[i], dy + i / k, n, x + i % k, k, m, 0.0f);
            }
            CHECK(far == 0);
            free_case(c);
        }
        free(x);
        free(dy);
        free(y);
        free(dx);
    }
    case_devices_close(&devices);
}

static void
test_bits_are_equal_on_every_device_and_are_not_those_of_floats(void)
{
    case_devices devices = case_bf16_devices_open();
    const int64_t m = 83, k = 129, n = 257;
    const int64_t counts[4] = {m * n, m * k, n * k, n};
    float *x = case_random(m * k, 2.0f, 5);
    float *dy = case_random(m * n, 1.0f, 6);
    float *expected[4];
    float *found[4];
    for (int i = 0; i < 4; i++) {
        expected[i] = case_memory((size_t)counts[i] * sizeof(float));
        found[i] = case_memory((size_t)counts[i] * sizeof(float));
    }
    for (size_t d = 0; d < devices.count; d++) {
        float **out = d == 0 ? expected : found;
        bf16_case *c = make_case(devices.at[d], m, k, n, 0);
        forward(c, 1, x, m, out[0]);
        backward(c, 1, x, m, dy, out[1]);
        memcpy(out[2], c->gradients, (size_t)counts[2] * sizeof(float));
        memcpy(out[3], c->layer.bias.gradient, (size_t)counts[3] * sizeof(float));
        for (int i = 0; i < 4; i++) {
            CHECK(d == 0 || same_bits(found[i], expected[i], counts[i]));
        }
        if (d == 0) {
            forward(c, 0, x, m, found[0]);
            backward(c, 0, x, m, dy, found[1]);
            CHECK(memcmp(found[0], expected[0], (size_t)counts[0] * sizeof(float)) != 0);
            CHECK(memcmp(found[1], expected[1], (size_t)counts[1] * sizeof(float)) != 0);
            CHECK(memcmp(c->gradients, expected[2], (size_t)counts[2] * sizeof(float)) != 0);
            CHECK(same_bits(c->layer.bias.gradient, expected[3], counts[3])); /* a sum of floats */
        }
        free_case(c);
    }
    for (int i = 0; i < 4; i++) {
        free(expected[i]);
        free(found[i]);
    }
    free(x);
    free(dy);
    case_devices_close(&devices);
}

static void
test_codes_stay_codes_in_forward_and_backward_multiplies_their_values(void)
{
    qb_device *device = case_device("ref", 2);
    const int64_t m = 31, k = 70, n = 33;
    float *x = case_random(m * k, 1.0f, 3);
    float *dy = case_random(m * n, 1.0f, 4);
    float *y[2];
    float *dx[2];
    bf16_case *c = make_case(device, m, k, n, 1);
    case_set_amax(c->layer.input_quantizer, 1.0f);
    for (int uses_bf16 = 0; uses_bf16 < 2; uses_bf16++) {
        y[uses_bf16] = case_memory((size_t)(m * n) * sizeof(float));
        dx[uses_bf16] = case_memory((size_t)(m * k) * sizeof(float));
        forward(c, uses_bf16, x, m, y[uses_bf16]);
        CHECK(c->layer.pack.form == QB_WEIGHT_QS8 && c->layer.bf16_pack.form == QB_WEIGHT_NONE);
        backward(c, uses_bf16, x, m, dy, dx[uses_bf16]);
    }
    CHECK(same_bits(y[0], y[1], m * n));
    /* Values of codes have up to 24 digits, so they are rounded too. */
    CHECK(memcmp(dx[0], dx[1], (size_t)(m * k) * sizeof(float)) != 0);
    for (int i = 0; i < 2; i++) {
        free(y[i]);
        free(dx[i]);
    }
    free(x);
    free(dy);
    free_case(c);
    qb_device_close(device);
}

static void
test_values_that_fit_no_codes_are_rounded_after_they_are_quantized(void)
{
    qb_device *device = case_device("ref", 1);
    const int64_t m = 5, k = 30, n = 33;
    float *x = case_random(m * k, 1.0f, 8);
    float y[5 * 33];
    bf16_case *c = make_case(device, m, k, n, 1);
    qb_quantizer_destroy(c->layer.input_quantizer);
    c->layer.input_quantizer = case_quantizer(device, 16, 0);
    case_set_amax(c->layer.input_quantizer, 1.0f);
    forward(c, 1, x, m, y);
    CHECK(c->layer.bf16_pack.form == QB_WEIGHT_BF16_QUANT);
    const float scale_x = naive_scale(1.0f, 16);
    int64_t far = 0;
    for (int64_t j = 0; j < n; j++) {
        float w[30];
        const float scale_w = naive_scale(naive_amax(c->layer.weight.data + j * k, k), 8);
        for (int64_t t = 0; t < k; t++) {
            w[t] = (float)naive_code(c->layer.weight.data[j * k + t], scale_w, 8) / scale_w;
        }
        for (int64_t i = 0; i < m; i++) {
            float a[30];
            for (int64_t t = 0; t < k; t++) {
                a[t] = (float)naive_code(x[i * k + t], scale_x, 16) / scale_x;
            }
            far += !is_near(y[i * n + j], a, 1, w, 1, k, c->layer.bias.data[j]);
        }
    }
    CHECK(far == 0);
    free(x);
    free_case(c);
    qb_device_close(device);
}

static void
test_each_kind_of_run_keeps_a_packed_weight_of_its_own_until_the_weight_changes(void)
{
    qb_device *device = case_device("ref", 1);
    const int64_t k = 30, n = 33;
    bf16_case *c = make_case(device, 1, k, n, 0);
    float *x = case_random(k, 1.0f, 9);
    float floats[2][33];
    float halves[2][33];
    forward(c, 0, x, 1, floats[0]);
    forward(c, 1, x, 1, halves[0]);
    CHECK(c->layer.pack.form == QB_WEIGHT_F32 && c->layer.bf16_pack.form == QB_WEIGHT_BF16);
    const uint64_t before = qb_device_memory_statistics(device).allocations;
    forward(c, 0, x, 1, floats[1]);
    forward(c, 1, x, 1, halves[1]);
    CHECK(qb_device_memory_statistics(device).allocations == before); /* neither was made again */
    CHECK(same_bits(floats[0], floats[1], n) && same_bits(halves[0], halves[1], n));

    c->parameters[3] += 0.25f;
    c->layer.weight.revision++;
    forward(c, 1, x, 1, halves[1]);
    CHECK(c->layer.pack.form == QB_WEIGHT_NONE); /* out of date, and perhaps never wanted again */
    forward(c, 0, x, 1, floats[1]);
    CHECK(halves[1][0] != halves[0][0] && floats[1][0] != floats[0][0]);
    CHECK(same_bits(floats[0] + 1, floats[1] + 1, n - 1) && same_bits(halves[0] + 1, halves[1] + 1, n - 1));
    free(x);
    free_case(c);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_forward_and_both_products_of_backward_are_within_two_roundings);
    RUN(test_bits_are_equal_on_every_device_and_are_not_those_of_floats);
    RUN(test_codes_stay_codes_in_forward_and_backward_multiplies_their_values);
    RUN(test_values_that_fit_no_codes_are_rounded_after_they_are_quantized);
    RUN(test_each_kind_of_run_keeps_a_packed_weight_of_its_own_until_the_weight_changes);
    return check_report();
}
