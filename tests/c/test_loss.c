/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/loss.h"

#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "layer_case.h"

enum { RAISED_ROW = 16384, RAISED_ROWS = 64 }; /* a row is a chunk of its own */

static void
test_cross_entropy_of_equal_logits_is_log_of_the_classes(void)
{
    qb_device *device = case_device(NULL, 2);
    const float logits[6] = {3.0f, 3.0f, 3.0f, -1e30f, -1e30f, -1e30f};
    const int64_t labels[2] = {2, 0};
    float loss = 0.0f;
    CHECK(qb_cross_entropy(device, logits, 2, 3, labels, -100, 0.0, &loss, NULL) == QB_OK);
    CHECK(loss == (float)log(3.0));
    qb_device_close(device);
}

static void
test_cross_entropy_survives_large_logits_and_ignores_rows(void)
{
    qb_device *device = case_device(NULL, 2);
    const float logits[4] = {1e30f, 0.0f, 0.0f, 1e30f};
    const int64_t labels[2] = {0, -100};
    const int64_t none[2] = {-100, -100};
    float loss = -1.0f;
    CHECK(qb_cross_entropy(device, logits, 2, 2, labels, -100, 0.0, &loss, NULL) == QB_OK);
    CHECK(loss == 0.0f);
    CHECK(qb_cross_entropy(device, logits, 2, 2, none, -100, 0.0, &loss, NULL) == QB_OK);
    CHECK(isnan(loss));
    qb_device_close(device);
}

static void
test_cross_entropy_names_a_label_out_of_range(void)
{
    qb_device *device = case_device(NULL, 2);
    const float logits[4] = {0};
    const int64_t labels[2] = {1, 2};
    float loss = -1.0f;
    qb_error error;
    CHECK(qb_cross_entropy(device, logits, 2, 2, labels, -100, 0.0, &loss, &error) == QB_ERR_INDEX);
    CHECK_CONTAINS(error.message, "labels[1] is 2, expected 0 .. 1");
    CHECK(loss == -1.0f);
    CHECK(qb_cross_entropy(device, logits, 2, 0, labels, -100, 0.0, &loss, &error) == QB_ERR_SHAPE);
    qb_device_close(device);
}

static void
test_mean_squared_error_is_exact_in_double(void)
{
    const float x[3] = {1.0f, 2.0f, 1e20f};
    const float y[3] = {0.0f, 4.0f, 1e20f};
    float loss = 0.0f;
    CHECK(qb_mean_squared_error(x, y, 3, &loss, NULL) == QB_OK);
    CHECK(loss == (float)(5.0 / 3.0));
    CHECK(qb_mean_squared_error(x, y, 0, &loss, NULL) == QB_OK);
    CHECK(isnan(loss));
    CHECK(qb_mean_squared_error(x, y, -1, &loss, NULL) == QB_ERR_SHAPE);
}

