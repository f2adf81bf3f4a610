/* SPDX-License-Identifier: Apache-2.0
 *
 * The gradients of a model's parameters: a block like theirs.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "models/model.h"

/* Where a parameter's gradient is, if there is one. */
static void
point(const qb_model *model, qb_parameter *parameter)
{
    parameter->gradient = model->gradients == NULL || parameter->is_frozen
                              ? NULL
                              : (float *)model->gradients + (parameter->data - (const float *)model->block);
}

qb_status
qb_model_make_gradients(qb_model *model, qb_error *error)
{
    if (model->gradients != NULL) {
        return QB_OK;
    }
    void *made = qb_heap_allocate_zero(&model->device->heap, model->block_bytes);
    if (made == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for %zu bytes of gradients", model->block_bytes);
    }
    const qb_status status = qb_guard_begin_gradient_write(&model->guard, error);
    if (status != QB_OK) {
        qb_heap_release(&model->device->heap, made);
        return status;
    }
    model->gradients = made;
    for (int64_t i = 0; i < model->parameter_names.count; i++) {
        point(model, model->parameters[i]);
    }
    qb_guard_end_gradient_write(&model->guard);
    return QB_OK;
}

float *
qb_model_gradient(const qb_model *model, int64_t index)
{
    return index < 0 || index >= model->parameter_names.count ? NULL : model->parameters[index]->gradient;
}

static qb_status
check_index(const qb_model *model, int64_t index, qb_error *error)
{
    const int64_t count = model->parameter_names.count;
    return index >= 0 && index < count
               ? QB_OK
               : qb_fail(error, NULL, QB_ERR_INDEX, "parameter index is %" PRId64 ", expected 0 .. %" PRId64, index,
                         count - 1);
}

qb_status
qb_model_set_trainable(qb_model *model, int64_t index, int32_t is_trainable, qb_error *error)
{
    QB_TRY(check_index(model, index, error));
    QB_TRY(qb_guard_begin_gradient_write(&model->guard, error));
    model->parameters[index]->is_frozen = !is_trainable;
    point(model, model->parameters[index]);
    qb_guard_end_gradient_write(&model->guard);
    return QB_OK;
}

static qb_status
check_indices(const qb_model *model, const int64_t *indices, int64_t count, qb_error *error)
{
    for (int64_t i = 0; indices != NULL && i < count; i++) {
        QB_TRY(check_index(model, indices[i], error));
    }
    return QB_OK;
}

static size_t
elements_of(const qb_parameter *parameter)
{
    return (size_t)(parameter->shape[0] * (parameter->rank == 2 ? parameter->shape[1] : 1));
}

qb_status
qb_model_zero_gradients(qb_model *model, const int64_t *indices, int64_t count, qb_error *error)
{
    QB_TRY(check_indices(model, indices, count, error));
    QB_TRY(qb_guard_begin_gradient_write(&model->guard, error));
    if (indices == NULL && model->gradients != NULL) {
        memset(model->gradients, 0, model->block_bytes);
    }
    for (int64_t i = 0; indices != NULL && i < count; i++) {
        const qb_parameter *parameter = model->parameters[indices[i]];
        if (parameter->gradient != NULL) {
            memset(parameter->gradient, 0, elements_of(parameter) * sizeof(float));
        }
    }
    for (int64_t i = 0; indices == NULL && i < model->quantizer_names.count; i++) {
        model->quantizers[i]->clip_minimum_gradient = 0.0f;
        model->quantizers[i]->clip_maximum_gradient = 0.0f;
    }
    qb_guard_end_gradient_write(&model->guard);
    return QB_OK;
}

qb_status
qb_model_gradient_norm(const qb_model *model, const int64_t *indices, int64_t count, double *norm, qb_error *error)
{
    double sum = 0.0;
    QB_TRY(check_indices(model, indices, count, error));
    for (int64_t i = 0; i < (indices == NULL ? model->parameter_names.count : count); i++) {
        const qb_parameter *parameter = model->parameters[indices == NULL ? i : indices[i]];
        if (parameter->gradient != NULL) {
            model->device->kernels.sum_squares_f32(parameter->gradient, elements_of(parameter), &sum);
        }
    }
    *norm = sqrt(sum);
    return QB_OK;
}

typedef struct scale_job {
    const qb_kernels *kernels;
    float factor;
    float *x;
} scale_job;

static void
scale_range(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const scale_job *job = argument;
    (void)worker;
    job->kernels->scale_f32(job->x + begin, job->factor, (size_t)(end - begin), job->x + begin);
}

qb_status
qb_model_scale_gradients(qb_model *model, float factor, const int64_t *indices, int64_t count, qb_error *error)
{
    const qb_run run = qb_device_run(model->device, NULL, error);
    scale_job job = {.kernels = run.kernels, .factor = factor, .x = model->gradients};
    QB_TRY(check_indices(model, indices, count, error));
    QB_TRY(qb_guard_begin_gradient_write(&model->guard, error));
    if (indices == NULL && job.x != NULL) {
        (void)qb_run_parallel(&run, (int64_t)(model->block_bytes / sizeof(float)), 16384, scale_range, &job);
    }
    for (int64_t i = 0; indices != NULL && i < count; i++) {
        const qb_parameter *parameter = model->parameters[indices[i]];
        job.x = parameter->gradient;
        if (job.x != NULL) {
            (void)qb_run_parallel(&run, (int64_t)elements_of(parameter), 16384, scale_range, &job);
        }
    }
    qb_guard_end_gradient_write(&model->guard);
    return QB_OK;
}
