/* SPDX-License-Identifier: Apache-2.0
 *
 * The weight of a linear layer as int8 codes: what freezing a model keeps, and what int8 checkpoints hold.
 *
 * Codes come in and go out row by row, (N, K), whatever the variant's packed layout is; the packed weight alone stays.
 * They have a meaning with the weight quantizer's static range only: value = code / scale.
 */
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>

#include "layers/linear.h"
#include "quant/quantizer.h"

const char *
qb_linear_codes_reason(const qb_linear *self)
{
    const qb_site site = {.a = &self->input_quantizer, .b = &self->weight_quantizer, .b_is_weight = 1};
    const char *reason = "";
    if (!self->is_quantized) {
        return "the layer has no quantizers";
    }
    switch (qb_site_arithmetic(&site, &reason)) {
    case QB_ARITHMETIC_FLOAT:
        return "its quantizers are off";
    case QB_ARITHMETIC_DEQUANTIZED:
        return reason;
    case QB_ARITHMETIC_INTEGER:
        break;
    }
    if (qb_quantizer_wants_collect(self->input_quantizer) || qb_quantizer_wants_collect(self->weight_quantizer)) {
        return "a quantizer collects statistics";
    }
    return NULL;
}

static qb_status
require_codes(const qb_linear *self, const qb_run *run)
{
    const char *reason = qb_linear_codes_reason(self);
    return reason == NULL
               ? QB_OK
               : qb_fail(run->error, run->path, QB_ERR_STATE, "the weight is not multiplied as codes: %s", reason);
}

/* What the codes of each row mean. */
typedef struct code_ranges {
    float *scale; /* (N), 0 where dead; owned */
    float lower, upper;
} code_ranges;

/* ranges->scale is NULL or to be released, whatever is returned.  `weight` (N, K) may be NULL if the range is static.
 */
static qb_status
ranges_of(const qb_linear *self, const qb_run *run, const float *weight, code_ranges *ranges)
{
    const qb_path path = {run->path, "_weight_quantizer"};
    const qb_run inner = qb_run_enter(run, &path);
    const int64_t n = self->out_features;
    *ranges = (code_ranges){.scale = NULL};
    QB_TRY(require_codes(self, run));
    QB_TRY(qb_quantizer_check_range(self->weight_quantizer, &inner));
    if (weight == NULL && qb_quantizer_is_dynamic(self->weight_quantizer)) {
        return qb_fail(run->error, &path, QB_ERR_STATE, "has no amax, without which codes mean nothing");
    }
    ranges->scale = qb_heap_allocate(run->heap, (size_t)n * sizeof *ranges->scale);
    if (ranges->scale == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for the scales of %" PRId64 " rows", n);
    }
    return qb_quantizer_weight_range(self->weight_quantizer, &inner, weight, n, self->in_features, ranges->scale,
                                     &ranges->lower, &ranges->upper);
}

/* ---- regions over rows, or over panels of rows ------------------------------------------------------------------- */

typedef struct codes_job {
    const qb_kernels *kernels;
    const qb_linear *layer;
    code_ranges ranges;
    const float *weight;   /* (N, K), of `quantize_rows` */
    const int8_t *codes;   /* (N, K) what comes in */
    int8_t *made;          /* (N, K) what goes out */
    float *values;         /* (N, K) what goes out */
    int64_t panel;         /* rows of a panel */
    void *packed;          /* made from codes, or read */
    _Atomic int64_t worst; /* a row that failed, or -1 */
} codes_job;

/* Whether every code is one of the row's: of a dead range that is 0 alone. */
static int
row_is_allowed(const codes_job *job, int64_t row)
{
    const int8_t *codes = job->codes + row * job->layer->in_features;
    const int is_dead = job->ranges.scale[row] == 0.0f;
    const int8_t lower = is_dead ? 0 : (int8_t)job->ranges.lower;
    const int8_t upper = is_dead ? 0 : (int8_t)job->ranges.upper;
    int is_outside = 0;
    for (int64_t i = 0; i < job->layer->in_features; i++) {
        is_outside |= codes[i] < lower || codes[i] > upper;
    }
    return !is_outside;
}

