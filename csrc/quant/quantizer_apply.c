/* SPDX-License-Identifier: Apache-2.0
 *
 * What a quantizer does to tensors (quantizer.h): collect, find the range, apply.
 */
#include <inttypes.h>
#include <math.h>

#include "core/device.h"
#include "core/shape.h"
#include "quant/magnitude.h"
#include "quant/quant_spec.h"
#include "quant/quantize_tensor.h"
#include "quant/quantizer.h"

/* ---- collect ------------------------------------------------------------------------------------------------------
 */

static qb_status
count_elements(const qb_run *run, int32_t rank, const int64_t *shape, int64_t *count)
{
    if (rank < 0 || rank > QB_MAX_RANK || !qb_shape_elements(rank, shape, count)) {
        return qb_fail(run->error, run->path, QB_ERR_SHAPE, "x has no valid shape, expected 0 .. %d dimensions",
                       QB_MAX_RANK);
    }
    return QB_OK;
}

/* A quantizer that multiplies first sees another tensor than its neighbours. */
static qb_status
collect_multiplied(qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank, const int64_t *shape)
{
    const qb_small_tensor *factor = &quantizer->pre_quant_scale;
    qb_broadcast plan;
    int64_t count = 0;
    size_t bytes = 0;
    QB_TRY(count_elements(run, rank, shape, &count));
    QB_TRY(qb_plan_over(run, rank, shape, "pre_quant_scale", factor->rank, factor->shape, &plan));
    float *multiplied = NULL;
    if (qb_size_multiply((size_t)count, sizeof *multiplied, &bytes)) {
        multiplied = qb_heap_allocate(run->heap, bytes);
    }
    if (multiplied == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for %" PRId64 " multiplied elements", count);
    }
    qb_status status = qb_multiply_over(run, x, factor->data, &plan, multiplied);
    if (status == QB_OK) {
        status = qb_observer_collect_group(&quantizer->observer, 1, run, multiplied, rank, shape);
    }
    qb_heap_release(run->heap, multiplied);
    return status;
}

qb_status
qb_quantizer_collect_group(qb_quantizer *const *quantizers, int32_t count, const qb_run *run, const float *x,
                           int32_t rank, const int64_t *shape)
{
    qb_observer *observers[QB_QUANTIZER_GROUP];
    int32_t sharing = 0;
    if (count > QB_QUANTIZER_GROUP) {
        return qb_fail(run->error, run->path, QB_ERR_INTERNAL, "%" PRId32 " quantizers in one group, at most %d", count,
                       QB_QUANTIZER_GROUP);
    }
    for (int32_t i = 0; i < count; i++) {
        if (qb_quantizer_wants_collect(quantizers[i]) && quantizers[i]->pre_quant_scale.data == NULL) {
            observers[sharing++] = quantizers[i]->observer;
        }
    }
    if (sharing > 0) {
        QB_TRY(qb_observer_collect_group(observers, sharing, run, x, rank, shape));
    }
    for (int32_t i = 0; i < count; i++) {
        if (qb_quantizer_wants_collect(quantizers[i]) && quantizers[i]->pre_quant_scale.data != NULL) {
            QB_TRY(collect_multiplied(quantizers[i], run, x, rank, shape));
        }
    }
    return QB_OK;
}

qb_status
qb_quantizer_collect(qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank, const int64_t *shape)
{
    return qb_quantizer_collect_group(&quantizer, 1, run, x, rank, shape);
}

qb_status
qb_quantizer_begin(qb_quantizer *quantizer, const qb_run *run)
{
    return qb_quantizer_wants_collect(quantizer) ? qb_observer_begin(quantizer->observer, run) : QB_OK;
}

void
qb_quantizer_commit(qb_quantizer *quantizer)
{
    qb_observer_commit(quantizer->observer);
}

void
qb_quantizer_rollback(qb_quantizer *quantizer)
{
    qb_observer_rollback(quantizer->observer);
}

/* ---- ranges -------------------------------------------------------------------------------------------------------
 */

float
qb_quant_scale_step(float scale)
{
    return scale == 0.0f ? 0.0f : 1.0f / scale;
}

float
qb_quant_range_step(const qb_quant_range *range)
{
    return qb_quant_scale_step(range->scale);
}

qb_quant_range
qb_quant_range_of(const qb_quantizer_options *options, float amax)
{
    return qb_quant_spec_range(options->num_bits, options->is_unsigned, options->narrow_range, amax);
}

static float
at_use(const qb_quantizer *quantizer, float amax)
{
    return quantizer->options.scale_amax != 0.0f ? amax * quantizer->options.scale_amax : amax;
}

