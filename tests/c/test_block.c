/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/block.h"

#include <float.h>

#include "layer_case.h"
#include "layers/feed_forward.h"
#include "layers/pooler.h"
#include "layers/residual_norm.h"

enum { HIDDEN = 30, INTERMEDIATE = 70, HEADS = 5, ROWS = 33 };

/* A block on one device; its parts are tested through it. */
typedef struct block_case {
    qb_device *device;
    qb_block block;
    qb_block_work work;
    case_plan plan;
    float *parameters;
    float *next_parameter;
    qb_quantizer **slots[32];
    size_t slots_count;
    char weight_names[32][QB_NAME_BYTES];
    size_t names_count;
} block_case;

static qb_status
bind_parameter(void *context, const qb_path *path, qb_parameter *parameter)
{
    block_case *c = context;
    (void)qb_path_text(path, c->weight_names[c->names_count++], QB_NAME_BYTES);
    parameter->data = c->next_parameter;
    c->next_parameter += parameter->shape[0] * (parameter->rank == 2 ? parameter->shape[1] : 1);
    return QB_OK;
}

static qb_status
bind_quantizer(void *context, const qb_path *path, qb_quantizer **slot, qb_quantizer_role role)
{
    block_case *c = context;
    (void)path;
    *slot = case_quantizer(c->device, 8, role == QB_ROLE_WEIGHT);
    c->slots[c->slots_count++] = slot;
    return QB_OK;
}

static block_case *
make_case(qb_device *device)
{
    block_case *c = case_memory(sizeof *c);
    const qb_limits limits = {.sequences = ROWS, .tokens = ROWS, .length = ROWS};
    const qb_block_shape shape = {
        .attention = {.hidden = HIDDEN, .heads = HEADS, .head_size = HIDDEN / HEADS},
        .intermediate = INTERMEDIATE,
        .activation = QB_ACTIVATION_GELU,
        .eps = 1e-12f,
    };
    c->device = device;
    c->parameters = case_random(20000, 0.4f, 51);
    c->next_parameter = c->parameters;
    qb_block_init(&c->block, 12, &shape);
    const qb_visitor visitor = {.context = c, .parameter = bind_parameter, .quantizer = bind_quantizer};
    CHECK(qb_block_visit(&c->block, &visitor, NULL) == QB_OK);
    case_plan_scratch(&c->plan, device, qb_block_scratch_bytes(&c->block, &device->kernels, &limits));
    qb_arena arena = qb_arena_measuring();
    qb_block_plan(&c->block, &c->work, &arena, &limits, &c->plan.scratch);
    c->plan.arena_block = case_aligned(arena.used);
    arena = qb_arena_bind(c->plan.arena_block, arena.used);
    qb_block_plan(&c->block, &c->work, &arena, &limits, &c->plan.scratch);
    CHECK(qb_arena_ok(&arena));
    return c;
}

static void
free_case(block_case *c)
{
    for (size_t i = 0; i < c->slots_count; i++) {
        qb_quantizer_destroy(*c->slots[i]);
    }
    qb_block_clear(&c->block, &c->device->heap);
    case_plan_free(&c->plan);
    free(c->parameters);
    free(c);
}

static void
switch_all(block_case *c, uint32_t stages)
{
    for (size_t i = 0; i < c->slots_count; i++) {
        CHECK(qb_quantizer_set_stages(*c->slots[i], stages) == QB_OK);
    }
}

/* Floats in, floats out. */
static const qb_residual_norm_inputs floats = {.dropout = NULL};
static const qb_feed_forward_inputs plain = {.dropout = NULL};

/* ---- tests ------------------------------------------------------------------------------------------------------ */

static void
test_names_are_the_originals(void)
{
    static const char *const expected[] = {"encoder.layer.12.attention.self.query.weight",
                                           "encoder.layer.12.attention.self.query.bias",
                                           "encoder.layer.12.attention.self.key.weight",
                                           "encoder.layer.12.attention.self.key.bias",
                                           "encoder.layer.12.attention.self.value.weight",
                                           "encoder.layer.12.attention.self.value.bias",
                                           "encoder.layer.12.attention.output.dense.weight",
                                           "encoder.layer.12.attention.output.dense.bias",
                                           "encoder.layer.12.attention.output.LayerNorm.weight",
                                           "encoder.layer.12.attention.output.LayerNorm.bias",
                                           "encoder.layer.12.intermediate.dense.weight",
                                           "encoder.layer.12.intermediate.dense.bias",
                                           "encoder.layer.12.output.dense.weight",
                                           "encoder.layer.12.output.dense.bias",
                                           "encoder.layer.12.output.LayerNorm.weight",
                                           "encoder.layer.12.output.LayerNorm.bias"};
    qb_device *device = case_device("ref", 1);
    block_case *c = make_case(device);
    CHECK(c->names_count == COUNT(expected) && c->slots_count == 20);
    for (size_t i = 0; i < COUNT(expected); i++) {
        CHECK(strcmp(c->weight_names[i], expected[i]) == 0);
    }
    free_case(c);
    qb_device_close(device);
}

