/* SPDX-License-Identifier: Apache-2.0
 *
 * The packed weight of a linear layer: made from the parameter in the one form that a run's path needs.
 *
 * Old panels are written over by new ones of the same form, as after every step of training, and given back before
 * others are taken, so the peak is one packed weight beside the parameters; if making them fails there is no packed
 * weight, and the next prepare makes it.
 */
#include <inttypes.h>
#include <stdatomic.h>

#include "layers/linear.h"
#include "quant/observer.h"
#include "quant/quantizer.h"

/* Another thread may fork the process at any moment, and the child goes on with what it finds (models/guard.h): a block
 * is forgotten before it is given back, so that a copy of the pack never names one that is not there. */
static void
clear(qb_linear_pack *pack, qb_heap *heap)
{
    const qb_linear_pack old = *pack;
    *pack = (qb_linear_pack){.form = QB_WEIGHT_NONE};
    atomic_thread_fence(memory_order_seq_cst);
    qb_heap_release(heap, old.data);
    qb_heap_release(heap, old.step);
}

/* The same, but that the memory stays for a pack of the same form, which takes as much. */
static void
renew(qb_linear_pack *pack, qb_weight_form form, qb_heap *heap)
{
    if (pack->form != form) {
        clear(pack, heap);
    }
    pack->form = QB_WEIGHT_NONE;
    atomic_thread_fence(memory_order_seq_cst);
}

void
qb_linear_clear(qb_linear *self, qb_heap *heap)
{
    clear(&self->pack, heap);
    clear(&self->bf16_pack, heap);
}

static qb_weight_form
wanted_form(const qb_linear *self, int uses_bf16)
{
    const qb_site site = qb_linear_site(self);
    const qb_weight_form values = uses_bf16 ? QB_WEIGHT_BF16 : QB_WEIGHT_F32;
    const qb_weight_form quantized = uses_bf16 ? QB_WEIGHT_BF16_QUANT : QB_WEIGHT_F32_QUANT;
    switch (qb_site_arithmetic(&site, NULL)) {
    case QB_ARITHMETIC_FLOAT:
        return values;
    case QB_ARITHMETIC_INTEGER:
        return QB_WEIGHT_QS8;
    case QB_ARITHMETIC_DEQUANTIZED:
        return qb_quantizer_is_identity(self->weight_quantizer) ? values : quantized;
    }
    return QB_WEIGHT_NONE;
}

static int
is_bf16(qb_weight_form form)
{
    return form == QB_WEIGHT_BF16 || form == QB_WEIGHT_BF16_QUANT;
}

/* 1 if the quantizer has a part in it. */
static int
is_quantized(qb_weight_form form)
{
    return form == QB_WEIGHT_QS8 || form == QB_WEIGHT_F32_QUANT || form == QB_WEIGHT_BF16_QUANT;
}

static int
is_current(const qb_linear *self, const qb_linear_pack *pack, qb_weight_form form)
{
    return pack->form == form && pack->parameter_revision == qb_parameter_source(&self->weight)->revision &&
           (!is_quantized(form) || pack->quantizer_revision == self->weight_quantizer->revision);
}

/* The other kind of run's, which is made anew before it is used, if it ever is. */
static void
clear_if_outdated(const qb_linear *self, qb_linear_pack *pack, qb_weight_form form, qb_heap *heap)
{
    if (!is_current(self, pack, form)) {
        clear(pack, heap);
    }
}

/* ---- regions ---------------------------------------------------------------------------------------------------- */

