/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/residual_norm.h"

#include <stdatomic.h>

#include "quant/quantizer.h"

/* Rows that one chunk quantizes, adds and normalizes: their floats and codes stay in the first two cache levels. */
#define CHUNK_ROWS 16

static const char *const local_name = "add_local_input_quantizer";
static const char *const residual_name = "add_residual_input_quantizer";

void
qb_residual_norm_init(qb_residual_norm *self, int64_t in_features, int64_t features, float eps)
{
    *self = (qb_residual_norm){.local = NULL};
    qb_linear_init(&self->dense, in_features, features, 1);
    qb_layer_norm_init(&self->norm, features, eps);
}

void
qb_residual_norm_clear(qb_residual_norm *self, qb_heap *heap)
{
    qb_linear_clear(&self->dense, heap);
}

static qb_site
site_of(const qb_residual_norm *self)
{
    return (qb_site){.a = &self->local, .b = &self->residual, .is_add = 1};
}

qb_status
qb_residual_norm_visit(qb_residual_norm *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path dense = {path, "dense"};
    const qb_path norm = {path, "LayerNorm"};
    const qb_site site = site_of(self);
    QB_TRY(qb_linear_visit(&self->dense, visitor, &dense));
    QB_TRY(qb_layer_norm_visit(&self->norm, visitor, &norm));
    QB_TRY(qb_visit_site(visitor, path, "add", &site));
    QB_TRY(qb_visit_quantizer(visitor, path, local_name, &self->local, QB_ROLE_INPUT));
    return qb_visit_quantizer(visitor, path, residual_name, &self->residual, QB_ROLE_INPUT);
}

size_t
qb_residual_norm_scratch_bytes(const qb_residual_norm *self, const qb_kernels *kernels)
{
    const size_t dense = qb_linear_scratch_bytes(&self->dense, kernels);
    const size_t rows = CHUNK_ROWS * (size_t)self->norm.features * (sizeof(float) + 2);
    return dense > rows ? dense : rows;
}

void
qb_residual_norm_plan(const qb_residual_norm *self, qb_residual_norm_work *work, qb_arena *arena, int8_t *codes,
                      float *values, float *local, qb_scratch *scratch)
{
    qb_linear_plan(&self->dense, &work->dense, arena, codes, values, scratch);
    work->local = local;
    work->residual = NULL;
    work->local_values = local;
}

static qb_status
check(const qb_quantizer *quantizer, const qb_run *run, const char *name)
{
    const qb_path path = {run->path, name};
    const char *refusal = qb_site_refusal(quantizer, 1);
    return refusal == NULL ? QB_OK : qb_fail(run->error, &path, QB_ERR_UNSUPPORTED, "%s", refusal);
}

qb_status
qb_residual_norm_prepare(qb_residual_norm *self, const qb_run *run)
{
    const qb_path path = {run->path, "dense"};
    const qb_run inner = qb_run_enter(run, &path);
    QB_TRY(check(self->local, run, local_name));
    QB_TRY(check(self->residual, run, residual_name));
    return qb_linear_prepare(&self->dense, &inner);
}

/* ---- add and normalize ------------------------------------------------------------------------------------------ */

typedef struct add_job {
    const qb_kernels *kernels;
    const qb_layer_norm *norm;
    qb_scratch *scratch;
    const float *local;
    const int8_t *local_codes; /* NULL: they are made of local */
    const float *residual;
    const int8_t *residual_codes; /* the same */
    qb_quant_range local_range, residual_range;
    float local_step, residual_step;
    float *y;
    const qb_coded *wanted;    /* of y */
    _Atomic uint32_t failed;   /* bit 0: a NaN or infinity in local, bit 1: in residual */
    _Atomic int64_t nonfinite; /* of wanted */
} add_job;

/* A chunk's rows of y: where they stay, or in scratch. */
static float *
rows_of(const add_job *job, int64_t row, float *scratch)
{
    return job->wanted->lacks_floats ? scratch : job->y + row * job->norm->features;
}

