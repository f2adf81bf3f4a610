/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/site.h"

#include "layer_case.h"

static void
test_two_quantizers_choose_the_arithmetic(void)
{
    qb_device *device = case_device("ref", 1);
    qb_quantizer *a = case_quantizer(device, 8, 0);
    qb_quantizer *w = case_quantizer(device, 8, 1);
    qb_quantizer *none = NULL;
    const qb_site product = {.a = &a, .b = &w, .b_is_weight = 1};
    const qb_site plain = {.a = &none, .b = &none, .b_is_weight = 1};
    const char *reason = NULL;
    CHECK(qb_site_arithmetic(&product, &reason) == QB_ARITHMETIC_INTEGER && *reason == '\0');
    CHECK(qb_site_arithmetic(&plain, &reason) == QB_ARITHMETIC_FLOAT && *reason == '\0');
    /* a range per row suits a weight, not an activation */
    const qb_site swapped = {.a = &w, .b = &a, .b_is_weight = 0};
    CHECK(qb_site_arithmetic(&swapped, &reason) == QB_ARITHMETIC_DEQUANTIZED && *reason != '\0');
    CHECK(qb_quantizer_set_stages(w, QB_STAGE_DISABLED) == QB_OK);
    CHECK(qb_site_arithmetic(&product, &reason) == QB_ARITHMETIC_DEQUANTIZED);
    CHECK_CONTAINS(reason, "only one of the two");
    CHECK(qb_quantizer_set_stages(a, QB_STAGE_CALIB) == QB_OK); /* collecting alone changes nothing */
    CHECK(qb_site_arithmetic(&product, NULL) == QB_ARITHMETIC_FLOAT);
    CHECK(strcmp(qb_arithmetic_text(QB_ARITHMETIC_DEQUANTIZED), "dequantized") == 0);
    qb_quantizer_destroy(a);
    qb_quantizer_destroy(w);
    qb_device_close(device);
}

static void
test_codes_travel_to_a_static_integer_reader_that_is_alone(void)
{
    qb_device *device = case_device("ref", 1);
    qb_quantizer *a = case_quantizer(device, 8, 0);
    qb_quantizer *b = case_quantizer(device, 8, 0);
    qb_quantizer *none = NULL;
    qb_observer *observer = case_max_observer(device);
    qb_quantizer_options options = case_quantizer_options(8, 0);
    const qb_site site = {.a = &a, .b = &b};
    const qb_site plain = {.a = &none, .b = &none};
    const qb_edge edge = {.reader = site, .quantizer = a};
    const qb_edge from_integer = {.maker = site, .reader = site, .quantizer = a};
    const qb_edge from_float = {.maker = plain, .reader = site, .quantizer = a};
    const qb_edge after_float_add = {.maker = {.a = &none, .b = &none, .is_add = 1}, .reader = site, .quantizer = a};
    const qb_edge away = {.maker = site, .onlooker = "it goes away"};
    const qb_edge watched = {.reader = site, .quantizer = a, .onlooker = "somebody looks on"};
    qb_quant_range range = {.scale = 0.0f};
    CHECK_CONTAINS(qb_edge_refusal(&edge, NULL), "dynamic");
    case_set_amax(a, 2.0f);
    CHECK(qb_edge_refusal(&edge, &range) == NULL && qb_edge_refusal(&from_integer, NULL) == NULL);
    CHECK(range.scale == 127.0f / 2.0f && range.lower == -128.0f && range.upper == 127.0f);
    CHECK_CONTAINS(qb_edge_refusal(&from_float, NULL), "makes it is not integer");
    CHECK(qb_edge_refusal(&after_float_add, NULL) == NULL); /* LayerNorm makes floats anyway, and codes of them */
    CHECK_CONTAINS(qb_edge_refusal(&watched, NULL), "somebody looks on");
    CHECK_CONTAINS(qb_edge_refusal(&away, NULL), "it goes away");
    CHECK(qb_quantizer_set_observer(a, observer) == QB_OK);
    CHECK(qb_quantizer_set_stages(a, QB_STAGE_QUANT | QB_STAGE_CALIB) == QB_OK);
    CHECK_CONTAINS(qb_edge_refusal(&edge, NULL), "collects");
    CHECK(qb_quantizer_set_stages(a, QB_STAGE_QUANT) == QB_OK);
    CHECK(qb_quantizer_set_stages(b, QB_STAGE_DISABLED) == QB_OK);
    CHECK_CONTAINS(qb_edge_refusal(&edge, NULL), "reads is not integer");
    CHECK(qb_quantizer_set_stages(b, QB_STAGE_QUANT) == QB_OK);
    options.scale_amax = 4.0f;
    CHECK(qb_quantizer_set_options(a, &options, NULL) == QB_OK);
    CHECK(qb_edge_refusal(&edge, &range) == NULL && range.scale == 127.0f / 8.0f);
    case_set_amax(a, 2e38f);
    CHECK_CONTAINS(qb_edge_refusal(&edge, NULL), "not finite");
    options = case_quantizer_options(7, 0);
    options.is_unsigned = 1;
    CHECK(qb_quantizer_set_options(a, &options, NULL) == QB_OK);
    CHECK_CONTAINS(qb_edge_refusal(&edge, NULL), "unsigned");
    qb_observer_release(observer);
    qb_quantizer_destroy(a);
    qb_quantizer_destroy(b);
    qb_device_close(device);
}

