/* SPDX-License-Identifier: Apache-2.0
 *
 * Layer normalisation of rows, of sums of two rows, and of sums of two rows of codes; and its gradient.
 *
 * Each row is one chain of additions per lane, and then one chain of fma: the order is part of the contract, and a
 * chain is as slow as the latency of its operation.  So BLOCK rows go together and their chains overlap.  The first
 * pass makes x (in y, where it is not an input as it stands) and its sums; the second the sums of squares; the third
 * the result.  A block of rows of a transformer's width stays in the level-1 cache between the passes.
 *
 * Absent lanes of a last vector are +0 in both sums, which changes no bit of them: an accumulator is never -0, since
 * it starts at +0.
 */
#include <math.h>

#include "kernels/cpu/simd/simd.h"

enum { BLOCK = 4 };

typedef enum row_kind {
    ROW_INPUT, /* x = a */
    ROW_SUM,   /* x = a + b */
    ROW_CODES  /* x = fma(codes_b, step_b, codes_a * step_a) */
} row_kind;

/* Where x comes from.  `kind` is a constant wherever this is inlined. */
typedef struct row_source {
    row_kind kind;
    const float *a, *b;
    const int8_t *codes_a, *codes_b;
    float step_a, step_b;
} row_source;

VEC_INLINE vec_f32
load_columns(const row_source *source, size_t at, size_t n)
{
    if (source->kind == ROW_CODES) {
        const vec_f32 a = n == LANES ? vec_load_s8(source->codes_a + at) : vec_load_s8_n(source->codes_a + at, n);
        const vec_f32 b = n == LANES ? vec_load_s8(source->codes_b + at) : vec_load_s8_n(source->codes_b + at, n);
        return vec_fma(b, vec_set(source->step_b), vec_mul(a, vec_set(source->step_a)));
    }
    const vec_f32 a = n == LANES ? vec_load(source->a + at) : vec_load_n(source->a + at, n, 0.0f);
    if (source->kind == ROW_INPUT) {
        return a;
    }
    return vec_add(a, n == LANES ? vec_load(source->b + at) : vec_load_n(source->b + at, n, 0.0f));
}

/* The first pass for `count` rows from `row` on: sums of x, and x itself into y unless it is an input. */
VEC_INLINE void
sum_rows(const row_source *source, size_t row, size_t count, size_t columns, float *y, vec_f32 *sum)
{
    for (size_t i = 0; i < count; ++i) {
        sum[i] = vec_set(0.0f);
    }
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        for (size_t i = 0; i < count; ++i) {
            const size_t at = (row + i) * columns + c;
            const vec_f32 x = load_columns(source, at, LANES);
            sum[i] = vec_add(sum[i], x);
            if (source->kind != ROW_INPUT) {
                vec_store(y + at, x);
            }
        }
    }
    if (c < columns) {
        for (size_t i = 0; i < count; ++i) {
            const size_t at = (row + i) * columns + c;
            const vec_f32 x = load_columns(source, at, columns - c);
            sum[i] = vec_add(sum[i], x);
            if (source->kind != ROW_INPUT) {
                vec_store_n(y + at, x, columns - c);
            }
        }
    }
}

/* The second pass: sums of (x - mean)^2. */
VEC_INLINE void
square_rows(const float *x, size_t count, size_t columns, const float *mean, vec_f32 *sum)
{
    for (size_t i = 0; i < count; ++i) {
        sum[i] = vec_set(0.0f);
    }
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        for (size_t i = 0; i < count; ++i) {
            const vec_f32 d = vec_sub(vec_load(x + i * columns + c), vec_set(mean[i]));
            sum[i] = vec_fma(d, d, sum[i]);
        }
    }
    if (c < columns) {
        const size_t n = columns - c;
        for (size_t i = 0; i < count; ++i) {
            const vec_f32 d = vec_sub(vec_load_n(x + i * columns + c, n, 0.0f), vec_set(mean[i]));
            sum[i] = vec_fma(vec_keep_n(d, n), vec_keep_n(d, n), sum[i]);
        }
    }
}

