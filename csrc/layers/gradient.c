/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/gradient.h"

#include <string.h>

#include "core/shape.h"

/* Elements that one chunk of an elementwise region takes, and columns that one takes down all rows: a cache line of a
 * row is one thread's. */
#define GRAIN 16384
#define COLUMNS 64

/* Of a cache line. */
#define LINE_FLOATS 16

void
qb_gradient_need(size_t *most, size_t count, size_t size, int *overflowed)
{
    size_t needed = 0;
    if (!qb_size_multiply(count, size, &needed)) {
        *overflowed = 1;
        return;
    }
    *most = needed > *most ? needed : *most;
}

void
qb_gradient_plan(const qb_gradient_sizes *sizes, qb_gradient_work *work, qb_arena *arena, qb_scratch *scratch)
{
    arena->failed |= sizes->overflowed;
    *work = (qb_gradient_work){.scratch = scratch};
    work->values = qb_arena_take(arena, (int64_t)sizes->values, sizeof *work->values);
    work->transposed = qb_arena_take(arena, (int64_t)sizes->transposed, sizeof *work->transposed);
    work->matrix = qb_arena_take(arena, (int64_t)sizes->matrix, sizeof *work->matrix);
    work->packed = qb_arena_take(arena, (int64_t)sizes->packed, 1);
    work->sums = qb_arena_take(arena, (int64_t)sizes->sums, sizeof *work->sums);
    work->dsums = qb_arena_take(arena, (int64_t)sizes->dsums, sizeof *work->dsums);
    work->mean = qb_arena_take(arena, (int64_t)sizes->rows, sizeof *work->mean);
    work->rstd = qb_arena_take(arena, (int64_t)sizes->rows, sizeof *work->rstd);
}

typedef struct matrix_job {
    const qb_kernels *kernels;
    const float *x;
    const float *b; /* what is added to x */
    int64_t rows, width, columns;
    float *y;
} matrix_job;

static void
add_range(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const matrix_job *job = argument;
    (void)worker;
    job->kernels->add_f32(job->x + begin, job->b + begin, (size_t)(end - begin), job->y + begin);
}

qb_status
qb_gradient_sum(const qb_run *run, const float *a, const float *b, int64_t count, float *y)
{
    matrix_job job = {.kernels = run->kernels, .x = a, .b = b, .y = y};
    return qb_run_parallel(run, count, GRAIN, add_range, &job);
}

qb_status
qb_gradient_add(const qb_run *run, const float *x, int64_t count, float *y)
{
    return qb_gradient_sum(run, y, x, count, y);
}

static void
copy_range(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const matrix_job *job = argument;
    (void)worker;
    memcpy(job->y + begin, job->x + begin, (size_t)(end - begin) * sizeof *job->y);
}

qb_status
qb_gradient_copy(const qb_run *run, const float *x, int64_t count, float *y)
{
    matrix_job job = {.kernels = run->kernels, .x = x, .y = y};
    return qb_run_parallel(run, count, GRAIN, copy_range, &job);
}

static void
sum_columns(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const matrix_job *job = argument;
    const int64_t first = begin * COLUMNS;
    const int64_t last = end * COLUMNS < job->columns ? end * COLUMNS : job->columns;
    (void)worker;
    job->kernels->sum_columns_f32(job->x + first, (size_t)job->rows, (size_t)(last - first), (size_t)job->width,
                                  job->y + first);
}

qb_status
qb_gradient_sum_rows(const qb_run *run, const float *x, int64_t rows, int64_t columns, float *sums)
{
    matrix_job job = {.kernels = run->kernels, .x = x, .rows = rows, .width = columns, .columns = columns, .y = sums};
    return qb_run_parallel(run, (columns + COLUMNS - 1) / COLUMNS, 1, sum_columns, &job);
}

int64_t
qb_gradient_stride(int64_t columns)
{
    return (((columns + LINE_FLOATS - 1) / LINE_FLOATS) | 1) * LINE_FLOATS;
}

static void
transpose_columns(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const matrix_job *job = argument;
    const int64_t first = begin * COLUMNS;
    const int64_t last = end * COLUMNS < job->columns ? end * COLUMNS : job->columns;
    (void)worker;
    job->kernels->transpose_f32(job->x + first, (size_t)job->rows, (size_t)(last - first), (size_t)job->width,
                                job->y + first * qb_gradient_stride(job->rows), (size_t)qb_gradient_stride(job->rows));
}

qb_status
qb_gradient_transpose(const qb_run *run, const float *x, int64_t rows, int64_t width, int64_t column, int64_t columns,
                      float *y)
{
    matrix_job job = {
        .kernels = run->kernels, .x = x + column, .rows = rows, .width = width, .columns = columns, .y = y};
    return qb_run_parallel(run, (columns + COLUMNS - 1) / COLUMNS, 1, transpose_columns, &job);
}