static void
test_tensors_are_encoded_together_and_a_bad_one_is_named(void)
{
    qb_device *device = case_device(NULL, 3);
    enum { N = 40000, COLUMNS = 100 }; /* several chunks of each tensor, the last one ragged */
    float *x[3];
    int8_t *codes[3];
    qb_coding codings[3];
    const qb_path paths[3] = {{NULL, "first"}, {NULL, "second"}, {NULL, "third"}};
    for (int i = 0; i < 3; i++) {
        x[i] = case_random(N, 1.0f, 41 + (unsigned long long)i);
        codes[i] = case_memory(N);
        codings[i] = (qb_coding){.path = &paths[i],
                                 .x = x[i],
                                 .codes = codes[i],
                                 .count = N - 333 * i, /* of different sizes, as with a cache */
                                 .range = {.scale = 40.0f * (float)(i + 1), .lower = -128.0f, .upper = 127.0f}};
    }
    qb_error error;
    const qb_run run = qb_device_run(device, NULL, &error);
    CHECK(qb_site_encode(&run, codings, 3, COLUMNS) == QB_OK);
    int same = 1;
    for (int i = 0; i < 3; i++) {
        for (int64_t j = 0; j < N; j++) {
            const int32_t made = naive_code(x[i][j], codings[i].range.scale, 8);
            same &= codes[i][j] == (j < codings[i].count ? made : 0);
        }
    }
    CHECK(same);
    x[1][39601] = NAN;
    CHECK(qb_site_encode(&run, codings, 3, COLUMNS) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "second: element (396, 1) is NaN");
    for (int i = 0; i < 3; i++) {
        free(x[i]);
        free(codes[i]);
    }
    qb_device_close(device);
}

static void
test_values_pass_through_an_identity_and_are_made_otherwise(void)
{
    qb_device *device = case_device("ref", 1);
    qb_quantizer *q = case_quantizer(device, 4, 0);
    float x[6] = {0.1f, -0.2f, 0.3f, 1.0f, -1.0f, 0.0f};
    float buffer[6];
    const float *values = NULL;
    const qb_run run = qb_device_run(device, NULL, NULL);
    case_set_amax(q, 1.0f);
    CHECK(qb_site_values(q, &run, x, 2, 3, buffer, &values) == QB_OK);
    CHECK(values == buffer && buffer[0] == 1.0f / 7.0f && buffer[3] == 1.0f);
    CHECK(qb_quantizer_set_stages(q, QB_STAGE_DISABLED) == QB_OK);
    CHECK(qb_site_values(q, &run, x, 2, 3, buffer, &values) == QB_OK && values == x);
    CHECK(qb_site_values(NULL, &run, x, 2, 3, buffer, &values) == QB_OK && values == x);
    qb_quantizer_destroy(q);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_two_quantizers_choose_the_arithmetic);
    RUN(test_codes_travel_to_a_static_integer_reader_that_is_alone);
    RUN(test_tensors_are_encoded_together_and_a_bad_one_is_named);
    RUN(test_values_pass_through_an_identity_and_are_made_otherwise);
    return check_report();
}