qb_status
qb_quantizer_check_range(const qb_quantizer *quantizer, const qb_run *run)
{
    const qb_small_tensor *amax = &quantizer->amax;
    if (!qb_quantizer_quantizes(quantizer)) {
        return QB_OK;
    }
    const qb_quantizer_options *o = &quantizer->options;
    if (o->format == QB_FORMAT_INTEGER && qb_quant_spec_bound(o->num_bits, o->is_unsigned) == 0.0f) {
        return qb_fail(run->error, run->path, QB_ERR_VALUE,
                       "num_bits is %" PRId32 "%s, expected more: the largest code is 0, and every value would be NaN",
                       o->num_bits, o->is_unsigned ? " and unsigned" : "");
    }
    if (o->learn_amax) {
        const int is_finite = isfinite(quantizer->clip_minimum) && isfinite(quantizer->clip_maximum);
        return is_finite ? QB_OK
                         : qb_fail(run->error, run->path, QB_ERR_VALUE,
                                   "the learned bounds are %g and %g, expected finite ones to quantize with",
                                   (double)quantizer->clip_minimum, (double)quantizer->clip_maximum);
    }
    for (int64_t i = 0; i < amax->count; i++) {
        const float range = at_use(quantizer, amax->data[i]);
        if (!isfinite(range)) {
            return qb_fail(run->error, run->path, QB_ERR_VALUE,
                           "amax%s is %g at element %" PRId64 ", expected a finite range to quantize with",
                           o->scale_amax != 0.0f ? " * scale_amax" : "", (double)range, i);
        }
    }
    return QB_OK;
}

qb_status
qb_quantizer_range(const qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank, const int64_t *shape,
                   qb_quant_range *range)
{
    float amax = 0.0f;
    int64_t count = 0;
    QB_TRY(count_elements(run, rank, shape, &count));
    if (quantizer->amax.data != NULL) {
        amax = quantizer->amax.data[0];
    }
    else {
        QB_TRY(qb_magnitude_largest(run, x, count, &amax));
        if (!isfinite(amax)) {
            return qb_magnitude_fail_nonfinite(run, x, count, "integer codes");
        }
    }
    if (quantizer->options.is_unsigned && x != NULL) {
        QB_TRY(qb_check_nonnegative(run, x, count));
    }
    *range = qb_quant_range_of(&quantizer->options, at_use(quantizer, amax));
    return QB_OK;
}

qb_status
qb_quantizer_weight_range(const qb_quantizer *quantizer, const qb_run *run, const float *weight, int64_t rows,
                          int64_t columns, float *scale, float *lower, float *upper)
{
    const int64_t shape[2] = {rows, columns};
    const int kept[QB_MAX_RANK] = {1};
    const qb_small_tensor *amax = &quantizer->amax;
    qb_quant_range range = qb_quant_range_of(&quantizer->options, 0.0f);
    *lower = range.lower;
    *upper = range.upper;
    if (qb_quantizer_is_per_tensor(quantizer)) {
        QB_TRY(qb_quantizer_range(quantizer, run, weight, 2, shape, &range));
        for (int64_t r = 0; r < rows; r++) {
            scale[r] = range.scale;
        }
        return QB_OK;
    }
    if (amax->data == NULL) {
        QB_TRY(qb_magnitude_per_axis(run, weight, 2, shape, kept, scale));
    }
    else if (amax->count != rows) {
        char text[QB_SHAPE_TEXT_BYTES];
        return qb_fail(run->error, run->path, QB_ERR_SHAPE, "amax has shape %s, expected (%" PRId64 ", 1)",
                       qb_shape_text(amax->rank, amax->shape, text, sizeof text), rows);
    }
    if (quantizer->options.is_unsigned && weight != NULL) {
        QB_TRY(qb_check_nonnegative(run, weight, rows * columns));
    }
    for (int64_t r = 0; r < rows; r++) {
        const float row = amax->data != NULL ? amax->data[r] : scale[r];
        if (!isfinite(row)) {
            return qb_magnitude_fail_nonfinite(run, weight, rows * columns, "integer codes");
        }
        range = qb_quant_range_of(&quantizer->options, at_use(quantizer, row));
        scale[r] = range.scale;
    }
    return QB_OK;
}

/* ---- apply --------------------------------------------------------------------------------------------------------
 */

/* Quantize x with `amax` (plan over x). */
static qb_status
quantize_with(const qb_quantizer *quantizer, const qb_run *run, const float *x, const float *amax,
              const qb_broadcast *plan, int64_t amax_count, float *y, float *amax_used)
{
    const qb_quantizer_options *o = &quantizer->options;
    const qb_quantization quantization = {.format = o->format,
                                          .num_bits = o->num_bits,
                                          .is_unsigned = o->is_unsigned,
                                          /* Real quantization takes the function's default, as in the original. */
                                          .narrow_range = o->narrow_range || !o->fake_quant,
                                          .fake = o->fake_quant,
                                          .scale_amax = o->learn_amax ? 0.0f : o->scale_amax};
    QB_TRY(qb_quantize_over(run, &quantization, x, amax, plan, y));
    if (amax_used != NULL && amax_count == 1) {
        *amax_used = o->learn_amax ? amax[0] : at_use(quantizer, amax[0]);
    }
    return QB_OK;
}

