/* SPDX-License-Identifier: Apache-2.0
 *
 * The range whose quantization error is smallest on the histogram.
 *
 * Candidates are the centers of bins start_bin, start_bin + stride, ...; the error of a candidate is the mean over bins
 * of count * (quantized center - center)^2, with the narrow range, and the first minimum wins (REFERENCE 2.8).  The
 * original evaluates every center for every candidate, bins^2 quantizations, in float32.
 *
 * Here centers that share a code share a value v, and their error is v^2 S0 - 2 v S1 + S2 with the moments Sk = sum of
 * count * center^k over the code's run of bins.  Running sums give the moments of any run, so a candidate costs one
 * search per code instead of one quantization per bin.  The sums are compensated (each carries the rounding errors
 * that it made), so the subtraction loses nothing that matters: the error of the objective is some 1e-15 of the total
 * second moment.  Candidates within a generous multiple of that of the best are evaluated once more term by term, so
 * exact ties (objective exactly zero) are decided as in the original.
 *
 * Quantization is the float32 one of NUMERICS section 4, applied to float32 centers; only the sums are float64.
 */
#include <inttypes.h>
#include <math.h>

#include "core/device.h"
#include "core/shape.h"
#include "quant/e4m3.h"
#include "quant/histogram_check.h"
#include "quant/quant_spec.h"

#define MSE_DOUBT 1e-12 /* share of the second moment below which two objectives count as equal at first sight */

typedef struct mse_search {
    const float *edges;
    int32_t num_bits; /* 0: E4M3 */
    int is_unsigned;
    int64_t start_bin, stride, candidates;
    int64_t used;       /* bins that hold something */
    float *centers;     /* (used), ascending */
    double *weights;    /* (used) counts */
    double *moments[6]; /* (used + 1) each: S0, S1, S2 and what their rounding lost */
    double *errors;     /* (candidates) */
    double doubt;       /* exact pass: candidates with errors <= doubt are evaluated term by term */
} mse_search;

static float
center_of(const float *edges, int64_t bin)
{
    return (edges[bin + 1] + edges[bin]) / 2.0f;
}

static float
quantized(const mse_search *search, const qb_quant_range *range, float center)
{
    if (search->num_bits == 0) {
        return qb_e4m3_round_scaled(center, range->scale);
    }
    if (range->scale == 0.0f) {
        return 0.0f;
    }
    float code = rintf(center * range->scale);
    code = code < range->lower ? range->lower : code;
    code = code > range->upper ? range->upper : code;
    return code / range->scale;
}

static qb_quant_range
candidate_range(const mse_search *search, int64_t candidate)
{
    const float amax = center_of(search->edges, search->start_bin + candidate * search->stride);
    if (search->num_bits == 0) {
        return (qb_quant_range){.scale = qb_e4m3_scale(amax), .lower = -QB_E4M3_MAX, .upper = QB_E4M3_MAX};
    }
    return qb_quant_spec_range(search->num_bits, search->is_unsigned, 1, amax);
}

/* First position in (from, used] whose quantized value differs from that of `from`: doubling steps, then halving.
 * Quantization is monotonous, so equal values form a run. */
static int64_t
run_end(const mse_search *search, const qb_quant_range *range, int64_t from, float value)
{
    int64_t inside = from;
    int64_t step = 1;
    while (inside + step < search->used && quantized(search, range, search->centers[inside + step]) == value) {
        inside += step;
        step *= 2;
    }
    int64_t outside = inside + step < search->used ? inside + step : search->used;
    while (outside - inside > 1) {
        const int64_t middle = inside + (outside - inside) / 2;
        if (quantized(search, range, search->centers[middle]) == value) {
            inside = middle;
        }
        else {
            outside = middle;
        }
    }
    return outside;
}

static double
moment(const mse_search *search, int which, int64_t begin, int64_t end)
{
    const double *sum = search->moments[2 * which];
    const double *lost = search->moments[2 * which + 1];
    return (sum[end] - sum[begin]) + (lost[end] - lost[begin]);
}

static void
errors_by_runs(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    mse_search *search = argument;
    for (int64_t candidate = begin; candidate < end; candidate++) {
        const qb_quant_range range = candidate_range(search, candidate);
        double error = 0.0;
        for (int64_t i = 0; i < search->used;) {
            const float value = quantized(search, &range, search->centers[i]);
            const int64_t next = run_end(search, &range, i, value);
            const double v = (double)value;
            error +=
                v * v * moment(search, 0, i, next) - 2.0 * v * moment(search, 1, i, next) + moment(search, 2, i, next);
            i = next;
        }
        search->errors[candidate] = error;
    }
}

static void
errors_by_terms(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    mse_search *search = argument;
    for (int64_t candidate = begin; candidate < end; candidate++) {
        if (!(search->errors[candidate] <= search->doubt)) {
            search->errors[candidate] = HUGE_VAL;
            continue;
        }
        const qb_quant_range range = candidate_range(search, candidate);
        double error = 0.0;
        for (int64_t i = 0; i < search->used; i++) {
            const double difference =
                (double)quantized(search, &range, search->centers[i]) - (double)search->centers[i];
            error += search->weights[i] * difference * difference;
        }
        search->errors[candidate] = error;
    }
}

