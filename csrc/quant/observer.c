/* SPDX-License-Identifier: Apache-2.0
 *
 * The shared face of both kinds of observers.
 *
 * A collect has three parts.  Prepare computes everything that can fail, into steps beside the observers: largest
 * magnitudes, new edges, counts to add.  Then nothing can fail any more and the steps are folded in.  So one tensor
 * reaches all observers of a group or none.
 *
 * `use` is taken for the length of a call that changes an observer, and by readers between freeze and thaw: two threads
 * on one observer are an error that is told, not undefined behaviour.
 */
#include "quant/observer.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "core/device.h"
#include "core/shape.h"
#include "quant/magnitude.h"
#include "quant/observer_histogram.h"
#include "quant/observer_max.h"

enum { USE_FREE = 0, USE_CHANGING, USE_FROZEN };

struct qb_observer {
    qb_device *device; /* retained; constant after create */
    qb_observer_options options;
    atomic_int references;
    atomic_int use; /* one of the three above */
    uint64_t revision;
    qb_max_statistics max;
    qb_histogram histogram;
    int is_journaled;
    qb_max_statistics kept_max; /* what `begin` saw */
    qb_histogram kept_histogram;
};

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

static qb_status
read_options(const qb_observer_options *options, qb_observer_options *copy, qb_error *error)
{
    if (options == NULL || options->struct_size < sizeof options->struct_size) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "options are missing or have no struct_size");
    }
    qb_observer_options o = {0};
    memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);
    o.struct_size = (uint32_t)sizeof o;
    if (o.kind != QB_OBSERVER_MAX && o.kind != QB_OBSERVER_HISTOGRAM) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "kind is %d, expected QB_OBSERVER_MAX or QB_OBSERVER_HISTOGRAM",
                       (int)o.kind);
    }
    if (o.axis_count < -1 || o.axis_count > QB_MAX_RANK) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "axis_count is %" PRId32 ", expected -1 .. %d", o.axis_count,
                       QB_MAX_RANK);
    }
    if (o.kind == QB_OBSERVER_MAX) {
        *copy = o;
        return QB_OK;
    }
    if (o.axis_count != -1) {
        return qb_fail(error, NULL, QB_ERR_UNSUPPORTED,
                       "Calibrator histogram collection only supports per tensor scaling");
    }
    if (o.num_bins < 1 || o.num_bins > QB_HISTOGRAM_BINS_MAX) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "num_bins is %" PRId64 ", expected 1 .. %" PRId64, o.num_bins,
                       QB_HISTOGRAM_BINS_MAX);
    }
    if (o.rule != QB_HISTOGRAM_FROM_ZERO && o.rule != QB_HISTOGRAM_FROM_MIN && o.rule != QB_HISTOGRAM_FIXED) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "rule is %d, expected a qb_histogram_rule", (int)o.rule);
    }
    if (o.rule == QB_HISTOGRAM_FIXED && !(o.fixed_max > 0.0f && isfinite(o.fixed_max))) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "fixed_max is %g, expected a finite range > 0", (double)o.fixed_max);
    }
    *copy = o;
    return QB_OK;
}

qb_status
qb_observer_create(qb_device *device, const qb_observer_options *options, qb_observer **observer, qb_error *error)
{
    qb_observer_options checked;
    QB_TRY(read_options(options, &checked, error));
    qb_observer *made = qb_heap_allocate_zero(&device->heap, sizeof *made);
    if (made == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for an observer");
    }
    made->device = qb_device_retain(device);
    made->options = checked;
    atomic_init(&made->references, 1);
    atomic_init(&made->use, USE_FREE);
    *observer = made;
    return QB_OK;
}

qb_observer *
qb_observer_retain(qb_observer *observer)
{
    if (observer != NULL) {
        atomic_fetch_add(&observer->references, 1);
    }
    return observer;
}

