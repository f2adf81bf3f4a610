/* SPDX-License-Identifier: Apache-2.0
 *
 * See quantizer.h: life and contents of a quantizer, and what it tells about itself.  What it does to tensors is in
 * quantizer_apply.c.
 */
#include "quant/quantizer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/device.h"
#include "core/shape.h"
#include "quant/quant_spec.h"

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

qb_status
qb_quantizer_create(qb_device *device, const qb_quantizer_options *options, qb_quantizer **quantizer, qb_error *error)
{
    qb_quantizer_options checked;
    QB_TRY(qb_quant_spec_read(options, &checked, NULL, error));
    qb_quantizer *made = qb_heap_allocate_zero(&device->heap, sizeof *made);
    if (made == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for a quantizer");
    }
    made->device = qb_device_retain(device);
    made->options = checked;
    made->clip_minimum = -1.0f;
    made->clip_maximum = 1.0f;
    atomic_init(&made->stages, QB_STAGE_QUANT | (checked.learn_amax ? QB_STAGE_CLIP : 0));
    atomic_init(&made->references, 1);
    atomic_init(&made->busy, 0);
    *quantizer = made;
    return QB_OK;
}

void
qb_quantizer_set_owner(qb_quantizer *quantizer, const qb_quantizer_owner *owner)
{
    quantizer->owner = *owner;
}

qb_quantizer *
qb_quantizer_retain(qb_quantizer *quantizer)
{
    if (quantizer == NULL) {
        return NULL;
    }
    if (quantizer->owner.context != NULL) {
        quantizer->owner.retain(quantizer->owner.context);
    }
    else {
        atomic_fetch_add(&quantizer->references, 1);
    }
    return quantizer;
}

void
qb_quantizer_release(qb_quantizer *quantizer)
{
    if (quantizer == NULL) {
        return;
    }
    if (quantizer->owner.context != NULL) {
        quantizer->owner.release(quantizer->owner.context);
    }
    else if (atomic_fetch_sub(&quantizer->references, 1) == 1) {
        qb_quantizer_destroy(quantizer);
    }
}

void
qb_quantizer_destroy(qb_quantizer *quantizer)
{
    if (quantizer == NULL) {
        return;
    }
    qb_device *device = quantizer->device;
    qb_heap_release(&device->heap, quantizer->amax.data);
    qb_heap_release(&device->heap, quantizer->pre_quant_scale.data);
    qb_observer_release(quantizer->observer);
    qb_heap_release(&device->heap, quantizer);
    qb_device_close(device);
}

qb_status
qb_quantizer_begin_write(qb_quantizer *quantizer, qb_error *error)
{
    if (quantizer->owner.begin_write != NULL) {
        return quantizer->owner.begin_write(quantizer->owner.context, error);
    }
    if (atomic_exchange(&quantizer->busy, 1) != 0) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the quantizer is in use by another thread");
    }
    return QB_OK;
}

void
qb_quantizer_end_write(qb_quantizer *quantizer)
{
    if (quantizer->owner.end_write != NULL) {
        quantizer->owner.end_write(quantizer->owner.context);
    }
    else if (quantizer->owner.begin_write == NULL) {
        atomic_store(&quantizer->busy, 0);
    }
}

qb_status
qb_quantizer_begin_change(qb_quantizer *quantizer, qb_error *error)
{
    return quantizer->owner.begin_write != NULL ? quantizer->owner.begin_write(quantizer->owner.context, error) : QB_OK;
}

void
qb_quantizer_end_change(qb_quantizer *quantizer)
{
    if (quantizer->owner.end_write != NULL) {
        quantizer->owner.end_write(quantizer->owner.context);
    }
}

/* qb_quantizer_begin_write of a change of its contents. */
static qb_status
begin_set(qb_quantizer *quantizer, qb_error *error)
{
    if (quantizer->frozen != NULL) {
        return qb_fail(
            error, NULL, QB_ERR_STATE,
            "%s: cannot be changed, because the weight of its layer is frozen: its floats are gone; load the "
            "checkpoint again",
            quantizer->frozen);
    }
    return qb_quantizer_begin_write(quantizer, error);
}

const char *
qb_quantizer_frozen_name(const qb_quantizer *quantizer)
{
    return quantizer->frozen;
}

/* ---- contents -----------------------------------------------------------------------------------------------------
 */

qb_quantizer_options
qb_quantizer_get_options(const qb_quantizer *quantizer)
{
    return quantizer->options;
}

qb_status
qb_quantizer_set_options(qb_quantizer *quantizer, const qb_quantizer_options *options, qb_error *error)
{
    qb_quantizer_options checked;
    QB_TRY(qb_quant_spec_read(options, &checked, NULL, error));
    QB_TRY(begin_set(quantizer, error));
    quantizer->options = checked;
    quantizer->revision++;
    qb_quantizer_end_write(quantizer);
    return QB_OK;
}

