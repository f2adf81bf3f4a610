/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/loss.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/device.h"
#include "layers/scratch.h"

/* ---- rows of logits ---------------------------------------------------------------------------------------------- */

/* Elements below which a second thread costs more than it saves. */
#define GRAIN 16384

/* What one row adds to the sum; kept, so that rows may be computed in any order and added in theirs. */
typedef struct row_loss {
    int64_t label; /* -1: the row does not count */
    double value;
} row_loss;

typedef struct rows_job {
    const qb_kernels *kernels;
    const float *logits, *teacher; /* (rows, classes); teacher is qb_kl_divergence's */
    int64_t classes;
    double label_smoothing, temperature;
    row_loss *rows; /* (rows), of the losses */
    float factor;   /* of the gradients, divided by the rows that count */
    float *dlogits; /* (rows, classes), of the gradients; may be logits */
    qb_scratch row; /* (classes), of qb_kl_divergence_grad */
    int64_t counted;
} rows_job;

static int64_t
rows_of_a_chunk(int64_t classes)
{
    return classes < GRAIN ? GRAIN / classes : 1;
}

static double
largest_of(const float *x, int64_t classes)
{
    double largest = (double)x[0];
    for (int64_t c = 1; c < classes; c++) {
        largest = (double)x[c] > largest ? (double)x[c] : largest;
    }
    return largest;
}

/* log(sum exp((x - largest) / temperature)): shifted, so that exp does not overflow. */
static double
log_sum_exp(const float *x, int64_t classes, double largest, double temperature)
{
    double sum = 0.0;
    for (int64_t c = 0; c < classes; c++) {
        sum += exp(((double)x[c] - largest) / temperature);
    }
    return log(sum);
}

static qb_status
check_logits(int64_t rows, int64_t classes, qb_error *error)
{
    if (rows >= 0 && classes >= 1) {
        return QB_OK;
    }
    return qb_fail(error, NULL, QB_ERR_SHAPE, "logits are (%" PRId64 ", %" PRId64 "), expected at least one class",
                   rows, classes);
}

static qb_status
check_smoothing(double label_smoothing, qb_error *error)
{
    return label_smoothing >= 0.0 && label_smoothing <= 1.0
               ? QB_OK
               : qb_fail(error, NULL, QB_ERR_VALUE, "label_smoothing is %g, expected 0 .. 1", label_smoothing);
}

static qb_status
check_temperature(double temperature, qb_error *error)
{
    return temperature > 0.0 && temperature < (double)INFINITY
               ? QB_OK
               : qb_fail(error, NULL, QB_ERR_VALUE, "temperature is %g, expected a finite number above 0", temperature);
}

/* Room for one row_loss for each row.  Labels are taken once: a thread of the caller's may write into the array between
 * a check and a second look.  counts: labels are only asked whether they are ignore_index. */
static qb_status
take_labels(qb_device *device, const int64_t *labels, int64_t rows, int64_t classes, int64_t ignore_index, int counts,
            row_loss **taken, int64_t *counted, qb_error *error)
{
    row_loss *made = qb_heap_allocate(&device->heap, (size_t)(rows + 1) * sizeof *made);
    if (made == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for the losses of %" PRId64 " rows", rows);
    }
    *counted = 0;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t label = labels == NULL ? 0 : labels[i];
        const int is_ignored = labels != NULL && label == ignore_index;
        if (!is_ignored && !counts && (label < 0 || label >= classes)) {
            qb_heap_release(&device->heap, made);
            return qb_fail(error, NULL, QB_ERR_INDEX,
                           "labels[%" PRId64 "] is %" PRId64 ", expected 0 .. %" PRId64 " or the ignored %" PRId64, i,
                           label, classes - 1, ignore_index);
        }
        made[i] = (row_loss){.label = is_ignored ? -1 : counts ? 0 : label};
        *counted += !is_ignored;
    }
    *taken = made;
    return QB_OK;
}

static float
mean_of(const row_loss *rows, int64_t count, int64_t counted)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        sum += rows[i].label < 0 ? 0.0 : rows[i].value;
    }
    return counted == 0 ? NAN : (float)(sum / (double)counted);
}

/* ---- cross-entropy ----------------------------------------------------------------------------------------------- */

/* -sum t log p, where t is 1 - s at the label, and s / classes is added everywhere. */
static void
cross_entropy_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const rows_job *job = argument;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        row_loss *row = &job->rows[i];
        if (row->label < 0) {
            continue;
        }
        const float *x = job->logits + i * job->classes;
        const double largest = largest_of(x, job->classes);
        const double log_sum = log_sum_exp(x, job->classes, largest, 1.0);
        row->value = log_sum - ((double)x[row->label] - largest);
        if (job->label_smoothing > 0.0) {
            double sum = 0.0;
            for (int64_t c = 0; c < job->classes; c++) {
                sum += (double)x[c] - largest;
            }
            const double even = log_sum - sum / (double)job->classes;
            row->value = (1.0 - job->label_smoothing) * row->value + job->label_smoothing * even;
        }
    }
}

