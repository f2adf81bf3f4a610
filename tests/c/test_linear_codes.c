/* SPDX-License-Identifier: Apache-2.0
 *
 * The weight of a linear layer as codes: in, out, and what they mean.
 */
#include "layer_case.h"
#include "layers/linear.h"

enum { OUT = 37, IN = 70 };

/* A layer without inputs to multiply: its weight, its two quantizers, and one path. */
typedef struct codes_case {
    qb_device *device;
    qb_linear layer;
    float *weight;
    int8_t codes[OUT * IN];
} codes_case;

static codes_case *
make_case(qb_device *device, int32_t bits, int is_per_row)
{
    codes_case *c = case_memory(sizeof *c);
    c->device = device;
    qb_linear_init(&c->layer, IN, OUT, 1);
    c->weight = case_random((int64_t)OUT * IN, 0.5f, 11);
    c->layer.weight.data = c->weight;
    c->layer.input_quantizer = case_quantizer(device, 8, 0);
    c->layer.weight_quantizer = case_quantizer(device, bits, is_per_row);
    return c;
}

static void
free_case(codes_case *c)
{
    qb_linear_clear(&c->layer, &c->device->heap);
    qb_quantizer_destroy(c->layer.input_quantizer);
    qb_quantizer_destroy(c->layer.weight_quantizer);
    free(c->weight);
    free(c);
}

static qb_run
run_of(const codes_case *c, const qb_path *path, qb_error *error)
{
    const qb_run run = qb_device_run(c->device, NULL, error);
    return qb_run_enter(&run, path);
}

static const qb_path layer_path = {NULL, "encoder.query"};

static qb_status
read_codes(codes_case *c, int8_t *codes, qb_error *error)
{
    const qb_run run = run_of(c, &layer_path, error);
    return qb_linear_read_codes(&c->layer, &run, codes);
}

static qb_status
write_codes(codes_case *c, const int8_t *codes, qb_error *error)
{
    const qb_run run = run_of(c, &layer_path, error);
    const qb_codes_source source = {.codes = codes};
    const qb_linear_codes item = {.layer = &c->layer, .path = &layer_path, .source = &source};
    return qb_linear_write_codes(&run, &item, 1);
}

static qb_status
values_of(codes_case *c, const int8_t *codes, float *values, qb_error *error)
{
    const qb_run run = run_of(c, &layer_path, error);
    return qb_linear_values_of_codes(&c->layer, &run, codes, values);
}

/* One range a row: powers of two around 1, and none in row 3. */
static void
set_row_ranges(codes_case *c)
{
    float amax[OUT];
    const int64_t shape[2] = {OUT, 1};
    for (int64_t row = 0; row < OUT; row++) {
        amax[row] = row == 3 ? 0.0f : ldexpf(0.4f, (int)(row % 5) - 2);
    }
    CHECK(qb_quantizer_set_amax(c->layer.weight_quantizer, amax, 2, shape, NULL) == QB_OK);
}

/* From here on the layer has codes alone, as in a model that is frozen. */
static void
keep_codes(codes_case *c)
{
    CHECK(read_codes(c, c->codes, NULL) == QB_OK);
    c->layer.weight.data = NULL;
    c->layer.weight.storage = QB_STORAGE_CODES;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void
test_codes_of_floats_are_those_that_are_multiplied(void)
{
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        codes_case *c = make_case(devices.at[d], 8, 1);
        set_row_ranges(c);
        CHECK(read_codes(c, c->codes, NULL) == QB_OK);
        for (int64_t i = 0; i < (int64_t)OUT * IN; i++) {
            const int64_t row = i / IN;
            const float scale = row == 3 ? 0.0f : naive_scale(ldexpf(0.4f, (int)(row % 5) - 2), 8);
            CHECK(c->codes[i] == (row == 3 ? 0 : naive_code(c->weight[i], scale, 8)));
        }
        free_case(c);
    }
    case_devices_close(&devices);
}

