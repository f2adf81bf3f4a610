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

int
main(void)
{
    RUN(test_cross_entropy_of_equal_logits_is_log_of_the_classes);
    RUN(test_cross_entropy_survives_large_logits_and_ignores_rows);
    RUN(test_cross_entropy_names_a_label_out_of_range);
    RUN(test_mean_squared_error_is_exact_in_double);
    RUN(test_binary_cross_entropy_does_not_overflow);
    return check_report();
}
