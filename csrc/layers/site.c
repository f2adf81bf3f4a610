/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/site.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stddef.h>

#include "quant/quantizer.h"

/* Elements that one chunk of an elementwise region takes: 64 KB of floats, so that starting a chunk costs nothing
 * beside it and a worker's share stays in its cache. */
#define GRAIN 16384

static int
is_identity(qb_quantizer *const *slot)
{
    return *slot == NULL || qb_quantizer_is_identity(*slot);
}

typedef struct verdict {
    qb_arithmetic arithmetic;
    const char *reason;           /* "" for integer and float */
    const qb_quantizer *obstacle; /* NULL for those two */
} verdict;

static verdict
judge(const qb_site *site)
{
    const int a_off = is_identity(site->a);
    const int b_off = is_identity(site->b);
    if (a_off && b_off) {
        return (verdict){QB_ARITHMETIC_FLOAT, "", NULL};
    }
    if (a_off || b_off) {
        return (verdict){QB_ARITHMETIC_DEQUANTIZED, "only one of the two operands is quantized",
                         a_off ? *site->a : *site->b};
    }
    const char *why = qb_quantizer_integer_reason(*site->a);
    if (why != NULL) {
        return (verdict){QB_ARITHMETIC_DEQUANTIZED, why, *site->a};
    }
    why = site->b_is_weight ? qb_quantizer_weight_reason(*site->b) : qb_quantizer_integer_reason(*site->b);
    if (why != NULL) {
        return (verdict){QB_ARITHMETIC_DEQUANTIZED, why, *site->b};
    }
    return (verdict){QB_ARITHMETIC_INTEGER, "", NULL};
}

qb_arithmetic
qb_site_arithmetic(const qb_site *site, const char **reason)
{
    const verdict found = judge(site);
    if (reason != NULL) {
        *reason = found.reason;
    }
    return found.arithmetic;
}

const qb_quantizer *
qb_site_obstacle(const qb_site *site)
{
    return judge(site).obstacle;
}

size_t
qb_site_kernel(const qb_site *site, int gives_codes)
{
    const int is_integer = judge(site).arithmetic == QB_ARITHMETIC_INTEGER;
    if (site->is_add) {
        return is_integer ? QB_KERNEL_INDEX_add_layer_norm_qs8 : QB_KERNEL_INDEX_add_layer_norm_f32;
    }
    if (is_integer && gives_codes) {
        return QB_KERNEL_INDEX_product_qs8_codes;
    }
    return is_integer ? QB_KERNEL_INDEX_product_qs8 : QB_KERNEL_INDEX_product_f32;
}

const char *
qb_arithmetic_text(qb_arithmetic arithmetic)
{
    switch (arithmetic) {
    case QB_ARITHMETIC_FLOAT:
        return "float";
    case QB_ARITHMETIC_INTEGER:
        return "integer";
    case QB_ARITHMETIC_DEQUANTIZED:
        return "dequantized";
    }
    return "";
}

const char *
qb_site_refusal(const qb_quantizer *quantizer, int last_axis_is_free)
{
    if (quantizer == NULL || qb_quantizer_is_off(quantizer)) {
        return NULL;
    }
    const int is_ranged = !qb_quantizer_is_identity(quantizer) && !qb_quantizer_is_per_tensor(quantizer);
    const int keeps_axes = quantizer->options.axis_count > 0 && qb_quantizer_wants_collect(quantizer);
    if (!is_ranged && !keeps_axes) {
        return NULL;
    }
    if (!last_axis_is_free) {
        return "ranges along an axis are not served here, only one range per tensor";
    }
    const qb_small_tensor *amax = &quantizer->amax;
    if (amax->data != NULL && amax->count > 1 && (amax->rank < 1 || amax->shape[amax->rank - 1] != amax->count)) {
        return "the range of an activation can follow the last axis only, but amax has another shape";
    }
    for (int32_t i = 0; i < quantizer->options.axis_count; i++) {
        const int32_t axis = quantizer->options.axes[i];
        if (axis != -1 && axis != 2) {
            return "the range of an activation can follow the last axis only";
        }
    }
    return NULL;
}

/* ---- codes that travel --------------------------------------------------------------------------------------------
 */

static int
is_none(const qb_site *site)
{
    return site->a == NULL;
}

const char *
qb_edge_refusal(const qb_edge *edge, qb_quant_range *range)
{
    const qb_quantizer *quantizer = edge->quantizer;
    const qb_run nowhere = {.kernels = NULL};
    if (is_none(&edge->reader)) {
        return edge->onlooker;
    }
    if (qb_site_arithmetic(&edge->reader, NULL) != QB_ARITHMETIC_INTEGER) {
        return "the site that reads is not integer";
    }
    if (!is_none(&edge->maker) && !edge->maker.is_add &&
        qb_site_arithmetic(&edge->maker, NULL) != QB_ARITHMETIC_INTEGER) {
        return "the product that makes it is not integer";
    }
    if (edge->onlooker != NULL) {
        return edge->onlooker;
    }
    if (qb_quantizer_wants_collect(quantizer)) {
        return "the quantizer collects";
    }
    if (qb_quantizer_is_dynamic(quantizer)) {
        return "the range is dynamic: it is known when the whole tensor is";
    }
    if (quantizer->options.is_unsigned) {
        return "the quantizer is unsigned and looks for negative elements";
    }
    if (qb_quantizer_check_range(quantizer, &nowhere) != QB_OK) {
        return "the range is not finite";
    }
    /* Static, finite and signed: there is nothing to look at and nothing to fail. */
    if (range != NULL) {
        (void)qb_quantizer_range(quantizer, &nowhere, NULL, 0, NULL, range);
    }
    return NULL;
}

