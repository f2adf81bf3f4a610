/* SPDX-License-Identifier: Apache-2.0
 *
 * The packed weight of a linear layer: made from the parameter in the one form that the layer's path needs.
 *
 * Old panels are given back before new ones are taken, so the peak is one packed weight beside the parameters; if the
 * second step then fails there is no packed weight, and the next prepare makes it.
 */
#include <inttypes.h>
#include <stdatomic.h>

#include "layers/linear.h"
#include "quant/observer.h"
#include "quant/quantizer.h"

void
qb_linear_clear(qb_linear *self, qb_heap *heap)
{
    qb_heap_release(heap, self->pack.data);
    qb_heap_release(heap, self->pack.step);
    self->pack = (qb_linear_pack){.form = QB_WEIGHT_NONE};
}

static qb_weight_form
wanted_form(const qb_linear *self)
{
    const qb_site site = {.a = &self->input_quantizer, .b = &self->weight_quantizer, .b_is_weight = 1};
    switch (qb_site_arithmetic(&site, NULL)) {
    case QB_ARITHMETIC_FLOAT:
        return QB_WEIGHT_F32;
    case QB_ARITHMETIC_INTEGER:
        return QB_WEIGHT_QS8;
    case QB_ARITHMETIC_DEQUANTIZED:
        return qb_quantizer_is_identity(self->weight_quantizer) ? QB_WEIGHT_F32 : QB_WEIGHT_F32_QUANT;
    }
    return QB_WEIGHT_NONE;
}

static int
is_current(const qb_linear *self, qb_weight_form form)
{
    return self->pack.form == form && self->pack.parameter_revision == qb_parameter_source(&self->weight)->revision &&
           (form == QB_WEIGHT_F32 || self->pack.quantizer_revision == self->weight_quantizer->revision);
}

/* ---- regions ---------------------------------------------------------------------------------------------------- */

typedef struct pack_job {
    const qb_kernels *kernels;
    const qb_linear *layer;
    const float *values; /* (N, K) what becomes float panels, or codes */
    int8_t *codes;       /* (N, K) or NULL: float panels */
    const float *scale;  /* (N) */
    float lower, upper;
    int64_t panel;
    void *packed;
    _Atomic int64_t bad_row; /* a row with a NaN or infinity, or -1 */
} pack_job;

static void
pack_panels(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    pack_job *job = argument;
    const int64_t n = job->layer->out_features;
    const int64_t k = job->layer->in_features;
    const int64_t n0 = begin * job->panel;
    const int64_t n1 = end * job->panel < n ? end * job->panel : n;
    (void)worker;
    if (job->codes == NULL) {
        job->kernels->pack_f32(job->values, k, 1, n0, n1, n, k, job->packed);
        return;
    }
    for (int64_t row = n0; row < n1; row++) {
        const qb_quant_range range = {.scale = job->scale[row], .lower = job->lower, .upper = job->upper};
        uint32_t nonfinite = 0;
        job->kernels->quantize_qs8(job->values + row * k, (size_t)k, &range, job->codes + row * k, &nonfinite);
        if (nonfinite != 0) {
            atomic_store_explicit(&job->bad_row, row, memory_order_relaxed);
        }
    }
    job->kernels->pack_qs8(job->codes, k, 1, n0, n1, n, k, job->packed);
}

/* Panels of `values` (already quantized, if at all) or of their codes; fills self->pack.data. */
static qb_status
pack(qb_linear *self, const qb_run *run, pack_job *job)
{
    const int64_t n = self->out_features;
    size_t bytes;
    size_t scratch;
    const int is_codes = job->codes != NULL;
    (is_codes ? run->kernels->pack_qs8_size : run->kernels->pack_f32_size)(n, self->in_features, &job->panel, &bytes,
                                                                           &scratch);
    job->packed = qb_heap_allocate_zero(run->heap, bytes);
    if (job->packed == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for %zu bytes of packed weights", bytes);
    }
    self->pack.data = job->packed;
    atomic_init(&job->bad_row, -1);
    const int64_t panels = (n + job->panel - 1) / job->panel;
    QB_TRY(qb_run_parallel(run, panels, 1, pack_panels, job));
    const int64_t bad = atomic_load_explicit(&job->bad_row, memory_order_relaxed);
    if (bad >= 0) {
        return qb_fail(run->error, run->path, QB_ERR_VALUE,
                       "row %" PRId64 " holds a NaN or infinity, expected finite weights to quantize", bad);
    }
    return QB_OK;
}

/* ---- the three forms -------------------------------------------------------------------------------------------- */

static qb_status
no_weight_memory(const qb_run *run, const qb_linear *self)
{
    return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory to quantize a weight of (%" PRId64 ", %" PRId64 ")",
                   self->out_features, self->in_features);
}

