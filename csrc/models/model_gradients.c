/* SPDX-License-Identifier: Apache-2.0
 *
 * The gradients of a model's parameters: a block like theirs.
 */
#include <inttypes.h>
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
    const qb_status status = qb_guard_begin_write(&model->guard, error);
    if (status != QB_OK) {
        qb_heap_release(&model->device->heap, made);
        return status;
    }
    model->gradients = made;
    for (int64_t i = 0; i < model->parameter_names.count; i++) {
        point(model, model->parameters[i]);
    }
    qb_guard_end_write(&model->guard);
    return QB_OK;
}

float *
qb_model_gradient(const qb_model *model, int64_t index)
{
    return index < 0 || index >= model->parameter_names.count ? NULL : model->parameters[index]->gradient;
}

qb_status
qb_model_set_trainable(qb_model *model, int64_t index, int32_t is_trainable, qb_error *error)
{
    if (index < 0 || index >= model->parameter_names.count) {
        return qb_fail(error, NULL, QB_ERR_INDEX, "parameter index is %" PRId64 ", expected 0 .. %" PRId64, index,
                       model->parameter_names.count - 1);
    }
    QB_TRY(qb_guard_begin_write(&model->guard, error));
    model->parameters[index]->is_frozen = !is_trainable;
    point(model, model->parameters[index]);
    qb_guard_end_write(&model->guard);
    return QB_OK;
}

qb_status
qb_model_zero_gradients(qb_model *model, qb_error *error)
{
    QB_TRY(qb_guard_begin_write(&model->guard, error));
    if (model->gradients != NULL) {
        memset(model->gradients, 0, model->block_bytes);
    }
    for (int64_t i = 0; i < model->quantizer_names.count; i++) {
        model->quantizers[i]->clip_minimum_gradient = 0.0f;
        model->quantizers[i]->clip_maximum_gradient = 0.0f;
    }
    qb_guard_end_write(&model->guard);
    return QB_OK;
}