static void
pack_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    codes_job *job = argument;
    const int64_t n = job->layer->out_features;
    const int64_t k = job->layer->in_features;
    const int64_t n0 = begin * job->panel;
    const int64_t n1 = end * job->panel < n ? end * job->panel : n;
    (void)worker;
    for (int64_t row = n0; row < n1; row++) {
        if (!row_is_allowed(job, row)) {
            atomic_store_explicit(&job->worst, row, memory_order_relaxed);
            return;
        }
    }
    job->kernels->pack_qs8(job->codes, k, 1, n0, n1, n, k, job->packed);
}

static void
unpack_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const codes_job *job = argument;
    const int64_t n = job->layer->out_features;
    const int64_t n1 = end * job->panel < n ? end * job->panel : n;
    (void)worker;
    job->kernels->unpack_qs8(job->packed, begin * job->panel, n1, n, job->layer->in_features, job->made);
}

static void
quantize_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    codes_job *job = argument;
    const int64_t k = job->layer->in_features;
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        const qb_quant_range range = {
            .scale = job->ranges.scale[row], .lower = job->ranges.lower, .upper = job->ranges.upper};
        uint32_t nonfinite = 0;
        job->kernels->quantize_qs8(job->weight + row * k, (size_t)k, &range, job->made + row * k, &nonfinite);
        if (nonfinite != 0) {
            atomic_store_explicit(&job->worst, row, memory_order_relaxed);
        }
    }
}

static void
value_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    codes_job *job = argument;
    const int64_t k = job->layer->in_features;
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        const float scale = job->ranges.scale[row];
        int is_finite = 1;
        for (int64_t i = row * k; i < (row + 1) * k; i++) {
            const float value = scale == 0.0f ? 0.0f : (float)job->codes[i] / scale;
            is_finite = is_finite && isfinite(value);
            job->values[i] = value;
        }
        if (!is_finite || !row_is_allowed(job, row)) {
            atomic_store_explicit(&job->worst, row, memory_order_relaxed);
        }
    }
}

/* `job->worst` is a row with a code that the quantizer does not give, or whose values are not finite. */
static qb_status
fail_code(const qb_run *run, const codes_job *job)
{
    const int64_t row = atomic_load_explicit(&job->worst, memory_order_relaxed);
    const int8_t *codes = job->codes + row * job->layer->in_features;
    if (row_is_allowed(job, row)) {
        return qb_fail(run->error, run->path, QB_ERR_VALUE,
                       "row %" PRId64 " has the scale %g, with which its values are not finite", row,
                       (double)job->ranges.scale[row]);
    }
    const int is_dead = job->ranges.scale[row] == 0.0f;
    const int lower = is_dead ? 0 : (int)job->ranges.lower;
    const int upper = is_dead ? 0 : (int)job->ranges.upper;
    int64_t column = 0;
    while (codes[column] >= lower && codes[column] <= upper) {
        column++;
    }
    return qb_fail(run->error, run->path, QB_ERR_VALUE,
                   "element (%" PRId64 ", %" PRId64 ") is %d, expected codes of %d .. %d%s", row, column, codes[column],
                   lower, upper, is_dead ? ", as the row's range is 0" : "");
}

/* ---- verbs ------------------------------------------------------------------------------------------------------- */

static int64_t
panels_of(const qb_linear *self, int64_t panel)
{
    return (self->out_features + panel - 1) / panel;
}

static qb_status
pack_codes(const qb_linear *self, const qb_run *run, codes_job *job)
{
    const qb_product_sizes sizes =
        qb_product_sizes_of(run->kernels, QB_OPERANDS_QS8, self->out_features, self->in_features);
    job->panel = sizes.panel;
    job->packed = qb_heap_allocate_zero(run->heap, sizes.packed);
    if (job->packed == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for %zu bytes of packed weights", sizes.packed);
    }
    QB_TRY(qb_run_parallel(run, panels_of(self, sizes.panel), 1, pack_rows, job));
    if (atomic_load_explicit(&job->worst, memory_order_relaxed) >= 0) {
        return fail_code(run, job);
    }
    return QB_OK;
}

