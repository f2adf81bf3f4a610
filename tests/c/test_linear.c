/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/linear.h"

#include "layer_case.h"

/* A layer with its memory on one device. */
typedef struct linear_case {
    qb_device *device;
    qb_linear layer;
    qb_linear_work work;
    case_plan plan;
    float *parameters; /* weight, then bias */
    int8_t *codes;
    float *values;
} linear_case;

static linear_case *
make_case(qb_device *device, int64_t rows, int64_t k, int64_t n, int is_quantized)
{
    linear_case *c = case_memory(sizeof *c);
    c->device = device;
    qb_linear_init(&c->layer, k, n, is_quantized);
    c->parameters = case_random(n * k + n, 0.5f, 7);
    c->layer.weight.data = c->parameters;
    c->layer.bias.data = c->parameters + n * k;
    if (is_quantized) {
        c->layer.input_quantizer = case_quantizer(device, 8, 0);
        c->layer.weight_quantizer = case_quantizer(device, 8, 1);
    }
    c->codes = case_aligned((size_t)(rows * k));
    c->values = case_aligned((size_t)(rows * k) * sizeof(float));
    case_plan_scratch(&c->plan, device, qb_linear_scratch_bytes(&c->layer, &device->kernels));
    qb_arena arena = qb_arena_measuring();
    qb_linear_plan(&c->layer, &c->work, &arena, c->codes, c->values, &c->plan.scratch);
    c->plan.arena_block = case_aligned(arena.used);
    arena = qb_arena_bind(c->plan.arena_block, arena.used);
    qb_linear_plan(&c->layer, &c->work, &arena, c->codes, c->values, &c->plan.scratch);
    CHECK(qb_arena_ok(&arena));
    return c;
}

static void
free_case(linear_case *c)
{
    qb_linear_clear(&c->layer, &c->device->heap);
    qb_quantizer_destroy(c->layer.input_quantizer);
    qb_quantizer_destroy(c->layer.weight_quantizer);
    case_plan_free(&c->plan);
    free(c->parameters);
    free(c->codes);
    free(c->values);
    free(c);
}

static qb_status
prepare(linear_case *c, qb_error *error)
{
    const qb_path path = {NULL, "encoder.query"};
    const qb_run run = qb_device_run(c->device, NULL, error);
    const qb_run inner = qb_run_enter(&run, &path);
    return qb_linear_prepare(&c->layer, &inner);
}

static qb_status
run_forward(linear_case *c, const float *x, int64_t rows, qb_activation activation, float *y, qb_error *error)
{
    const qb_path path = {NULL, "encoder.query"};
    const qb_run run = qb_device_run(c->device, NULL, error);
    const qb_run inner = qb_run_enter(&run, &path);
    return qb_linear_forward(&c->layer, &c->work, &inner, x, rows, activation, y);
}

/* M, K, N around tiles and at primes; a weight that is wider than one panel, and one that is not. */
static const int64_t shapes[][3] = {{1, 30, 70}, {2, 48, 33}, {17, 70, 30}, {31, 129, 257}, {70, 64, 5}, {200, 48, 48}};

/* ---- tests ------------------------------------------------------------------------------------------------------ */

static void
test_float_is_the_product_of_the_definition(void)
{
    qb_device *device = case_device(NULL, 2);
    for (size_t s = 0; s < COUNT(shapes); s++) {
        const int64_t m = shapes[s][0], k = shapes[s][1], n = shapes[s][2];
        linear_case *c = make_case(device, m, k, n, 0);
        float *x = case_random(m * k, 2.0f, 1);
        float *y = case_memory((size_t)(m * n) * sizeof *y);
        CHECK(prepare(c, NULL) == QB_OK);
        CHECK(run_forward(c, x, m, QB_ACTIVATION_NONE, y, NULL) == QB_OK);
        for (int64_t i = 0; i < m; i++) {
            for (int64_t j = 0; j < n; j++) {
                double exact = (double)c->layer.bias.data[j];
                double size = fabs(exact);
                for (int64_t t = 0; t < k; t++) {
                    const double term = (double)x[i * k + t] * (double)c->layer.weight.data[j * k + t];
                    exact += term;
                    size += fabs(term);
                }
                /* k fused steps and one addition, each off by at most half an ulp of a partial sum. */
                CHECK(fabs((double)y[i * n + j] - exact) <= (double)(k + 1) * 0x1p-24 * size);
            }
        }
        free(x);
        free(y);
        free_case(c);
    }
    qb_device_close(device);
}

