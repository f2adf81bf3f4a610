/* SPDX-License-Identifier: Apache-2.0
 *
 * See observer_histogram.h.  Edges are computed in the precision and order of the libraries that the original called,
 * because growth asks whether a float lies beyond the last edge and how many widths fit.
 */
#include "quant/observer_histogram.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/shape.h"

#define SLICE_ELEMENTS 32768 /* a slice must pay for its own counts */

qb_status
qb_histogram_allocate(int64_t bins, const qb_run *run, qb_histogram *histogram)
{
    size_t bytes = 0;
    const size_t each = sizeof(int64_t) + sizeof(double) + sizeof(float);
    if (!qb_size_multiply((size_t)bins + 1, each, &bytes)) {
        bytes = SIZE_MAX;
    }
    char *block = bytes == SIZE_MAX ? NULL : qb_heap_allocate_zero(run->heap, bytes);
    if (block == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for a histogram of %" PRId64 " bins", bins);
    }
    *histogram = (qb_histogram){.bins = bins, .counts = (int64_t *)(void *)block};
    histogram->fine = (double *)(void *)(block + (size_t)(bins + 1) * sizeof(int64_t));
    histogram->edges = (float *)(histogram->fine + bins + 1);
    return QB_OK;
}

void
qb_histogram_clear(qb_histogram *histogram, qb_heap *heap)
{
    qb_heap_release(heap, histogram->counts);
    *histogram = (qb_histogram){0};
}

qb_status
qb_histogram_copy(const qb_histogram *histogram, qb_histogram *copy, const qb_run *run)
{
    if (histogram->bins == 0) {
        qb_histogram_clear(copy, run->heap);
        return QB_OK;
    }
    if (copy->bins != histogram->bins) {
        qb_histogram made;
        QB_TRY(qb_histogram_allocate(histogram->bins, run, &made));
        qb_histogram_clear(copy, run->heap);
        *copy = made;
    }
    copy->largest = histogram->largest;
    memcpy(copy->counts, histogram->counts, (size_t)histogram->bins * sizeof *copy->counts);
    memcpy(copy->fine, histogram->fine, (size_t)(histogram->bins + 1) * sizeof *copy->fine);
    memcpy(copy->edges, histogram->edges, (size_t)(histogram->bins + 1) * sizeof *copy->edges);
    copy->is_appended = histogram->is_appended;
    return QB_OK;
}

static void
set_edge(qb_histogram *histogram, int64_t i, double fine)
{
    histogram->fine[i] = fine;
    histogram->edges[i] = (float)fine;
}

/* torch.linspace(0, last, bins + 1) in float32: from both ends towards the middle.
 *
 * A step is rounded by half a unit in its last place, which the middle multiplies by up to points / 2.  That is less
 * than the step itself as long as it has 24 bits; a subnormal one has fewer, and the edges of the two halves would
 * cross.  Such edges are i * last / bins, rounded to double and then
 * to float; both roundings are monotonic. */
static void
edges_from_zero(qb_histogram *histogram, float last)
{
    const int64_t points = histogram->bins + 1;
    const float step = last / (float)histogram->bins;
    for (int64_t i = 0; i < points; i++) {
        const float edge = step < FLT_MIN   ? (float)((double)last * (double)i / (double)histogram->bins)
                           : i < points / 2 ? step * (float)i
                                            : last - step * (float)(points - 1 - i);
        set_edge(histogram, i, (double)edge);
    }
}

/* numpy.linspace(first, last, bins + 1) in float64, rounded to float32; a range of one value is widened by half. */
static void
edges_from_range(qb_histogram *histogram, float first, float last)
{
    if (first == last) {
        first = first - 0.5f;
        last = last + 0.5f;
    }
    const double step = ((double)last - (double)first) / (double)histogram->bins;
    for (int64_t i = 0; i < histogram->bins; i++) {
        set_edge(histogram, i, (double)(float)((double)i * step + (double)first));
    }
    set_edge(histogram, histogram->bins, (double)last);
}

static qb_status
fail_growth(const qb_run *run, float largest, double width)
{
    return qb_fail(run->error, run->path, QB_ERR_VALUE,
                   "a magnitude of %g needs more than %" PRId64 " bins of width %g: the first tensor was too small; "
                   "collect with a fixed range instead",
                   (double)largest, QB_HISTOGRAM_BINS_MAX, width);
}

/* torch.arange(0, largest + width, width): the sum in float32, the rest in float64.  Where rounding would leave the
 * last edge below `largest`, one more edge follows, so that every element is counted. */