uint32_t
qb_quantizer_stages(const qb_quantizer *quantizer)
{
    return atomic_load_explicit(&quantizer->stages, memory_order_relaxed);
}

qb_status
qb_quantizer_set_stages(qb_quantizer *quantizer, uint32_t stages)
{
    QB_TRY(begin_set(quantizer, NULL));
    atomic_store_explicit(&quantizer->stages, stages, memory_order_relaxed);
    quantizer->revision++;
    qb_quantizer_end_write(quantizer);
    return QB_OK;
}

/* Put a copy of `values` in *target; NULL removes what is there. */
static qb_status
replace_small_tensor(qb_quantizer *quantizer, qb_small_tensor *target, const char *name, const float *values,
                     int32_t rank, const int64_t *shape, qb_error *error)
{
    qb_small_tensor made = {0};
    qb_heap *heap = &quantizer->device->heap;
    if (values != NULL) {
        size_t bytes = 0;
        if (rank < 0 || rank > QB_MAX_RANK || !qb_shape_elements(rank, shape, &made.count) || made.count < 1) {
            return qb_fail(error, NULL, QB_ERR_SHAPE,
                           "%s has no valid shape, expected 0 .. %d dimensions of at least 1", name, QB_MAX_RANK);
        }
        if (!qb_size_multiply((size_t)made.count, sizeof *values, &bytes) ||
            (made.data = qb_heap_allocate(heap, bytes)) == NULL) {
            return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for %s of %" PRId64 " elements", name, made.count);
        }
        memcpy(made.data, values, bytes);
        made.rank = rank;
        made.is_finite = 1;
        for (int64_t i = 0; i < made.count; i++) {
            made.is_finite &= isfinite(values[i]) != 0;
        }
        for (int32_t d = 0; d < rank; d++) {
            made.shape[d] = shape[d];
        }
    }
    const qb_status status = begin_set(quantizer, error);
    if (status != QB_OK) {
        qb_heap_release(heap, made.data);
        return status;
    }
    qb_heap_release(heap, target->data);
    *target = made;
    quantizer->revision++;
    qb_quantizer_end_write(quantizer);
    return QB_OK;
}

qb_status
qb_quantizer_set_amax(qb_quantizer *quantizer, const float *values, int32_t rank, const int64_t *shape, qb_error *error)
{
    int64_t count = 0;
    if (values != NULL && rank >= 0 && rank <= QB_MAX_RANK && qb_shape_elements(rank, shape, &count)) {
        for (int64_t i = 0; i < count; i++) {
            if (values[i] < 0.0f) {
                return qb_fail(error, NULL, QB_ERR_VALUE, "Negative values in amax: element %" PRId64 " is %g", i,
                               (double)values[i]);
            }
        }
    }
    return replace_small_tensor(quantizer, &quantizer->amax, "amax", values, rank, shape, error);
}

static void
read_small_tensor(const qb_small_tensor *tensor, const float **values, int32_t *rank, const int64_t **shape)
{
    *values = tensor->data;
    *rank = tensor->rank;
    *shape = tensor->shape;
}

void
qb_quantizer_amax(const qb_quantizer *quantizer, const float **values, int32_t *rank, const int64_t **shape)
{
    read_small_tensor(&quantizer->amax, values, rank, shape);
}

qb_status
qb_quantizer_set_clip(qb_quantizer *quantizer, float minimum, float maximum, qb_error *error)
{
    if (isnan(minimum) || isnan(maximum)) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "clip bounds are %g and %g, expected numbers", (double)minimum,
                       (double)maximum);
    }
    QB_TRY(begin_set(quantizer, error));
    quantizer->clip_minimum = minimum;
    quantizer->clip_maximum = maximum;
    quantizer->revision++;
    qb_quantizer_end_write(quantizer);
    return QB_OK;
}

void
qb_quantizer_clip(const qb_quantizer *quantizer, float *minimum, float *maximum)
{
    *minimum = quantizer->clip_minimum;
    *maximum = quantizer->clip_maximum;
}

void
qb_quantizer_clip_gradient(const qb_quantizer *quantizer, float *minimum, float *maximum)
{
    *minimum = quantizer->clip_minimum_gradient;
    *maximum = quantizer->clip_maximum_gradient;
}

void
qb_quantizer_set_clip_gradient(qb_quantizer *quantizer, float minimum, float maximum)
{
    quantizer->clip_minimum_gradient = minimum;
    quantizer->clip_maximum_gradient = maximum;
}

qb_status
qb_quantizer_set_pre_quant_scale(qb_quantizer *quantizer, const float *values, int32_t rank, const int64_t *shape,
                                 qb_error *error)
{
    return replace_small_tensor(quantizer, &quantizer->pre_quant_scale, "pre_quant_scale", values, rank, shape, error);
}

