/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/loss.h"

#include <math.h>

#include "check.h"

static void
test_cross_entropy_of_equal_logits_is_log_of_the_classes(void)
{
    const float logits[6] = {3.0f, 3.0f, 3.0f, -1e30f, -1e30f, -1e30f};
    const int64_t labels[2] = {2, 0};
    float loss = 0.0f;
    CHECK(qb_cross_entropy(logits, 2, 3, labels, -100, &loss, NULL) == QB_OK);
    CHECK(loss == (float)log(3.0));
}

static void
test_cross_entropy_survives_large_logits_and_ignores_rows(void)
{
    const float logits[4] = {1e30f, 0.0f, 0.0f, 1e30f};
    const int64_t labels[2] = {0, -100};
    const int64_t none[2] = {-100, -100};
    float loss = -1.0f;
    CHECK(qb_cross_entropy(logits, 2, 2, labels, -100, &loss, NULL) == QB_OK);
    CHECK(loss == 0.0f);
    CHECK(qb_cross_entropy(logits, 2, 2, none, -100, &loss, NULL) == QB_OK);
    CHECK(isnan(loss));
}

static void
test_cross_entropy_names_a_label_out_of_range(void)
{
    const float logits[4] = {0};
    const int64_t labels[2] = {1, 2};
    float loss = -1.0f;
    qb_error error;
    CHECK(qb_cross_entropy(logits, 2, 2, labels, -100, &loss, &error) == QB_ERR_INDEX);
    CHECK_CONTAINS(error.message, "labels[1] is 2, expected 0 .. 1");
    CHECK(loss == -1.0f);
    CHECK(qb_cross_entropy(logits, 2, 0, labels, -100, &loss, &error) == QB_ERR_SHAPE);
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

static void
test_the_gradient_of_cross_entropy_is_its_derivative(void)
{
    const int64_t labels[ROWS] = {3, -100, 0, 6, 2};
    float x[ELEMENTS];
    float d[ELEMENTS];
    fill(x, 3.0f, 1);
    CHECK(qb_cross_entropy_grad(x, ROWS, CLASSES, labels, -100, 2.0f, d, NULL) == QB_OK);
    for (int64_t i = 0; i < ELEMENTS; i++) {
        const float kept = x[i];
        float above = 0.0f;
        float below = 0.0f;
        x[i] = kept + STEP;
        CHECK(qb_cross_entropy(x, ROWS, CLASSES, labels, -100, &above, NULL) == QB_OK);
        x[i] = kept - STEP;
        CHECK(qb_cross_entropy(x, ROWS, CLASSES, labels, -100, &below, NULL) == QB_OK);
        x[i] = kept;
        CHECK(fabsf(d[i] - 2.0f * (above - below) / (2.0f * STEP)) < 2.0f * TOLERANCE);
        CHECK(i / CLASSES != 1 || d[i] == 0.0f);
    }
    float in_place[ELEMENTS];
    memcpy(in_place, x, sizeof x);
    CHECK(qb_cross_entropy_grad(in_place, ROWS, CLASSES, labels, -100, 2.0f, in_place, NULL) == QB_OK);
    CHECK(memcmp(in_place, d, sizeof d) == 0);
}

static void
test_the_gradient_of_cross_entropy_refuses_what_the_loss_refuses(void)
{
    const int64_t wrong[2] = {1, 7};
    const int64_t none[2] = {-100, -100};
    float x[2 * CLASSES] = {0.0f};
    float d[2 * CLASSES] = {5.0f};
    qb_error error;
    CHECK(qb_cross_entropy_grad(x, 2, CLASSES, wrong, -100, 1.0f, d, &error) == QB_ERR_INDEX && d[0] == 5.0f);
    CHECK_CONTAINS(error.message, "labels[1] is 7, expected 0 .. 6");
    CHECK(qb_cross_entropy_grad(x, 2, 0, wrong, -100, 1.0f, d, &error) == QB_ERR_SHAPE);
    CHECK(qb_cross_entropy_grad(x, 2, CLASSES, none, -100, 1.0f, d, NULL) == QB_OK && isnan(d[0]));
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
    RUN(test_the_gradient_of_mean_squared_error_is_its_derivative);
    RUN(test_the_gradient_of_binary_cross_entropy_is_its_derivative_and_does_not_overflow);
    return check_report();
}