static void
naive_integer(const linear_case *c, const float *x, int64_t m, float amax_x, float *y)
{
    const int64_t k = c->layer.in_features;
    const int64_t n = c->layer.out_features;
    const float scale_x = naive_scale(amax_x, 8);
    for (int64_t j = 0; j < n; j++) {
        const float *w = c->layer.weight.data + j * k;
        const float scale_w = naive_scale(naive_amax(w, k), 8);
        const float step = (1.0f / scale_w) * (1.0f / scale_x);
        for (int64_t i = 0; i < m; i++) {
            int32_t acc = 0;
            for (int64_t t = 0; t < k; t++) {
                acc += naive_code(x[i * k + t], scale_x, 8) * naive_code(w[t], scale_w, 8);
            }
            y[i * n + j] = fmaf((float)acc, step, c->layer.bias.data[j]);
        }
    }
}

static void
test_integer_path_is_the_naive_integer_product_on_every_device(void)
{
    case_devices devices = case_devices_open();
    for (size_t s = 0; s < COUNT(shapes); s++) {
        const int64_t m = shapes[s][0], k = shapes[s][1], n = shapes[s][2];
        float *x = case_random(m * k, 2.0f, 3);
        float *expected = case_memory((size_t)(m * n) * sizeof *expected);
        float *y = case_memory((size_t)(m * n) * sizeof *y);
        for (size_t d = 0; d < devices.count; d++) {
            for (int is_static = 0; is_static < 2; is_static++) {
                linear_case *c = make_case(devices.at[d], m, k, n, 1);
                if (is_static) {
                    case_set_amax(c->layer.input_quantizer, 1.25f); /* saturates */
                }
                naive_integer(c, x, m, is_static ? 1.25f : naive_amax(x, m * k), expected);
                CHECK(prepare(c, NULL) == QB_OK);
                CHECK(c->layer.pack.form == QB_WEIGHT_QS8);
                CHECK(run_forward(c, x, m, QB_ACTIVATION_NONE, y, NULL) == QB_OK);
                CHECK(same_bits(y, expected, m * n));
                free_case(c);
            }
        }
        free(x);
        free(y);
        free(expected);
    }
    case_devices_close(&devices);
}

/* 16 bits do not fit codes: values q / scale, and the chain of fused multiply-adds. */
static void
test_dequantized_path_is_the_float_product_of_quantized_values(void)
{
    case_devices devices = case_devices_open();
    const int64_t m = 17, k = 70, n = 30;
    float *x = case_random(m * k, 2.0f, 4);
    float *y = case_memory((size_t)(m * n) * sizeof *y);
    const float scale_x = naive_scale(naive_amax(x, m * k), 16);
    for (size_t d = 0; d < devices.count; d++) {
        linear_case *c = make_case(devices.at[d], m, k, n, 1);
        qb_quantizer_destroy(c->layer.input_quantizer);
        c->layer.input_quantizer = case_quantizer(devices.at[d], 16, 0);
        CHECK(prepare(c, NULL) == QB_OK);
        CHECK(c->layer.pack.form == QB_WEIGHT_F32_QUANT);
        CHECK(run_forward(c, x, m, QB_ACTIVATION_NONE, y, NULL) == QB_OK);
        for (int64_t j = 0; j < n; j++) {
            const float *w = c->layer.weight.data + j * k;
            const float scale_w = naive_scale(naive_amax(w, k), 8);
            for (int64_t i = 0; i < m; i++) {
                float acc = 0.0f;
                for (int64_t t = 0; t < k; t++) {
                    const float xv = (float)naive_code(x[i * k + t], scale_x, 16) / scale_x;
                    acc = fmaf(xv, (float)naive_code(w[t], scale_w, 8) / scale_w, acc);
                }
                const float expected = acc + c->layer.bias.data[j];
                CHECK(memcmp(&y[i * n + j], &expected, sizeof expected) == 0);
            }
        }
        free_case(c);
    }
    free(x);
    free(y);
    case_devices_close(&devices);
}