qb_status
qb_cross_entropy(qb_device *device, const float *logits, int64_t rows, int64_t classes, const int64_t *labels,
                 int64_t ignore_index, double label_smoothing, float *loss, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    rows_job job = {.logits = logits, .classes = classes, .label_smoothing = label_smoothing};
    QB_TRY(check_logits(rows, classes, error));
    QB_TRY(check_smoothing(label_smoothing, error));
    QB_TRY(take_labels(device, labels, rows, classes, ignore_index, 0, &job.rows, &job.counted, error));
    (void)qb_run_parallel(&run, rows, rows_of_a_chunk(classes), cross_entropy_rows, &job);
    *loss = mean_of(job.rows, rows, job.counted);
    qb_heap_release(&device->heap, job.rows);
    return QB_OK;
}

/* dx = factor (softmax(x) - t) */
static void
cross_entropy_grad_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const rows_job *job = argument;
    const size_t bytes = (size_t)job->classes * sizeof(float);
    const float even = (float)(job->label_smoothing / (double)job->classes);
    const float at_label = (float)(1.0 - job->label_smoothing);
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const int64_t label = job->rows[i].label;
        float *d = job->dlogits + i * job->classes;
        if (label < 0 && job->counted > 0) {
            memset(d, 0, bytes);
            continue;
        }
        memmove(d, job->logits + i * job->classes, bytes);
        job->kernels->softmax_f32(d, 1, (size_t)job->classes, (size_t)job->classes, NULL);
        d[label < 0 ? 0 : label] -= at_label;
        for (int64_t c = 0; c < job->classes; c++) {
            d[c] = (d[c] - even) * job->factor;
        }
    }
}

qb_status
qb_cross_entropy_grad(qb_device *device, const float *logits, int64_t rows, int64_t classes, const int64_t *labels,
                      int64_t ignore_index, double label_smoothing, float factor, float *dlogits, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    rows_job job = {.kernels = run.kernels,
                    .logits = logits,
                    .classes = classes,
                    .label_smoothing = label_smoothing,
                    .dlogits = dlogits};
    QB_TRY(check_logits(rows, classes, error));
    QB_TRY(check_smoothing(label_smoothing, error));
    QB_TRY(take_labels(device, labels, rows, classes, ignore_index, 0, &job.rows, &job.counted, error));
    job.factor = job.counted == 0 ? NAN : (float)((double)factor / (double)job.counted);
    (void)qb_run_parallel(&run, rows, rows_of_a_chunk(classes), cross_entropy_grad_rows, &job);
    qb_heap_release(&device->heap, job.rows);
    return QB_OK;
}

/* ---- divergence from a teacher ----------------------------------------------------------------------------------- */

/* sum q (log q - log p) */
static void
divergence_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const rows_job *job = argument;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        if (job->rows[i].label < 0) {
            continue;
        }
        const float *x = job->logits + i * job->classes;
        const float *y = job->teacher + i * job->classes;
        const double t = job->temperature;
        const double largest_x = largest_of(x, job->classes);
        const double largest_y = largest_of(y, job->classes);
        const double log_sum_x = log_sum_exp(x, job->classes, largest_x, t);
        const double log_sum_y = log_sum_exp(y, job->classes, largest_y, t);
        double sum = 0.0;
        for (int64_t c = 0; c < job->classes; c++) {
            const double log_q = ((double)y[c] - largest_y) / t - log_sum_y;
            const double log_p = ((double)x[c] - largest_x) / t - log_sum_x;
            const double q = exp(log_q);
            sum += q > 0.0 ? q * (log_q - log_p) : q;
        }
        job->rows[i].value = sum;
    }
}

qb_status
qb_kl_divergence(qb_device *device, const float *logits, const float *teacher, int64_t rows, int64_t classes,
                 const int64_t *labels, int64_t ignore_index, double temperature, float *loss, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    rows_job job = {.logits = logits, .teacher = teacher, .classes = classes, .temperature = temperature};
    QB_TRY(check_logits(rows, classes, error));
    QB_TRY(check_temperature(temperature, error));
    QB_TRY(take_labels(device, labels, rows, classes, ignore_index, 1, &job.rows, &job.counted, error));
    (void)qb_run_parallel(&run, rows, rows_of_a_chunk(classes), divergence_rows, &job);
    *loss = mean_of(job.rows, rows, job.counted);
    qb_heap_release(&device->heap, job.rows);
    return QB_OK;
}

