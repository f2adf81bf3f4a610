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
    const void *packed;    /* what is read */
    _Atomic int64_t worst; /* a row that failed, or -1 */
} codes_job;

/* Lowest and highest code of a row: of a dead range 0 alone. */
static void
bounds_of(const code_ranges *ranges, int64_t row, int8_t *lower, int8_t *upper)
{
    const int is_dead = ranges->scale[row] == 0.0f;
    *lower = is_dead ? 0 : (int8_t)ranges->lower;
    *upper = is_dead ? 0 : (int8_t)ranges->upper;
}

/* Whether every code (k) is one of the row's. */
static int
row_is_allowed(const code_ranges *ranges, int64_t row, const int8_t *codes, int64_t k)
{
    int8_t lower = 0;
    int8_t upper = 0;
    uint8_t outside = 0; /* of the codes' width, so that compilers compare a register of them at once */
    bounds_of(ranges, row, &lower, &upper);
    if (lower == INT8_MIN && upper == INT8_MAX) {
        return 1;
    }
    for (int64_t i = 0; i < k; i++) {
        outside |= (uint8_t)((codes[i] < lower) | (codes[i] > upper));
    }
    return !outside;
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
        if (!is_finite || !row_is_allowed(&job->ranges, row, job->codes + row * k, k)) {
            atomic_store_explicit(&job->worst, row, memory_order_relaxed);
        }
    }
}

/* A row (k) with a code that the quantizer does not give, or whose values are not finite. */
static qb_status
fail_code(const qb_run *run, const code_ranges *ranges, int64_t row, const int8_t *codes, int64_t k)
{
    int8_t lower = 0;
    int8_t upper = 0;
    int64_t column = 0;
    bounds_of(ranges, row, &lower, &upper);
    while (column < k && codes[column] >= lower && codes[column] <= upper) {
        column++;
    }
    if (column == k) {
        return qb_fail(run->error, run->path, QB_ERR_VALUE,
                       "row %" PRId64 " has the scale %g, with which its values are not finite", row,
                       (double)ranges->scale[row]);
    }
    return qb_fail(run->error, run->path, QB_ERR_VALUE,
                   "element (%" PRId64 ", %" PRId64 ") is %d, expected codes of %d .. %d%s", row, column, codes[column],
                   lower, upper, ranges->scale[row] == 0.0f ? ", as the row's range is 0" : "");
}

static int64_t
panels_of(const qb_linear *self, int64_t panel)
{
    return (self->out_features + panel - 1) / panel;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Codes of one piece of work at least: so many rows that calling for them costs little beside them, and they stay in a
 * level-2 cache between being read and being packed. */
#define PIECE_CODES 32768

/* What is made of one weight. */
typedef struct writing {
    const qb_linear_codes *item;
    code_ranges ranges;
    void *packed;
    int64_t panel, panel_bytes;
    int64_t piece_rows;     /* a multiple of the panel */
    int64_t first, pieces;  /* of the pieces of all weights */
    _Atomic int64_t worst;  /* a row with a code of none of the quantizer's, or -1 */
    _Atomic int64_t unread; /* first row of a piece that could not be read, or -1 */
} writing;

typedef struct writing_job {
    const qb_kernels *kernels;
    writing *each;
    int64_t count;
    int64_t pieces;
    size_t buffer_bytes;
    qb_scratch buffers; /* of what is read */
} writing_job;

/* The weight of a piece. */
static writing *
writing_of(const writing_job *job, int64_t piece)
{
    int64_t low = 0;
    int64_t high = job->count;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (job->each[middle].first <= piece) {
            low = middle;
        }
        else {
            high = middle;
        }
    }
    return &job->each[low];
}

static void
write_piece(const writing_job *job, int64_t piece, int8_t *buffer)
{
    writing *w = writing_of(job, piece);
    const qb_codes_source *source = w->item->source;
    const int64_t n = w->item->layer->out_features;
    const int64_t k = w->item->layer->in_features;
    const int64_t n0 = (piece - w->first) * w->piece_rows;
    const int64_t rows = n - n0 < w->piece_rows ? n - n0 : w->piece_rows;
    const int8_t *codes = source->codes != NULL ? source->codes + n0 * k : buffer;
    if (source->codes == NULL && source->read(source->context, n0, rows, buffer) != 0) {
        atomic_store_explicit(&w->unread, n0, memory_order_relaxed);
        return;
    }
    for (int64_t row = 0; row < rows; row++) {
        if (!row_is_allowed(&w->ranges, n0 + row, codes + row * k, k)) {
            atomic_store_explicit(&w->worst, n0 + row, memory_order_relaxed);
            return;
        }
    }
    job->kernels->pack_qs8(codes, k, 1, 0, rows, rows, k, (char *)w->packed + n0 / w->panel * w->panel_bytes);
}

static void
write_pieces(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    writing_job *job = argument;
    const int32_t slot = qb_scratch_claim(&job->buffers, worker);
    for (int64_t piece = begin; piece < end; piece++) {
        write_piece(job, piece, (int8_t *)job->buffers.base + (size_t)slot * job->buffers.bytes);
    }
    qb_scratch_release(&job->buffers, slot);
}

