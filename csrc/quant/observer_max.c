/* SPDX-License-Identifier: Apache-2.0
 *
 * See observer_max.h.
 */
#include "quant/observer_max.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/shape.h"
#include "quant/magnitude.h"
#include "quant/quant_spec.h"

static float *
allocate_floats(qb_heap *heap, int64_t rows, int64_t columns)
{
    size_t count = 0;
    size_t bytes = 0;
    if (!qb_size_multiply((size_t)rows, (size_t)columns, &count) || !qb_size_multiply(count, sizeof(float), &bytes)) {
        return NULL;
    }
    return qb_heap_allocate(heap, bytes);
}

static qb_status
fail_memory(const qb_run *run, int64_t count)
{
    return qb_fail(run->error, run->path, QB_ERR_NOMEM, "no memory for %" PRId64 " largest magnitudes", count);
}

/* Room for `more` rows in the list. */
static qb_status
reserve_tracked(qb_max_statistics *statistics, int64_t count, int64_t more, const qb_run *run)
{
    const int64_t wanted = statistics->tracked_count + more;
    if (wanted <= statistics->tracked_capacity) {
        return QB_OK;
    }
    const int64_t capacity = wanted > 2 * statistics->tracked_capacity ? wanted : 2 * statistics->tracked_capacity;
    float *tracked = allocate_floats(run->heap, capacity, count);
    if (tracked == NULL) {
        return fail_memory(run, capacity * count);
    }
    if (statistics->tracked_count > 0) {
        memcpy(tracked, statistics->tracked, (size_t)(statistics->tracked_count * count) * sizeof *tracked);
    }
    qb_heap_release(run->heap, statistics->tracked);
    statistics->tracked = tracked;
    statistics->tracked_capacity = capacity;
    return QB_OK;
}

static qb_status
check_shape(const qb_max_statistics *statistics, int32_t rank, const int64_t *shape, const qb_run *run)
{
    if (statistics->amax == NULL || qb_shape_equal(statistics->rank, statistics->shape, rank, shape)) {
        return QB_OK;
    }
    char before[QB_SHAPE_TEXT_BYTES];
    char now[QB_SHAPE_TEXT_BYTES];
    return qb_fail(run->error, run->path, QB_ERR_SHAPE, "amax shape changed! It was %s, this tensor gives %s",
                   qb_shape_text(statistics->rank, statistics->shape, before, sizeof before),
                   qb_shape_text(rank, shape, now, sizeof now));
}

qb_status
qb_max_prepare(qb_max_statistics *statistics, const qb_observer_options *options, const qb_run *run, const float *x,
               int32_t rank, const int64_t *shape, float largest, int32_t times, qb_max_step *step)
{
    int kept[QB_MAX_RANK];
    *step = (qb_max_step){0};
    qb_quant_spec_kept(options->axis_count, options->axes, rank, kept);
    step->count = qb_magnitude_shape(rank, shape, kept, step->shape);
    step->rank = step->count == 1 ? 0 : rank;
    QB_TRY(check_shape(statistics, step->rank, step->shape, run));
    if (options->track_amax) {
        QB_TRY(reserve_tracked(statistics, step->count, times, run));
    }
    step->amax = allocate_floats(run->heap, 1, step->count);
    if (step->amax == NULL) {
        return fail_memory(run, step->count);
    }
    if (step->count == 1) {
        step->amax[0] = largest;
        return QB_OK;
    }
    const qb_status status = qb_magnitude_per_axis(run, x, rank, shape, kept, step->amax);
    if (status != QB_OK) {
        qb_max_step_release(step, run->heap);
    }
    return status;
}

void
qb_max_fold(qb_max_statistics *statistics, const qb_observer_options *options, qb_heap *heap, int32_t times,
            qb_max_step *step)
{
    for (int32_t t = 0; options->track_amax && t < times; t++) {
        memcpy(statistics->tracked + statistics->tracked_count * step->count, step->amax,
               (size_t)step->count * sizeof *step->amax);
        statistics->tracked_count++;
    }
    if (statistics->amax == NULL) {
        statistics->amax = step->amax;
        statistics->count = step->count;
        statistics->rank = step->rank;
        memcpy(statistics->shape, step->shape, sizeof statistics->shape);
        step->amax = NULL;
        return;
    }
    for (int64_t i = 0; i < step->count; i++) {
        if (step->amax[i] > statistics->amax[i]) {
            statistics->amax[i] = step->amax[i];
        }
    }
    qb_max_step_release(step, heap);
}