static void
test_written_codes_give_the_packed_bytes_of_the_floats(void)
{
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        codes_case *floats = make_case(devices.at[d], 8, 1);
        codes_case *codes = make_case(devices.at[d], 8, 1);
        set_row_ranges(floats);
        set_row_ranges(codes);
        const qb_run run = run_of(floats, &layer_path, NULL);
        CHECK(qb_linear_prepare(&floats->layer, &run) == QB_OK);
        keep_codes(codes);
        CHECK(write_codes(codes, codes->codes, NULL) == QB_OK);
        CHECK(qb_linear_prepare(&codes->layer, &run) == QB_OK);
        const size_t bytes = qb_product_sizes_of(run.kernels, QB_OPERANDS_QS8, OUT, IN).packed;
        CHECK(memcmp(floats->layer.pack.data, codes->layer.pack.data, bytes) == 0);
        CHECK(same_bits(floats->layer.pack.step, codes->layer.pack.step, OUT));
        CHECK(qb_linear_packed_bytes(&codes->layer, run.kernels) == bytes + OUT * sizeof(float));
        int8_t again[OUT * IN];
        CHECK(read_codes(codes, again, NULL) == QB_OK);
        CHECK(memcmp(again, codes->codes, sizeof again) == 0);
        free_case(floats);
        free_case(codes);
    }
    case_devices_close(&devices);
}

/* For every width, every code and ranges from the smallest that is alive to the largest float. */
static void
test_values_of_codes_have_these_codes(void)
{
    static const float ranges[] = {0x1.000002p-24f, 1e-7f, 1e-3f, 0.3f, 1.0f, 2.54f, 127.0f, 1e10f, 1e37f};
    qb_device *device = case_device(NULL, 1);
    for (int32_t bits = 2; bits <= 8; bits++) {
        codes_case *c = make_case(device, bits, 0);
        const int lowest = -(1 << (bits - 1));
        float values[OUT * IN];
        int8_t again[OUT * IN];
        for (int64_t i = 0; i < (int64_t)OUT * IN; i++) {
            c->codes[i] = (int8_t)(lowest + (int)(i % (1 << bits)));
        }
        for (size_t r = 0; r < COUNT(ranges); r++) {
            case_set_amax(c->layer.weight_quantizer, ranges[r]);
            CHECK(values_of(c, c->codes, values, NULL) == QB_OK);
            c->layer.weight.data = values;
            CHECK(read_codes(c, again, NULL) == QB_OK);
            CHECK(memcmp(again, c->codes, sizeof again) == 0);
        }
        free_case(c);
    }
    qb_device_close(device);
}