static void
add_values(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    add_job *job = argument;
    const int64_t h = job->norm->features;
    const int32_t slot = qb_scratch_claim(job->scratch, worker);
    float *scratch = (float *)qb_scratch_arena(job->scratch, slot).base;
    for (int64_t row = begin; row < end; row += CHUNK_ROWS) {
        const int64_t rows = end - row < CHUNK_ROWS ? end - row : CHUNK_ROWS;
        float *y = rows_of(job, row, scratch);
        job->kernels->add_layer_norm_f32(job->local + row * h, job->residual + row * h, (size_t)rows, (size_t)h,
                                         job->norm->weight.data, job->norm->bias.data, job->norm->eps, y);
        qb_coded_make(job->wanted, job->kernels, y, row * h, rows * h, &job->nonfinite);
    }
    qb_scratch_release(job->scratch, slot);
}

/* The codes that there are, or those of x, made in `buffer`.  *failed gets `bit` if x holds a NaN or infinity. */
static const int8_t *
codes_of(const add_job *job, const int8_t *codes, const float *x, const qb_quant_range *range, int64_t first, int64_t n,
         int8_t *buffer, uint32_t bit, uint32_t *failed)
{
    if (codes != NULL) {
        return codes + first;
    }
    uint32_t nonfinite = 0;
    job->kernels->quantize_qs8(x + first, (size_t)n, range, buffer, &nonfinite);
    *failed |= nonfinite != 0 ? bit : 0;
    return buffer;
}

static void
add_codes(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    add_job *job = argument;
    const int64_t h = job->norm->features;
    const int32_t slot = qb_scratch_claim(job->scratch, worker);
    float *scratch = (float *)qb_scratch_arena(job->scratch, slot).base;
    int8_t *buffers = (int8_t *)(scratch + CHUNK_ROWS * h);
    uint32_t failed = 0;
    for (int64_t row = begin; row < end; row += CHUNK_ROWS) {
        const int64_t rows = end - row < CHUNK_ROWS ? end - row : CHUNK_ROWS;
        const int64_t n = rows * h;
        float *y = rows_of(job, row, scratch);
        const int8_t *local =
            codes_of(job, job->local_codes, job->local, &job->local_range, row * h, n, buffers, 1u, &failed);
        const int8_t *residual = codes_of(job, job->residual_codes, job->residual, &job->residual_range, row * h, n,
                                          buffers + CHUNK_ROWS * h, 2u, &failed);
        job->kernels->add_layer_norm_qs8(local, job->local_step, residual, job->residual_step, (size_t)rows, (size_t)h,
                                         job->norm->weight.data, job->norm->bias.data, job->norm->eps, y);
        qb_coded_make(job->wanted, job->kernels, y, row * h, n, &job->nonfinite);
    }
    if (failed != 0) {
        atomic_fetch_or_explicit(&job->failed, failed, memory_order_relaxed);
    }
    qb_scratch_release(job->scratch, slot);
}

static qb_status
add_integer(const qb_residual_norm *self, const qb_run *run, int64_t rows, const qb_coded *of_local,
            const qb_coded *of_residual, const int8_t *own, add_job *job)
{
    const int64_t h = self->norm.features;
    const qb_path local = {run->path, local_name};
    const qb_path residual = {run->path, residual_name};
    const qb_run at_local = qb_run_enter(run, &local);
    const qb_run at_residual = qb_run_enter(run, &residual);
    QB_TRY(qb_site_range(self->local, &at_local, job->local, rows, h, &job->local_range));
    QB_TRY(qb_site_range(self->residual, &at_residual, job->residual, rows, h, &job->residual_range));
    job->local_codes = qb_coded_find(of_local, &job->local_range);
    /* Other readers' codes have been overwritten by now. */
    const int8_t *kept = of_residual == NULL ? NULL : qb_coded_find(of_residual, &job->residual_range);
    if (kept != NULL && kept == own) {
        job->residual_codes = kept;
        QB_TRY(qb_coded_check(of_residual, &at_residual, h));
    }
    job->local_step = qb_quant_range_step(&job->local_range);
    job->residual_step = qb_quant_range_step(&job->residual_range);
    atomic_init(&job->failed, 0);
    QB_TRY(qb_run_parallel(run, rows, CHUNK_ROWS, add_codes, job));
    const uint32_t failed = atomic_load_explicit(&job->failed, memory_order_relaxed);
    if (failed != 0) {
        return qb_fail(run->error, failed & 1u ? &local : &residual, QB_ERR_VALUE,
                       "found a NaN or infinity, expected finite numbers to quantize");
    }
    return QB_OK;
}

