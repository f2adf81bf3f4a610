/* SPDX-License-Identifier: Apache-2.0
 *
 * The range that loses least information: smallest Kullback-Leibler divergence between the clipped histogram and the
 * same histogram as 2^(bits-1+unsigned) codes can tell it (Migacz, "8-bit inference with TensorRT", 2017).
 *
 * Bin 0 counts as much as bin 1 (zeros would drown everything).  For a candidate of i bins, i = start_bin,
 * start_bin + stride, ... up to and including all bins,
 *
 *   P = the first i counts, everything beyond added to the last one;
 *   Q = the first i bins cut into n equal intervals (bin j belongs to interval floor(j n / i)), each interval's count
 *       spread evenly over those of its bins that are not empty;
 *   divergence = sum_j p_j log(p_j / q_j) with p = P / sum P, q = Q / sum Q; infinite where p_j > 0 and q_j = 0.
 *
 * The last smallest one wins, and the range is the left edge of bin i (REFERENCE 2.8).  With nothing inside the range
 * the divergence is 0 / 0, and as in the original the last such candidate wins over all numbers: data whose first
 * start_bin bins are empty give a range below all of them.
 *
 * With sums F_j of b log b, of counts and of non-empty bins up to j, the divergence of a candidate is
 *
 *   (F_{i-1} + P_last log P_last - sum_d S_d log m_d - outside log m_last) / T + log(inside / T),
 *
 * S_d the count of interval d, m_d its mean over non-empty bins: n logarithms per candidate instead of i, and the
 * interpreted loops of the original become milliseconds.  Candidates that this cannot tell apart are then computed as
 * numpy and scipy would, in their order of operations, so that ties fall on the same side.
 *
 * The histogram is read only; the original overwrites its bin 0.
 */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>

#include "core/device.h"
#include "core/shape.h"
#include "quant/histogram_check.h"

typedef struct entropy_search {
    const int64_t *counts;
    int64_t bins;
    int64_t levels; /* n */
    int64_t start_bin, stride, candidates;
    int64_t total;        /* T */
    int64_t *below;       /* (bins + 1) counts before bin j */
    int64_t *filled;      /* (bins + 1) non-empty bins before bin j */
    double *log_sum;      /* (bins + 1) F, and what its rounding lost */
    double *log_lost;     /* (bins + 1) */
    double *divergences;  /* (candidates) */
    int64_t slices;       /* second pass: slice s takes candidates s, s + slices, ... */
    double *terms;        /* (slices, 2, bins) scratch of the second pass */
    double doubt;         /* second pass: candidates above are left out */
    _Atomic int mismatch; /* 1: mass was lost on the way */
} entropy_search;

static int64_t
count_of(const entropy_search *search, int64_t bin)
{
    return bin == 0 && search->bins > 1 ? search->counts[1] : search->counts[bin];
}

/* First bin of interval d of i bins: the smallest j with floor(j n / i) >= d. */
static int64_t
interval_start(const entropy_search *search, int64_t d, int64_t i)
{
    return (d * i + search->levels - 1) / search->levels;
}

static double
b_log_b(const entropy_search *search, int64_t begin, int64_t end)
{
    return (search->log_sum[end] - search->log_sum[begin]) + (search->log_lost[end] - search->log_lost[begin]);
}

static double
divergence_by_sums(entropy_search *search, int64_t i)
{
    const int64_t inside = search->below[i];
    const int64_t outside = search->total - inside;
    if (inside == 0) {
        return (double)NAN;
    }
    if (outside > 0 && count_of(search, i - 1) == 0) {
        return HUGE_VAL;
    }
    double spread = 0.0; /* sum_d S_d log m_d */
    double mass = 0.0;   /* sum Q */
    double last_mean = 1.0;
    int64_t begin = 0;
    for (int64_t d = 0; d < search->levels && begin < i; d++) {
        const int64_t end = interval_start(search, d + 1, i);
        const int64_t filled = search->filled[end] - search->filled[begin];
        if (filled > 0) {
            const double sum = (double)(search->below[end] - search->below[begin]);
            last_mean = sum / (double)filled;
            mass += last_mean * (double)filled;
            spread += filled == 1 ? b_log_b(search, begin, end) : sum * log(last_mean);
        }
        begin = end;
    }
    if (rint(mass + (double)outside) != (double)search->total) {
        atomic_store(&search->mismatch, 1);
    }
    const double total = (double)search->total;
    const double last = (double)(count_of(search, i - 1) + outside);
    double sum = b_log_b(search, 0, i - 1);
    sum += last > 0.0 ? last * log(last) : 0.0;
    sum -= spread;
    sum -= outside > 0 ? (double)outside * log(last_mean) : 0.0;
    return sum / total + log((double)inside / total);
}