/* LayerNorm(a + b) of one row in float64. */
static void
exact_norm(const qb_layer_norm *norm, const double *sum, double *y)
{
    double mean = 0.0;
    double variance = 0.0;
    for (int64_t f = 0; f < norm->features; f++) {
        mean += sum[f] / (double)norm->features;
    }
    for (int64_t f = 0; f < norm->features; f++) {
        variance += (sum[f] - mean) * (sum[f] - mean) / (double)norm->features;
    }
    for (int64_t f = 0; f < norm->features; f++) {
        y[f] = (sum[f] - mean) / sqrt(variance + (double)norm->eps) * (double)norm->weight.data[f] +
               (double)norm->bias.data[f];
    }
}

static void
test_float_feed_forward_is_the_definition(void)
{
    qb_device *device = case_device(NULL, 2);
    block_case *c = make_case(device);
    const qb_feed_forward *ff = &c->block.feed_forward;
    float *x = case_random(ROWS * HIDDEN, 1.0f, 52);
    float *y = case_memory(ROWS * HIDDEN * sizeof *y);
    const qb_run run = qb_device_run(device, NULL, NULL);
    switch_all(c, QB_STAGE_DISABLED);
    memcpy(y, x, ROWS * HIDDEN * sizeof *y);
    CHECK(qb_block_prepare(&c->block, &run) == QB_OK);
    CHECK(qb_feed_forward_forward(ff, &c->work.feed_forward, &run, &plain, ROWS, y) == QB_OK);
    for (int64_t i = 0; i < ROWS; i++) {
        double g[INTERMEDIATE];
        double sum[HIDDEN];
        double expected[HIDDEN];
        for (int64_t j = 0; j < INTERMEDIATE; j++) {
            double z = (double)ff->intermediate.bias.data[j];
            for (int64_t f = 0; f < HIDDEN; f++) {
                z += (double)x[i * HIDDEN + f] * (double)ff->intermediate.weight.data[j * HIDDEN + f];
            }
            g[j] = 0.5 * z * (1.0 + erf(z * sqrt(0.5)));
        }
        for (int64_t f = 0; f < HIDDEN; f++) {
            sum[f] = (double)ff->output.dense.bias.data[f] + (double)x[i * HIDDEN + f];
            for (int64_t j = 0; j < INTERMEDIATE; j++) {
                sum[f] += g[j] * (double)ff->output.dense.weight.data[f * INTERMEDIATE + j];
            }
        }
        exact_norm(&ff->output.norm, sum, expected);
        for (int64_t f = 0; f < HIDDEN; f++) {
            /* Sums of 70 products of magnitude <= 2, relative error 2^-24 a step, normalized to order 1. */
            CHECK(fabs((double)y[i * HIDDEN + f] - expected[f]) <= 5e-5);
        }
    }
    free(x);
    free(y);
    free_case(c);
    qb_device_close(device);
}

static void
test_integer_residual_add_is_one_expression_of_two_codes(void)
{
    case_devices devices = case_devices_open();
    float *x = case_random(ROWS * HIDDEN, 1.0f, 53);
    float *r = case_random(ROWS * HIDDEN, 1.0f, 54);
    float *y = case_memory(ROWS * HIDDEN * sizeof *y);
    float *expected = case_memory(ROWS * HIDDEN * sizeof *expected);
    float *local = case_memory(ROWS * HIDDEN * sizeof *local);
    for (size_t d = 0; d < devices.count; d++) {
        for (int is_static = 0; is_static < 2; is_static++) {
            block_case *c = make_case(devices.at[d]);
            const qb_residual_norm *layer = &c->block.attention.output;
            const qb_residual_norm_work *work = &c->work.attention.output;
            const qb_run run = qb_device_run(devices.at[d], NULL, NULL);
            if (is_static) {
                case_set_amax(layer->local, 0.7f);
                case_set_amax(layer->residual, 0.6f);
            }
            memcpy(y, r, ROWS * HIDDEN * sizeof *y);
            CHECK(qb_block_prepare(&c->block, &run) == QB_OK);
            CHECK(qb_residual_norm_forward(layer, work, &run, &floats, x, ROWS, y) == QB_OK);
            CHECK(qb_linear_forward(&layer->dense, &work->dense, &run, x, ROWS, QB_ACTIVATION_NONE, local) == QB_OK);
            const int64_t n = ROWS * HIDDEN;
            const float local_scale = naive_scale(is_static ? 0.7f : naive_amax(local, n), 8);
            const float residual_scale = naive_scale(is_static ? 0.6f : naive_amax(r, n), 8);
            for (int64_t i = 0; i < n; i++) {
                const float value = (float)naive_code(local[i], local_scale, 8) * (1.0f / local_scale);
                expected[i] = fmaf((float)naive_code(r[i], residual_scale, 8), 1.0f / residual_scale, value);
            }
            devices.at[0]->kernels.layer_norm_f32(expected, ROWS, HIDDEN, layer->norm.weight.data,
                                                  layer->norm.bias.data, layer->norm.eps, expected);
            CHECK(same_bits(y, expected, n));
            free_case(c);
        }
    }
    free(x);
    free(r);
    free(y);
    free(expected);
    free(local);
    case_devices_close(&devices);
}

