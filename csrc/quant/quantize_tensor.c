/* SPDX-License-Identifier: Apache-2.0
 *
 * See quantize_tensor.h.  The tensor is split into chunks of elements, whatever its shape; a chunk visits the runs that
 * it overlaps.  Every element depends on itself alone, so the split cannot be seen.
 */
#include "quant/quantize_tensor.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>

#include "core/shape.h"
#include "quant/e4m3.h"
#include "quant/quant_spec.h"

#define CHUNK 16384 /* elements: below this a second thread costs more than it saves */
#define SCALES 256  /* ranges that are turned into scales at a time */

qb_status
qb_plan_over(const qb_run *run, int32_t rank, const int64_t *shape, const char *name, int32_t small_rank,
             const int64_t *small_shape, qb_broadcast *plan)
{
    if (qb_broadcast_plan(rank, shape, small_rank, small_shape, plan)) {
        return QB_OK;
    }
    char small_text[QB_SHAPE_TEXT_BYTES];
    char text[QB_SHAPE_TEXT_BYTES];
    return qb_fail(run->error, run->path, QB_ERR_SHAPE, "%s has shape %s, which does not stretch to x %s", name,
                   qb_shape_text(small_rank, small_shape, small_text, sizeof small_text),
                   qb_shape_text(rank, shape, text, sizeof text));
}

typedef struct tensor_job tensor_job;

/* n elements from `at` on; the small operand starts at `small` and advances by the plan's step. */
typedef void (*piece_function)(const tensor_job *job, int64_t at, int64_t small, int64_t n);

struct tensor_job {
    const qb_kernels *kernels;
    const qb_quantization *quantization;
    const qb_broadcast *plan;
    piece_function piece;
    const float *x;
    const float *small;
    const float *dy;
    float *y;
};

static void
visit_pieces(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    const tensor_job *job = argument;
    const qb_broadcast *plan = job->plan;
    for (int64_t at = begin; at < end;) {
        const int64_t within = at % plan->length;
        const int64_t rest = plan->length - within;
        const int64_t n = rest < end - at ? rest : end - at;
        job->piece(job, at, qb_broadcast_offset(plan, at / plan->length) + within * plan->step, n);
        at += n;
    }
}

static qb_status
visit(const qb_run *run, tensor_job *job)
{
    job->kernels = run->kernels;
    const qb_status status = qb_run_parallel(run, job->plan->count, CHUNK, visit_pieces, job);
    return status == QB_OK ? QB_OK : qb_fail(run->error, run->path, status, "the tensor was not finished");
}

static float
scaled_amax(const qb_quantization *quantization, float amax)
{
    return quantization->scale_amax != 0.0f ? amax * quantization->scale_amax : amax;
}

static int
is_void(const qb_quant_range *range, float amax)
{
    return range->scale == 0.0f && !(amax <= QB_AMAX_DEAD);
}

/* Without bits the bounds cross and the upper one wins, whatever the element is: the original's arithmetic. */
static void
quantize_without_bits(const tensor_job *job, int64_t at, int64_t small, int64_t n)
{
    const qb_quantization *q = job->quantization;
    for (int64_t i = 0; i < n; i++) {
        const float amax = scaled_amax(q, job->small[small + i * job->plan->step]);
        const qb_quant_range range = qb_quant_spec_range(q->num_bits, q->is_unsigned, q->narrow_range, amax);
        const float divisor = amax <= QB_AMAX_DEAD || !q->fake ? 1.0f : range.scale;
        job->y[at + i] = isnan(job->x[at + i]) ? NAN : range.upper / divisor;
    }
}

static void
quantize_constant(const tensor_job *job, int64_t at, int64_t small, int64_t n)
{
    const qb_quantization *q = job->quantization;
    const float amax = scaled_amax(q, job->small[small]);
    const qb_quant_range range = qb_quant_spec_range(q->num_bits, q->is_unsigned, q->narrow_range, amax);
    if (!q->fake) {
        job->kernels->quantize_f32(job->x + at, (size_t)n, &range, job->y + at);
        return;
    }
    if (is_void(&range, amax)) {
        for (int64_t i = 0; i < n; i++) {
            job->y[at + i] = NAN;
        }
        return;
    }
    job->kernels->fake_quant_f32(job->x + at, (size_t)n, &range, job->y + at);
}