/* The third pass: y = fma((x - mean) * rstd, weight, bias). */
VEC_INLINE void
scale_rows(const float *x, size_t count, size_t columns, const float *mean, const float *rstd, const float *weight,
           const float *bias, float *y)
{
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        const vec_f32 w = vec_load(weight + c);
        const vec_f32 b = vec_load(bias + c);
        for (size_t i = 0; i < count; ++i) {
            const vec_f32 d = vec_sub(vec_load(x + i * columns + c), vec_set(mean[i]));
            vec_store(y + i * columns + c, vec_fma(vec_mul(d, vec_set(rstd[i])), w, b));
        }
    }
    if (c < columns) {
        const size_t n = columns - c;
        const vec_f32 w = vec_load_n(weight + c, n, 0.0f);
        const vec_f32 b = vec_load_n(bias + c, n, 0.0f);
        for (size_t i = 0; i < count; ++i) {
            const vec_f32 d = vec_sub(vec_load_n(x + i * columns + c, n, 0.0f), vec_set(mean[i]));
            vec_store_n(y + i * columns + c, vec_fma(vec_mul(d, vec_set(rstd[i])), w, b), n);
        }
    }
}

/* The first two passes for `count` rows from `row` on. */
VEC_INLINE void
row_statistics(const row_source *source, size_t row, size_t count, size_t columns, float eps, float *y, float *mean,
               float *rstd)
{
    vec_f32 sum[BLOCK];
    const float divisor = (float)columns;
    sum_rows(source, row, count, columns, y, sum);
    for (size_t i = 0; i < count; ++i) {
        mean[i] = vec_reduce_add(sum[i]) / divisor;
    }
    square_rows((source->kind == ROW_INPUT ? source->a : y) + row * columns, count, columns, mean, sum);
    for (size_t i = 0; i < count; ++i) {
        rstd[i] = 1.0f / sqrtf(vec_reduce_add(sum[i]) / divisor + eps);
    }
}

VEC_INLINE void
normalize_rows(const row_source *source, size_t row, size_t count, size_t columns, const float *weight,
               const float *bias, float eps, float *y)
{
    float mean[BLOCK];
    float rstd[BLOCK];
    float *out = y + row * columns;
    const float *x = source->kind == ROW_INPUT ? source->a + row * columns : out;
    row_statistics(source, row, count, columns, eps, y, mean, rstd);
    scale_rows(x, count, columns, mean, rstd, weight, bias, out);
}

/* The number of rows is constant where normalize_rows is inlined, so the arrays over rows become registers. */
VEC_INLINE void
normalize(row_source source, size_t rows, size_t columns, const float *weight, const float *bias, float eps, float *y)
{
    size_t row = 0;
    for (; row + BLOCK <= rows; row += BLOCK) {
        normalize_rows(&source, row, BLOCK, columns, weight, bias, eps, y);
    }
    for (; row < rows; ++row) {
        normalize_rows(&source, row, 1, columns, weight, bias, eps, y);
    }
}

void
QB_FN(layer_norm_f32)(const float *x, size_t rows, size_t columns, const float *weight, const float *bias, float eps,
                      float *y)
{
    normalize((row_source){.kind = ROW_INPUT, .a = x}, rows, columns, weight, bias, eps, y);
}

void
QB_FN(add_layer_norm_f32)(const float *a, const float *b, size_t rows, size_t columns, const float *weight,
                          const float *bias, float eps, float *y)
{
    normalize((row_source){.kind = ROW_SUM, .a = a, .b = b}, rows, columns, weight, bias, eps, y);
}

void
QB_FN(add_layer_norm_qs8)(const int8_t *a, float step_a, const int8_t *b, float step_b, size_t rows, size_t columns,
                          const float *weight, const float *bias, float eps, float *y)
{
    normalize((row_source){.kind = ROW_CODES, .codes_a = a, .step_a = step_a, .codes_b = b, .step_b = step_b}, rows,
              columns, weight, bias, eps, y);
}