static qb_status
pack_codes(qb_linear *self, const qb_run *run)
{
    const int64_t n = self->out_features;
    const int64_t k = self->in_features;
    /* scale becomes step in place; the product of two dimensions was checked when the parameter block was sized. */
    float *scale = qb_heap_allocate(run->heap, (size_t)n * sizeof(float));
    int8_t *codes = qb_heap_allocate(run->heap, (size_t)(n * k));
    pack_job job = {.kernels = run->kernels,
                    .layer = self,
                    .values = qb_parameter_source(&self->weight)->data,
                    .codes = codes,
                    .scale = scale};
    qb_run inner = *run;
    self->pack.step = scale;
    if (scale == NULL || codes == NULL) {
        qb_heap_release(run->heap, codes);
        return no_weight_memory(run, self);
    }
    qb_status status = qb_quantizer_weight_range(
        self->weight_quantizer, &inner, qb_parameter_source(&self->weight)->data, n, k, scale, &job.lower, &job.upper);
    if (status == QB_OK) {
        status = pack(self, run, &job);
    }
    if (status == QB_OK) {
        for (int64_t row = 0; row < n; row++) {
            scale[row] = qb_quant_scale_step(scale[row]);
        }
    }
    qb_heap_release(run->heap, codes);
    return status;
}

static qb_status
pack_values(qb_linear *self, const qb_run *run)
{
    const int64_t shape[2] = {self->out_features, self->in_features};
    float *values = qb_heap_allocate(run->heap, (size_t)(shape[0] * shape[1]) * sizeof(float));
    if (values == NULL) {
        return no_weight_memory(run, self);
    }
    pack_job job = {.kernels = run->kernels, .layer = self, .values = values};
    qb_run inner = *run;
    qb_status status = qb_quantizer_apply(self->weight_quantizer, &inner, qb_parameter_source(&self->weight)->data, 2,
                                          shape, values, NULL);
    if (status == QB_OK) {
        status = pack(self, run, &job);
    }
    qb_heap_release(run->heap, values);
    return status;
}

qb_status
qb_linear_prepare(qb_linear *self, const qb_run *run)
{
    const char *refusal = qb_site_refusal(self->input_quantizer, 1);
    if (refusal != NULL) {
        const qb_path path = {run->path, "_input_quantizer"};
        return qb_fail(run->error, &path, QB_ERR_UNSUPPORTED, "%s", refusal);
    }
    const qb_weight_form form = wanted_form(self);
    if (is_current(self, form)) {
        return QB_OK;
    }
    const qb_path path = {run->path, form == QB_WEIGHT_F32 ? "weight" : "_weight_quantizer"};
    const qb_run inner = qb_run_enter(run, &path);
    qb_linear_clear(self, run->heap);
    if (form != QB_WEIGHT_F32) {
        QB_TRY(qb_quantizer_check_range(self->weight_quantizer, &inner));
    }
    qb_status status = QB_OK;
    if (form == QB_WEIGHT_QS8) {
        status = pack_codes(self, &inner);
    }
    else if (form == QB_WEIGHT_F32_QUANT) {
        status = pack_values(self, &inner);
    }
    else {
        pack_job job = {.kernels = run->kernels, .layer = self, .values = qb_parameter_source(&self->weight)->data};
        status = pack(self, &inner, &job);
    }
    if (status != QB_OK) {
        qb_linear_clear(self, run->heap);
        return status;
    }
    self->pack.form = form;
    self->pack.parameter_revision = qb_parameter_source(&self->weight)->revision;
    self->pack.quantizer_revision = form == QB_WEIGHT_F32 ? 0 : self->weight_quantizer->revision;
    return QB_OK;
}

qb_status
qb_linear_observe_weight(qb_linear *self, const qb_run *run)
{
    qb_quantizer *quantizer = self->weight_quantizer;
    if (quantizer == NULL || !qb_quantizer_wants_collect(quantizer)) {
        return QB_OK;
    }
    if (qb_observer_is_idempotent(quantizer->observer) && self->observed.observer == quantizer->observer &&
        self->observed.observer_revision == qb_observer_revision(quantizer->observer) &&
        self->observed.parameter_revision == qb_parameter_source(&self->weight)->revision) {
        return QB_OK;
    }
    const int64_t shape[2] = {self->out_features, self->in_features};
    const qb_path path = {run->path, "_weight_quantizer"};
    qb_run inner = qb_run_enter(run, &path);
    QB_TRY(qb_quantizer_collect(quantizer, &inner, qb_parameter_source(&self->weight)->data, 2, shape));
    self->observed.observer = quantizer->observer;
    self->observed.observer_revision = qb_observer_revision(quantizer->observer);
    self->observed.parameter_revision = qb_parameter_source(&self->weight)->revision;
    return QB_OK;
}
