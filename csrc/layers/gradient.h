/* SPDX-License-Identifier: Apache-2.0
 *
 * What backward needs beside what forward saved, and the law that all layers follow:
 *
 *   gradients of parameters are added to; gradients of activations are written; a function that adds to the gradient of
 *   an activation is called ..._accumulate.
 *
 * Every gradient has one order of operations: products are the chains of product_f32 (a weight's over the rows, in
 * increasing order), column sums run over rows in increasing order, row reductions have 16 lanes.  Work is split by
 * rows or columns, never inside a reduction, so gradients have equal bits for any number of threads and on every
 * variant.
 *
 * Layers run backward one after the other and share these buffers.
 */
#ifndef QB_LAYERS_GRADIENT_H
#define QB_LAYERS_GRADIENT_H

#include "core/arena.h"
#include "core/run.h"
#include "layers/scratch.h"

/* The largest that any layer asks for; each raises what it needs. */
typedef struct qb_gradient_sizes {
    size_t values;     /* floats */
    size_t transposed; /* floats */
    size_t matrix;     /* floats */
    size_t packed;     /* bytes */
    size_t sums;       /* floats */
    size_t dsums;      /* floats */
    size_t rows;       /* floats */
    size_t scratch;    /* bytes of one thread */
    int overflowed;    /* a product of sizes did not fit */
} qb_gradient_sizes;

typedef struct qb_gradient_work { /* one per session */
    float *values;                /* (rows, K) an input as it was multiplied; later, gradients that are to be added */
    float *transposed;            /* (N, qb_gradient_stride(rows)) */
    float *matrix;                /* (N, K) quantized weights; later, their gradient */
    void *packed;                 /* one operand */
    float *sums;                  /* (rows, H) what was normalized */
    float *dsums;                 /* (rows, H) its gradient */
    float *mean, *rstd;           /* (rows) */
    qb_scratch *scratch;          /* the session's */
} qb_gradient_work;

void qb_gradient_need(size_t *most, size_t count, size_t size, int *overflowed);
void qb_gradient_plan(const qb_gradient_sizes *sizes, qb_gradient_work *work, qb_arena *arena, qb_scratch *scratch);

/* ---- what several layers do ------------------------------------------------------------------------------------- */

/* y = x (count). */
qb_status qb_gradient_copy(const qb_run *run, const float *x, int64_t count, float *y);
/* y = a + b (count). */
qb_status qb_gradient_sum(const qb_run *run, const float *a, const float *b, int64_t count, float *y);
/* y += x (count). */
qb_status qb_gradient_add(const qb_run *run, const float *x, int64_t count, float *y);
/* sums[c] += x[r][c] over rows; x (rows, columns) dense. */
qb_status qb_gradient_sum_rows(const qb_run *run, const float *x, int64_t rows, int64_t columns, float *sums);
/* y (columns, rows; row distance qb_gradient_stride) from the columns column .. column + columns - 1 of
 * x (rows, width). */
qb_status qb_gradient_transpose(const qb_run *run, const float *x, int64_t rows, int64_t width, int64_t column,
                                int64_t columns, float *y);
/* Row distance of a transposed matrix with so many columns: an odd number of cache lines, so that neighbouring rows lie
 * in different sets of a cache. */
int64_t qb_gradient_stride(int64_t columns);

#endif