static qb_status
quantize_dynamic_axes(const qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank,
                      const int64_t *shape, float *y, float *amax_used)
{
    int kept[QB_MAX_RANK];
    int64_t amax_shape[QB_MAX_RANK];
    qb_broadcast plan;
    size_t bytes = 0;
    qb_quant_spec_kept(quantizer->options.axis_count, quantizer->options.axes, rank, kept);
    const int64_t count = qb_magnitude_shape(rank, shape, kept, amax_shape);
    float *amax = NULL;
    if (qb_size_multiply((size_t)count, sizeof *amax, &bytes)) {
        amax = qb_heap_allocate(run->heap, bytes);
    }
    if (amax == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for %" PRId64 " ranges", count);
    }
    qb_status status = qb_plan_over(run, rank, shape, "amax", rank, amax_shape, &plan);
    if (status == QB_OK) {
        status = qb_magnitude_per_axis(run, x, rank, shape, kept, amax);
    }
    if (status == QB_OK) {
        status = quantize_with(quantizer, run, x, amax, &plan, count, y, amax_used);
    }
    qb_heap_release(run->heap, amax);
    return status;
}

static qb_status
quantize(const qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank, const int64_t *shape,
         int64_t count, float *y, float *amax_used)
{
    const qb_small_tensor *fixed = &quantizer->amax;
    qb_broadcast plan = {.count = count, .runs = 1, .length = count};
    float amax = 0.0f;
    if (quantizer->options.learn_amax) {
        const float low = -quantizer->clip_minimum;
        amax = low > quantizer->clip_maximum ? low : quantizer->clip_maximum;
        QB_TRY(qb_clip_to(run, x, count, quantizer->clip_minimum, quantizer->clip_maximum, y));
        return quantize_with(quantizer, run, y, &amax, &plan, 1, y, amax_used);
    }
    if (fixed->data != NULL) {
        QB_TRY(qb_plan_over(run, rank, shape, "amax", fixed->rank, fixed->shape, &plan));
        return quantize_with(quantizer, run, x, fixed->data, &plan, fixed->count, y, amax_used);
    }
    if (!qb_quantizer_is_per_tensor(quantizer)) {
        return quantize_dynamic_axes(quantizer, run, x, rank, shape, y, amax_used);
    }
    QB_TRY(qb_magnitude_largest(run, x, count, &amax));
    return quantize_with(quantizer, run, x, &amax, &plan, 1, y, amax_used);
}

static void
copy_range(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    float *const *arrays = argument;
    const float *x = arrays[0];
    float *y = arrays[1];
    for (int64_t i = begin; i < end; i++) {
        y[i] = x[i];
    }
}

qb_status
qb_quantizer_apply(const qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank, const int64_t *shape,
                   float *y, float *amax_used)
{
    const qb_small_tensor *factor = &quantizer->pre_quant_scale;
    int64_t count = 0;
    QB_TRY(count_elements(run, rank, shape, &count));
    if (qb_quantizer_is_identity(quantizer)) {
        const void *arrays[2] = {x, y};
        const qb_status status = x == y ? QB_OK : qb_run_parallel(run, count, 65536, copy_range, arrays);
        return status == QB_OK ? QB_OK : qb_fail(run->error, run->path, status, "the tensor was not finished");
    }
    if (factor->data != NULL) {
        qb_broadcast plan;
        QB_TRY(qb_plan_over(run, rank, shape, "pre_quant_scale", factor->rank, factor->shape, &plan));
        QB_TRY(qb_multiply_over(run, x, factor->data, &plan, y));
        x = y;
    }
    if (qb_quantizer_quantizes(quantizer)) {
        return quantize(quantizer, run, x, rank, shape, count, y, amax_used);
    }
    if (qb_quantizer_clips(quantizer)) {
        return qb_clip_to(run, x, count, quantizer->clip_minimum, quantizer->clip_maximum, y);
    }
    return QB_OK;
}

qb_status
qb_quantizer_forward(qb_quantizer *quantizer, const qb_interrupt *interrupt, const float *x, int32_t rank,
                     const int64_t *shape, float *y, float *amax_used, qb_error *error)
{
    const qb_run run = qb_device_run(quantizer->device, interrupt, error);
    QB_TRY(qb_quantizer_begin_write(quantizer, error));
    qb_status status = qb_quantizer_begin(quantizer, &run);
    if (status == QB_OK) {
        status = qb_quantizer_collect(quantizer, &run, x, rank, shape);
    }
    if (status == QB_OK) {
        status = qb_quantizer_apply(quantizer, &run, x, rank, shape, y, amax_used);
    }
    if (status == QB_OK) {
        qb_quantizer_commit(quantizer);
    }
    else {
        qb_quantizer_rollback(quantizer);
    }
    qb_quantizer_end_write(quantizer);
    return status;
}