static qb_status
grow_from_zero(const qb_histogram *now, const qb_run *run, float largest, qb_histogram *next)
{
    const float width = now->edges[1] - now->edges[0];
    const float stop = largest + width;
    const double points = ceil((double)stop / (double)width);
    if (!(points <= (double)QB_HISTOGRAM_BINS_MAX)) {
        return fail_growth(run, largest, (double)width);
    }
    int64_t bins = (int64_t)points - 1;
    bins = bins < now->bins ? now->bins : bins;
    while ((float)((double)bins * (double)width) < largest) {
        bins++;
    }
    QB_TRY(qb_histogram_allocate(bins, run, next));
    for (int64_t i = 0; i <= bins; i++) {
        set_edge(next, i, (double)(float)((double)i * (double)width));
    }
    return QB_OK;
}

/* numpy.hstack((edges, numpy.arange(last + width, largest + width, width))): float32 the first time, float64 once edges
 * were appended; arange's elements are start + i * ((start + width) - start) in float64. */
static qb_status
grow_by_appending(const qb_histogram *now, const qb_run *run, float largest, qb_histogram *next)
{
    const double *fine = now->fine;
    double start = 0.0;
    double delta = 0.0;
    double points = 0.0;
    if (now->is_appended) {
        const double width = fine[1] - fine[0];
        const double stop = (double)largest + width;
        start = fine[now->bins] + width;
        points = ceil((stop - start) / width);
        delta = (start + width) - start;
    }
    else {
        const float width = now->edges[1] - now->edges[0];
        const float stop = largest + width;
        const float first = now->edges[now->bins] + width;
        points = ceil((double)((stop - first) / width));
        start = (double)first;
        delta = (double)(first + width) - start;
    }
    if (!(points <= (double)(QB_HISTOGRAM_BINS_MAX - now->bins)) || !(delta > 0.0)) {
        return fail_growth(run, largest, fine[1] - fine[0]);
    }
    int64_t added = points > 1.0 ? (int64_t)points : 1;
    while (start + (double)(added - 1) * delta < (double)largest) {
        added++;
    }
    QB_TRY(qb_histogram_allocate(now->bins + added, run, next));
    memcpy(next->fine, now->fine, (size_t)(now->bins + 1) * sizeof *next->fine);
    memcpy(next->edges, now->edges, (size_t)(now->bins + 1) * sizeof *next->edges);
    for (int64_t i = 0; i < added; i++) {
        set_edge(next, now->bins + 1 + i, start + (double)i * delta);
    }
    next->is_appended = 1;
    return QB_OK;
}

static qb_status
first_edges(const qb_observer_options *options, const qb_run *run, float largest, float smallest, qb_histogram *next)
{
    if (options->skip_zeros && largest == 0.0f) {
        return QB_OK;
    }
    QB_TRY(qb_histogram_allocate(options->num_bins, run, next));
    switch (options->rule) {
    case QB_HISTOGRAM_FROM_ZERO:
        edges_from_zero(next, largest);
        break;
    case QB_HISTOGRAM_FROM_MIN:
        edges_from_range(next, smallest, largest);
        break;
    case QB_HISTOGRAM_FIXED:
        edges_from_zero(next, options->fixed_max);
        break;
    }
    return QB_OK;
}

static int
is_flat(const qb_histogram *histogram)
{
    return histogram->bins > 0 && histogram->edges[histogram->bins] == histogram->edges[0];
}

qb_status
qb_histogram_grow(const qb_histogram *now, const qb_observer_options *options, const qb_run *run, float largest,
                  float smallest, qb_histogram *next)
{
    *next = (qb_histogram){0};
    if (options->rule == QB_HISTOGRAM_FIXED && largest > options->fixed_max) {
        return qb_fail(run->error, run->path, QB_ERR_VALUE,
                       "a magnitude of %g lies above fixed_max %g: collect the largest magnitude first",
                       (double)largest, (double)options->fixed_max);
    }
    if (now->bins == 0) {
        return first_edges(options, run, largest, smallest, next);
    }
    if (!((double)largest > now->fine[now->bins])) {
        return QB_OK;
    }
    if (is_flat(now)) {
        int64_t zeros = 0;
        for (int64_t i = 0; i < now->bins; i++) {
            zeros += now->counts[i];
        }
        QB_TRY(first_edges(options, run, largest, smallest, next));
        next->counts[0] = zeros;
        return QB_OK;
    }
    QB_TRY(options->rule == QB_HISTOGRAM_FROM_MIN ? grow_by_appending(now, run, largest, next)
                                                  : grow_from_zero(now, run, largest, next));
    memcpy(next->counts, now->counts, (size_t)now->bins * sizeof *next->counts);
    return QB_OK;
}