qb_status
qb_linear_write_codes(qb_linear *self, const qb_run *run, const int8_t *codes)
{
    const qb_path path = {run->path, "weight"};
    const qb_run inner = qb_run_enter(run, &path);
    codes_job job = {.kernels = run->kernels, .layer = self, .codes = codes};
    atomic_init(&job.worst, -1);
    if (self->weight.storage != QB_STORAGE_CODES) {
        return qb_fail(run->error, &path, QB_ERR_STATE, "is kept as floats, expected one that is kept as codes");
    }
    qb_status status = ranges_of(self, run, NULL, &job.ranges);
    if (status == QB_OK) {
        status = pack_codes(self, &inner, &job);
    }
    if (status != QB_OK) {
        qb_heap_release(run->heap, job.packed);
        qb_heap_release(run->heap, job.ranges.scale);
        return status;
    }
    float *scale = job.ranges.scale;
    for (int64_t row = 0; scale != NULL && row < self->out_features; row++) {
        scale[row] = qb_quant_scale_step(scale[row]);
    }
    qb_linear_clear(self, run->heap);
    self->pack = (qb_linear_pack){.form = QB_WEIGHT_QS8,
                                  .data = job.packed,
                                  .step = job.ranges.scale,
                                  .parameter_revision = self->weight.revision,
                                  .quantizer_revision = self->weight_quantizer->revision};
    return QB_OK;
}

static qb_status
unpack_codes(const qb_linear *self, const qb_run *run, codes_job *job)
{
    if (self->pack.form != QB_WEIGHT_QS8) {
        return qb_fail(run->error, run->path, QB_ERR_STATE, "is kept as codes, which have not been written yet");
    }
    job->panel = qb_product_sizes_of(run->kernels, QB_OPERANDS_QS8, self->out_features, self->in_features).panel;
    job->packed = self->pack.data;
    return qb_run_parallel(run, panels_of(self, job->panel), 1, unpack_rows, job);
}

qb_status
qb_linear_read_codes(const qb_linear *self, const qb_run *run, int8_t *codes)
{
    const qb_path path = {run->path, "weight"};
    const qb_run inner = qb_run_enter(run, &path);
    codes_job job = {.kernels = run->kernels, .layer = self, .made = codes};
    atomic_init(&job.worst, -1);
    if (self->weight.storage == QB_STORAGE_CODES) {
        return unpack_codes(self, &inner, &job);
    }
    job.weight = qb_parameter_source(&self->weight)->data;
    qb_status status = ranges_of(self, run, job.weight, &job.ranges);
    if (status == QB_OK) {
        status = qb_run_parallel(&inner, self->out_features, 16, quantize_rows, &job);
    }
    qb_heap_release(run->heap, job.ranges.scale);
    QB_TRY(status);
    const int64_t bad = atomic_load_explicit(&job.worst, memory_order_relaxed);
    return bad < 0 ? QB_OK
                   : qb_fail(run->error, &path, QB_ERR_VALUE,
                             "row %" PRId64 " holds a NaN or infinity, expected finite weights to quantize", bad);
}

qb_status
qb_linear_values_of_codes(const qb_linear *self, const qb_run *run, const int8_t *codes, float *values)
{
    const qb_path path = {run->path, "weight"};
    const qb_run inner = qb_run_enter(run, &path);
    codes_job job = {.kernels = run->kernels, .layer = self, .codes = codes, .values = values};
    atomic_init(&job.worst, -1);
    qb_status status = ranges_of(self, run, NULL, &job.ranges);
    if (status == QB_OK) {
        status = qb_run_parallel(&inner, self->out_features, 16, value_rows, &job);
    }
    if (status == QB_OK && atomic_load_explicit(&job.worst, memory_order_relaxed) >= 0) {
        status = fail_code(&inner, &job);
    }
    qb_heap_release(run->heap, job.ranges.scale);
    return status;
}

size_t
qb_linear_packed_bytes(const qb_linear *self, const qb_kernels *kernels)
{
    const int64_t n = self->out_features;
    const int64_t k = self->in_features;
    size_t bytes = 0;
    switch (self->pack.form) {
    case QB_WEIGHT_QS8:
        bytes += qb_product_sizes_of(kernels, QB_OPERANDS_QS8, n, k).packed + (size_t)n * sizeof(float);
        break;
    case QB_WEIGHT_F32:
    case QB_WEIGHT_F32_QUANT:
        bytes += qb_product_sizes_of(kernels, QB_OPERANDS_F32, n, k).packed;
        break;
    case QB_WEIGHT_BF16:
    case QB_WEIGHT_BF16_QUANT:
    case QB_WEIGHT_NONE:
        break;
    }
    return self->bf16_pack.form == QB_WEIGHT_NONE ? bytes
                                                  : bytes + qb_product_sizes_of(kernels, QB_OPERANDS_BF16, n, k).packed;
}