static void
search_by_sums(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    entropy_search *search = argument;
    for (int64_t c = begin; c < end; c++) {
        search->divergences[c] = divergence_by_sums(search, search->start_bin + c * search->stride);
    }
}

/* numpy's sum of a dense float64 array: eight partial sums in blocks of 128, halved recursively. */
static double
pairwise_sum(const double *x, int64_t n)
{
    if (n < 8) {
        double sum = 0.0;
        for (int64_t i = 0; i < n; i++) {
            sum += x[i];
        }
        return sum;
    }
    if (n > 128) {
        const int64_t half = n / 2 - (n / 2) % 8;
        return pairwise_sum(x, half) + pairwise_sum(x + half, n - half);
    }
    double lane[8];
    for (int k = 0; k < 8; k++) {
        lane[k] = x[k];
    }
    int64_t i = 8;
    for (; i < n - n % 8; i += 8) {
        for (int k = 0; k < 8; k++) {
            lane[k] += x[i + k];
        }
    }
    double sum = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    for (; i < n; i++) {
        sum += x[i];
    }
    return sum;
}

/* scipy.special.rel_entr */
static double
relative_entropy(double p, double q)
{
    if (p > 0.0 && q > 0.0) {
        const double ratio = p / q;
        if (ratio > 0.5 && ratio < 2.0) {
            return p * log1p((p - q) / q);
        }
        if (ratio > DBL_MIN && ratio < HUGE_VAL) {
            return p * log(ratio);
        }
        return p * (log(p) - log(q));
    }
    return p == 0.0 && q >= 0.0 ? 0.0 : HUGE_VAL;
}

static double
divergence_by_terms(const entropy_search *search, int64_t i, double *q, double *terms)
{
    for (int64_t d = 0, begin = 0; d < search->levels && begin < i; d++) {
        const int64_t end = interval_start(search, d + 1, i);
        const int64_t filled = search->filled[end] - search->filled[begin];
        const double mean = filled > 0 ? (double)(search->below[end] - search->below[begin]) / (double)filled : 0.0;
        for (; begin < end; begin++) {
            q[begin] = count_of(search, begin) > 0 ? mean : 0.0;
        }
    }
    const double mass = pairwise_sum(q, i);
    const double total = (double)search->total;
    const int64_t outside = search->total - search->below[i];
    for (int64_t j = 0; j < i; j++) {
        const double p = (double)(count_of(search, j) + (j == i - 1 ? outside : 0));
        terms[j] = relative_entropy(p / total, q[j] / mass);
    }
    return pairwise_sum(terms, i);
}

static void
search_by_terms(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    entropy_search *search = argument;
    for (int64_t slice = begin; slice < end; slice++) {
        double *q = search->terms + (size_t)slice * 2 * (size_t)search->bins;
        for (int64_t c = slice; c < search->candidates; c += search->slices) {
            if (isnan(search->divergences[c])) {
                continue;
            }
            if (search->divergences[c] > search->doubt) {
                search->divergences[c] = HUGE_VAL;
                continue;
            }
            search->divergences[c] =
                divergence_by_terms(search, search->start_bin + c * search->stride, q, q + search->bins);
        }
    }
}

static void
fill_sums(entropy_search *search)
{
    search->below[0] = 0;
    search->filled[0] = 0;
    search->log_sum[0] = 0.0;
    search->log_lost[0] = 0.0;
    for (int64_t j = 0; j < search->bins; j++) {
        const int64_t count = count_of(search, j);
        const double b = (double)count;
        const double log_b = count > 0 ? log(b) : 0.0;
        const double term = b * log_b;
        const double next = search->log_sum[j] + term;
        const double part = next - search->log_sum[j];
        const double slip = (search->log_sum[j] - (next - part)) + (term - part);
        search->below[j + 1] = search->below[j] + count;
        search->filled[j + 1] = search->filled[j] + (count > 0);
        search->log_sum[j + 1] = next;
        search->log_lost[j + 1] = search->log_lost[j] + (slip + fma(b, log_b, -term));
    }
    search->total = search->below[search->bins];
}

