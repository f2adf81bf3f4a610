/* SPDX-License-Identifier: Apache-2.0
 *
 * Code products by OpenBLAS: an independent witness of the integers.
 *
 * Codes are held as float32.  Every partial sum of up to CHUNK products of codes is an integer of magnitude at most
 * 1024 * 128 * 128 = 2^24, which float32 represents, so sgemm is exact whatever its order of operations, with or
 * without fma; sums of chunks are added as int32.  Float products are never computed here, because their bits would
 * depend on the library.  The library is told to use one thread: the caller divides the work.
 */
#include <math.h>
#include <string.h>

#include "kernels/cpu/openblas/blas.h"
#include "kernels/cpu/variant.h"

/* This variant has neither of its own; the reference's bits are everyone's. */
void activation_f32__ref(qb_activation activation, const float *x, size_t n, float *y);
void quantize_qs8__ref(const float *x, size_t n, const qb_quant_range *range, int8_t *codes, uint32_t *nonfinite);

enum { CHUNK = 1024, BLOCK_ROWS = 128, BLOCK_COLUMNS = 256 };

static int64_t
smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Packed: (n, k) float32. */
void
QB_FN(pack_qs8_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    *panel = 1;
    *bytes = (size_t)(n * k) * sizeof(float);
    *scratch = (size_t)BLOCK_ROWS *
               ((size_t)smaller(k, CHUNK) * sizeof(float) + (size_t)BLOCK_COLUMNS * (sizeof(float) + sizeof(int32_t)));
}

void
QB_FN(pack_qs8)(const int8_t *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                int64_t k, void *packed)
{
    (void)n;
    for (int64_t j = n0; j < n1; ++j) {
        float *column = (float *)packed + j * k;
        for (int64_t t = 0; t < k; ++t) {
            column[t] = (float)b[j * column_stride + t * depth_stride];
        }
    }
}

void
QB_FN(unpack_qs8)(const void *packed, int64_t n0, int64_t n1, int64_t n, int64_t k, int8_t *codes)
{
    (void)n;
    for (int64_t i = n0 * k; i < n1 * k; ++i) {
        codes[i] = (int8_t)((const float *)packed)[i];
    }
}

/* sums (rows, columns) = a (rows, k; row distance lda) times packed columns (columns, k).  work: BLOCK_ROWS * (chunk +
 * BLOCK_COLUMNS) floats. */
static void
block_sums(const int8_t *a, int64_t lda, int64_t rows, const float *packed, int64_t columns, int64_t k, int32_t *sums,
           float *work)
{
    float *codes = work;
    float *part = work + BLOCK_ROWS * smaller(k, CHUNK);
    memset(sums, 0, (size_t)(rows * columns) * sizeof(int32_t));
    for (int64_t first = 0; first < k; first += CHUNK) {
        const int64_t depth = smaller(k - first, CHUNK);
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t t = 0; t < depth; ++t) {
                codes[i * depth + t] = (float)a[i * lda + first + t];
            }
        }
        BLAS(cblas_sgemm)
        (CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)columns, (blasint)depth, 1.0f, codes,
         (blasint)depth, packed + first, (blasint)k, 0.0f, part, (blasint)columns);
        for (int64_t i = 0; i < rows * columns; ++i) {
            sums[i] += (int32_t)part[i];
        }
    }
}

/* y (columns) = the epilogue of one row's sums, `column` being the first of them in the whole product. */
static void
finish_row(const int32_t *sums, int64_t columns, int64_t column, const qb_epilogue *epilogue, float *y)
{
    for (int64_t j = 0; j < columns; ++j) {
        const float bias = epilogue->bias != NULL ? epilogue->bias[column + j] : 0.0f;
        const float value = fmaf((float)sums[j], epilogue->step[column + j], bias);
        y[j] = epilogue->divisor != 1.0f ? value / epilogue->divisor : value;
    }
    if (epilogue->activation != QB_ACTIVATION_NONE) {
        activation_f32__ref(epilogue->activation, y, (size_t)columns, y);
    }
}

/* Where results go: floats, or codes. */
typedef struct output {
    float *floats; /* NULL: codes */
    int8_t *codes;
    int64_t stride;
    const qb_quant_range *range;
    uint32_t *nonfinite;
} output;

static void
multiply(const int8_t *a, int64_t lda, int64_t m, const float *packed, int64_t n0, int64_t n1, int64_t k,
         const qb_epilogue *epilogue, const output *out, void *scratch)
{
    int32_t *sums = scratch;
    float *work = (float *)(void *)(sums + BLOCK_ROWS * BLOCK_COLUMNS);
    float y[BLOCK_COLUMNS];
    for (int64_t row = 0; row < m; row += BLOCK_ROWS) {
        const int64_t rows = smaller(m - row, BLOCK_ROWS);
        for (int64_t column = n0; column < n1; column += BLOCK_COLUMNS) {
            const int64_t columns = smaller(n1 - column, BLOCK_COLUMNS);
            block_sums(a + row * lda, lda, rows, packed + column * k, columns, k, sums, work);
            for (int64_t i = 0; i < rows; ++i) {
                const int64_t at = (row + i) * out->stride + column;
                if (out->floats != NULL) {
                    finish_row(sums + i * columns, columns, column, epilogue, out->floats + at);
                    continue;
                }
                finish_row(sums + i * columns, columns, column, epilogue, y);
                quantize_qs8__ref(y, (size_t)columns, out->range, out->codes + at, out->nonfinite);
            }
        }
    }
}

void
QB_FN(product_qs8)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                   int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    const output out = {.floats = c, .stride = ldc};
    (void)n;
    multiply(a, lda, m, packed, n0, n1, k, epilogue, &out, scratch);
}

void
QB_FN(product_qs8_codes)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                         int64_t k, const qb_epilogue *epilogue, const qb_quant_range *range, int8_t *c, int64_t ldc,
                         uint32_t *nonfinite, void *scratch)
{
    const output out = {.codes = c, .stride = ldc, .range = range, .nonfinite = nonfinite};
    (void)n;
    multiply(a, lda, m, packed, n0, n1, k, epilogue, &out, scratch);
}