static void
test_float_and_activation_have_equal_bits_on_every_device(void)
{
    case_devices devices = case_devices_open();
    const int64_t m = 31, k = 129, n = 257;
    float *x = case_random(m * k, 2.0f, 5);
    float *expected = case_memory((size_t)(m * n) * sizeof *expected);
    float *y = case_memory((size_t)(m * n) * sizeof *y);
    for (size_t d = 0; d < devices.count; d++) {
        linear_case *c = make_case(devices.at[d], m, k, n, 0);
        CHECK(prepare(c, NULL) == QB_OK);
        CHECK(run_forward(c, x, m, QB_ACTIVATION_GELU, d == 0 ? expected : y, NULL) == QB_OK);
        CHECK(d == 0 || same_bits(y, expected, m * n));
        free_case(c);
    }
    free(x);
    free(y);
    free(expected);
    case_devices_close(&devices);
}

static void
test_packed_weight_follows_the_parameter_and_the_quantizer(void)
{
    qb_device *device = case_device(NULL, 1);
    const int64_t k = 30, n = 33;
    linear_case *c = make_case(device, 1, k, n, 1);
    float *x = case_random(k, 1.0f, 6);
    float before[33];
    float after[33];
    float expected[33];
    CHECK(prepare(c, NULL) == QB_OK);
    CHECK(run_forward(c, x, 1, QB_ACTIVATION_NONE, before, NULL) == QB_OK);
    const void *packed = c->layer.pack.data;
    CHECK(prepare(c, NULL) == QB_OK);
    CHECK(c->layer.pack.data == packed); /* nothing changed, nothing packed */

    c->parameters[5] = 3.0f;
    c->layer.weight.revision++;
    CHECK(prepare(c, NULL) == QB_OK);
    CHECK(run_forward(c, x, 1, QB_ACTIVATION_NONE, after, NULL) == QB_OK);
    naive_integer(c, x, 1, naive_amax(x, k), expected);
    CHECK(same_bits(after, expected, n));
    CHECK(memcmp(before, after, sizeof before) != 0);

    CHECK(qb_quantizer_set_stages(c->layer.weight_quantizer, QB_STAGE_DISABLED) == QB_OK);
    CHECK(prepare(c, NULL) == QB_OK);
    CHECK(c->layer.pack.form == QB_WEIGHT_F32); /* dequantized path with an unquantized weight */
    CHECK(qb_quantizer_set_stages(c->layer.input_quantizer, QB_STAGE_DISABLED) == QB_OK);
    packed = c->layer.pack.data;
    CHECK(prepare(c, NULL) == QB_OK);
    CHECK(c->layer.pack.data == packed); /* float path, the same panels */
    free(x);
    free_case(c);
    qb_device_close(device);
}

static void
test_equal_input_and_range_share_codes(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t m = 17, k = 48, n = 30;
    linear_case *a = make_case(device, m, k, n, 1);
    linear_case *b = make_case(device, m, k, n, 1);
    float *x = case_random(m * k, 1.0f, 8);
    float *ya = case_memory((size_t)(m * n) * sizeof *ya);
    float *yb = case_memory((size_t)(m * n) * sizeof *yb);
    const qb_run run = qb_device_run(device, NULL, NULL);
    qb_linear_call calls[2];
    qb_coded coded = {.count = 0};
    CHECK(prepare(a, NULL) == QB_OK && prepare(b, NULL) == QB_OK);
    CHECK(qb_linear_begin(&a->layer, &a->work, &run, x, &coded, m, QB_ACTIVATION_NONE, ya, &calls[0]) == QB_OK);
    CHECK(qb_linear_begin(&b->layer, &b->work, &run, x, &coded, m, QB_ACTIVATION_NONE, yb, &calls[1]) == QB_OK);
    CHECK(calls[1].product.a == a->codes);
    CHECK(qb_linear_finish(&run, calls, 2, &a->plan.scratch) == QB_OK);
    CHECK(same_bits(ya, yb, m * n)); /* both cases have the same weight */

    case_set_amax(b->layer.input_quantizer, 0.5f);
    CHECK(qb_linear_begin(&b->layer, &b->work, &run, x, &coded, m, QB_ACTIVATION_NONE, yb, &calls[1]) == QB_OK);
    CHECK(calls[1].product.a == b->codes && coded.count == 2);
    free(x);
    free(ya);
    free(yb);
    free_case(a);
    free_case(b);
    qb_device_close(device);
}

