/* SPDX-License-Identifier: Apache-2.0
 *
 * The gradient through a quantizer (quantizer.h): straight through where the value was kept, zero where it was clamped.
 *
 *   y = fake_quant(clip(pre_quant_scale * x))
 *
 *   quantize   dx = dy where |x| <= amax, else 0; a range that is computed from x clamps nothing
 *   clip       dx = dy where minimum < x < maximum, else 0; d minimum = sum of dy where x <= minimum,
 *              d maximum = sum of dy where x >= maximum
 *   multiply   dx = dy * pre_quant_scale
 *
 * With learned bounds amax is the larger of their magnitudes, so only the clip decides.  The amax of a range that is
 * not learned has no gradient.
 *
 * Source: pytorch_quantization's FakeTensorQuantFunction and ClipFunction (REFERENCE 2.3, 2.6, 2.7).
 */
#include "core/shape.h"
#include "quant/quantize_tensor.h"
#include "quant/quantizer.h"

/* ---- the clip ----------------------------------------------------------------------------------------------------
 */

typedef struct clip_job {
    const float *x;
    const float *dy;
    float minimum, maximum;
    float *dx;
} clip_job;

static void
pass_inside(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const clip_job *job = argument;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        job->dx[i] = job->x[i] > job->minimum && job->x[i] < job->maximum ? job->dy[i] : 0.0f;
    }
}

static qb_status
clip_backward(qb_quantizer *quantizer, const qb_run *run, const float *x, int64_t count, const float *dy, float *dx)
{
    clip_job job = {.x = x, .dy = dy, .minimum = quantizer->clip_minimum, .maximum = quantizer->clip_maximum, .dx = dx};
    /* In float64 and in order, so that the sums do not depend on threads.  dx may be dy: sum first. */
    double below = 0.0;
    double above = 0.0;
    for (int64_t i = 0; i < count; i++) {
        below += x[i] <= job.minimum ? (double)dy[i] : 0.0;
        above += x[i] >= job.maximum ? (double)dy[i] : 0.0;
    }
    QB_TRY(qb_run_parallel(run, count, 16384, pass_inside, &job));
    quantizer->clip_minimum_gradient += (float)below;
    quantizer->clip_maximum_gradient += (float)above;
    return QB_OK;
}

/* ---- the whole ---------------------------------------------------------------------------------------------------
 */

static qb_status
quantize_backward(const qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank, const int64_t *shape,
                  const float *dy, float *dx)
{
    const qb_small_tensor *amax = &quantizer->amax;
    const float factor = quantizer->options.scale_amax == 0.0f ? 1.0f : quantizer->options.scale_amax;
    qb_broadcast plan;
    if (amax->data == NULL && factor >= 1.0f) {
        return QB_OK;
    }
    if (amax->data == NULL || factor != 1.0f) {
        return qb_fail(run->error, run->path, QB_ERR_UNSUPPORTED,
                       "scale_amax has no gradient here, expected a range that is used as it is");
    }
    QB_TRY(qb_plan_over(run, rank, shape, "amax", amax->rank, amax->shape, &plan));
    return qb_quantize_grad_over(run, x, amax->data, &plan, dy, dx);
}

qb_status
qb_quantizer_backward(qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank, const int64_t *shape,
                      float *gradient)
{
    int64_t count = 0;
    if (quantizer == NULL || qb_quantizer_is_identity(quantizer)) {
        return QB_OK;
    }
    if (!qb_shape_elements(rank, shape, &count)) {
        return qb_fail(run->error, run->path, QB_ERR_SHAPE, "x has no valid shape");
    }
    if (quantizer->pre_quant_scale.data != NULL) {
        return qb_fail(run->error, run->path, QB_ERR_UNSUPPORTED,
                       "pre_quant_scale has no gradient here, expected a quantizer without it");
    }
    if (qb_quantizer_clips(quantizer) || (qb_quantizer_quantizes(quantizer) && quantizer->options.learn_amax)) {
        return clip_backward(quantizer, run, x, count, gradient, gradient);
    }
    return quantize_backward(quantizer, run, x, rank, shape, gradient, gradient);
}