static void
test_binary_cross_entropy_does_not_overflow(void)
{
    const float logits[4] = {0.0f, 1000.0f, -1000.0f, 1000.0f};
    const float labels[4] = {1.0f, 1.0f, 0.0f, 0.0f};
    float loss = 0.0f;
    CHECK(qb_binary_cross_entropy(logits, labels, 4, &loss, NULL) == QB_OK);
    CHECK(loss == (float)((log(2.0) + 1000.0) / 4.0));
    CHECK(qb_binary_cross_entropy(logits, labels, -1, &loss, NULL) == QB_ERR_SHAPE);
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

enum { ROWS = 5, CLASSES = 7, ELEMENTS = ROWS * CLASSES };

/* The largest difference between a gradient and central differences of its loss; both in float32, whose rounding of the
 * loss, below 4 ulp of 8, that is 4e-6, is divided by 2 steps of 2^-6. */
#define STEP 0.015625f
#define TOLERANCE 2e-4f

static void
fill(float *x, float size, unsigned long long seed)
{
    for (int64_t i = 0; i < ELEMENTS; i++) {
        x[i] = size * check_uniform(&seed);
    }
}

/* Of each element, by central differences; `d` gets `factor` times the gradient. */
static void
check_derivative_of_cross_entropy(qb_device *device, float *x, const int64_t *labels, double smoothing, float factor,
                                  float *d)
{
    CHECK(qb_cross_entropy_grad(device, x, ROWS, CLASSES, labels, -100, smoothing, factor, d, NULL) == QB_OK);
    for (int64_t i = 0; i < ELEMENTS; i++) {
        const float kept = x[i];
        float above = 0.0f;
        float below = 0.0f;
        x[i] = kept + STEP;
        CHECK(qb_cross_entropy(device, x, ROWS, CLASSES, labels, -100, smoothing, &above, NULL) == QB_OK);
        x[i] = kept - STEP;
        CHECK(qb_cross_entropy(device, x, ROWS, CLASSES, labels, -100, smoothing, &below, NULL) == QB_OK);
        x[i] = kept;
        CHECK(fabsf(d[i] - factor * (above - below) / (2.0f * STEP)) < factor * TOLERANCE);
        CHECK(labels[i / CLASSES] != -100 || d[i] == 0.0f);
    }
}

static void
test_the_gradient_of_cross_entropy_is_its_derivative(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t labels[ROWS] = {3, -100, 0, 6, 2};
    float x[ELEMENTS];
    float d[ELEMENTS];
    fill(x, 3.0f, 1);
    check_derivative_of_cross_entropy(device, x, labels, 0.0, 2.0f, d);
    float in_place[ELEMENTS];
    memcpy(in_place, x, sizeof x);
    CHECK(qb_cross_entropy_grad(device, in_place, ROWS, CLASSES, labels, -100, 0.0, 2.0f, in_place, NULL) == QB_OK);
    CHECK(memcmp(in_place, d, sizeof d) == 0);
    qb_device_close(device);
}

static void
test_the_gradient_of_cross_entropy_refuses_what_the_loss_refuses(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t wrong[2] = {1, 7};
    const int64_t none[2] = {-100, -100};
    float x[2 * CLASSES] = {0.0f};
    float d[2 * CLASSES] = {5.0f};
    qb_error error;
    CHECK(qb_cross_entropy_grad(device, x, 2, CLASSES, wrong, -100, 0.0, 1.0f, d, &error) == QB_ERR_INDEX &&
          d[0] == 5.0f);
    CHECK_CONTAINS(error.message, "labels[1] is 7, expected 0 .. 6");
    CHECK(qb_cross_entropy_grad(device, x, 2, 0, wrong, -100, 0.0, 1.0f, d, &error) == QB_ERR_SHAPE);
    CHECK(qb_cross_entropy_grad(device, x, 2, CLASSES, none, -100, 0.0, 1.0f, d, NULL) == QB_OK && isnan(d[0]));
    qb_device_close(device);
}

static void
test_smoothed_labels_are_a_part_of_every_class(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t labels[ROWS] = {3, -100, 0, 6, 2};
    float x[ELEMENTS];
    float d[ELEMENTS];
    float loss = 0.0f;
    qb_error error;
    fill(x, 3.0f, 1);
    check_derivative_of_cross_entropy(device, x, labels, 0.3, 1.0f, d);
    /* All of the target on all classes: the mean of the losses of each. */
    const float two[2] = {1.0f, 0.0f};
    const int64_t label = 0;
    CHECK(qb_cross_entropy(device, two, 1, 2, &label, -100, 1.0, &loss, NULL) == QB_OK);
    CHECK(loss == (float)(log1p(exp(-1.0)) + 0.5));
    CHECK(qb_cross_entropy(device, two, 1, 2, &label, -100, 1.5, &loss, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "label_smoothing is 1.5, expected 0 .. 1");
    CHECK(qb_cross_entropy_grad(device, two, 1, 2, &label, -100, -0.1, 1.0f, d, NULL) == QB_ERR_VALUE);
    qb_device_close(device);
}

static void
test_the_gradient_of_divergence_is_its_derivative(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t labels[ROWS] = {3, -100, 0, 60, -2}; /* looked at only for being ignored */
    float x[ELEMENTS];
    float y[ELEMENTS];
    float d[ELEMENTS];
    qb_error error;
    fill(x, 3.0f, 1);
    fill(y, 3.0f, 2);
    CHECK(qb_kl_divergence_grad(device, x, y, ROWS, CLASSES, labels, -100, 2.0, 2.0f, d, NULL) == QB_OK);
    for (int64_t i = 0; i < ELEMENTS; i++) {
        const float kept = x[i];
        float above = 0.0f;
        float below = 0.0f;
        x[i] = kept + STEP;
        CHECK(qb_kl_divergence(device, x, y, ROWS, CLASSES, labels, -100, 2.0, &above, NULL) == QB_OK);
        x[i] = kept - STEP;
        CHECK(qb_kl_divergence(device, x, y, ROWS, CLASSES, labels, -100, 2.0, &below, NULL) == QB_OK);
        x[i] = kept;
        CHECK(fabsf(d[i] - 2.0f * (above - below) / (2.0f * STEP)) < 2.0f * TOLERANCE);
        CHECK(i / CLASSES != 1 || d[i] == 0.0f);
    }
    float loss = 1.0f;
    CHECK(qb_kl_divergence(device, y, y, ROWS, CLASSES, NULL, -100, 2.0, &loss, NULL) == QB_OK && loss == 0.0f);
    CHECK(qb_kl_divergence_grad(device, y, y, ROWS, CLASSES, NULL, -100, 2.0, 1.0f, d, NULL) == QB_OK);
    CHECK(d[0] == 0.0f && d[ELEMENTS - 1] == 0.0f);
    const float certain[2] = {0.0f, -3e38f}; /* a probability of 0 adds nothing */
    const float even[2] = {0.0f, 0.0f};
    CHECK(qb_kl_divergence(device, even, certain, 1, 2, NULL, -100, 1.0, &loss, NULL) == QB_OK);
    CHECK(loss == (float)log(2.0));
    CHECK(qb_kl_divergence(device, x, y, ROWS, CLASSES, NULL, -100, 0.0, &loss, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "temperature is 0, expected a finite number above 0");
    CHECK(qb_kl_divergence_grad(device, x, y, ROWS, 0, NULL, -100, 1.0, 1.0f, d, &error) == QB_ERR_SHAPE);
    qb_device_close(device);
}

enum { MANY = 37, WORDS = 1013 };

static void
test_bits_depend_neither_on_threads_nor_on_the_variant(void)
{
    case_devices devices = case_devices_open();
    float *x = malloc(sizeof(float) * MANY * WORDS);
    float *y = malloc(sizeof(float) * MANY * WORDS);
    float *d[2] = {malloc(sizeof(float) * MANY * WORDS), malloc(sizeof(float) * MANY * WORDS)};
    int64_t labels[MANY];
    float losses[2];
    unsigned long long seed = 7;
    for (int64_t i = 0; i < (int64_t)MANY * WORDS; i++) {
        x[i] = 5.0f * check_uniform(&seed);
        y[i] = 5.0f * check_uniform(&seed);
    }
    for (int64_t i = 0; i < MANY; i++) {
        labels[i] = i % 4 == 0 ? -100 : i * 27;
    }
    for (size_t v = 0; v < devices.count; v++) {
        const size_t at = v == 0 ? 0 : 1;
        qb_device *device = devices.at[v];
        CHECK(qb_cross_entropy(device, x, MANY, WORDS, labels, -100, 0.1, &losses[at], NULL) == QB_OK);
        CHECK(qb_cross_entropy_grad(device, x, MANY, WORDS, labels, -100, 0.1, 1.0f, d[at], NULL) == QB_OK);
        CHECK(losses[at] == losses[0]);
        CHECK(memcmp(d[at], d[0], sizeof(float) * MANY * WORDS) == 0);
    }
    for (size_t v = 0; v < devices.count; v++) {
        const size_t at = v == 0 ? 0 : 1;
        qb_device *device = devices.at[v];
        CHECK(qb_kl_divergence(device, x, y, MANY, WORDS, labels, -100, 3.0, &losses[at], NULL) == QB_OK);
        CHECK(qb_kl_divergence_grad(device, x, y, MANY, WORDS, labels, -100, 3.0, 1.0f, d[at], NULL) == QB_OK);
        CHECK(losses[at] == losses[0]);
        CHECK(memcmp(d[at], d[0], sizeof(float) * MANY * WORDS) == 0);
    }
    free(x);
    free(y);
    free(d[0]);
    free(d[1]);
    case_devices_close(&devices);
}

static void
test_the_gradient_of_mean_squared_error_is_its_derivative(void)
{
    const float x[4] = {1.0f, 2.0f, -3.0f, 0.5f};
    const float y[4] = {0.0f, 2.0f, 1.0f, 1.0f};
    float d[4];
    CHECK(qb_mean_squared_error_grad(x, y, 4, 3.0f, d, NULL) == QB_OK);
    CHECK(d[0] == 1.5f && d[1] == 0.0f && d[2] == -6.0f && d[3] == -0.75f);
    CHECK(qb_mean_squared_error_grad(x, y, -1, 3.0f, d, NULL) == QB_ERR_SHAPE);
}

static void
test_the_gradient_of_binary_cross_entropy_is_its_derivative_and_does_not_overflow(void)
{
    float x[ELEMENTS];
    float labels[ELEMENTS];
    float d[ELEMENTS];
    fill(x, 4.0f, 2);
    fill(labels, 0.5f, 3);
    for (int64_t i = 0; i < ELEMENTS; i++) {
        labels[i] += 0.5f;
    }
    CHECK(qb_binary_cross_entropy_grad(x, labels, ELEMENTS, 1.0f, d, NULL) == QB_OK);
    for (int64_t i = 0; i < ELEMENTS; i++) {
        const float kept = x[i];
        float above = 0.0f;
        float below = 0.0f;
        x[i] = kept + STEP;
        CHECK(qb_binary_cross_entropy(x, labels, ELEMENTS, &above, NULL) == QB_OK);
        x[i] = kept - STEP;
        CHECK(qb_binary_cross_entropy(x, labels, ELEMENTS, &below, NULL) == QB_OK);
        x[i] = kept;
        CHECK(fabsf(d[i] - (above - below) / (2.0f * STEP)) < TOLERANCE);
    }
    const float far[2] = {-1000.0f, 1000.0f};
    const float ones[2] = {1.0f, 1.0f};
    CHECK(qb_binary_cross_entropy_grad(far, ones, 2, 1.0f, d, NULL) == QB_OK);
    CHECK(d[0] == -0.5f && d[1] == 0.0f);
}

/* Memory of the C library, until `device` is set: then the next block that is taken finds it with more threads. */
typedef struct raising_memory {
    qb_device *device;
    int32_t threads;
} raising_memory;

static void *
allocate_and_raise(void *context, size_t size, size_t alignment)
{
    raising_memory *memory = context;
    qb_device *device = memory->device;
    if (device != NULL && size >= RAISED_ROW * sizeof(float)) {
        memory->device = NULL;
        (void)qb_device_set_num_threads(device, memory->threads, NULL);
    }
    return aligned_alloc(alignment, size);
}

static void
release_memory(void *context, void *pointer, size_t size, size_t alignment)
{
    (void)context;
    (void)size;
    (void)alignment;
    free(pointer);
}

/* Two threads' rows of one workspace would mix, or lie behind it. */
static void
test_the_gradient_of_divergence_survives_threads_that_are_added_meanwhile(void)
{
    static float x[RAISED_ROWS * RAISED_ROW];
    static float y[RAISED_ROWS * RAISED_ROW];
    static float expected[RAISED_ROWS * RAISED_ROW];
    static float d[RAISED_ROWS * RAISED_ROW];
    raising_memory memory = {.threads = 8};
    const qb_allocator allocator = {allocate_and_raise, release_memory, &memory};
    const qb_device_options options = {.struct_size = sizeof options, .num_threads = 1, .allocator = &allocator};
    qb_device *device = NULL;
    CHECK(qb_device_open(&options, &device, NULL) == QB_OK);
    for (int i = 0; i < RAISED_ROWS * RAISED_ROW; i++) {
        x[i] = (float)(i % 97) * 0.01f;
        y[i] = (float)(i % 89) * 0.02f;
    }
    CHECK(qb_kl_divergence_grad(device, x, y, RAISED_ROWS, RAISED_ROW, NULL, -100, 2.0, 1.0f, expected, NULL) == QB_OK);
    memory.device = device;
    CHECK(qb_kl_divergence_grad(device, x, y, RAISED_ROWS, RAISED_ROW, NULL, -100, 2.0, 1.0f, d, NULL) == QB_OK);
    CHECK(qb_device_num_threads(device) == 8);
    CHECK(memcmp(d, expected, sizeof d) == 0);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_cross_entropy_of_equal_logits_is_log_of_the_classes);
    RUN(test_cross_entropy_survives_large_logits_and_ignores_rows);
    RUN(test_cross_entropy_names_a_label_out_of_range);
    RUN(test_mean_squared_error_is_exact_in_double);
    RUN(test_binary_cross_entropy_does_not_overflow);
    RUN(test_the_gradient_of_cross_entropy_is_its_derivative);
    RUN(test_the_gradient_of_cross_entropy_refuses_what_the_loss_refuses);
    RUN(test_smoothed_labels_are_a_part_of_every_class);
    RUN(test_the_gradient_of_divergence_is_its_derivative);
    RUN(test_the_gradient_of_divergence_survives_threads_that_are_added_meanwhile);
    RUN(test_bits_depend_neither_on_threads_nor_on_the_variant);
    RUN(test_the_gradient_of_mean_squared_error_is_its_derivative);
    RUN(test_the_gradient_of_binary_cross_entropy_is_its_derivative_and_does_not_overflow);
    return check_report();
}