void
qb_observer_release(qb_observer *observer)
{
    if (observer == NULL || atomic_fetch_sub(&observer->references, 1) != 1) {
        return;
    }
    qb_device *device = observer->device;
    qb_max_clear(&observer->max, &device->heap);
    qb_max_clear(&observer->kept_max, &device->heap);
    qb_histogram_clear(&observer->histogram, &device->heap);
    qb_histogram_clear(&observer->kept_histogram, &device->heap);
    qb_heap_release(&device->heap, observer);
    qb_device_close(device);
}

static int
try_use(qb_observer *observer, int use)
{
    int expected = USE_FREE;
    return atomic_compare_exchange_strong(&observer->use, &expected, use);
}

static qb_status
enter(qb_observer *observer, const qb_run *run)
{
    if (!try_use(observer, USE_CHANGING)) {
        return qb_fail(run->error, run->path, QB_ERR_STATE, "the observer is in use by another thread");
    }
    return QB_OK;
}

static void
leave(qb_observer *observer)
{
    atomic_store(&observer->use, USE_FREE);
}

/* For the ends of a journal, which cannot fail: others hold an observer for the length of a copy or one collect. */
static void
enter_at_last(qb_observer *observer)
{
    while (!try_use(observer, USE_CHANGING)) {
    }
}

qb_status
qb_observer_freeze(qb_observer *observer, qb_error *error)
{
    if (!try_use(observer, USE_FROZEN)) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the observer is in use by another thread");
    }
    return QB_OK;
}

void
qb_observer_thaw(qb_observer *observer)
{
    leave(observer);
}

/* ---- collect ------------------------------------------------------------------------------------------------------
 */

/* What one tensor does to one observer. */
typedef struct observer_step {
    qb_observer *observer;
    int32_t times; /* how often it stands in the list */
    qb_max_step max;
    float largest;         /* magnitude in the tensor */
    qb_histogram next;     /* new edges; bins 0: they stay */
    const int64_t *counts; /* to add; NULL: nothing */
    int64_t *own_counts;   /* the same if this step counted them; owned */
} observer_step;

static const qb_histogram *
target_of(const observer_step *step)
{
    return step->next.bins > 0 ? &step->next : &step->observer->histogram;
}

static qb_status
prepare_histogram(observer_step *steps, int32_t at, const qb_run *run, const float *x, int64_t count, float largest)
{
    observer_step *step = &steps[at];
    const qb_observer *observer = step->observer;
    const qb_observer_options *options = &observer->options;
    float smallest = 0.0f;
    if (options->rule == QB_HISTOGRAM_FROM_MIN && observer->histogram.bins == 0) {
        smallest = qb_histogram_smallest(x, count, options->skip_zeros);
    }
    QB_TRY(qb_histogram_grow(&observer->histogram, options, run, largest, smallest, &step->next));
    const qb_histogram *target = target_of(step);
    if (target->bins == 0) {
        return QB_OK;
    }
    for (int32_t i = 0; i < at; i++) {
        if (steps[i].counts != NULL &&
            qb_histogram_counts_like(target_of(&steps[i]), &steps[i].observer->options, target, options)) {
            step->counts = steps[i].counts;
            return QB_OK;
        }
    }
    step->own_counts = qb_heap_allocate_zero(run->heap, (size_t)target->bins * sizeof *step->own_counts);
    if (step->own_counts == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory to count %" PRId64 " bins", target->bins);
    }
    step->counts = step->own_counts;
    return qb_histogram_count(target, options, run, x, count, step->own_counts);
}

static void
fold(observer_step *step, qb_heap *heap)
{
    qb_observer *observer = step->observer;
    observer->revision++;
    if (observer->options.kind == QB_OBSERVER_MAX) {
        qb_max_fold(&observer->max, &observer->options, heap, step->times, &step->max);
        return;
    }
    const float before = observer->histogram.largest;
    if (step->next.bins > 0) {
        qb_histogram_clear(&observer->histogram, heap);
        observer->histogram = step->next;
        step->next = (qb_histogram){0};
    }
    observer->histogram.largest = step->largest > before ? step->largest : before;
    for (int64_t i = 0; step->counts != NULL && i < observer->histogram.bins; i++) {
        observer->histogram.counts[i] += step->counts[i] * step->times;
    }
}