typedef struct pack_job {
    const qb_kernels *kernels;
    const qb_linear *layer;
    qb_linear_pack *pack; /* what is made */
    qb_operands operands;
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
    if (job->operands != QB_OPERANDS_QS8) {
        (job->operands == QB_OPERANDS_BF16 ? job->kernels->pack_bf16 : job->kernels->pack_f32)(job->values, k, 1, n0,
                                                                                               n1, n, k, job->packed);
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

/* Panels of `values` (already quantized, if at all) or of their codes; fills pack->data. */
static qb_status
pack(const qb_run *run, pack_job *job)
{
    const int64_t n = job->layer->out_features;
    const qb_product_sizes sizes = qb_product_sizes_of(run->kernels, job->operands, n, job->layer->in_features);
    job->panel = sizes.panel;
    if (job->pack->data == NULL) {
        job->pack->data = qb_heap_allocate_pooled(run->heap, run->packs, sizes.packed);
    }
    job->packed = job->pack->data;
    if (job->packed == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for %zu bytes of packed weights", sizes.packed);
    }
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

/* ---- the forms -------------------------------------------------------------------------------------------------- */

static qb_status
no_weight_memory(const qb_run *run, const qb_linear *self)
{
    return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory to quantize a weight of (%" PRId64 ", %" PRId64 ")",
                   self->out_features, self->in_features);
}

static qb_status
pack_codes(const qb_linear *self, qb_linear_pack *made, const qb_run *run)
{
    const int64_t n = self->out_features;
    const int64_t k = self->in_features;
    /* scale becomes step in place; the product of two dimensions was checked when the parameter block was sized. */
    float *scale = made->step != NULL ? made->step : qb_heap_allocate(run->heap, (size_t)n * sizeof(float));
    int8_t *codes = qb_heap_allocate(run->heap, (size_t)(n * k));
    pack_job job = {.kernels = run->kernels,
                    .layer = self,
                    .pack = made,
                    .operands = QB_OPERANDS_QS8,
                    .values = qb_parameter_source(&self->weight)->data,
                    .codes = codes,
                    .scale = scale};
    qb_run inner = *run;
    made->step = scale;
    if (scale == NULL || codes == NULL) {
        qb_heap_release(run->heap, codes);
        return no_weight_memory(run, self);
    }
    qb_status status = qb_quantizer_weight_range(
        self->weight_quantizer, &inner, qb_parameter_source(&self->weight)->data, n, k, scale, &job.lower, &job.upper);
    if (status == QB_OK) {
        status = pack(run, &job);
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
pack_values(const qb_linear *self, qb_linear_pack *made, qb_operands operands, const qb_run *run)
{
    const int64_t shape[2] = {self->out_features, self->in_features};
    float *values = qb_heap_allocate(run->heap, (size_t)(shape[0] * shape[1]) * sizeof(float));
    if (values == NULL) {
        return no_weight_memory(run, self);
    }
    pack_job job = {.kernels = run->kernels, .layer = self, .pack = made, .operands = operands, .values = values};
    qb_run inner = *run;
    qb_status status = qb_quantizer_apply(self->weight_quantizer, &inner, qb_parameter_source(&self->weight)->data, 2,
                                          shape, values, NULL);
    if (status == QB_OK) {
        status = pack(run, &job);
    }
    qb_heap_release(run->heap, values);
    return status;
}

static qb_status
make(const qb_linear *self, qb_linear_pack *made, qb_weight_form form, const qb_run *run)
{
    const qb_operands floats = qb_product_float_operands(run);
    if (is_quantized(form)) {
        QB_TRY(qb_quantizer_check_range(self->weight_quantizer, run));
    }
    if (form == QB_WEIGHT_QS8) {
        return pack_codes(self, made, run);
    }
    if (is_quantized(form)) {
        return pack_values(self, made, floats, run);
    }
    pack_job job = {.kernels = run->kernels,
                    .layer = self,
                    .pack = made,
                    .operands = floats,
                    .values = qb_parameter_source(&self->weight)->data};
    return pack(run, &job);
}

/* A weight that is kept as codes was packed when they were written; nobody can do it again. */
static qb_status
require_written_codes(const qb_linear *self, const qb_run *run)
{
    const qb_path path = {run->path, "weight"};
    if (self->pack.form != QB_WEIGHT_QS8) {
        return qb_fail(run->error, &path, QB_ERR_STATE, "is kept as codes, which have not been written yet");
    }
    const char *reason = qb_linear_codes_reason(self);
    if (reason == NULL && self->pack.quantizer_revision != self->weight_quantizer->revision) {
        reason = "its quantizer has changed since they were written";
    }
    return reason == NULL ? QB_OK
                          : qb_fail(run->error, &path, QB_ERR_STATE,
                                    "is kept as codes, but they cannot be multiplied: %s", reason);
}

qb_status
qb_linear_prepare(qb_linear *self, const qb_run *run)
{
    const char *refusal = qb_site_refusal(self->input_quantizer, 1);
    if (refusal != NULL) {
        const qb_path path = {run->path, "_input_quantizer"};
        return qb_fail(run->error, &path, QB_ERR_UNSUPPORTED, "%s", refusal);
    }
    if (self->weight.storage == QB_STORAGE_CODES) {
        return require_written_codes(self, run);
    }
    const qb_weight_form form = wanted_form(self, run->uses_bf16);
    qb_linear_pack *made = is_bf16(form) ? &self->bf16_pack : &self->pack;
    qb_linear_pack *other = is_bf16(form) ? &self->pack : &self->bf16_pack;
    clear_if_outdated(self, other, wanted_form(self, !run->uses_bf16), run->heap);
    if (is_current(self, made, form)) {
        return QB_OK;
    }
    const qb_path path = {run->path, is_quantized(form) ? "_weight_quantizer" : "weight"};
    const qb_run inner = qb_run_enter(run, &path);
    renew(made, form, run->heap);
    const qb_status status = make(self, made, form, &inner);
    if (status != QB_OK) {
        clear(made, run->heap);
        return status;
    }
    made->form = form;
    made->parameter_revision = qb_parameter_source(&self->weight)->revision;
    made->quantizer_revision = is_quantized(form) ? self->weight_quantizer->revision : 0;
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