/* dx = factor (softmax(x / t) - softmax(y / t)), factor divided by t already */
static void
divergence_grad_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    rows_job *job = argument;
    const size_t n = (size_t)job->classes;
    const float cold = (float)(1.0 / job->temperature);
    const int32_t slot = qb_scratch_claim(&job->row, worker);
    float *q = (float *)qb_scratch_arena(&job->row, slot).base;
    for (int64_t i = begin; i < end; i++) {
        float *d = job->dlogits + i * job->classes;
        if (job->rows[i].label < 0 && job->counted > 0) {
            memset(d, 0, n * sizeof *d);
            continue;
        }
        job->kernels->scale_f32(job->teacher + i * job->classes, cold, n, q);
        job->kernels->softmax_f32(q, 1, n, n, NULL);
        job->kernels->scale_f32(job->logits + i * job->classes, cold, n, d);
        job->kernels->softmax_f32(d, 1, n, n, NULL);
        for (int64_t c = 0; c < job->classes; c++) {
            d[c] = (d[c] - q[c]) * job->factor;
        }
    }
    qb_scratch_release(&job->row, slot);
}

/* The memory of all scratch, to be released by the caller; NULL: there is none. */
static void *
make_scratch(qb_device *device, rows_job *job)
{
    const int32_t threads = qb_queue_threads(device->queue);
    const size_t row_bytes = (size_t)job->classes * sizeof(float);
    qb_arena arena = qb_arena_measuring();
    qb_scratch_plan(&job->row, &arena, threads, row_bytes);
    const size_t bytes = arena.used;
    void *memory = qb_arena_ok(&arena) ? qb_heap_allocate(&device->heap, bytes) : NULL;
    if (memory != NULL) {
        arena = qb_arena_bind(memory, bytes);
        qb_scratch_plan(&job->row, &arena, threads, row_bytes);
        qb_scratch_reset(&job->row);
    }
    return memory;
}

qb_status
qb_kl_divergence_grad(qb_device *device, const float *logits, const float *teacher, int64_t rows, int64_t classes,
                      const int64_t *labels, int64_t ignore_index, double temperature, float factor, float *dlogits,
                      qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    rows_job job = {.kernels = run.kernels,
                    .logits = logits,
                    .teacher = teacher,
                    .classes = classes,
                    .temperature = temperature,
                    .dlogits = dlogits};
    QB_TRY(check_logits(rows, classes, error));
    QB_TRY(check_temperature(temperature, error));
    QB_TRY(take_labels(device, labels, rows, classes, ignore_index, 1, &job.rows, &job.counted, error));
    void *scratch = make_scratch(device, &job);
    if (scratch == NULL) {
        qb_heap_release(&device->heap, job.rows);
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for rows of %" PRId64 " classes", classes);
    }
    job.factor = job.counted == 0 ? NAN : (float)((double)factor / temperature / (double)job.counted);
    (void)qb_run_parallel(&run, rows, rows_of_a_chunk(classes), divergence_grad_rows, &job);
    qb_heap_release(&device->heap, scratch);
    qb_heap_release(&device->heap, job.rows);
    return QB_OK;
}

/* ---- elements ---------------------------------------------------------------------------------------------------- */

static qb_status
check_count(int64_t count, qb_error *error)
{
    return count >= 0 ? QB_OK : qb_fail(error, NULL, QB_ERR_SHAPE, "count is %" PRId64 ", expected 0 or more", count);
}

qb_status
qb_mean_squared_error(const float *x, const float *y, int64_t count, float *loss, qb_error *error)
{
    QB_TRY(check_count(count, error));
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double d = (double)x[i] - (double)y[i];
        sum += d * d;
    }
    *loss = count == 0 ? NAN : (float)(sum / (double)count);
    return QB_OK;
}

qb_status
qb_binary_cross_entropy(const float *logits, const float *labels, int64_t count, float *loss, qb_error *error)
{
    QB_TRY(check_count(count, error));
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        /* -(z log s(x) + (1 - z) log(1 - s(x))) = max(x, 0) - x z + log(1 + exp(-|x|)), which cannot overflow. */
        const double x = (double)logits[i];
        sum += (x > 0.0 ? x : 0.0) - x * (double)labels[i] + log1p(exp(-fabs(x)));
    }
    *loss = count == 0 ? NAN : (float)(sum / (double)count);
    return QB_OK;
}

qb_status
qb_mean_squared_error_grad(const float *x, const float *y, int64_t count, float factor, float *dx, qb_error *error)
{
    QB_TRY(check_count(count, error));
    for (int64_t i = 0; i < count; i++) {
        dx[i] = (float)(2.0 * (double)factor * ((double)x[i] - (double)y[i]) / (double)count);
    }
    return QB_OK;
}

qb_status
qb_binary_cross_entropy_grad(const float *logits, const float *labels, int64_t count, float factor, float *dlogits,
                             qb_error *error)
{
    QB_TRY(check_count(count, error));
    for (int64_t i = 0; i < count; i++) {
        const double x = (double)logits[i];
        const double p = x >= 0.0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
        dlogits[i] = (float)((double)factor * (p - (double)labels[i]) / (double)count);
    }
    return QB_OK;
}
