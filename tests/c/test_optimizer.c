/* SPDX-License-Identifier: Apache-2.0
 *
 * Optimizers over a model: the steps are those of the kernels, state, norms, and what is refused.
 */
#include "model_case.h"

enum { SEVEN = 7, STEPS = 3 };

static const qb_optimizer_settings adamw = {
    .struct_size = sizeof adamw, .learning_rate = 1e-2, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
static const qb_optimizer_settings sgd = {
    .struct_size = sizeof sgd, .learning_rate = 1e-1, .weight_decay = 0.01, .momentum = 0.9, .is_nesterov = 1};

/* A model with gradients that are numbers. */
static qb_model *
model_with_gradients(qb_device *device)
{
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    unsigned long long seed = 9;
    CHECK(qb_model_make_gradients(model, NULL) == QB_OK);
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        const int64_t n = info.shape[0] * (info.rank == 2 ? info.shape[1] : 1);
        for (int64_t j = 0; j < n; j++) {
            qb_model_gradient(model, i)[j] = check_uniform(&seed);
        }
    }
    return model;
}

/* p, m, v of one element after a step number t, in float64. */
static void
naive_step(int is_adamw, int t, double g, double *p, double *m, double *v)
{
    if (is_adamw) {
        *p *= 1.0 - adamw.learning_rate * adamw.weight_decay;
        *m += (1.0 - adamw.beta1) * (g - *m);
        *v = adamw.beta2 * *v + (1.0 - adamw.beta2) * g * g;
        const double denominator = sqrt(*v) / sqrt(1.0 - pow(adamw.beta2, t)) + adamw.eps;
        *p -= adamw.learning_rate / (1.0 - pow(adamw.beta1, t)) * *m / denominator;
        return;
    }
    g += sgd.weight_decay * *p;
    *m = t == 1 ? g : sgd.momentum * *m + g;
    *p -= sgd.learning_rate * (g + sgd.momentum * *m);
}

static void
test_steps_follow_the_formulas_with_equal_bits_on_every_device(void)
{
    case_devices devices = case_devices_open();
    for (int is_adamw = 0; is_adamw < 2; is_adamw++) {
        float *expected = NULL;
        for (size_t d = 0; d < devices.count; d++) {
            qb_model *model = model_with_gradients(devices.at[d]);
            qb_optimizer *optimizer = NULL;
            CHECK(qb_optimizer_create(model, is_adamw ? QB_OPTIMIZER_ADAMW : QB_OPTIMIZER_SGD, &optimizer, NULL) ==
                  QB_OK);
            const int64_t indices[2] = {0, SEVEN};
            const qb_parameter_info info = qb_model_parameter(model, 0);
            const int64_t n = info.shape[0] * info.shape[1];
            double *p = case_memory((size_t)n * sizeof *p);
            double *m = case_memory((size_t)n * sizeof *m);
            double *v = case_memory((size_t)n * sizeof *v);
            for (int64_t i = 0; i < n; i++) {
                p[i] = (double)info.data[i];
            }
            for (int t = 1; t <= STEPS; t++) {
                CHECK(qb_optimizer_step(optimizer, indices, 2, is_adamw ? &adamw : &sgd, NULL) == QB_OK);
                for (int64_t i = 0; i < n; i++) {
                    naive_step(is_adamw, t, (double)qb_model_gradient(model, 0)[i], &p[i], &m[i], &v[i]);
                }
            }
            float worst = 0.0f;
            for (int64_t i = 0; i < n; i++) {
                worst = fmaxf(worst, fabsf(info.data[i] - (float)p[i]));
            }
            CHECK(worst < 1e-6f); /* three steps of a few roundings of numbers below 1.5 */
            if (d == 0) {
                expected = case_memory((size_t)n * sizeof *expected);
                memcpy(expected, info.data, (size_t)n * sizeof *expected);
            }
            CHECK(same_bits(info.data, expected, n));
            float *first;
            float *second;
            int64_t steps;
            CHECK(qb_optimizer_state(optimizer, 0, &first, &second, &steps, NULL) == QB_OK && steps == STEPS);
            CHECK((second != NULL) == is_adamw && fabsf(first[3] - (float)m[3]) < 1e-6f);
            CHECK(qb_optimizer_state(optimizer, 1, &first, &second, &steps, NULL) == QB_OK && steps == 0);
            free(p);
            free(m);
            free(v);
            qb_model_release(model); /* the optimizer holds it */
            qb_optimizer_destroy(optimizer);
        }
        free(expected);
    }
    case_devices_close(&devices);
}

static double
norm_of(const qb_model *model)
{
    double norm = -1.0;
    CHECK(qb_model_gradient_norm(model, NULL, 0, &norm, NULL) == QB_OK);
    return norm;
}

