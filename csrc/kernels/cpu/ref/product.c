/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with a packed operand, the truth that every other variant is compared with.
 *
 * Float products: b lies in panels of PANEL columns, depth by depth, so that the PANEL chains of one row are
 * independent and the processor can overlap them.  Code products: b lies column by column, widened to int16, as does
 * the row of a in scratch; a dot product of int16 with int32 sums is a loop that compilers turn into multiply-add
 * instructions on every machine, which makes whole models on the reference a matter of minutes.
 *
 * bfloat16 products: both operands are rounded, and kept as float32 in the order of their chain, odd depths before even
 * ones; b lies in panels, the row of a in scratch.
 */
#include <math.h>
#include <string.h>

#include "kernels/bf16.h"
#include "kernels/cpu/variant.h"

enum { PANEL = 8 };

/* Elements n0 .. n1-1 of one finished row of c, in place. */
static void
finish_row(const qb_epilogue *epilogue, int64_t n0, int64_t n1, float *c)
{
    if (epilogue->divisor != 1.0f) {
        for (int64_t j = n0; j < n1; ++j) {
            c[j] = c[j] / epilogue->divisor;
        }
    }
    if (epilogue->activation != QB_ACTIVATION_NONE) {
        QB_FN(activation_f32)(epilogue->activation, c + n0, (size_t)(n1 - n0), c + n0);
    }
}

/* ---- float products
 * -------------------------------------------------------------------------------------------------- */

void
QB_FN(pack_f32_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    *panel = PANEL;
    *bytes = (size_t)((n + PANEL - 1) / PANEL * PANEL * k) * sizeof(float);
    *scratch = 0;
}

void
QB_FN(pack_f32)(const float *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                int64_t k, void *packed)
{
    (void)n;
    for (int64_t column = n0; column < n1; column += PANEL) {
        float *panel = (float *)packed + column * k;
        for (int64_t t = 0; t < k; ++t) {
            for (int64_t j = 0; j < PANEL; ++j) {
                panel[t * PANEL + j] = column + j < n1 ? b[(column + j) * column_stride + t * depth_stride] : 0.0f;
            }
        }
    }
}

void
QB_FN(product_f32)(const float *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                   int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    (void)n;
    (void)scratch;
    for (int64_t i = 0; i < m; ++i) {
        const float *row = a + i * lda;
        float *out = c + i * ldc;
        for (int64_t column = n0; column < n1; column += PANEL) {
            const float *panel = (const float *)packed + column * k;
            float sums[PANEL] = {0.0f};
            for (int64_t t = 0; t < k; ++t) {
                for (int64_t j = 0; j < PANEL; ++j) {
                    sums[j] = fmaf(row[t], panel[t * PANEL + j], sums[j]);
                }
            }
            for (int64_t j = 0; j < PANEL && column + j < n1; ++j) {
                out[column + j] = epilogue->bias != NULL ? sums[j] + epilogue->bias[column + j] : sums[j];
            }
        }
        finish_row(epilogue, n0, n1, out);
    }
}

/* ---- code products
 * --------------------------------------------------------------------------------------------------- */

void
QB_FN(pack_qs8_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    *panel = 1;
    *bytes = (size_t)(n * k) * sizeof(int16_t);
    *scratch = (size_t)n * sizeof(float) + (size_t)k * sizeof(int16_t);
}

void
QB_FN(pack_qs8)(const int8_t *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                int64_t k, void *packed)
{
    (void)n;
    for (int64_t j = n0; j < n1; ++j) {
        int16_t *column = (int16_t *)packed + j * k;
        for (int64_t t = 0; t < k; ++t) {
            column[t] = b[j * column_stride + t * depth_stride];
        }
    }
}

void
QB_FN(unpack_qs8)(const void *packed, int64_t n0, int64_t n1, int64_t n, int64_t k, int8_t *codes)
{
    (void)n;
    for (int64_t i = n0 * k; i < n1 * k; ++i) {
        codes[i] = (int8_t)((const int16_t *)packed)[i];
    }
}

static int32_t
dot(const int16_t *x, const int16_t *y, int64_t n)
{
    int32_t sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        sum += (int32_t)x[i] * (int32_t)y[i];
    }
    return sum;
}

/* Elements n0 .. n1-1 of one row of c; `widened` holds k elements. */
static void
compute_code_row(const int8_t *a, const int16_t *packed, int64_t n0, int64_t n1, int64_t k, const qb_epilogue *epilogue,
                 float *c, int16_t *widened)
{
    for (int64_t t = 0; t < k; ++t) {
        widened[t] = a[t];
    }
    for (int64_t j = n0; j < n1; ++j) {
        const int32_t sum = dot(widened, packed + j * k, k);
        c[j] = fmaf((float)sum, epilogue->step[j], epilogue->bias != NULL ? epilogue->bias[j] : 0.0f);
    }
    finish_row(epilogue, n0, n1, c);
}