static void
quantize_varying(const tensor_job *job, int64_t at, int64_t small, int64_t n)
{
    const qb_quantization *q = job->quantization;
    if (!q->fake) {
        for (int64_t i = 0; i < n; i++) {
            quantize_constant(job, at + i, small + i, 1);
        }
        return;
    }
    float scale[SCALES];
    for (int64_t from = 0; from < n; from += SCALES) {
        const int64_t m = n - from < SCALES ? n - from : SCALES;
        qb_quant_range range = {0};
        for (int64_t i = 0; i < m; i++) {
            const float amax = scaled_amax(q, job->small[small + from + i]);
            range = qb_quant_spec_range(q->num_bits, q->is_unsigned, q->narrow_range, amax);
            scale[i] = is_void(&range, amax) ? NAN : range.scale;
        }
        job->kernels->fake_quant_columns_f32(job->x + at + from, 1, (size_t)m, scale, range.lower, range.upper,
                                             job->y + at + from);
    }
}

static void
quantize_e4m3(const tensor_job *job, int64_t at, int64_t small, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float amax = scaled_amax(job->quantization, job->small[small + i * job->plan->step]);
        job->y[at + i] = qb_e4m3_round_scaled(job->x[at + i], qb_e4m3_scale(amax));
    }
}

qb_status
qb_quantize_over(const qb_run *run, const qb_quantization *quantization, const float *x, const float *amax,
                 const qb_broadcast *plan, float *y)
{
    tensor_job job = {.quantization = quantization, .plan = plan, .x = x, .small = amax, .y = y};
    switch (quantization->format) {
    case QB_FORMAT_INTEGER:
        if (quantization->is_unsigned) {
            QB_TRY(qb_check_nonnegative(run, x, plan->count));
        }
        job.piece = plan->step == 0 ? quantize_constant : quantize_varying;
        if (quantization->num_bits == 0) {
            job.piece = quantize_without_bits;
        }
        break;
    case QB_FORMAT_E4M3:
        job.piece = quantize_e4m3;
        break;
    }
    return visit(run, &job);
}

static void
grad_piece(const tensor_job *job, int64_t at, int64_t small, int64_t n)
{
    if (job->plan->step == 0) {
        job->kernels->fake_quant_grad_f32(job->x + at, job->dy + at, (size_t)n, job->small[small], job->y + at);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        job->kernels->fake_quant_grad_f32(job->x + at + i, job->dy + at + i, 1, job->small[small + i], job->y + at + i);
    }
}

qb_status
qb_quantize_grad_over(const qb_run *run, const float *x, const float *amax, const qb_broadcast *plan, const float *dy,
                      float *dx)
{
    tensor_job job = {.plan = plan, .piece = grad_piece, .x = x, .small = amax, .dy = dy, .y = dx};
    return visit(run, &job);
}

static void
multiply_piece(const tensor_job *job, int64_t at, int64_t small, int64_t n)
{
    if (job->plan->step == 0) {
        job->kernels->scale_f32(job->x + at, job->small[small], (size_t)n, job->y + at);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        job->y[at + i] = job->x[at + i] * job->small[small + i];
    }
}

qb_status
qb_multiply_over(const qb_run *run, const float *x, const float *factor, const qb_broadcast *plan, float *y)
{
    tensor_job job = {.plan = plan, .piece = multiply_piece, .x = x, .small = factor, .y = y};
    return visit(run, &job);
}

static void
clip_piece(const tensor_job *job, int64_t at, int64_t small, int64_t n)
{
    (void)small;
    const float minimum = job->small[0];
    const float maximum = job->small[1];
    for (int64_t i = at; i < at + n; i++) {
        float v = job->x[i];
        v = v > maximum ? maximum : v;
        job->y[i] = v < minimum ? minimum : v;
    }
}

qb_status
qb_clip_to(const qb_run *run, const float *x, int64_t count, float minimum, float maximum, float *y)
{
    const float bounds[2] = {minimum, maximum};
    const qb_broadcast plan = {.count = count, .runs = 1, .length = count};
    tensor_job job = {.plan = &plan, .piece = clip_piece, .x = x, .small = bounds, .y = y};
    return visit(run, &job);
}

typedef struct sign_job {
    const float *x;
    atomic_int found;
} sign_job;

static void
find_negative(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    sign_job *job = argument;
    int found = 0;
    for (int64_t i = begin; i < end; i++) {
        found |= job->x[i] < 0.0f;
    }
    if (found) {
        atomic_store(&job->found, 1);
    }
}

qb_status
qb_check_nonnegative(const qb_run *run, const float *x, int64_t count)
{
    sign_job job = {.x = x};
    atomic_init(&job.found, 0);
    const qb_status status = qb_run_parallel(run, count, CHUNK, find_negative, &job);
    if (status != QB_OK) {
        return qb_fail(run->error, run->path, status, "the tensor was not finished");
    }
    if (!atomic_load(&job.found)) {
        return QB_OK;
    }
    int64_t at = 0;
    while (!(x[at] < 0.0f)) {
        at++;
    }
    return qb_fail(run->error, run->path, QB_ERR_VALUE,
                   "Negative values encountered in unsigned quantization: element %" PRId64 " is %g", at,
                   (double)x[at]);
}