float
qb_histogram_smallest(const float *x, int64_t count, int skip_zeros)
{
    float smallest = HUGE_VALF;
    for (int64_t i = 0; i < count; i++) {
        const float magnitude = fabsf(x[i]);
        if (magnitude < smallest && !(skip_zeros && magnitude == 0.0f)) {
            smallest = magnitude;
        }
    }
    return smallest;
}

/* The bin i with fine[i] <= m < fine[i + 1] (m <= the last edge for the last bin): a guess from the average width,
 * corrected by the edges themselves. */
static void
count_between_edges(const qb_histogram *histogram, int skip_zeros, const float *x, int64_t count, int64_t *added)
{
    const double *fine = histogram->fine;
    const int64_t bins = histogram->bins;
    const double per_unit = (double)bins / (fine[bins] - fine[0]);
    for (int64_t i = 0; i < count; i++) {
        const double m = fabs((double)x[i]);
        if ((skip_zeros && m == 0.0) || !(m >= fine[0]) || m > fine[bins]) {
            continue;
        }
        int64_t bin = (int64_t)((m - fine[0]) * per_unit);
        bin = bin < bins ? bin : bins - 1;
        while (bin > 0 && m < fine[bin]) {
            bin--;
        }
        while (bin < bins - 1 && m >= fine[bin + 1]) {
            bin++;
        }
        added[bin]++;
    }
}

typedef struct count_job {
    const qb_kernels *kernels;
    const qb_histogram *histogram;
    int skip_zeros;
    int between_edges;
    const float *x;
    int64_t count;
    int64_t slices;
    int64_t *added; /* (slices, bins) */
} count_job;

static void
count_slices(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    (void)worker;
    const count_job *job = argument;
    const qb_histogram *histogram = job->histogram;
    for (int64_t s = begin; s < end; s++) {
        const int64_t from = job->count / job->slices * s;
        const int64_t to = s + 1 == job->slices ? job->count : job->count / job->slices * (s + 1);
        int64_t *added = job->added + s * histogram->bins;
        if (job->between_edges) {
            count_between_edges(histogram, job->skip_zeros, job->x + from, to - from, added);
        }
        else {
            job->kernels->histogram_f32(job->x + from, (size_t)(to - from), histogram->edges[histogram->bins],
                                        histogram->bins, job->skip_zeros, added);
        }
    }
}

qb_status
qb_histogram_count(const qb_histogram *histogram, const qb_observer_options *options, const qb_run *run, const float *x,
                   int64_t count, int64_t *added)
{
    if (is_flat(histogram)) {
        /* Only zeros can be here.  torch.histc widens an empty range to [-1, 1], which puts them in the middle. */
        added[histogram->bins / 2] += options->skip_zeros ? 0 : count;
        return QB_OK;
    }
    count_job job = {.kernels = run->kernels,
                     .histogram = histogram,
                     .skip_zeros = options->skip_zeros,
                     .between_edges = options->rule == QB_HISTOGRAM_FROM_MIN,
                     .x = x,
                     .count = count,
                     .slices = count / SLICE_ELEMENTS + 1,
                     .added = added};
    const int64_t threads = qb_queue_threads(run->queue);
    job.slices = job.slices < threads ? job.slices : threads;
    if (job.slices > 1) {
        size_t bytes = 0;
        if (!qb_size_multiply((size_t)histogram->bins, (size_t)job.slices * sizeof *added, &bytes) ||
            (job.added = qb_heap_allocate_zero(run->heap, bytes)) == NULL) {
            return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory to count %" PRId64 " bins", histogram->bins);
        }
    }
    const qb_status status = qb_run_parallel(run, job.slices, 1, count_slices, &job);
    if (job.slices > 1) {
        for (int64_t i = 0; status == QB_OK && i < job.slices * histogram->bins; i++) {
            added[i % histogram->bins] += job.added[i];
        }
        qb_heap_release(run->heap, job.added);
    }
    return status == QB_OK ? QB_OK : qb_fail(run->error, run->path, status, "the histogram was not counted");
}

int
qb_histogram_counts_like(const qb_histogram *a, const qb_observer_options *a_options, const qb_histogram *b,
                         const qb_observer_options *b_options)
{
    const int a_between = a_options->rule == QB_HISTOGRAM_FROM_MIN;
    const int b_between = b_options->rule == QB_HISTOGRAM_FROM_MIN;
    if (a->bins != b->bins || a_between != b_between || !a_options->skip_zeros != !b_options->skip_zeros) {
        return 0;
    }
    if (!a_between && !is_flat(a) && !is_flat(b)) {
        return a->edges[a->bins] == b->edges[b->bins];
    }
    return memcmp(a->fine, b->fine, (size_t)(a->bins + 1) * sizeof *a->fine) == 0;
}