void
qb_edge_tell(const qb_edge_visitor *visitor, const qb_edge *from, const qb_edge *to)
{
    qb_edge edge = *to;
    edge.maker = from->maker;
    edge.origin = from->origin;
    visitor->edge(visitor->context, &edge);
}

/* ---- codes ------------------------------------------------------------------------------------------------------ */

typedef struct encode_job {
    const qb_kernels *kernels;
    const qb_coding *codings;
    _Atomic uint32_t failed; /* bit i: tensor i holds a NaN or infinity */
} encode_job;

static int64_t
chunks_of(const qb_coding *coding)
{
    return (coding->count + GRAIN - 1) / GRAIN;
}

static void
encode_chunks(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    encode_job *job = argument;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        int64_t chunk = i;
        int32_t tensor = 0;
        while (chunk >= chunks_of(&job->codings[tensor])) {
            chunk -= chunks_of(&job->codings[tensor++]);
        }
        const qb_coding *coding = &job->codings[tensor];
        const int64_t first = chunk * GRAIN;
        const int64_t n = coding->count - first < GRAIN ? coding->count - first : GRAIN;
        uint32_t nonfinite = 0;
        job->kernels->quantize_qs8(coding->x + first, (size_t)n, &coding->range, coding->codes + first, &nonfinite);
        if (nonfinite != 0) {
            atomic_fetch_or_explicit(&job->failed, 1u << tensor, memory_order_relaxed);
        }
    }
}

qb_status
qb_site_fail_nonfinite(const qb_run *run, int64_t element, int64_t columns, int is_nan)
{
    return qb_fail(run->error, run->path, QB_ERR_VALUE,
                   "element (%" PRId64 ", %" PRId64 ") is %s, expected a finite number to quantize", element / columns,
                   element % columns, is_nan ? "NaN" : "infinite");
}

static qb_status
fail_nonfinite(const qb_run *run, const qb_coding *coding, int64_t columns)
{
    const qb_run at_site = qb_run_enter(run, coding->path);
    int64_t at = 0;
    while (at < coding->count - 1 && isfinite(coding->x[at])) {
        at++;
    }
    return qb_site_fail_nonfinite(&at_site, at, columns, isnan(coding->x[at]) != 0);
}

qb_status
qb_site_encode(const qb_run *run, const qb_coding *codings, int32_t codings_count, int64_t columns)
{
    encode_job job = {.kernels = run->kernels, .codings = codings};
    int64_t chunks = 0;
    for (int32_t i = 0; i < codings_count; i++) {
        chunks += chunks_of(&codings[i]);
    }
    atomic_init(&job.failed, 0);
    QB_TRY(qb_run_parallel(run, chunks, 1, encode_chunks, &job));
    const uint32_t failed = atomic_load_explicit(&job.failed, memory_order_relaxed);
    for (int32_t i = 0; i < codings_count; i++) {
        if (failed >> i & 1u) {
            return fail_nonfinite(run, &codings[i], columns);
        }
    }
    return QB_OK;
}

/* ---- ranges, values, statistics --------------------------------------------------------------------------------- */

qb_status
qb_site_range(const qb_quantizer *quantizer, const qb_run *run, const float *x, int64_t tokens, int64_t features,
              qb_quant_range *range)
{
    const int64_t shape[3] = {1, tokens, features};
    qb_run inner = *run;
    QB_TRY(qb_quantizer_check_range(quantizer, &inner));
    return qb_quantizer_range(quantizer, &inner, x, 3, shape, range);
}

qb_status
qb_site_values(const qb_quantizer *quantizer, const qb_run *run, const float *x, int64_t tokens, int64_t features,
               float *buffer, const float **values)
{
    if (quantizer == NULL || qb_quantizer_is_identity(quantizer)) {
        *values = x;
        return QB_OK;
    }
    const int64_t shape[3] = {1, tokens, features};
    qb_run inner = *run;
    QB_TRY(qb_quantizer_check_range(quantizer, &inner));
    QB_TRY(qb_quantizer_apply(quantizer, &inner, x, 3, shape, buffer, NULL));
    *values = buffer;
    return QB_OK;
}

qb_status
qb_site_backward(qb_quantizer *quantizer, const qb_run *run, const float *x, int64_t tokens, int64_t features,
                 float *gradient)
{
    const int64_t shape[3] = {1, tokens, features};
    return qb_quantizer_backward(quantizer, run, x, 3, shape, gradient);
}

qb_status
qb_site_observe(qb_quantizer *const *quantizers, int32_t count, const qb_run *run, const float *x, int64_t tokens,
                int64_t features)
{
    qb_quantizer *wanting[QB_QUANTIZER_GROUP];
    int32_t n = 0;
    for (int32_t i = 0; i < count && n < QB_QUANTIZER_GROUP; i++) {
        if (quantizers[i] != NULL && !run->is_again && qb_quantizer_wants_collect(quantizers[i])) {
            wanting[n++] = quantizers[i];
        }
    }
    if (n == 0) {
        return QB_OK;
    }
    const int64_t shape[3] = {1, tokens, features};
    qb_run inner = *run;
    return qb_quantizer_collect_group(wanting, n, &inner, x, 3, shape);
}