/* Steps of distinct observers; returns how many, or -1 if there are too many. */
static int32_t
list_steps(qb_observer *const *observers, int32_t count, observer_step steps[QB_OBSERVER_GROUP])
{
    int32_t distinct = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t at = 0;
        while (at < distinct && steps[at].observer != observers[i]) {
            at++;
        }
        if (at == distinct) {
            if (distinct == QB_OBSERVER_GROUP) {
                return -1;
            }
            steps[distinct++] = (observer_step){.observer = observers[i]};
        }
        steps[at].times++;
    }
    return distinct;
}

static qb_status
prepare_all(observer_step *steps, int32_t count, const qb_run *run, const float *x, int32_t rank, const int64_t *shape,
            int64_t elements)
{
    float largest = 0.0f;
    QB_TRY(qb_magnitude_largest(run, x, elements, &largest));
    if (!isfinite(largest)) {
        return qb_magnitude_fail_nonfinite(run, x, elements, "calibration");
    }
    for (int32_t i = 0; i < count; i++) {
        qb_observer *observer = steps[i].observer;
        steps[i].largest = largest;
        if (observer->options.kind == QB_OBSERVER_MAX) {
            QB_TRY(qb_max_prepare(&observer->max, &observer->options, run, x, rank, shape, largest, steps[i].times,
                                  &steps[i].max));
        }
        else {
            QB_TRY(prepare_histogram(steps, i, run, x, elements, largest));
        }
    }
    return QB_OK;
}

qb_status
qb_observer_collect_group(qb_observer *const *observers, int32_t count, const qb_run *run, const float *x, int32_t rank,
                          const int64_t *shape)
{
    observer_step steps[QB_OBSERVER_GROUP];
    int64_t elements = 0;
    if (rank < 0 || rank > QB_MAX_RANK || !qb_shape_elements(rank, shape, &elements)) {
        return qb_fail(run->error, run->path, QB_ERR_SHAPE, "x has no valid shape, expected 0 .. %d dimensions",
                       QB_MAX_RANK);
    }
    const int32_t distinct = list_steps(observers, count, steps);
    if (distinct < 0) {
        return qb_fail(run->error, run->path, QB_ERR_INTERNAL, "%" PRId32 " observers in one group, at most %d", count,
                       QB_OBSERVER_GROUP);
    }
    if (elements == 0) {
        return QB_OK;
    }
    qb_status status = QB_OK;
    int32_t entered = 0;
    while (status == QB_OK && entered < distinct) {
        status = enter(steps[entered].observer, run);
        entered += status == QB_OK;
    }
    if (status == QB_OK) {
        status = prepare_all(steps, distinct, run, x, rank, shape, elements);
    }
    for (int32_t i = 0; i < distinct && status == QB_OK; i++) {
        fold(&steps[i], run->heap);
    }
    for (int32_t i = 0; i < distinct; i++) {
        qb_max_step_release(&steps[i].max, run->heap);
        qb_histogram_clear(&steps[i].next, run->heap);
        qb_heap_release(run->heap, steps[i].own_counts);
    }
    for (int32_t i = 0; i < entered; i++) {
        leave(steps[i].observer);
    }
    return status;
}

qb_status
qb_observer_collect(qb_observer *observer, const qb_interrupt *interrupt, const float *x, int32_t rank,
                    const int64_t *shape, qb_error *error)
{
    const qb_run run = qb_device_run(observer->device, interrupt, error);
    return qb_observer_collect_group(&observer, 1, &run, x, rank, shape);
}

/* ---- journal ------------------------------------------------------------------------------------------------------
 */

