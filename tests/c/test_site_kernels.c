/* SPDX-License-Identifier: Apache-2.0
 *
 * What qb_model_site says is what runs: the device's kernels are replaced by ones that count what they are given, and
 * each of them must meet exactly the multiply-adds, or rows, of the sites that name it.
 */
#include "model_case.h"

enum { BATCH = 3, LENGTH = 7 };

/* What the counting kernels hand on to, and what they counted; one thread. */
static qb_kernels real;
static int64_t counted[QB_KERNEL_COUNT];

static void
count_product_f32(const float *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                  int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    counted[QB_KERNEL_INDEX_product_f32] += m * (n1 - n0) * k;
    real.product_f32(a, lda, m, packed, n0, n1, n, k, epilogue, c, ldc, scratch);
}

static void
count_product_qs8(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                  int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    counted[QB_KERNEL_INDEX_product_qs8] += m * (n1 - n0) * k;
    real.product_qs8(a, lda, m, packed, n0, n1, n, k, epilogue, c, ldc, scratch);
}

/* Is the same product, and counts as it, where the next site takes codes. */
static void
count_product_qs8_codes(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                        int64_t k, const qb_epilogue *epilogue, const qb_quant_range *range, int8_t *c, int64_t ldc,
                        uint32_t *nonfinite, void *scratch)
{
    counted[QB_KERNEL_INDEX_product_qs8] += m * (n1 - n0) * k;
    real.product_qs8_codes(a, lda, m, packed, n0, n1, n, k, epilogue, range, c, ldc, nonfinite, scratch);
}

static void
count_add_layer_norm_f32(const float *a, const float *b, size_t rows, size_t columns, const float *weight,
                         const float *bias, float eps, float *y)
{
    counted[QB_KERNEL_INDEX_add_layer_norm_f32] += (int64_t)rows;
    real.add_layer_norm_f32(a, b, rows, columns, weight, bias, eps, y);
}

static void
count_add_layer_norm_qs8(const int8_t *a, float step_a, const int8_t *b, float step_b, size_t rows, size_t columns,
                         const float *weight, const float *bias, float eps, float *y)
{
    counted[QB_KERNEL_INDEX_add_layer_norm_qs8] += (int64_t)rows;
    real.add_layer_norm_qs8(a, step_a, b, step_b, rows, columns, weight, bias, eps, y);
}

static int
ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text);
    const size_t m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Multiply-adds of a product, rows of an add. */
static int64_t
work_of(const qb_model *model, const char *site)
{
    if (ends_with(site, ".add")) {
        return BATCH * LENGTH;
    }
    if (ends_with(site, ".scores") || ends_with(site, ".context")) {
        return BATCH * LENGTH * LENGTH * HIDDEN;
    }
    char name[QB_NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.weight", site);
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        if (strcmp(info.name, name) == 0) {
            const int is_pooled = strstr(site, ".layer.") == NULL && qb_model_has_pooler(model);
            return info.shape[0] * info.shape[1] * BATCH * (is_pooled ? 1 : LENGTH);
        }
    }
    CHECK(0); /* a site of a kind that this test does not know */
    return 0;
}

static void
check_forward(qb_model *model)
{
    int64_t said[QB_KERNEL_COUNT] = {0};
    for (int64_t i = 0; i < qb_model_site_count(model); i++) {
        const qb_site_info site = qb_model_site(model, i);
        size_t kernel = 0;
        while (kernel < QB_KERNEL_COUNT && strcmp(qb_kernel_name(kernel), site.kernel) != 0) {
            kernel++;
        }
        CHECK(kernel < QB_KERNEL_COUNT && strcmp(site.variant, real.variant[kernel]) == 0);
        CHECK((*site.obstacle != '\0') == (strcmp(site.path, "dequantized") == 0));
        said[kernel] += work_of(model, site.name);
    }
    int64_t ids[BATCH * LENGTH];
    float logits[BATCH * LENGTH * LABELS];
    model_ids(ids, BATCH * LENGTH, 5);
    const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, NULL);
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = logits};
    qb_session *session = session_make(model, BATCH, LENGTH, 1);
    memset(counted, 0, sizeof counted);
    CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
    for (size_t i = 0; i < QB_KERNEL_COUNT; i++) {
        CHECK(counted[i] == said[i]);
    }
    qb_session_destroy(session);
}

/* `change` is made to one quantizer after the other, and undone. */
static void
check_each(qb_model *model, void (*change)(qb_quantizer *quantizer, int is_undone))
{
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        change(qb_model_quantizer(model, i), 0);
        check_forward(model);
        change(qb_model_quantizer(model, i), 1);
    }
}

static void
switch_off(qb_quantizer *quantizer, int is_undone)
{
    CHECK(qb_quantizer_set_stages(quantizer, is_undone ? QB_STAGE_QUANT : QB_STAGE_DISABLED) == QB_OK);
}

static void
widen(qb_quantizer *quantizer, int is_undone)
{
    qb_quantizer_options options = qb_quantizer_get_options(quantizer);
    options.num_bits = is_undone ? 8 : 9;
    CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
}

static void
check_head(qb_head head)
{
    qb_device *device = case_device(NULL, 1);
    real = device->kernels;
    device->kernels.product_f32 = count_product_f32;
    device->kernels.product_qs8 = count_product_qs8;
    device->kernels.product_qs8_codes = count_product_qs8_codes;
    device->kernels.add_layer_norm_f32 = count_add_layer_norm_f32;
    device->kernels.add_layer_norm_qs8 = count_add_layer_norm_qs8;
    qb_model *model = model_make(device, head);
    check_forward(model); /* dynamic ranges */
    model_set_ranges(model);
    check_forward(model);
    check_each(model, switch_off);
    check_each(model, widen);
    model_set_stages(model, QB_STAGE_DISABLED);
    check_forward(model);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_kernels_run_where_the_sites_of_tokens_say(void)
{
    check_head(QB_HEAD_QUESTION_ANSWERING);
}

static void
test_kernels_run_where_the_sites_of_pooled_outputs_say(void)
{
    check_head(QB_HEAD_SEQUENCE_CLASSIFICATION);
}

static void
test_the_obstacle_is_the_quantizer_that_does_not_fit(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        widen(qb_model_quantizer(model, i), 0);
        int64_t found = 0;
        for (int64_t j = 0; j < qb_model_site_count(model); j++) {
            const qb_site_info site = qb_model_site(model, j);
            if (*site.obstacle != '\0') {
                CHECK(strcmp(site.obstacle, qb_model_quantizer_name(model, i)) == 0);
                found++;
            }
        }
        CHECK(found == 1);
        widen(qb_model_quantizer(model, i), 1);
    }
    qb_model_release(model);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_kernels_run_where_the_sites_of_tokens_say);
    RUN(test_kernels_run_where_the_sites_of_pooled_outputs_say);
    RUN(test_the_obstacle_is_the_quantizer_that_does_not_fit);
    return check_report();
}