/* ---- gradient ------------------------------------------------------------------------------------------------------
 */

/* The third pass of the gradient: with g = dy * weight and h = (x - mean) * rstd, sums of g and of g * h.  Absent lanes
 * multiply -0 by +0, since an accumulator may have become -0 by underflow and must stay so. */
VEC_INLINE void
gradient_sums(const float *x, const float *dy, size_t count, size_t columns, const float *weight, const float *mean,
              const float *rstd, vec_f32 *sum_g, vec_f32 *sum_gh)
{
    for (size_t i = 0; i < count; ++i) {
        sum_g[i] = vec_set(0.0f);
        sum_gh[i] = vec_set(0.0f);
    }
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        const vec_f32 w = vec_load(weight + c);
        for (size_t i = 0; i < count; ++i) {
            const vec_f32 h = vec_mul(vec_sub(vec_load(x + i * columns + c), vec_set(mean[i])), vec_set(rstd[i]));
            const vec_f32 d = vec_load(dy + i * columns + c);
            sum_g[i] = vec_fma(d, w, sum_g[i]);
            sum_gh[i] = vec_fma(vec_mul(d, w), h, sum_gh[i]);
        }
    }
    if (c < columns) {
        const size_t n = columns - c;
        const vec_f32 w = vec_load_n(weight + c, n, 1.0f);
        for (size_t i = 0; i < count; ++i) {
            const vec_f32 centred = vec_sub(vec_load_n(x + i * columns + c, n, 0.0f), vec_set(mean[i]));
            const vec_f32 h = vec_keep_n(vec_mul(centred, vec_set(rstd[i])), n);
            const vec_f32 d = vec_load_n(dy + i * columns + c, n, -0.0f);
            sum_g[i] = vec_fma(d, w, sum_g[i]);
            sum_gh[i] = vec_fma(vec_mul(d, w), h, sum_gh[i]);
        }
    }
}

/* rstd * fma(-h, mean of g * h, g - mean of g) of one vector; `against` is minus the mean of g * h. */
VEC_INLINE vec_f32
gradient_of(vec_f32 x, vec_f32 dy, vec_f32 weight, float mean, float rstd, float mean_g, float against)
{
    const vec_f32 h = vec_mul(vec_sub(x, vec_set(mean)), vec_set(rstd));
    const vec_f32 g = vec_sub(vec_mul(dy, weight), vec_set(mean_g));
    return vec_mul(vec_set(rstd), vec_fma(h, vec_set(against), g));
}

VEC_INLINE void
gradient_rows(const float *x, const float *dy, size_t row, size_t count, size_t columns, const float *weight, float eps,
              float *dx, float *mean, float *rstd)
{
    const size_t first = row * columns;
    vec_f32 sum_g[BLOCK];
    vec_f32 sum_gh[BLOCK];
    float mean_g[BLOCK];
    float against[BLOCK];
    const row_source source = {.kind = ROW_INPUT, .a = x};
    row_statistics(&source, row, count, columns, eps, NULL, mean, rstd);
    gradient_sums(x + first, dy + first, count, columns, weight, mean, rstd, sum_g, sum_gh);
    for (size_t i = 0; i < count; ++i) {
        mean_g[i] = vec_reduce_add(sum_g[i]) / (float)columns;
        against[i] = -(vec_reduce_add(sum_gh[i]) / (float)columns);
    }
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        const vec_f32 w = vec_load(weight + c);
        for (size_t i = 0; i < count; ++i) {
            const size_t at = first + i * columns + c;
            vec_store(dx + at,
                      gradient_of(vec_load(x + at), vec_load(dy + at), w, mean[i], rstd[i], mean_g[i], against[i]));
        }
    }
    if (c < columns) {
        const size_t n = columns - c;
        const vec_f32 w = vec_load_n(weight + c, n, 0.0f);
        for (size_t i = 0; i < count; ++i) {
            const size_t at = first + i * columns + c;
            const vec_f32 a = vec_load_n(x + at, n, 0.0f);
            const vec_f32 d = vec_load_n(dy + at, n, 0.0f);
            vec_store_n(dx + at, gradient_of(a, d, w, mean[i], rstd[i], mean_g[i], against[i]), n);
        }
    }
}