static qb_status
remember(qb_observer *observer, const qb_run *run)
{
    if (observer->is_journaled) {
        return QB_OK;
    }
    if (observer->options.kind == QB_OBSERVER_MAX) {
        QB_TRY(qb_max_copy(&observer->max, &observer->kept_max, run));
    }
    else {
        QB_TRY(qb_histogram_copy(&observer->histogram, &observer->kept_histogram, run));
    }
    observer->is_journaled = 1;
    return QB_OK;
}

qb_status
qb_observer_begin(qb_observer *observer, const qb_run *run)
{
    if (observer == NULL) {
        return QB_OK;
    }
    QB_TRY(enter(observer, run));
    const qb_status status = remember(observer, run);
    leave(observer);
    return status;
}

/* End the journal.  Cannot fail, so it waits where another thread is in the middle of a collect.  The copy of a
 * histogram stays for the next `begin`, which will want one of the same size. */
static void
close_journal(qb_observer *observer, int puts_back)
{
    if (observer == NULL) {
        return;
    }
    enter_at_last(observer);
    if (observer->is_journaled) {
        if (puts_back) {
            const qb_max_statistics max = observer->max;
            const qb_histogram histogram = observer->histogram;
            observer->max = observer->kept_max;
            observer->kept_max = max;
            observer->histogram = observer->kept_histogram;
            observer->kept_histogram = histogram;
            observer->revision++;
        }
        qb_max_clear(&observer->kept_max, &observer->device->heap);
        observer->is_journaled = 0;
    }
    leave(observer);
}

void
qb_observer_commit(qb_observer *observer)
{
    close_journal(observer, 0);
}

void
qb_observer_rollback(qb_observer *observer)
{
    close_journal(observer, 1);
}

int
qb_observer_is_idempotent(const qb_observer *observer)
{
    return observer->options.kind == QB_OBSERVER_MAX && !observer->options.track_amax;
}

uint64_t
qb_observer_revision(const qb_observer *observer)
{
    return observer->revision;
}

/* ---- contents -----------------------------------------------------------------------------------------------------
 */

qb_status
qb_observer_reset(qb_observer *observer)
{
    const qb_run run = qb_device_run(observer->device, NULL, NULL);
    QB_TRY(enter(observer, &run));
    qb_max_clear(&observer->max, run.heap);
    qb_histogram_clear(&observer->histogram, run.heap);
    observer->revision++;
    leave(observer);
    return QB_OK;
}

static qb_status
merge_histogram(qb_observer *observer, const qb_observer *other, const qb_run *run)
{
    const qb_histogram *theirs = &other->histogram;
    qb_histogram *ours = &observer->histogram;
    if (theirs->bins == 0) {
        return QB_OK;
    }
    if (ours->bins == 0) {
        return qb_histogram_copy(theirs, ours, run);
    }
    if (ours->bins != theirs->bins ||
        memcmp(ours->fine, theirs->fine, (size_t)(ours->bins + 1) * sizeof *ours->fine) != 0) {
        return qb_fail(run->error, run->path, QB_ERR_STATE,
                       "the histograms have different edges: %" PRId64 " bins up to %g and %" PRId64
                       " up to %g; use QB_HISTOGRAM_FIXED to count apart and merge",
                       ours->bins, ours->fine[ours->bins], theirs->bins, theirs->fine[theirs->bins]);
    }
    for (int64_t i = 0; i < ours->bins; i++) {
        ours->counts[i] += theirs->counts[i];
    }
    ours->largest = theirs->largest > ours->largest ? theirs->largest : ours->largest;
    return QB_OK;
}

qb_status
qb_observer_merge(qb_observer *observer, const qb_observer *other, qb_error *error)
{
    const qb_run run = qb_device_run(observer->device, NULL, error);
    if (observer == other || observer->options.kind != other->options.kind) {
        return qb_fail(error, NULL, QB_ERR_STATE, "other is %s",
                       observer == other ? "the observer itself" : "an observer of another kind");
    }
    QB_TRY(enter(observer, &run));
    const qb_status status = observer->options.kind == QB_OBSERVER_MAX
                                 ? qb_max_merge(&observer->max, &other->max, observer->options.track_amax != 0, &run)
                                 : merge_histogram(observer, other, &run);
    observer->revision++;
    leave(observer);
    return status;
}