static qb_status
add_and_normalize(const qb_residual_norm *self, const qb_residual_norm_work *work, const qb_run *run,
                  const qb_residual_norm_inputs *inputs, const qb_coded *of_local, int64_t rows, float *y)
{
    const int64_t h = self->norm.features;
    const qb_site site = site_of(self);
    const qb_coded floats = {.count = 0};
    add_job job = {.kernels = run->kernels,
                   .norm = &self->norm,
                   .scratch = work->dense.scratch,
                   .local = work->local,
                   .residual = y,
                   .y = y,
                   .wanted = inputs->y == NULL ? &floats : inputs->y};
    atomic_init(&job.nonfinite, 0);
    if (qb_site_arithmetic(&site, NULL) == QB_ARITHMETIC_INTEGER) {
        QB_TRY(add_integer(self, run, rows, of_local, inputs->r, work->residual, &job));
    }
    else {
        const qb_path local = {run->path, local_name};
        const qb_path residual = {run->path, residual_name};
        const qb_run at_local = qb_run_enter(run, &local);
        const qb_run at_residual = qb_run_enter(run, &residual);
        QB_TRY(qb_site_values(self->local, &at_local, work->local, rows, h, work->local_values, &job.local));
        QB_TRY(qb_site_values(self->residual, &at_residual, y, rows, h, y, &job.residual));
        QB_TRY(qb_run_parallel(run, rows, CHUNK_ROWS, add_values, &job));
    }
    if (inputs->y != NULL) {
        inputs->y->nonfinite = atomic_load_explicit(&job.nonfinite, memory_order_relaxed);
    }
    return QB_OK;
}

qb_edge
qb_residual_norm_edge(const qb_residual_norm *self)
{
    return (qb_edge){.reader = site_of(self), .quantizer = self->residual};
}

qb_edge
qb_residual_norm_origin(const qb_residual_norm *self)
{
    return (qb_edge){.maker = site_of(self)};
}

/* Of d. */
static qb_edge
local_edge(const qb_residual_norm *self, const char *onlooker)
{
    return (qb_edge){
        .maker = qb_linear_site(&self->dense), .reader = site_of(self), .quantizer = self->local, .onlooker = onlooker};
}

void
qb_residual_norm_visit_edges(const qb_residual_norm *self, const qb_edge_visitor *visitor)
{
    const qb_edge edge = local_edge(self, NULL);
    visitor->edge(visitor->context, &edge);
}

/* Who needs d as floats, besides the add. */
static const char *
onlooker_of(const qb_residual_norm_work *work, const qb_residual_norm_inputs *inputs)
{
    if (work->local_values != work->local) {
        return "backward needs the floats";
    }
    return inputs->dropout == NULL ? NULL : "dropout comes between";
}

/* d, in work->local, or its codes there; *given says which. */
static qb_status
project(const qb_residual_norm *self, const qb_residual_norm_work *work, const qb_run *run,
        const qb_residual_norm_inputs *inputs, const float *x, int64_t rows, qb_coded *given)
{
    const qb_path input = {run->path, "_input_quantizer"};
    const qb_run at_input = qb_run_enter(run, &input);
    const qb_edge edge = local_edge(self, onlooker_of(work, inputs));
    qb_quant_range range;
    qb_linear_call call;
    QB_TRY(qb_site_observe(&self->dense.input_quantizer, 1, &at_input, x, rows, self->dense.in_features));
    QB_TRY(
        qb_linear_begin(&self->dense, &work->dense, run, x, inputs->x, rows, QB_ACTIVATION_NONE, work->local, &call));
    if (qb_edge_refusal(&edge, &range) == NULL) {
        qb_linear_give_codes(&call, &range, (int8_t *)work->local);
    }
    QB_TRY(qb_linear_finish(run, &call, 1, work->dense.scratch));
    *given = qb_linear_given(&call);
    return qb_dropout_apply(run, inputs->dropout, work->local, rows, self->norm.features, work->local);
}