/* What there is to know of one weight before its codes: ranges and memory.  They are released by the caller. */
static qb_status
begin_writing(const qb_run *run, const qb_linear_codes *item, writing_job *job, writing *w)
{
    const qb_run at_layer = qb_run_enter(run, item->path);
    const qb_path path = {item->path, "weight"};
    const int64_t n = item->layer->out_features;
    const int64_t k = item->layer->in_features;
    w->item = item;
    atomic_init(&w->worst, -1);
    atomic_init(&w->unread, -1);
    if (item->layer->weight.storage != QB_STORAGE_CODES) {
        return qb_fail(run->error, &path, QB_ERR_STATE, "is kept as floats, expected one that is kept as codes");
    }
    QB_TRY(ranges_of(item->layer, &at_layer, NULL, &w->ranges));
    const qb_product_sizes sizes = qb_product_sizes_of(run->kernels, QB_OPERANDS_QS8, n, k);
    const int64_t panel_codes = sizes.panel * k;
    const int64_t panels = panel_codes < PIECE_CODES ? (PIECE_CODES + panel_codes - 1) / panel_codes : 1;
    w->panel = sizes.panel;
    w->panel_bytes = (int64_t)qb_product_sizes_of(run->kernels, QB_OPERANDS_QS8, sizes.panel, k).packed;
    w->piece_rows = panels * sizes.panel;
    w->first = job->pieces;
    w->pieces = (n + w->piece_rows - 1) / w->piece_rows;
    job->pieces += w->pieces;
    if (item->source->codes == NULL && job->buffer_bytes < (size_t)(w->piece_rows * k)) {
        job->buffer_bytes = (size_t)(w->piece_rows * k);
    }
    w->packed = qb_heap_allocate_pooled(run->heap, run->packs, sizes.packed);
    return w->packed != NULL
               ? QB_OK
               : qb_fail(run->error, &path, QB_ERR_NOMEM, "no memory for %zu bytes of packed weights", sizes.packed);
}

/* Why the codes of one weight cannot be written, of what the region has found. */
static qb_status
check_written(const qb_run *run, const writing *w, int8_t *buffer)
{
    const qb_path path = {w->item->path, "weight"};
    const qb_run inner = qb_run_enter(run, &path);
    const qb_codes_source *source = w->item->source;
    const int64_t k = w->item->layer->in_features;
    const int64_t worst = atomic_load_explicit(&w->worst, memory_order_relaxed);
    const int64_t unread = atomic_load_explicit(&w->unread, memory_order_relaxed);
    if (unread >= 0) {
        return qb_fail(run->error, &path, QB_ERR_BACKEND, "its codes cannot be read from row %" PRId64 " on", unread);
    }
    if (worst < 0) {
        return QB_OK;
    }
    if (source->codes == NULL && source->read(source->context, worst, 1, buffer) != 0) {
        return qb_fail(run->error, &path, QB_ERR_BACKEND, "its codes cannot be read from row %" PRId64 " on", worst);
    }
    return fail_code(&inner, &w->ranges, worst, source->codes != NULL ? source->codes + worst * k : buffer, k);
}

/* The memory of all buffers, to be released by the caller; NULL: there is none. */
static void *
make_buffers(const qb_run *run, writing_job *job)
{
    const int32_t threads = qb_queue_threads(run->queue);
    qb_arena arena = qb_arena_measuring();
    qb_scratch_plan(&job->buffers, &arena, threads, job->buffer_bytes);
    const size_t bytes = arena.used;
    void *memory = qb_arena_ok(&arena) ? qb_heap_allocate(run->heap, bytes) : NULL;
    if (memory != NULL) {
        arena = qb_arena_bind(memory, bytes);
        qb_scratch_plan(&job->buffers, &arena, threads, job->buffer_bytes);
        qb_scratch_reset(&job->buffers);
    }
    return memory;
}

static qb_status
write_all(const qb_run *run, const qb_linear_codes *items, writing_job *job)
{
    for (int64_t i = 0; i < job->count; i++) {
        QB_TRY(begin_writing(run, &items[i], job, &job->each[i]));
    }
    void *memory = make_buffers(run, job);
    if (memory == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for buffers of %zu codes", job->buffer_bytes);
    }
    qb_status status = qb_run_parallel(run, job->pieces, 1, write_pieces, job);
    for (int64_t i = 0; status == QB_OK && i < job->count; i++) {
        status = check_written(run, &job->each[i], (int8_t *)job->buffers.base);
    }
    qb_heap_release(run->heap, memory);
    return status;
}

/* The layer's packed weight becomes that of `w`, which keeps nothing. */
static void
keep(writing *w, qb_heap *heap)
{
    qb_linear *layer = w->item->layer;
    for (int64_t row = 0; row < layer->out_features; row++) {
        w->ranges.scale[row] = qb_quant_scale_step(w->ranges.scale[row]);
    }
    qb_linear_clear(layer, heap);
    layer->pack = (qb_linear_pack){.form = QB_WEIGHT_QS8,
                                   .data = w->packed,
                                   .step = w->ranges.scale,
                                   .parameter_revision = layer->weight.revision,
                                   .quantizer_revision = layer->weight_quantizer->revision};
    w->packed = NULL;
    w->ranges.scale = NULL;
}

qb_status
qb_linear_write_codes(const qb_run *run, const qb_linear_codes *items, int64_t count)
{
    writing_job job = {.kernels = run->kernels, .count = count};
    job.each = qb_heap_allocate_zero(run->heap, (size_t)count * sizeof *job.each);
    if (job.each == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for the tables of %" PRId64 " weights", count);
    }
    const qb_status status = write_all(run, items, &job);
    for (int64_t i = 0; i < count; i++) {
        if (status == QB_OK) {
            keep(&job.each[i], run->heap);
        }
        qb_heap_release(run->heap, job.each[i].packed);
        qb_heap_release(run->heap, job.each[i].ranges.scale);
    }
    qb_heap_release(run->heap, job.each);
    return status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

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
    const int64_t worst = atomic_load_explicit(&job.worst, memory_order_relaxed);
    if (status == QB_OK && worst >= 0) {
        status = fail_code(&inner, &job.ranges, worst, codes + worst * self->in_features, self->in_features);
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