int
qb_observer_has_data(const qb_observer *observer)
{
    return observer->max.amax != NULL || observer->histogram.bins > 0;
}

static qb_status
check_readable(const qb_observer *observer, qb_observer_kind kind, qb_error *error)
{
    if (observer->options.kind != kind) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the observer keeps %s",
                       kind == QB_OBSERVER_MAX ? "a histogram, not largest magnitudes"
                                               : "largest magnitudes, not a histogram");
    }
    if (atomic_load(&observer->use) == USE_CHANGING) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the observer is in use by another thread");
    }
    if (!qb_observer_has_data(observer)) {
        return qb_fail(error, NULL, QB_ERR_STATE, "no data were collected yet");
    }
    return QB_OK;
}

qb_status
qb_observer_amax(const qb_observer *observer, const float **values, int32_t *rank, const int64_t **shape,
                 qb_error *error)
{
    QB_TRY(check_readable(observer, observer->options.kind, error));
    if (observer->options.kind == QB_OBSERVER_HISTOGRAM) {
        *values = &observer->histogram.largest;
        *rank = 0;
        *shape = observer->max.shape;
        return QB_OK;
    }
    *values = observer->max.amax;
    *rank = observer->max.rank;
    *shape = observer->max.shape;
    return QB_OK;
}

int64_t
qb_observer_tracked_count(const qb_observer *observer)
{
    return observer->max.tracked_count;
}

const float *
qb_observer_tracked(const qb_observer *observer, int64_t index)
{
    if (index < 0 || index >= observer->max.tracked_count) {
        return NULL;
    }
    return observer->max.tracked + index * observer->max.count;
}

qb_status
qb_observer_histogram(const qb_observer *observer, const int64_t **counts, const float **edges, int64_t *bins,
                      qb_error *error)
{
    QB_TRY(check_readable(observer, QB_OBSERVER_HISTOGRAM, error));
    *counts = observer->histogram.counts;
    *edges = observer->histogram.edges;
    *bins = observer->histogram.bins;
    return QB_OK;
}

static qb_status
check_contents(const qb_observer_options *options, const int64_t *counts, const float *edges, int64_t bins,
               qb_error *error)
{
    if (counts == NULL || edges == NULL || bins < 1 || bins > QB_HISTOGRAM_BINS_MAX) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "expected counts, edges and 1 .. %" PRId64 " bins, got %" PRId64 " bins", QB_HISTOGRAM_BINS_MAX,
                       bins);
    }
    /* A range of one value, or one whose bins are narrower than float can tell (observer_histogram.c). */
    const int may_repeat = (edges[bins] - edges[0]) / (float)bins < FLT_MIN;
    for (int64_t i = 0; i <= bins; i++) {
        const int rises = i == 0 || edges[i] > edges[i - 1] || (may_repeat && edges[i] == edges[i - 1]);
        if (!isfinite(edges[i]) || !rises) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "edges[%" PRId64 "] is %g, expected finite increasing edges", i,
                           (double)edges[i]);
        }
    }
    for (int64_t i = 0; i < bins; i++) {
        if (counts[i] < 0) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "counts[%" PRId64 "] is %" PRId64 ", expected counts >= 0", i,
                           counts[i]);
        }
    }
    if (options->rule != QB_HISTOGRAM_FROM_MIN && edges[0] != 0.0f) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "edges[0] is %g, expected 0 for this histogram rule",
                       (double)edges[0]);
    }
    if (options->rule == QB_HISTOGRAM_FIXED && (bins != options->num_bins || edges[bins] != options->fixed_max)) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "%" PRId64 " bins up to %g, expected the fixed %" PRId64 " up to %g",
                       bins, (double)edges[bins], options->num_bins, (double)options->fixed_max);
    }
    return QB_OK;
}