/* sum[i + 1] = sum[i] + (term + term_error), what rounding lost goes to lost[i + 1]. */
static void
accumulate(double *sum, double *lost, int64_t i, double term, double term_error)
{
    const double next = sum[i] + term;
    const double part = next - sum[i];
    const double slip = (sum[i] - (next - part)) + (term - part);
    sum[i + 1] = next;
    lost[i + 1] = lost[i] + (slip + term_error);
}

static void
fill_moments(mse_search *search, const int64_t *counts, int64_t bins)
{
    for (int k = 0; k < 6; k++) {
        search->moments[k][0] = 0.0;
    }
    int64_t i = 0;
    for (int64_t bin = 0; bin < bins; bin++) {
        if (counts[bin] == 0) {
            continue;
        }
        search->centers[i] = center_of(search->edges, bin);
        search->weights[i] = (double)counts[bin];
        const double center = (double)search->centers[i];
        const double n = search->weights[i];
        const double first = n * center;
        const double square = center * center; /* exact: 48 bits */
        const double second = n * square;
        accumulate(search->moments[0], search->moments[1], i, n, 0.0);
        accumulate(search->moments[2], search->moments[3], i, first, fma(n, center, -first));
        accumulate(search->moments[4], search->moments[5], i, second, fma(n, square, -second));
        i++;
    }
}

static qb_status
check_arguments(const int64_t *counts, const float *edges, int64_t bins, int32_t num_bits, int is_unsigned,
                int64_t stride, int64_t start_bin, qb_error *error)
{
    int64_t total = 0;
    if (num_bits < 0 || num_bits > 16) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "num_bits is %" PRId32 ", expected 1 .. 16, or 0 for E4M3", num_bits);
    }
    if (stride < 1) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "stride is %" PRId64 ", expected at least 1", stride);
    }
    QB_TRY(qb_histogram_check(counts, edges, bins, &total, error));
    if (start_bin < 0 || start_bin >= bins) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "start_bin is %" PRId64 ", but the histogram has %" PRId64 " bins: no range to choose from",
                       start_bin, bins);
    }
    if (center_of(edges, start_bin) < 0.0f) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "Negative values in amax: the center of bin %" PRId64 " is %g",
                       start_bin, (double)center_of(edges, start_bin));
    }
    if (is_unsigned && center_of(edges, 0) < 0.0f) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "Negative values encountered in unsigned quantization: bin 0 is %g",
                       (double)center_of(edges, 0));
    }
    return QB_OK;
}

static int64_t
first_minimum(const double *values, int64_t count)
{
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++) {
        if (values[i] < values[best]) {
            best = i;
        }
    }
    return best;
}

qb_status
qb_amax_mse(qb_device *device, const int64_t *counts, const float *edges, int64_t bins, int32_t num_bits,
            int is_unsigned, int64_t stride, int64_t start_bin, float *amax, qb_error *error)
{
    QB_TRY(check_arguments(counts, edges, bins, num_bits, is_unsigned, stride, start_bin, error));
    if (num_bits != 0 && !(qb_quant_spec_bound(num_bits, is_unsigned) > 0.0f)) {
        /* One signed bit has no code but zero; the original's objective is NaN and its first candidate wins. */
        *amax = center_of(edges, start_bin);
        return QB_OK;
    }
    mse_search search = {.edges = edges,
                         .num_bits = num_bits,
                         .is_unsigned = is_unsigned != 0,
                         .start_bin = start_bin,
                         .stride = stride,
                         .candidates = (bins - start_bin - 1) / stride + 1};
    for (int64_t bin = 0; bin < bins; bin++) {
        search.used += counts[bin] != 0;
    }
    const size_t slots = (size_t)search.used + 1;
    size_t bytes = 0;
    if (!qb_size_multiply(slots, 8 * sizeof(double), &bytes) ||
        !qb_size_add(bytes, (size_t)search.candidates * sizeof(double), &bytes)) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "%" PRId64 " bins do not fit the memory", bins);
    }
    double *block = qb_heap_allocate(&device->heap, bytes);
    if (block == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for the search over %" PRId64 " bins", bins);
    }
    for (int k = 0; k < 6; k++) {
        search.moments[k] = block + (size_t)k * slots;
    }
    search.weights = block + 6 * slots;
    search.centers = (float *)(block + 7 * slots);
    search.errors = block + 8 * slots;
    fill_moments(&search, counts, bins);

    qb_status status = qb_parallel_for(device->queue, NULL, search.candidates, 64, errors_by_runs, &search);
    if (status == QB_OK) {
        const double least = search.errors[first_minimum(search.errors, search.candidates)];
        search.doubt = least + MSE_DOUBT * moment(&search, 2, 0, search.used);
        status = qb_parallel_for(device->queue, NULL, search.candidates, 16, errors_by_terms, &search);
    }
    if (status == QB_OK) {
        *amax = center_of(edges, start_bin + first_minimum(search.errors, search.candidates) * stride);
    }
    qb_heap_release(&device->heap, block);
    return status == QB_OK ? QB_OK : qb_fail(error, NULL, status, "the search was stopped");
}
