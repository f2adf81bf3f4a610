/* SPDX-License-Identifier: Apache-2.0
 *
 * See magnitude.h.  The whole tensor is cut into at most PARTS chunks, each with its own result on the caller's stack;
 * slices are cut into as many portions as there are threads, each with its own copy of the results.
 */
#include "quant/magnitude.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/shape.h"
#include "quant/broadcast.h"

#define PARTS 128
#define PART_ELEMENTS 16384 /* below this a second thread costs more than it saves */

static float
larger(float a, float b)
{
    return b > a || isnan(b) ? b : a;
}

typedef struct whole_job {
    const qb_kernels *kernels;
    const float *x;
    int64_t count;
    int64_t part; /* elements */
    float largest[PARTS];
} whole_job;

static void
whole_parts(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    whole_job *job = argument;
    for (int64_t p = begin; p < end; p++) {
        const int64_t from = p * job->part;
        const int64_t n = job->count - from < job->part ? job->count - from : job->part;
        job->kernels->amax_f32(job->x + from, (size_t)n, &job->largest[p]);
    }
}

qb_status
qb_magnitude_largest(const qb_run *run, const float *x, int64_t count, float *largest)
{
    whole_job job = {.kernels = run->kernels, .x = x, .count = count, .part = (count + PARTS - 1) / PARTS};
    job.part = job.part < PART_ELEMENTS ? PART_ELEMENTS : job.part;
    const int64_t parts = (count + job.part - 1) / job.part;
    const qb_status status = qb_run_parallel(run, parts, 1, whole_parts, &job);
    if (status != QB_OK) {
        return qb_fail(run->error, run->path, status, "the largest magnitude was not computed");
    }
    float all = 0.0f;
    for (int64_t p = 0; p < parts; p++) {
        all = larger(all, job.largest[p]);
    }
    *largest = all;
    return QB_OK;
}

int64_t
qb_magnitude_shape(int32_t rank, const int64_t *shape, const int kept[QB_MAX_RANK], int64_t *kept_shape)
{
    int64_t count = 1;
    for (int32_t d = 0; d < rank; d++) {
        kept_shape[d] = kept[d] ? shape[d] : 1;
        count *= kept_shape[d];
    }
    return count;
}

typedef struct axis_job {
    const qb_kernels *kernels;
    const float *x;
    const qb_broadcast *plan;
    int64_t portions;
    int64_t count;  /* results */
    float *portion; /* (portions, count) */
} axis_job;

static void
axis_portions(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    const axis_job *job = argument;
    const qb_broadcast *plan = job->plan;
    for (int64_t p = begin; p < end; p++) {
        float *largest = job->portion + p * job->count;
        for (int64_t i = 0; i < job->count; i++) {
            largest[i] = 0.0f;
        }
        for (int64_t r = plan->runs * p / job->portions; r < plan->runs * (p + 1) / job->portions; r++) {
            float *target = largest + qb_broadcast_offset(plan, r);
            const float *x = job->x + r * plan->length;
            if (plan->step != 0) {
                job->kernels->amax_columns_f32(x, 1, (size_t)plan->length, (size_t)plan->length, target);
                continue;
            }
            float one = 0.0f;
            job->kernels->amax_f32(x, (size_t)plan->length, &one);
            *target = larger(*target, one);
        }
    }
}

qb_status
qb_magnitude_per_axis(const qb_run *run, const float *x, int32_t rank, const int64_t *shape,
                      const int kept[QB_MAX_RANK], float *largest)
{
    int64_t kept_shape[QB_MAX_RANK];
    qb_broadcast plan;
    axis_job job = {.kernels = run->kernels, .x = x, .plan = &plan, .portions = 1, .portion = largest};
    job.count = qb_magnitude_shape(rank, shape, kept, kept_shape);
    (void)qb_broadcast_plan(rank, shape, rank, kept_shape, &plan);
    if (job.count == 1) {
        return qb_magnitude_largest(run, x, plan.count, largest);
    }
    size_t bytes = 0;
    const int64_t threads = qb_queue_threads(run->queue);
    void *block = NULL;
    if (threads > 1 && plan.runs > 1 && plan.count > 2 * PART_ELEMENTS) {
        const int64_t portions = threads < plan.runs ? threads : plan.runs;
        if (qb_size_multiply((size_t)job.count, (size_t)portions * sizeof(float), &bytes)) {
            block = qb_heap_allocate(run->heap, bytes);
        }
        if (block == NULL) {
            return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for %" PRId64 " largest magnitudes",
                           job.count);
        }
        job.portions = portions;
        job.portion = block;
    }
    const qb_status status = qb_run_parallel(run, job.portions, 1, axis_portions, &job);
    if (status == QB_OK && block != NULL) {
        memcpy(largest, job.portion, (size_t)job.count * sizeof(float));
        for (int64_t i = job.count; i < job.portions * job.count; i++) {
            largest[i % job.count] = larger(largest[i % job.count], job.portion[i]);
        }
    }
    qb_heap_release(run->heap, block);
    if (status != QB_OK) {
        return qb_fail(run->error, run->path, status, "the largest magnitudes were not computed");
    }
    return QB_OK;
}

int64_t
qb_magnitude_find_nonfinite(const float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(x[i])) {
            return i;
        }
    }
    return -1;
}

qb_status
qb_magnitude_fail_nonfinite(const qb_run *run, const float *x, int64_t count, const char *purpose)
{
    const int64_t at = qb_magnitude_find_nonfinite(x, count);
    if (at < 0) {
        return qb_fail(run->error, run->path, QB_ERR_VALUE, "the range is not finite, expected one for %s", purpose);
    }
    return qb_fail(run->error, run->path, QB_ERR_VALUE, "element %" PRId64 " is %g, expected finite values for %s", at,
                   (double)x[at], purpose);
}