qb_status
qb_observer_set_histogram(qb_observer *observer, const int64_t *counts, const float *edges, int64_t bins,
                          qb_error *error)
{
    const qb_run run = qb_device_run(observer->device, NULL, error);
    if (observer->options.kind != QB_OBSERVER_HISTOGRAM) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the observer keeps largest magnitudes, not a histogram");
    }
    QB_TRY(check_contents(&observer->options, counts, edges, bins, error));
    qb_histogram made = {0};
    QB_TRY(qb_histogram_allocate(bins, &run, &made));
    memcpy(made.counts, counts, (size_t)bins * sizeof *counts);
    memcpy(made.edges, edges, (size_t)(bins + 1) * sizeof *edges);
    for (int64_t i = 0; i <= bins; i++) {
        made.fine[i] = (double)edges[i];
    }
    made.largest = edges[bins];
    const qb_status status = enter(observer, &run);
    if (status != QB_OK) {
        qb_histogram_clear(&made, run.heap);
        return status;
    }
    qb_histogram_clear(&observer->histogram, run.heap);
    observer->histogram = made;
    observer->revision++;
    leave(observer);
    return QB_OK;
}

const double *
qb_observer_fine_edges(const qb_observer *observer)
{
    return observer->histogram.is_appended ? observer->histogram.fine : NULL;
}

static qb_status
set_fine_edges(qb_observer *observer, const double *edges, int64_t bins, qb_error *error)
{
    qb_histogram *histogram = &observer->histogram;
    if (observer->options.rule != QB_HISTOGRAM_FROM_MIN || histogram->bins == 0) {
        return qb_fail(error, NULL, QB_ERR_STATE, "only a histogram of QB_HISTOGRAM_FROM_MIN has finer edges");
    }
    if (edges == NULL || bins != histogram->bins) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "expected edges of %" PRId64 " bins, got %" PRId64, histogram->bins,
                       edges == NULL ? 0 : bins);
    }
    for (int64_t i = 0; i <= bins; i++) {
        if (!((float)edges[i] == histogram->edges[i]) || (i > 0 && edges[i] < edges[i - 1])) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "edges[%" PRId64 "] is %.17g, expected one that rounds to %.9g",
                           i, edges[i], (double)histogram->edges[i]);
        }
    }
    memcpy(histogram->fine, edges, (size_t)(bins + 1) * sizeof *edges);
    histogram->is_appended = 1;
    observer->revision++;
    return QB_OK;
}

qb_status
qb_observer_set_fine_edges(qb_observer *observer, const double *edges, int64_t bins, qb_error *error)
{
    const qb_run run = qb_device_run(observer->device, NULL, error);
    if (observer->options.kind != QB_OBSERVER_HISTOGRAM) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the observer keeps largest magnitudes, not a histogram");
    }
    QB_TRY(enter(observer, &run));
    const qb_status status = set_fine_edges(observer, edges, bins, error);
    leave(observer);
    return status;
}

static qb_status
set_largest(qb_histogram *histogram, const float *values, int32_t rank, qb_error *error)
{
    if (histogram->bins == 0) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the histogram is empty: set its counts and edges first");
    }
    if (values == NULL || rank != 0 || !(*values >= 0.0f && *values <= histogram->edges[histogram->bins])) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "expected one magnitude up to the last edge, %g",
                       (double)histogram->edges[histogram->bins]);
    }
    histogram->largest = *values;
    return QB_OK;
}

qb_status
qb_observer_set_amax(qb_observer *observer, const float *values, int32_t rank, const int64_t *shape, qb_error *error)
{
    const qb_run run = qb_device_run(observer->device, NULL, error);
    QB_TRY(enter(observer, &run));
    const qb_status status = observer->options.kind == QB_OBSERVER_MAX
                                 ? qb_max_set(&observer->max, values, rank, shape, &run)
                                 : set_largest(&observer->histogram, values, rank, error);
    observer->revision++;
    leave(observer);
    return status;
}
