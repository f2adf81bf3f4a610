/* SPDX-License-Identifier: Apache-2.0
 *
 * Layer normalisation of rows, of sums of two rows, and of sums of two rows of codes.
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

VEC_INLINE void
normalize_rows(const row_source *source, size_t row, size_t count, size_t columns, const float *weight,
               const float *bias, float eps, float *y)
{
    vec_f32 sum[BLOCK];
    float mean[BLOCK];
    float rstd[BLOCK];
    const float divisor = (float)columns;
    float *out = y + row * columns;
    const float *x = source->kind == ROW_INPUT ? source->a + row * columns : out;
    sum_rows(source, row, count, columns, y, sum);
    for (size_t i = 0; i < count; ++i) {
        mean[i] = vec_reduce_add(sum[i]) / divisor;
    }
    square_rows(x, count, columns, mean, sum);
    for (size_t i = 0; i < count; ++i) {
        rstd[i] = 1.0f / sqrtf(vec_reduce_add(sum[i]) / divisor + eps);
    }
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