static void
test_a_range_whose_values_overflow_is_refused(void)
{
    qb_device *device = case_device(NULL, 1);
    codes_case *c = make_case(device, 8, 0);
    float values[OUT * IN];
    qb_error error;
    memset(c->codes, -128, sizeof c->codes);
    case_set_amax(c->layer.weight_quantizer, 3.4e38f);
    CHECK(values_of(c, c->codes, values, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "encoder.query.weight: row");
    CHECK_CONTAINS(error.message, "not finite");
    free_case(c);
    qb_device_close(device);
}

static void
test_codes_outside_the_range_are_refused_and_named(void)
{
    qb_device *device = case_device(NULL, 2);
    codes_case *c = make_case(device, 4, 1);
    float values[OUT * IN];
    qb_error error;
    set_row_ranges(c);
    keep_codes(c);
    CHECK(write_codes(c, c->codes, NULL) == QB_OK);
    c->codes[5 * IN + 7] = 8;
    CHECK(write_codes(c, c->codes, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "encoder.query.weight: element (5, 7) is 8, expected codes of -8 .. 7");
    CHECK(values_of(c, c->codes, values, &error) == QB_ERR_VALUE);
    c->codes[5 * IN + 7] = 0;
    c->codes[3 * IN + 1] = 1;
    CHECK(write_codes(c, c->codes, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "element (3, 1) is 1, expected codes of 0 .. 0");
    int8_t kept[OUT * IN]; /* those of the call that succeeded */
    CHECK(read_codes(c, kept, NULL) == QB_OK);
    CHECK(kept[3 * IN + 1] == 0);
    free_case(c);
    qb_device_close(device);
}

static void
test_the_lowest_code_needs_the_full_range(void)
{
    qb_device *device = case_device(NULL, 1);
    codes_case *c = make_case(device, 8, 0);
    case_set_amax(c->layer.weight_quantizer, 1.0f);
    keep_codes(c);
    c->codes[0] = -128;
    CHECK(write_codes(c, c->codes, NULL) == QB_OK);
    qb_quantizer_options narrow = qb_quantizer_get_options(c->layer.weight_quantizer);
    narrow.narrow_range = 1;
    CHECK(qb_quantizer_set_options(c->layer.weight_quantizer, &narrow, NULL) == QB_OK);
    CHECK(write_codes(c, c->codes, NULL) == QB_ERR_VALUE);
    free_case(c);
    qb_device_close(device);
}

static void
test_codes_need_a_range(void)
{
    qb_device *device = case_device(NULL, 1);
    codes_case *c = make_case(device, 8, 1);
    qb_error error;
    c->layer.weight.data = NULL;
    c->layer.weight.storage = QB_STORAGE_CODES;
    CHECK(write_codes(c, c->codes, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "encoder.query._weight_quantizer: has no amax");
    const float nan_range = NAN;
    CHECK(qb_quantizer_set_amax(c->layer.weight_quantizer, &nan_range, 0, NULL, NULL) == QB_OK);
    CHECK(write_codes(c, c->codes, &error) == QB_ERR_STATE); /* no integer site has such a range */
    free_case(c);
    qb_device_close(device);
}

/* A quantizer that would make the layer need its floats keeps it from running, instead of reading what is not there. */
static void
test_prepare_refuses_codes_that_are_not_multiplied_as_they_were_written(void)
{
    qb_device *device = case_device(NULL, 1);
    codes_case *c = make_case(device, 8, 1);
    qb_error error;
    set_row_ranges(c);
    keep_codes(c);
    const qb_run run = run_of(c, &layer_path, &error);
    CHECK(qb_linear_prepare(&c->layer, &run) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "not been written");
    CHECK(write_codes(c, c->codes, NULL) == QB_OK);
    CHECK(qb_linear_prepare(&c->layer, &run) == QB_OK);
    CHECK(qb_quantizer_set_stages(c->layer.input_quantizer, QB_STAGE_DISABLED) == QB_OK);
    CHECK(qb_linear_prepare(&c->layer, &run) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "only one of the two operands is quantized");
    CHECK(qb_quantizer_set_stages(c->layer.input_quantizer, QB_STAGE_QUANT) == QB_OK);
    CHECK(qb_linear_prepare(&c->layer, &run) == QB_OK);
    set_row_ranges(c);
    CHECK(qb_linear_prepare(&c->layer, &run) == QB_ERR_STATE);
    free_case(c);
    qb_device_close(device);
}

static void
test_layers_without_integer_sites_have_no_codes(void)
{
    qb_device *device = case_device(NULL, 1);
    codes_case *c = make_case(device, 8, 1);
    qb_error error;
    CHECK(qb_linear_codes_reason(&c->layer) == NULL);
    CHECK(qb_quantizer_set_stages(c->layer.weight_quantizer, QB_STAGE_DISABLED) == QB_OK);
    CHECK(read_codes(c, c->codes, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "encoder.query: the weight is not multiplied as codes: only one");
    CHECK(qb_quantizer_set_stages(c->layer.input_quantizer, QB_STAGE_DISABLED) == QB_OK);
    CHECK(read_codes(c, c->codes, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "quantizers are off");
    c->layer.is_quantized = 0;
    CHECK(strstr(qb_linear_codes_reason(&c->layer), "has no quantizers") != NULL);
    free_case(c);
    qb_device_close(device);
}

static void
test_a_nan_has_no_code(void)
{
    qb_device *device = case_device(NULL, 1);
    codes_case *c = make_case(device, 8, 0);
    qb_error error;
    case_set_amax(c->layer.weight_quantizer, 1.0f);
    c->weight[6 * IN + 2] = NAN;
    CHECK(read_codes(c, c->codes, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "encoder.query.weight: row 6");
    free_case(c);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_codes_of_floats_are_those_that_are_multiplied);
    RUN(test_written_codes_give_the_packed_bytes_of_the_floats);
    RUN(test_values_of_codes_have_these_codes);
    RUN(test_a_range_whose_values_overflow_is_refused);
    RUN(test_codes_outside_the_range_are_refused_and_named);
    RUN(test_the_lowest_code_needs_the_full_range);
    RUN(test_codes_need_a_range);
    RUN(test_prepare_refuses_codes_that_are_not_multiplied_as_they_were_written);
    RUN(test_layers_without_integer_sites_have_no_codes);
    RUN(test_a_nan_has_no_code);
    return check_report();
}