void
QB_FN(product_qs8)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                   int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    (void)n;
    for (int64_t i = 0; i < m; ++i) {
        compute_code_row(a + i * lda, packed, n0, n1, k, epilogue, c + i * ldc, scratch);
    }
}

void
QB_FN(product_qs8_codes)(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                         int64_t k, const qb_epilogue *epilogue, const qb_quant_range *range, int8_t *c, int64_t ldc,
                         uint32_t *nonfinite, void *scratch)
{
    float *row = scratch;
    int16_t *widened = (int16_t *)(void *)(row + n);
    for (int64_t i = 0; i < m; ++i) {
        compute_code_row(a + i * lda, packed, n0, n1, k, epilogue, row, widened);
        QB_FN(quantize_qs8)(row + n0, (size_t)(n1 - n0), range, c + i * ldc + n0, nonfinite);
    }
}

/* ---- bfloat16 products
 * ----------------------------------------------------------------------------------------------- */

/* Depth of place t of the chain. */
static int64_t
depth_of(int64_t t)
{
    return t ^ 1;
}

/* x[depth of place t] as bfloat16, and zero beyond the last depth. */
static float
rounded(const float *x, int64_t stride, int64_t k, int64_t t)
{
    const int64_t depth = depth_of(t);
    const uint32_t bits = depth < k ? qb_bf16_bits(x[depth * stride]) << 16 : 0;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* fma(a, b, sum), or zero with its sign where its rounding with unbounded exponent is below 2^-126: below the tie
 * between 2^-126 - 2^-150 and 2^-126, of which the latter is even.
 *
 * The comparison with that tie sees the exact value.  a and b have 8 digits, so their product is exact in float64.  sum
 * is zero or a multiple of 2^-149 of magnitude 2^-126 or more, so only a product of 2^-152 or more can bring it there;
 * the last of that product's 16 digits is not below 2^-167, and float64 reaches from 2^-126 down to 2^-179.  Elsewhere
 * a rounding of float64 does not cross the tie. */
static float
multiply_add(float a, float b, float sum)
{
    const double tie = 0x1p-126 - 0x1p-151;
    const float value = fmaf(a, b, sum);
    return fabs((double)a * (double)b + (double)sum) < tie ? copysignf(0.0f, value) : value;
}

void
QB_FN(pack_bf16_size)(int64_t n, int64_t k, int64_t *panel, size_t *bytes, size_t *scratch)
{
    const int64_t places = (k + 1) / 2 * 2;
    *panel = PANEL;
    *bytes = (size_t)((n + PANEL - 1) / PANEL * PANEL * places) * sizeof(float);
    *scratch = (size_t)places * sizeof(float);
}

void
QB_FN(pack_bf16)(const float *b, int64_t column_stride, int64_t depth_stride, int64_t n0, int64_t n1, int64_t n,
                 int64_t k, void *packed)
{
    const int64_t places = (k + 1) / 2 * 2;
    (void)n;
    for (int64_t column = n0; column < n1; column += PANEL) {
        float *panel = (float *)packed + column * places;
        for (int64_t t = 0; t < places; ++t) {
            for (int64_t j = 0; j < PANEL; ++j) {
                panel[t * PANEL + j] =
                    column + j < n1 ? rounded(b + (column + j) * column_stride, depth_stride, k, t) : 0.0f;
            }
        }
    }
}

void
QB_FN(product_bf16)(const float *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                    int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    const int64_t places = (k + 1) / 2 * 2;
    float *row = scratch;
    (void)n;
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t t = 0; t < places; ++t) {
            row[t] = rounded(a + i * lda, 1, k, t);
        }
        float *out = c + i * ldc;
        for (int64_t column = n0; column < n1; column += PANEL) {
            const float *panel = (const float *)packed + column * places;
            float sums[PANEL] = {0.0f};
            for (int64_t t = 0; t < places; ++t) {
                for (int64_t j = 0; j < PANEL; ++j) {
                    sums[j] = multiply_add(row[t], panel[t * PANEL + j], sums[j]);
                }
            }
            for (int64_t j = 0; j < PANEL && column + j < n1; ++j) {
                out[column + j] = epilogue->bias != NULL ? sums[j] + epilogue->bias[column + j] : sums[j];
            }
        }
        finish_row(epilogue, n0, n1, out);
    }
}