/* Also with fewer and more columns than a panel, and the codes in the memory of y. */
static void
test_given_codes_are_those_of_the_output(void)
{
    case_devices devices = case_devices_open();
    const qb_quant_range range = {.scale = 50.0f, .lower = -127.0f, .upper = 127.0f}; /* saturates */
    for (size_t d = 0; d < devices.count; d++) {
        for (size_t s = 0; s < COUNT(shapes); s++) {
            const int64_t m = shapes[s][0], k = shapes[s][1], n = shapes[s][2];
            linear_case *c = make_case(devices.at[d], m, k, n, 1);
            float *x = case_random(m * k, 1.0f, 10);
            float *y = case_memory((size_t)(m * n) * sizeof *y);
            int8_t *expected = case_memory((size_t)(m * n));
            const qb_run run = qb_device_run(devices.at[d], NULL, NULL);
            uint32_t nonfinite = 0;
            qb_linear_call call;
            CHECK(prepare(c, NULL) == QB_OK);
            CHECK(run_forward(c, x, m, QB_ACTIVATION_GELU, y, NULL) == QB_OK);
            run.kernels->quantize_qs8(y, (size_t)(m * n), &range, expected, &nonfinite);
            CHECK(qb_linear_begin(&c->layer, &c->work, &run, x, NULL, m, QB_ACTIVATION_GELU, y, &call) == QB_OK);
            qb_linear_give_codes(&call, &range, (int8_t *)y);
            CHECK(qb_linear_finish(&run, &call, 1, &c->plan.scratch) == QB_OK);
            const qb_coded given = qb_linear_given(&call);
            CHECK(given.lacks_floats && qb_coded_find(&given, &range) == (const int8_t *)y);
            CHECK(memcmp(y, expected, (size_t)(m * n)) == 0);
            free(x);
            free(y);
            free(expected);
            free_case(c);
        }
    }
    case_devices_close(&devices);
}

static void
test_an_output_that_is_not_finite_is_given_as_floats(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t m = 5, k = 30, n = 33;
    linear_case *c = make_case(device, m, k, n, 1);
    const qb_quant_range range = {.scale = 50.0f, .lower = -127.0f, .upper = 127.0f};
    float *x = case_random(m * k, 1.0f, 11);
    float y[5 * 33];
    float expected[5 * 33];
    const qb_run run = qb_device_run(device, NULL, NULL);
    qb_linear_call call;
    c->layer.bias.data[17] = INFINITY;
    CHECK(prepare(c, NULL) == QB_OK);
    CHECK(run_forward(c, x, m, QB_ACTIVATION_NONE, expected, NULL) == QB_OK);
    CHECK(qb_linear_begin(&c->layer, &c->work, &run, x, NULL, m, QB_ACTIVATION_NONE, y, &call) == QB_OK);
    qb_linear_give_codes(&call, &range, (int8_t *)y);
    CHECK(qb_linear_finish(&run, &call, 1, &c->plan.scratch) == QB_OK);
    const qb_coded given = qb_linear_given(&call);
    CHECK(!given.lacks_floats && given.count == 0);
    CHECK(same_bits(y, expected, m * n));
    free(x);
    free_case(c);
    qb_device_close(device);
}