static qb_status
check_arguments(const int64_t *counts, const float *edges, int64_t bins, int32_t num_bits, int64_t stride,
                int64_t start_bin, qb_error *error)
{
    int64_t total = 0;
    if (num_bits < 1 || num_bits > 16) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "num_bits is %" PRId32 ", expected 1 .. 16: entropy needs an integer format", num_bits);
    }
    if (stride < 1) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "stride is %" PRId64 ", expected at least 1", stride);
    }
    QB_TRY(qb_histogram_check(counts, edges, bins, &total, error));
    if (start_bin < 1 || start_bin > bins) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "start_bin is %" PRId64 ", but the histogram has %" PRId64 " bins: no range to choose from",
                       start_bin, bins);
    }
    if (bins > 1 && counts[1] > INT64_MAX - total) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "counts add up to more than %" PRId64, INT64_MAX);
    }
    return QB_OK;
}

static double
least_of(const double *values, int64_t count)
{
    double least = HUGE_VAL;
    for (int64_t i = 0; i < count; i++) {
        least = values[i] < least ? values[i] : least;
    }
    return least;
}

/* Not-a-number counts as smaller than every number, as for numpy.argmin. */
static int64_t
last_minimum(const double *values, int64_t count)
{
    int64_t best = count - 1;
    for (int64_t i = count - 1; i >= 0; i--) {
        if (isnan(values[i])) {
            return i;
        }
        if (values[i] < values[best]) {
            best = i;
        }
    }
    return best;
}

static qb_status
search_both_passes(qb_device *device, entropy_search *search, qb_error *error)
{
    fill_sums(search);
    qb_status status = qb_parallel_for(device->queue, NULL, search->candidates, 16, search_by_sums, search);
    if (status == QB_OK && atomic_load(&search->mismatch)) {
        return qb_fail(error, NULL, QB_ERR_STATE,
                       "Count mismatch! total_data=%" PRId64 " is more than float64 can count exactly", search->total);
    }
    if (status == QB_OK) {
        search->doubt = least_of(search->divergences, search->candidates) + 1e-11 + 4e-15 * (double)search->levels;
        status = qb_parallel_for(device->queue, NULL, search->slices, 1, search_by_terms, search);
    }
    return status == QB_OK ? QB_OK : qb_fail(error, NULL, status, "the search was stopped");
}

qb_status
qb_amax_entropy(qb_device *device, const int64_t *counts, const float *edges, int64_t bins, int32_t num_bits,
                int is_unsigned, int64_t stride, int64_t start_bin, float *amax, qb_error *error)
{
    QB_TRY(check_arguments(counts, edges, bins, num_bits, stride, start_bin, error));
    entropy_search search = {.counts = counts,
                             .bins = bins,
                             .levels = (int64_t)1 << (num_bits - 1 + (is_unsigned ? 1 : 0)),
                             .start_bin = start_bin,
                             .stride = stride,
                             .candidates = (bins - start_bin) / stride + 1,
                             .slices = qb_queue_threads(device->queue)};
    const size_t slots = (size_t)bins + 1;
    size_t bytes = 0;
    if (!qb_size_multiply(slots, (5 + 2 * (size_t)search.slices) * sizeof(double), &bytes)) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "%" PRId64 " bins do not fit the memory", bins);
    }
    double *block = qb_heap_allocate(&device->heap, bytes);
    if (block == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for the search over %" PRId64 " bins", bins);
    }
    search.log_sum = block;
    search.log_lost = block + slots;
    search.divergences = block + 2 * slots;
    search.below = (int64_t *)(block + 3 * slots);
    search.filled = (int64_t *)(block + 4 * slots);
    search.terms = block + 5 * slots;
    const qb_status status = search_both_passes(device, &search, error);
    if (status == QB_OK) {
        *amax = edges[start_bin + last_minimum(search.divergences, search.candidates) * stride];
    }
    qb_heap_release(&device->heap, block);
    return status;
}