void
qb_quantizer_pre_quant_scale(const qb_quantizer *quantizer, const float **values, int32_t *rank, const int64_t **shape)
{
    read_small_tensor(&quantizer->pre_quant_scale, values, rank, shape);
}

qb_status
qb_quantizer_set_observer(qb_quantizer *quantizer, qb_observer *observer)
{
    QB_TRY(begin_set(quantizer, NULL));
    qb_observer *before = quantizer->observer;
    quantizer->observer = qb_observer_retain(observer);
    quantizer->revision++;
    qb_quantizer_end_write(quantizer);
    qb_observer_release(before);
    return QB_OK;
}

/* ---- what it tells ------------------------------------------------------------------------------------------------
 */

static int
has_stage(const qb_quantizer *quantizer, uint32_t stage)
{
    const uint32_t stages = qb_quantizer_stages(quantizer);
    return (stages & QB_STAGE_DISABLED) == 0 && (stages & stage) != 0;
}

int
qb_quantizer_clips(const qb_quantizer *quantizer)
{
    return has_stage(quantizer, QB_STAGE_CLIP) && !has_stage(quantizer, QB_STAGE_CALIB);
}

int
qb_quantizer_quantizes(const qb_quantizer *quantizer)
{
    return has_stage(quantizer, QB_STAGE_QUANT);
}

int
qb_quantizer_is_identity(const qb_quantizer *quantizer)
{
    if ((qb_quantizer_stages(quantizer) & QB_STAGE_DISABLED) != 0) {
        return 1;
    }
    return !qb_quantizer_quantizes(quantizer) && !qb_quantizer_clips(quantizer) &&
           quantizer->pre_quant_scale.data == NULL;
}

int
qb_quantizer_wants_collect(const qb_quantizer *quantizer)
{
    return quantizer->observer != NULL && has_stage(quantizer, QB_STAGE_CALIB);
}

int
qb_quantizer_is_off(const qb_quantizer *quantizer)
{
    return qb_quantizer_is_identity(quantizer) && !qb_quantizer_wants_collect(quantizer);
}

int
qb_quantizer_is_dynamic(const qb_quantizer *quantizer)
{
    return qb_quantizer_quantizes(quantizer) && !quantizer->options.learn_amax && quantizer->amax.data == NULL;
}

int
qb_quantizer_is_per_tensor(const qb_quantizer *quantizer)
{
    if (quantizer->options.learn_amax) {
        return 1;
    }
    return quantizer->amax.data != NULL ? quantizer->amax.count == 1 : quantizer->options.axis_count <= 0;
}

/* What activations and weights must have in common. */
static const char *
format_reason(const qb_quantizer *quantizer)
{
    const qb_quantizer_options *o = &quantizer->options;
    if (!qb_quantizer_quantizes(quantizer)) {
        return "a quantizer is off";
    }
    if (qb_quantizer_clips(quantizer)) {
        return "a quantizer clips";
    }
    if (o->format != QB_FORMAT_INTEGER) {
        return "a quantizer has the E4M3 format";
    }
    if (!o->fake_quant) {
        return "a quantizer gives integers instead of quantized values (fake_quant is off)";
    }
    if (o->num_bits + (o->is_unsigned ? 1 : 0) > 8) {
        return "a quantizer has more codes than int8: over 8 bits, or over 7 unsigned";
    }
    if (o->num_bits + (o->is_unsigned ? 1 : 0) < 2) {
        return "a quantizer has no code but zero";
    }
    if (o->learn_amax) {
        return "a quantizer's range is learned";
    }
    if (quantizer->pre_quant_scale.data != NULL) {
        return "a quantizer has a pre_quant_scale";
    }
    if (quantizer->amax.data != NULL && !quantizer->amax.is_finite) {
        return "a quantizer's amax is not finite";
    }
    return NULL;
}

const char *
qb_quantizer_integer_reason(const qb_quantizer *quantizer)
{
    const char *reason = format_reason(quantizer);
    if (reason == NULL && !qb_quantizer_is_per_tensor(quantizer)) {
        reason = "an activation has a range for every slice of an axis";
    }
    return reason;
}

const char *
qb_quantizer_weight_reason(const qb_quantizer *quantizer)
{
    const char *reason = format_reason(quantizer);
    if (reason != NULL || qb_quantizer_is_per_tensor(quantizer)) {
        return reason;
    }
    const qb_small_tensor *amax = &quantizer->amax;
    if (amax->data != NULL) {
        return amax->rank == 2 && amax->shape[1] == 1 ? NULL : "a weight's amax is not one number for each row";
    }
    for (int32_t i = 0; i < quantizer->options.axis_count; i++) {
        const int32_t axis = quantizer->options.axes[i];
        if (axis == 1 || axis == -1) {
            return "a weight has a range for every column";
        }
    }
    return NULL;
}