qb_status
qb_residual_norm_forward(const qb_residual_norm *self, const qb_residual_norm_work *work, const qb_run *run,
                         const qb_residual_norm_inputs *inputs, const float *x, int64_t rows, float *y)
{
    const qb_path dense = {run->path, "dense"};
    const qb_path local = {run->path, local_name};
    const qb_run at_dense = qb_run_enter(run, &dense);
    const qb_run at_local = qb_run_enter(run, &local);
    qb_coded of_local;
    QB_TRY(project(self, work, &at_dense, inputs, x, rows, &of_local));
    QB_TRY(qb_site_observe(&self->local, 1, &at_local, work->local, rows, self->norm.features));
    return add_and_normalize(self, work, run, inputs, &of_local, rows, y);
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

void
qb_residual_norm_gradient_sizes(const qb_residual_norm *self, const qb_kernels *kernels, int64_t rows,
                                qb_gradient_sizes *sizes)
{
    qb_layer_norm_gradient_sizes(&self->norm, rows, sizes);
    qb_gradient_need(&sizes->values, (size_t)rows, (size_t)self->norm.features, &sizes->overflowed);
    qb_linear_gradient_sizes(&self->dense, kernels, rows, sizes);
}

/* s = Ql(d) + Qr(r), as floats. */
static qb_status
recompute_sum(const qb_residual_norm *self, const qb_residual_norm_work *work, const qb_gradient_work *gradient,
              const qb_run *run, const float *r, int64_t rows)
{
    const int64_t h = self->norm.features;
    const qb_path local = {run->path, local_name};
    const qb_path residual = {run->path, residual_name};
    const qb_run at_local = qb_run_enter(run, &local);
    const qb_run at_residual = qb_run_enter(run, &residual);
    const float *of_r;
    const float *of_local;
    QB_TRY(qb_site_values(self->residual, &at_residual, r, rows, h, gradient->sums, &of_r));
    QB_TRY(qb_site_values(self->local, &at_local, work->local, rows, h, gradient->values, &of_local));
    return qb_gradient_sum(run, of_r, of_local, rows * h, gradient->sums);
}

qb_status
qb_residual_norm_backward(const qb_residual_norm *self, const qb_residual_norm_work *work,
                          const qb_gradient_work *gradient, const qb_run *run, const qb_dropout_node *dropout,
                          const float *x, const float *r, int64_t rows, const float *dy, float *dx, float *dr)
{
    const int64_t h = self->norm.features;
    const qb_path dense = {run->path, "dense"};
    const qb_path local = {run->path, local_name};
    const qb_path residual = {run->path, residual_name};
    const qb_run at_dense = qb_run_enter(run, &dense);
    const qb_run at_local = qb_run_enter(run, &local);
    const qb_run at_residual = qb_run_enter(run, &residual);
    float *dlocal = gradient->dsums;
    QB_TRY(recompute_sum(self, work, gradient, run, r, rows));
    QB_TRY(qb_layer_norm_backward(&self->norm, gradient, run, gradient->sums, rows, dy, gradient->dsums));
    QB_TRY(qb_gradient_copy(run, gradient->dsums, rows * h, dr));
    QB_TRY(qb_site_backward(self->residual, &at_residual, r, rows, h, dr));
    QB_TRY(qb_site_backward(self->local, &at_local, work->local, rows, h, dlocal));
    QB_TRY(qb_dropout_apply(&at_dense, dropout, dlocal, rows, h, dlocal));
    return qb_linear_backward(&self->dense, gradient, &at_dense, x, rows, dlocal, dx);
}
