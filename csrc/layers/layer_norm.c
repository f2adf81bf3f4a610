/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/layer_norm.h"

void
qb_layer_norm_init(qb_layer_norm *self, int64_t features, float eps)
{
    *self = (qb_layer_norm){
        .features = features,
        .eps = eps,
        .weight = {.rank = 1, .shape = {features}},
        .bias = {.rank = 1, .shape = {features}},
    };
}

qb_status
qb_layer_norm_visit(qb_layer_norm *self, const qb_visitor *visitor, const qb_path *path)
{
    QB_TRY(qb_visit_parameter(visitor, path, "weight", &self->weight));
    return qb_visit_parameter(visitor, path, "bias", &self->bias);
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* Columns that one chunk takes down all rows. */
#define COLUMNS 64

void
qb_layer_norm_gradient_sizes(const qb_layer_norm *self, int64_t rows, qb_gradient_sizes *sizes)
{
    qb_gradient_need(&sizes->sums, (size_t)rows, (size_t)self->features, &sizes->overflowed);
    qb_gradient_need(&sizes->dsums, (size_t)rows, (size_t)self->features, &sizes->overflowed);
    qb_gradient_need(&sizes->rows, (size_t)rows, 1, &sizes->overflowed);
}

typedef struct norm_job {
    const qb_kernels *kernels;
    const qb_layer_norm *self;
    const qb_gradient_work *work;
    const float *x;
    int64_t rows;
    const float *dy;
    float *dx;
} norm_job;

static void
rows_backward(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const norm_job *job = argument;
    const int64_t h = job->self->features;
    (void)worker;
    job->kernels->layer_norm_grad_f32(job->x + begin * h, job->dy + begin * h, (size_t)(end - begin), (size_t)h,
                                      job->self->weight.data, job->self->eps, job->dx + begin * h,
                                      job->work->mean + begin, job->work->rstd + begin);
}

static void
columns_backward(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const norm_job *job = argument;
    const int64_t h = job->self->features;
    const int64_t first = begin * COLUMNS;
    const int64_t last = end * COLUMNS < h ? end * COLUMNS : h;
    float *dweight = job->self->weight.gradient;
    float *dbias = job->self->bias.gradient;
    (void)worker;
    job->kernels->layer_norm_grad_columns_f32(
        job->x + first, job->dy + first, (size_t)job->rows, (size_t)(last - first), (size_t)h, job->work->mean,
        job->work->rstd, dweight == NULL ? NULL : dweight + first, dbias == NULL ? NULL : dbias + first);
}

qb_status
qb_layer_norm_backward(const qb_layer_norm *self, const qb_gradient_work *work, const qb_run *run, const float *x,
                       int64_t rows, const float *dy, float *dx)
{
    const int64_t h = self->features;
    const int wants_parameters = self->weight.gradient != NULL || self->bias.gradient != NULL;
    norm_job job = {.kernels = run->kernels, .self = self, .work = work, .x = x, .rows = rows, .dy = dy, .dx = dx};
    QB_TRY(qb_run_parallel(run, rows, 16, rows_backward, &job));
    return wants_parameters ? qb_run_parallel(run, (h + COLUMNS - 1) / COLUMNS, 1, columns_backward, &job) : QB_OK;
}
