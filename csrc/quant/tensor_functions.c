/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions of pytorch_quantization.tensor_quant, .nn.functional and .utils on whole tensors.  Their contracts
 * stand in the public header; the formulas in REFERENCE 2.3 to 2.6 and 2.11.
 */
#include <inttypes.h>
#include <math.h>

#include "core/device.h"
#include "core/shape.h"
#include "quant/e4m3.h"
#include "quant/magnitude.h"
#include "quant/quant_spec.h"
#include "quant/quantize_tensor.h"

#define CHUNK 16384 /* elements: below this a second thread costs more than it saves */

static qb_status
check_tensor(const qb_run *run, const char *name, qb_tensor tensor, int64_t *count)
{
    if (tensor.rank < 0 || tensor.rank > QB_MAX_RANK || !qb_shape_elements(tensor.rank, tensor.shape, count)) {
        return qb_fail(run->error, run->path, QB_ERR_SHAPE, "%s has no valid shape, expected 0 .. %d dimensions", name,
                       QB_MAX_RANK);
    }
    if (tensor.data == NULL && *count > 0) {
        return qb_fail(run->error, run->path, QB_ERR_VALUE, "%s is NULL, expected %" PRId64 " elements", name, *count);
    }
    return QB_OK;
}

/* Check x and amax and plan one over the other. */
static qb_status
plan_amax(const qb_run *run, qb_tensor x, qb_tensor amax, int64_t *amax_count, qb_broadcast *plan)
{
    int64_t count = 0;
    QB_TRY(check_tensor(run, "x", x, &count));
    QB_TRY(check_tensor(run, "amax", amax, amax_count));
    QB_TRY(qb_plan_over(run, x.rank, x.shape, "amax", amax.rank, amax.shape, plan));
    for (int64_t i = 0; i < *amax_count; i++) {
        if (amax.data[i] < 0.0f) {
            return qb_fail(run->error, run->path, QB_ERR_VALUE, "Negative values in amax: element %" PRId64 " is %g", i,
                           (double)amax.data[i]);
        }
    }
    return QB_OK;
}

static qb_status
stopped(const qb_run *run, qb_status status)
{
    return status == QB_OK ? QB_OK : qb_fail(run->error, run->path, status, "the tensor was not finished");
}

/* ---- integer ------------------------------------------------------------------------------------------------------
 */

qb_status
qb_tensor_quant(qb_device *device, qb_tensor x, qb_tensor amax, int32_t num_bits, int is_unsigned, int narrow_range,
                int fake, float *y, float *scale, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    qb_broadcast plan;
    int64_t amax_count = 0;
    if (num_bits < 0 || num_bits > 16) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "num_bits is %" PRId32 ", expected 0 .. 16", num_bits);
    }
    QB_TRY(plan_amax(&run, x, amax, &amax_count, &plan));
    const qb_quantization quantization = {.format = QB_FORMAT_INTEGER,
                                          .num_bits = num_bits,
                                          .is_unsigned = is_unsigned != 0,
                                          .narrow_range = narrow_range != 0,
                                          .fake = fake != 0};
    QB_TRY(qb_quantize_over(&run, &quantization, x.data, amax.data, &plan, y));
    for (int64_t i = 0; !fake && scale != NULL && i < amax_count; i++) {
        const float a = amax.data[i];
        scale[i] = a <= QB_AMAX_DEAD ? 1.0f : qb_quant_spec_bound(num_bits, is_unsigned) / a;
    }
    return QB_OK;
}

qb_status
qb_tensor_quant_grad(qb_device *device, qb_tensor x, qb_tensor amax, const float *dy, float *dx, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    qb_broadcast plan;
    int64_t amax_count = 0;
    QB_TRY(plan_amax(&run, x, amax, &amax_count, &plan));
    return qb_quantize_grad_over(&run, x.data, amax.data, &plan, dy, dx);
}

/* ---- E4M3 and affine ----------------------------------------------------------------------------------------------
 */

typedef struct elements_job {
    const float *x;
    float *y;
    float step, zero, lower, upper; /* affine */
} elements_job;

static void
cast_e4m3(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    const elements_job *job = argument;
    for (int64_t i = begin; i < end; i++) {
        job->y[i] = qb_e4m3_round(job->x[i]);
    }
}

qb_status
qb_scaled_e4m3(qb_device *device, qb_tensor x, qb_tensor amax, float *y, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    qb_broadcast plan;
    int64_t count = 0;
    if (amax.data == NULL) {
        elements_job job = {.x = x.data, .y = y};
        QB_TRY(check_tensor(&run, "x", x, &count));
        return stopped(&run, qb_run_parallel(&run, count, CHUNK, cast_e4m3, &job));
    }
    QB_TRY(plan_amax(&run, x, amax, &count, &plan));
    const qb_quantization quantization = {.format = QB_FORMAT_E4M3, .fake = 1};
    return qb_quantize_over(&run, &quantization, x.data, amax.data, &plan, y);
}

static void
quantize_affine(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    const elements_job *job = argument;
    for (int64_t i = begin; i < end; i++) {
        float code = rintf(job->x[i] / job->step) - job->zero;
        code = code < job->lower ? job->lower : code;
        code = code > job->upper ? job->upper : code;
        job->y[i] = (code + job->zero) * job->step;
    }
}