void
qb_max_step_release(qb_max_step *step, qb_heap *heap)
{
    qb_heap_release(heap, step->amax);
    step->amax = NULL;
}

qb_status
qb_max_merge(qb_max_statistics *statistics, const qb_max_statistics *other, int tracks, const qb_run *run)
{
    if (other->amax == NULL) {
        return QB_OK;
    }
    if (statistics->amax != NULL && !qb_shape_equal(statistics->rank, statistics->shape, other->rank, other->shape)) {
        return qb_fail(run->error, run->path, QB_ERR_STATE,
                       "the two observers keep largest magnitudes of different shapes");
    }
    const int64_t rows = tracks ? other->tracked_count : 0;
    QB_TRY(reserve_tracked(statistics, other->count, rows, run));
    if (statistics->amax == NULL) {
        float *amax = allocate_floats(run->heap, 1, other->count);
        if (amax == NULL) {
            return fail_memory(run, other->count);
        }
        memcpy(amax, other->amax, (size_t)other->count * sizeof *amax);
        statistics->amax = amax;
        statistics->count = other->count;
        statistics->rank = other->rank;
        memcpy(statistics->shape, other->shape, sizeof statistics->shape);
    }
    for (int64_t i = 0; i < other->count; i++) {
        if (other->amax[i] > statistics->amax[i]) {
            statistics->amax[i] = other->amax[i];
        }
    }
    if (rows > 0) {
        memcpy(statistics->tracked + statistics->tracked_count * other->count, other->tracked,
               (size_t)(rows * other->count) * sizeof *other->tracked);
        statistics->tracked_count += rows;
    }
    return QB_OK;
}

qb_status
qb_max_set(qb_max_statistics *statistics, const float *values, int32_t rank, const int64_t *shape, const qb_run *run)
{
    int64_t count = 0;
    if (values == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_VALUE, "values is NULL, expected largest magnitudes");
    }
    if (rank < 0 || rank > QB_MAX_RANK || !qb_shape_elements(rank, shape, &count) || count < 1) {
        return qb_fail(run->error, run->path, QB_ERR_SHAPE, "values have no valid shape, expected 0 .. %d dimensions",
                       QB_MAX_RANK);
    }
    for (int64_t i = 0; i < count; i++) {
        if (!(values[i] >= 0.0f) || isinf(values[i])) {
            return qb_fail(run->error, run->path, QB_ERR_VALUE,
                           "values element %" PRId64 " is %g, expected finite magnitudes >= 0", i, (double)values[i]);
        }
    }
    float *amax = allocate_floats(run->heap, 1, count);
    if (amax == NULL) {
        return fail_memory(run, count);
    }
    memcpy(amax, values, (size_t)count * sizeof *amax);
    qb_max_clear(statistics, run->heap);
    statistics->amax = amax;
    statistics->count = count;
    statistics->rank = count == 1 ? 0 : rank;
    for (int32_t d = 0; d < rank; d++) {
        statistics->shape[d] = shape[d];
    }
    return QB_OK;
}

qb_status
qb_max_copy(const qb_max_statistics *statistics, qb_max_statistics *copy, const qb_run *run)
{
    qb_max_statistics made = *statistics;
    made.amax = NULL;
    made.tracked = NULL;
    made.tracked_capacity = statistics->tracked_count;
    if (statistics->amax != NULL) {
        made.amax = allocate_floats(run->heap, 1, statistics->count);
        if (made.amax == NULL) {
            return fail_memory(run, statistics->count);
        }
        memcpy(made.amax, statistics->amax, (size_t)statistics->count * sizeof *made.amax);
    }
    if (statistics->tracked_count > 0) {
        made.tracked = allocate_floats(run->heap, statistics->tracked_count, statistics->count);
        if (made.tracked == NULL) {
            qb_heap_release(run->heap, made.amax);
            return fail_memory(run, statistics->tracked_count * statistics->count);
        }
        memcpy(made.tracked, statistics->tracked,
               (size_t)(statistics->tracked_count * statistics->count) * sizeof *made.tracked);
    }
    *copy = made;
    return QB_OK;
}

void
qb_max_clear(qb_max_statistics *statistics, qb_heap *heap)
{
    qb_heap_release(heap, statistics->amax);
    qb_heap_release(heap, statistics->tracked);
    *statistics = (qb_max_statistics){0};
}