static void
test_residual_add_with_one_quantizer_off_adds_values(void)
{
    qb_device *device = case_device(NULL, 2);
    block_case *c = make_case(device);
    const qb_residual_norm *layer = &c->block.attention.output;
    const qb_residual_norm_work *work = &c->work.attention.output;
    const qb_run run = qb_device_run(device, NULL, NULL);
    float *x = case_random(ROWS * HIDDEN, 1.0f, 55);
    float *r = case_random(ROWS * HIDDEN, 1.0f, 56);
    float *y = case_memory(ROWS * HIDDEN * sizeof *y);
    float *expected = case_memory(ROWS * HIDDEN * sizeof *expected);
    const float scale = naive_scale(0.6f, 8);
    switch_all(c, QB_STAGE_DISABLED);
    CHECK(qb_quantizer_set_stages(layer->residual, QB_STAGE_QUANT) == QB_OK);
    case_set_amax(layer->residual, 0.6f);
    memcpy(y, r, ROWS * HIDDEN * sizeof *y);
    CHECK(qb_block_prepare(&c->block, &run) == QB_OK);
    CHECK(qb_residual_norm_forward(layer, work, &run, &floats, x, ROWS, y) == QB_OK);
    for (int64_t i = 0; i < ROWS * HIDDEN; i++) {
        expected[i] = work->local[i] + (float)naive_code(r[i], scale, 8) / scale;
    }
    device->kernels.layer_norm_f32(expected, ROWS, HIDDEN, layer->norm.weight.data, layer->norm.bias.data,
                                   layer->norm.eps, expected);
    CHECK(same_bits(y, expected, ROWS * HIDDEN));
    free(x);
    free(r);
    free(y);
    free(expected);
    free_case(c);
    qb_device_close(device);
}

static void
test_nan_at_the_residual_is_reported_by_site(void)
{
    qb_device *device = case_device(NULL, 2);
    block_case *c = make_case(device);
    const qb_feed_forward *ff = &c->block.feed_forward;
    float *y = case_random(ROWS * HIDDEN, 1.0f, 57);
    qb_error error;
    const qb_path path = {NULL, "encoder.layer.12"};
    const qb_run run = qb_device_run(device, NULL, &error);
    const qb_run inner = qb_run_enter(&run, &path);
    switch_all(c, QB_STAGE_DISABLED);
    case_set_amax(ff->output.local, 1.0f);
    case_set_amax(ff->output.residual, 1.0f);
    CHECK(qb_quantizer_set_stages(ff->output.local, QB_STAGE_QUANT) == QB_OK);
    CHECK(qb_quantizer_set_stages(ff->output.residual, QB_STAGE_QUANT) == QB_OK);
    y[40] = INFINITY;
    CHECK(qb_block_prepare(&c->block, &inner) == QB_OK);
    CHECK(qb_feed_forward_forward(ff, &c->work.feed_forward, &inner, &plain, ROWS, y) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "encoder.layer.12.output.add_");
    CHECK_CONTAINS(error.message, "NaN or infinity");
    free(y);
    free_case(c);
    qb_device_close(device);
}