void
QB_FN(layer_norm_grad_f32)(const float *x, const float *dy, size_t rows, size_t columns, const float *weight, float eps,
                           float *dx, float *mean, float *rstd)
{
    size_t row = 0;
    for (; row + BLOCK <= rows; row += BLOCK) {
        gradient_rows(x, dy, row, BLOCK, columns, weight, eps, dx, mean + row, rstd + row);
    }
    for (; row < rows; ++row) {
        gradient_rows(x, dy, row, 1, columns, weight, eps, dx, mean + row, rstd + row);
    }
}

/* `count` rows into the sums of their columns, row after row.  A block of rows shares the loads and stores of the sums,
 * while x and dy are still read in the order of memory. */
VEC_INLINE void
gradient_columns(const float *x, const float *dy, size_t count, size_t columns, size_t stride, const float *mean,
                 const float *rstd, float *dweight, float *dbias)
{
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        vec_f32 sum_weight = dweight != NULL ? vec_load(dweight + c) : vec_set(0.0f);
        vec_f32 sum_bias = dbias != NULL ? vec_load(dbias + c) : vec_set(0.0f);
        for (size_t i = 0; i < count; ++i) {
            const vec_f32 d = vec_load(dy + i * stride + c);
            if (dweight != NULL) {
                const vec_f32 h = vec_mul(vec_sub(vec_load(x + i * stride + c), vec_set(mean[i])), vec_set(rstd[i]));
                sum_weight = vec_fma(d, h, sum_weight);
            }
            sum_bias = vec_add(sum_bias, d);
        }
        if (dweight != NULL) {
            vec_store(dweight + c, sum_weight);
        }
        if (dbias != NULL) {
            vec_store(dbias + c, sum_bias);
        }
    }
    if (c == columns) {
        return;
    }
    const size_t n = columns - c;
    vec_f32 sum_weight = dweight != NULL ? vec_load_n(dweight + c, n, 0.0f) : vec_set(0.0f);
    vec_f32 sum_bias = dbias != NULL ? vec_load_n(dbias + c, n, 0.0f) : vec_set(0.0f);
    for (size_t i = 0; i < count; ++i) {
        const vec_f32 d = vec_load_n(dy + i * stride + c, n, 0.0f);
        if (dweight != NULL) {
            const vec_f32 centred = vec_sub(vec_load_n(x + i * stride + c, n, 0.0f), vec_set(mean[i]));
            sum_weight = vec_fma(d, vec_mul(centred, vec_set(rstd[i])), sum_weight);
        }
        sum_bias = vec_add(sum_bias, d);
    }
    if (dweight != NULL) {
        vec_store_n(dweight + c, sum_weight, n);
    }
    if (dbias != NULL) {
        vec_store_n(dbias + c, sum_bias, n);
    }
}

void
QB_FN(layer_norm_grad_columns_f32)(const float *x, const float *dy, size_t rows, size_t columns, size_t stride,
                                   const float *mean, const float *rstd, float *dweight, float *dbias)
{
    size_t row = 0;
    for (; row + BLOCK <= rows; row += BLOCK) {
        gradient_columns(x + row * stride, dy + row * stride, BLOCK, columns, stride, mean + row, rstd + row, dweight,
                         dbias);
    }
    for (; row < rows; ++row) {
        gradient_columns(x + row * stride, dy + row * stride, 1, columns, stride, mean + row, rstd + row, dweight,
                         dbias);
    }
}