static void
test_nan_is_reported_by_site(void)
{
    qb_device *device = case_device(NULL, 2);
    linear_case *c = make_case(device, 4, 30, 33, 1);
    float *x = case_random(4 * 30, 1.0f, 9);
    float y[4 * 33];
    qb_error error;
    case_set_amax(c->layer.input_quantizer, 1.0f);
    CHECK(prepare(c, &error) == QB_OK);
    x[2 * 30 + 5] = NAN;
    CHECK(run_forward(c, x, 4, QB_ACTIVATION_NONE, y, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "encoder.query._input_quantizer: element (2, 5) is NaN");
    x[2 * 30 + 5] = INFINITY;
    CHECK(run_forward(c, x, 4, QB_ACTIVATION_NONE, y, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "infinite");

    c->parameters[30 * 3] = INFINITY;
    c->layer.weight.revision++;
    CHECK(prepare(c, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "encoder.query._weight_quantizer");
    CHECK(c->layer.pack.form == QB_WEIGHT_NONE); /* nothing stale is left */
    c->parameters[30 * 3] = 0.0f;
    CHECK(prepare(c, &error) == QB_OK);
    free(x);
    free_case(c);
    qb_device_close(device);
}

static void
test_zero_input_and_zero_rows_give_the_bias(void)
{
    qb_device *device = case_device(NULL, 1);
    linear_case *c = make_case(device, 2, 30, 33, 1);
    float x[60] = {0};
    float y[66];
    memset(c->parameters, 0, 30 * sizeof *c->parameters); /* a dead range in row 0 */
    CHECK(prepare(c, NULL) == QB_OK);
    CHECK(run_forward(c, x, 2, QB_ACTIVATION_NONE, y, NULL) == QB_OK);
    CHECK(same_bits(y, c->layer.bias.data, 33) && same_bits(y + 33, c->layer.bias.data, 33));
    free_case(c);
    qb_device_close(device);
}

static void
test_ranges_along_the_last_axis_are_served_and_others_refused(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t m = 5, k = 6, n = 3;
    linear_case *c = make_case(device, m, k, n, 1);
    const float amax[6] = {0.5f, 1.0f, 1.5f, 2.0f, 2.5f, 3.0f};
    const int64_t shape[3] = {1, 1, 6};
    qb_quantizer_options options = case_quantizer_options(8, 0);
    qb_error error;
    options.axis_count = 1;
    options.axes[0] = -1;
    CHECK(qb_quantizer_set_options(c->layer.input_quantizer, &options, NULL) == QB_OK);
    CHECK(qb_quantizer_set_amax(c->layer.input_quantizer, amax, 3, shape, NULL) == QB_OK);
    CHECK(qb_quantizer_set_stages(c->layer.weight_quantizer, QB_STAGE_DISABLED) == QB_OK);
    float *x = case_random(m * k, 3.0f, 10);
    float y[15];
    CHECK(prepare(c, &error) == QB_OK);
    CHECK(run_forward(c, x, m, QB_ACTIVATION_NONE, y, &error) == QB_OK);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            float acc = 0.0f;
            for (int64_t t = 0; t < k; t++) {
                const float scale = naive_scale(amax[t], 8);
                acc = fmaf((float)naive_code(x[i * k + t], scale, 8) / scale, c->parameters[j * k + t], acc);
            }
            const float expected = acc + c->layer.bias.data[j];
            CHECK(memcmp(&y[i * n + j], &expected, sizeof expected) == 0);
        }
    }
    options.axes[0] = 1;
    CHECK(qb_quantizer_set_options(c->layer.input_quantizer, &options, NULL) == QB_OK);
    CHECK(prepare(c, &error) == QB_ERR_UNSUPPORTED);
    CHECK_CONTAINS(error.message, "encoder.query._input_quantizer: ");
    free(x);
    free_case(c);
    qb_device_close(device);
}

static void
test_collecting_sees_input_and_weight_and_an_unchanged_weight_once(void)
{
    qb_device *device = case_device(NULL, 2);
    linear_case *c = make_case(device, 17, 30, 33, 1);
    float *x = case_random(17 * 30, 1.0f, 11);
    float *y = case_memory(17 * 33 * sizeof *y);
    qb_observer *of_input = case_max_observer(device);
    qb_observer *of_weight = case_max_observer(device);
    const qb_run run = qb_device_run(device, NULL, NULL);
    CHECK(qb_quantizer_set_observer(c->layer.input_quantizer, of_input) == QB_OK);
    CHECK(qb_quantizer_set_observer(c->layer.weight_quantizer, of_weight) == QB_OK);
    CHECK(qb_quantizer_set_stages(c->layer.input_quantizer, QB_STAGE_CALIB) == QB_OK);
    CHECK(qb_quantizer_set_stages(c->layer.weight_quantizer, QB_STAGE_CALIB) == QB_OK);
    CHECK(prepare(c, NULL) == QB_OK);
    CHECK(c->layer.pack.form == QB_WEIGHT_F32);
    CHECK(run_forward(c, x, 17, QB_ACTIVATION_NONE, y, NULL) == QB_OK);
    CHECK(qb_linear_observe_weight(&c->layer, &run) == QB_OK);
    CHECK(case_observed(of_input) == naive_amax(x, 17 * 30));
    CHECK(case_observed(of_weight) == naive_amax(c->layer.weight.data, 33 * 30));
    const uint64_t revision = qb_observer_revision(of_weight);
    CHECK(qb_linear_observe_weight(&c->layer, &run) == QB_OK);
    CHECK(qb_observer_revision(of_weight) == revision);
    c->parameters[0] = 9.0f;
    c->layer.weight.revision++;
    CHECK(qb_linear_observe_weight(&c->layer, &run) == QB_OK);
    CHECK(case_observed(of_weight) == 9.0f);
    free(x);
    free(y);
    free_case(c);
    qb_observer_release(of_input);
    qb_observer_release(of_weight);
    qb_device_close(device);
}

/* What a process that is forked inside a release would find in the packs of a layer. */
typedef struct watched_packs {
    const qb_linear *layer;
    int is_found;
} watched_packs;

static void *
watched_allocate(void *context, size_t size, size_t alignment)
{
    (void)context;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void
watched_release(void *context, void *pointer, size_t size, size_t alignment)
{
    watched_packs *watched = context;
    (void)alignment;
    if (watched->layer != NULL) {
        const qb_linear_pack *packs[2] = {&watched->layer->pack, &watched->layer->bf16_pack};
        for (size_t i = 0; i < COUNT(packs); i++) {
            const void *const named[2] = {packs[i]->data, packs[i]->step};
            for (size_t j = 0; j < COUNT(named); j++) {
                const uintptr_t at = (uintptr_t)named[j], block = (uintptr_t)pointer;
                watched->is_found |= at >= block && at < block + size;
            }
        }
    }
    free(pointer);
}

static void
test_a_block_is_forgotten_before_it_is_given_back(void)
{
    watched_packs watched = {NULL, 0};
    const qb_allocator allocator = {watched_allocate, watched_release, &watched};
    const qb_device_options options = {.struct_size = sizeof options, .num_threads = 1, .allocator = &allocator};
    for (int is_quantized = 0; is_quantized < 2; is_quantized++) {
        qb_device *device = NULL;
        CHECK(qb_device_open(&options, &device, NULL) == QB_OK);
        linear_case *c = make_case(device, 3, 30, 33, is_quantized);
        watched.layer = &c->layer;
        for (int i = 0; i < 3; i++) {
            CHECK(prepare(c, NULL) == QB_OK);
            CHECK(c->layer.pack.data != NULL);
            c->layer.weight.revision++;
        }
        c->parameters[0] = NAN; /* of no use to codes: what was made of it is given back */
        CHECK(prepare(c, NULL) == (is_quantized ? QB_ERR_VALUE : QB_OK));
        CHECK((c->layer.pack.data == NULL) == is_quantized);
        CHECK(!watched.is_found);
        watched.layer = NULL;
        free_case(c);
        qb_device_close(device);
    }
}

int
main(void)
{
    RUN(test_float_is_the_product_of_the_definition);
    RUN(test_integer_path_is_the_naive_integer_product_on_every_device);
    RUN(test_dequantized_path_is_the_float_product_of_quantized_values);
    RUN(test_float_and_activation_have_equal_bits_on_every_device);
    RUN(test_packed_weight_follows_the_parameter_and_the_quantizer);
    RUN(test_equal_input_and_range_share_codes);
    RUN(test_given_codes_are_those_of_the_output);
    RUN(test_an_output_that_is_not_finite_is_given_as_floats);
    RUN(test_nan_is_reported_by_site);
    RUN(test_zero_input_and_zero_rows_give_the_bias);
    RUN(test_ranges_along_the_last_axis_are_served_and_others_refused);
    RUN(test_collecting_sees_input_and_weight_and_an_unchanged_weight_once);
    RUN(test_a_block_is_forgotten_before_it_is_given_back);
    return check_report();
}