static void
test_block_runs_both_halves_in_shared_memory_with_equal_bits_on_every_device(void)
{
    case_devices devices = case_devices_open();
    const int64_t lengths[] = {2, 31};
    const int64_t offsets[] = {0, 2};
    const qb_sequences sequences = {
        .count = 2, .tokens = ROWS, .max_length = 31, .offsets = offsets, .lengths = lengths};
    const qb_attention_keys keys = {.sequences = sequences, .projected = ROWS};
    const qb_block_inputs inputs = {.attention = {.sequences = &sequences, .keys = &keys}};
    float *x = case_random(ROWS * HIDDEN, 1.0f, 58);
    float *y = case_memory(ROWS * HIDDEN * sizeof *y);
    float *expected = case_memory(ROWS * HIDDEN * sizeof *expected);
    for (int quantized = 0; quantized < 2; quantized++) {
        for (size_t d = 0; d < devices.count; d++) {
            block_case *c = make_case(devices.at[d]);
            const qb_run run = qb_device_run(devices.at[d], NULL, NULL);
            if (!quantized) {
                switch_all(c, QB_STAGE_DISABLED);
            }
            case_set_amax(c->block.attention.matmul_a, 1.0f);
            CHECK(qb_block_prepare(&c->block, &run) == QB_OK);
            if (d == 0) {
                memcpy(expected, x, ROWS * HIDDEN * sizeof *expected);
                CHECK(qb_attention_forward(&c->block.attention, &c->work.attention, &run, &inputs.attention,
                                           expected) == QB_OK);
                CHECK(qb_feed_forward_forward(&c->block.feed_forward, &c->work.feed_forward, &run, &plain, ROWS,
                                              expected) == QB_OK);
            }
            memcpy(y, x, ROWS * HIDDEN * sizeof *y);
            CHECK(qb_block_forward(&c->block, &c->work, &run, &inputs, y) == QB_OK);
            CHECK(same_bits(y, expected, ROWS * HIDDEN));
            free_case(c);
        }
    }
    free(x);
    free(y);
    free(expected);
    case_devices_close(&devices);
}

static void
test_pooler_is_tanh_of_the_first_tokens(void)
{
    qb_device *device = case_device(NULL, 2);
    qb_pooler pooler;
    qb_pooler_work work;
    case_plan plan = {.arena_block = NULL};
    float *parameters = case_random(HIDDEN * HIDDEN + HIDDEN, 0.4f, 59);
    float *x = case_random(ROWS * HIDDEN, 1.0f, 60);
    float y[2 * HIDDEN];
    const int64_t lengths[] = {2, 31};
    const int64_t offsets[] = {0, 2};
    const qb_sequences sequences = {
        .count = 2, .tokens = ROWS, .max_length = 31, .offsets = offsets, .lengths = lengths};
    const qb_run run = qb_device_run(device, NULL, NULL);
    qb_pooler_init(&pooler, HIDDEN);
    pooler.dense.weight.data = parameters;
    pooler.dense.bias.data = parameters + HIDDEN * HIDDEN;
    case_plan_scratch(&plan, device, qb_linear_scratch_bytes(&pooler.dense, &device->kernels));
    qb_arena arena = qb_arena_measuring();
    qb_pooler_plan(&pooler, &work, &arena, 2, &plan.scratch);
    plan.arena_block = case_aligned(arena.used);
    arena = qb_arena_bind(plan.arena_block, arena.used);
    qb_pooler_plan(&pooler, &work, &arena, 2, &plan.scratch);
    CHECK(qb_pooler_prepare(&pooler, &run) == QB_OK);
    CHECK(qb_pooler_forward(&pooler, &work, &run, x, &sequences, y) == QB_OK);
    for (int64_t b = 0; b < 2; b++) {
        for (int64_t j = 0; j < HIDDEN; j++) {
            double z = (double)pooler.dense.bias.data[j];
            for (int64_t f = 0; f < HIDDEN; f++) {
                z += (double)x[offsets[b] * HIDDEN + f] * (double)parameters[j * HIDDEN + f];
            }
            /* 31 roundings of partial sums below 16, and 4 ulp of tanh. */
            CHECK(fabs((double)y[b * HIDDEN + j] - tanh(z)) <= 31.0 * 16.0 * 0x1p-24 + 4.0 * (double)FLT_EPSILON);
        }
    }
    qb_pooler_clear(&pooler, &device->heap);
    case_plan_free(&plan);
    free(parameters);
    free(x);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_names_are_the_originals);
    RUN(test_float_feed_forward_is_the_definition);
    RUN(test_integer_residual_add_is_one_expression_of_two_codes);
    RUN(test_residual_add_with_one_quantizer_off_adds_values);
    RUN(test_nan_at_the_residual_is_reported_by_site);
    RUN(test_block_runs_both_halves_in_shared_memory_with_equal_bits_on_every_device);
    RUN(test_pooler_is_tanh_of_the_first_tokens);
    return check_report();
}