static void
test_parameters_without_a_gradient_are_left_alone(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_optimizer *optimizer = NULL;
    const int64_t index = 0;
    const float before = qb_model_parameter(model, 0).data[1];
    CHECK(qb_optimizer_create(model, QB_OPTIMIZER_ADAMW, &optimizer, NULL) == QB_OK);
    CHECK(norm_of(model) == 0.0);
    CHECK(qb_model_scale_gradients(model, 2.0f, NULL, 0, NULL) == QB_OK);
    CHECK(qb_optimizer_step(optimizer, &index, 1, &adamw, NULL) == QB_OK); /* nobody trains yet */
    CHECK(qb_model_make_gradients(model, NULL) == QB_OK);
    CHECK(qb_model_set_trainable(model, 0, 0, NULL) == QB_OK);
    CHECK(qb_optimizer_step(optimizer, &index, 1, &adamw, NULL) == QB_OK);
    CHECK(qb_model_parameter(model, 0).data[1] == before);
    float *first;
    float *second;
    int64_t steps;
    CHECK(qb_optimizer_state(optimizer, 0, &first, &second, &steps, NULL) == QB_OK && steps == 0);
    CHECK(qb_optimizer_set_steps(optimizer, 0, 5, NULL) == QB_OK);
    CHECK(qb_optimizer_state(optimizer, 0, &first, &second, &steps, NULL) == QB_OK && steps == 5);
    qb_optimizer_destroy(optimizer);
    qb_optimizer_destroy(NULL);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_the_norm_is_that_of_all_gradients_and_scaling_scales_it(void)
{
    case_devices devices = case_devices_open();
    double expected = 0.0;
    for (size_t d = 0; d < devices.count; d++) {
        qb_model *model = model_with_gradients(devices.at[d]);
        const double norm = norm_of(model);
        double sum = 0.0;
        for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
            const qb_parameter_info info = qb_model_parameter(model, i);
            for (int64_t j = 0; j < info.shape[0] * (info.rank == 2 ? info.shape[1] : 1); j++) {
                sum += (double)qb_model_gradient(model, i)[j] * (double)qb_model_gradient(model, i)[j];
            }
        }
        CHECK(fabs(norm - sqrt(sum)) < 1e-12 * norm);
        expected = d == 0 ? norm : expected;
        CHECK(norm == expected);
        CHECK(qb_model_scale_gradients(model, 0.5f, NULL, 0, NULL) == QB_OK);
        CHECK(norm_of(model) == 0.5 * norm);
        const int64_t some[2] = {2, 0};
        const int64_t wrong = qb_model_parameter_count(model);
        double part = 0.0;
        CHECK(qb_model_zero_gradients(model, some, 2, NULL) == QB_OK);
        CHECK(qb_model_gradient_norm(model, some, 2, &part, NULL) == QB_OK && part == 0.0);
        CHECK(norm_of(model) > 0.0);
        CHECK(qb_model_gradient_norm(model, some + 1, 1, &part, NULL) == QB_OK);
        const int64_t other = 1;
        CHECK(qb_model_gradient_norm(model, &other, 1, &part, NULL) == QB_OK && part > 0.0);
        const double rest = norm_of(model);
        CHECK(qb_model_scale_gradients(model, 0.0f, &other, 1, NULL) == QB_OK);
        CHECK(fabs(norm_of(model) - sqrt(rest * rest - part * part)) < 1e-9 * rest);
        CHECK(qb_model_zero_gradients(model, &wrong, 1, NULL) == QB_ERR_INDEX);
        CHECK(qb_model_gradient_norm(model, &wrong, 1, &part, NULL) == QB_ERR_INDEX);
        CHECK(qb_model_scale_gradients(model, 2.0f, &wrong, 1, NULL) == QB_ERR_INDEX);
        qb_model_release(model);
    }
    case_devices_close(&devices);
}

static void
test_what_cannot_be_is_refused_and_nothing_is_stepped(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *model = model_with_gradients(device);
    qb_optimizer *optimizer = NULL;
    qb_error error;
    CHECK(qb_optimizer_create(model, (qb_optimizer_kind)7, &optimizer, &error) == QB_ERR_VALUE && optimizer == NULL);
    CHECK(qb_optimizer_create(model, QB_OPTIMIZER_SGD, &optimizer, NULL) == QB_OK);
    const float before = qb_model_parameter(model, 0).data[0];
    const int64_t wrong[2] = {0, qb_model_parameter_count(model)};
    CHECK(qb_optimizer_step(optimizer, wrong, 2, &sgd, &error) == QB_ERR_INDEX);
    CHECK_CONTAINS(error.message, "parameter index is");
    qb_optimizer_settings bad = sgd;
    bad.learning_rate = (double)NAN;
    CHECK(qb_optimizer_step(optimizer, wrong, 1, &bad, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "learning_rate is nan, expected a finite number");
    bad = sgd;
    bad.momentum = 0.0;
    CHECK(qb_optimizer_step(optimizer, wrong, 1, &bad, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "is_nesterov");
    CHECK(qb_optimizer_set_steps(optimizer, 0, -1, &error) == QB_ERR_VALUE);
    CHECK(qb_optimizer_set_steps(optimizer, wrong[1], 1, &error) == QB_ERR_INDEX);
    qb_optimizer_destroy(optimizer);
    CHECK(qb_optimizer_create(model, QB_OPTIMIZER_ADAMW, &optimizer, NULL) == QB_OK);
    bad = adamw;
    bad.beta2 = 1.0;
    CHECK(qb_optimizer_step(optimizer, wrong, 1, &bad, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "beta2 is 1, expected 0 or more and less than 1");
    CHECK(qb_model_parameter(model, 0).data[0] == before);
    qb_optimizer_destroy(optimizer);
    qb_model_release(model);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_steps_follow_the_formulas_with_equal_bits_on_every_device);
    RUN(test_parameters_without_a_gradient_are_left_alone);
    RUN(test_the_norm_is_that_of_all_gradients_and_scaling_scales_it);
    RUN(test_what_cannot_be_is_refused_and_nothing_is_stepped);
    return check_report();
}