qb_status
qb_fake_affine(qb_device *device, qb_tensor x, float minimum, float maximum, int32_t num_bits, float *y,
               qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    int64_t count = 0;
    if (num_bits < 1 || num_bits > 16) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "num_bits is %" PRId32 ", expected 1 .. 16", num_bits);
    }
    QB_TRY(check_tensor(&run, "x", x, &count));
    elements_job job = {.x = x.data, .y = y};
    job.step = (maximum - minimum) / (ldexpf(1.0f, num_bits) - 1.0f);
    job.lower = -ldexpf(1.0f, num_bits - 1);
    job.upper = ldexpf(1.0f, num_bits - 1) - 1.0f;
    job.zero = rintf(minimum / job.step) - job.lower;
    return stopped(&run, qb_run_parallel(&run, count, CHUNK, quantize_affine, &job));
}

/* ---- clip ---------------------------------------------------------------------------------------------------------
 */

typedef struct clip_job {
    const float *x;
    const float *minimum, *maximum;
    qb_broadcast minimum_plan, maximum_plan;
    const float *dy;
    float *y; /* or dx */
} clip_job;

static float
bound_at(const float *bound, const qb_broadcast *plan, int64_t i)
{
    return bound[plan->runs == 1 && plan->step == 0 ? 0 : qb_broadcast_element(plan, i)];
}

static void
clip_elements(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    const clip_job *job = argument;
    for (int64_t i = begin; i < end; i++) {
        const float minimum = bound_at(job->minimum, &job->minimum_plan, i);
        const float maximum = bound_at(job->maximum, &job->maximum_plan, i);
        float v = job->x[i];
        v = v > maximum || isnan(maximum) ? maximum : v;
        job->y[i] = v < minimum || isnan(minimum) ? minimum : v;
    }
}

static qb_status
plan_clip(const qb_run *run, qb_tensor x, qb_tensor minimum, qb_tensor maximum, clip_job *job, int64_t *count)
{
    int64_t bounds = 0;
    QB_TRY(check_tensor(run, "x", x, count));
    QB_TRY(check_tensor(run, "minimum", minimum, &bounds));
    QB_TRY(check_tensor(run, "maximum", maximum, &bounds));
    QB_TRY(qb_plan_over(run, x.rank, x.shape, "minimum", minimum.rank, minimum.shape, &job->minimum_plan));
    QB_TRY(qb_plan_over(run, x.rank, x.shape, "maximum", maximum.rank, maximum.shape, &job->maximum_plan));
    job->x = x.data;
    job->minimum = minimum.data;
    job->maximum = maximum.data;
    return QB_OK;
}

qb_status
qb_clip(qb_device *device, qb_tensor x, qb_tensor minimum, qb_tensor maximum, float *y, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    clip_job job = {.y = y};
    int64_t count = 0;
    QB_TRY(plan_clip(&run, x, minimum, maximum, &job, &count));
    return stopped(&run, qb_run_parallel(&run, count, CHUNK, clip_elements, &job));
}

static void
clip_gradient(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    const clip_job *job = argument;
    for (int64_t i = begin; i < end; i++) {
        job->y[i] = job->x[i] > job->minimum[0] && job->x[i] < job->maximum[0] ? job->dy[i] : 0.0f;
    }
}

qb_status
qb_clip_grad(qb_device *device, qb_tensor x, qb_tensor minimum, qb_tensor maximum, const float *dy, float *dx,
             float *dminimum, float *dmaximum, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    clip_job job = {.dy = dy, .y = dx};
    int64_t count = 0;
    int64_t minimum_count = 0;
    int64_t maximum_count = 0;
    QB_TRY(plan_clip(&run, x, minimum, maximum, &job, &count));
    QB_TRY(check_tensor(&run, "minimum", minimum, &minimum_count));
    QB_TRY(check_tensor(&run, "maximum", maximum, &maximum_count));
    if (minimum_count != 1 || maximum_count != 1) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "Learnable min/max can only be scalar, got %" PRId64 " and %" PRId64 " elements", minimum_count,
                       maximum_count);
    }
    /* Sums in float64 and in order, so that they do not depend on threads.  dx may be dy: sum first. */
    double below = 0.0;
    double above = 0.0;
    for (int64_t i = 0; i < count; i++) {
        below += x.data[i] <= minimum.data[0] ? (double)dy[i] : 0.0;
        above += x.data[i] >= maximum.data[0] ? (double)dy[i] : 0.0;
    }
    QB_TRY(stopped(&run, qb_run_parallel(&run, count, CHUNK, clip_gradient, &job)));
    if (dminimum != NULL) {
        *dminimum = (float)below;
    }
    if (dmaximum != NULL) {
        *dmaximum = (float)above;
    }
    return QB_OK;
}

/* ---- amax ---------------------------------------------------------------------------------------------------------
 */

qb_status
qb_reduce_amax(qb_device *device, qb_tensor x, int32_t kept_count, const int32_t *kept, float *y, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    int64_t count = 0;
    int is_kept[QB_MAX_RANK];
    QB_TRY(check_tensor(&run, "x", x, &count));
    for (int32_t i = 0; i < kept_count; i++) {
        if (kept[i] < -x.rank || kept[i] >= x.rank) {
            return qb_fail(error, NULL, QB_ERR_INDEX, "axis %" PRId32 " is out of range: x has %" PRId32 " dimensions",
                           kept[i], x.rank);
        }
    }
    qb_quant_spec_kept(kept_count, kept, x.rank, is_kept);
    return qb_magnitude_per_axis(&run, x.data, x.rank, x.shape, is_kept, y);
}
