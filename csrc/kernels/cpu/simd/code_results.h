/* SPDX-License-Identifier: Apache-2.0
 *
 * What becomes of the sums of a product of codes, panel by panel: floats or codes.  For product_codes.h, which has the
 * tile of the variant.
 */
#ifndef QB_KERNELS_CPU_SIMD_CODE_RESULTS_H
#define QB_KERNELS_CPU_SIMD_CODE_RESULTS_H

#include "kernels/cpu/variant.h"
#include "product_qs8_tile.h"

#include "kernels/cpu/simd/product_epilogue.h"
#include "kernels/cpu/simd/gelu_codes.h"

enum {
    GROUP_TILES = 8,                     /* whose sums get their activation together */
    PANEL_VECTORS = TILE_COLUMNS / LANES /* in a row of a panel */
};

/* Where they go: floats, or codes of them. */
typedef struct code_output {
    float *floats; /* NULL: codes */
    int8_t *codes;
    int64_t stride; /* of rows */
    const qb_quant_range *range;
    uint32_t *nonfinite;
} code_output;

/* What a sum is before the activation, of the columns j .. j + LANES - 1 of a panel.  `divides` is the kind of
 * division, a constant where this is inlined. */
enum divides { DIVIDES_NOT, DIVIDES_BY_FACTOR, DIVIDES };

VEC_INLINE vec_f32
finish_vector(const int32_t *sums, const panel_epilogue *panel, int64_t j, enum divides divides)
{
    const vec_f32 value = vec_fma(vec_load_s32(sums + j), vec_load(panel->step + j), vec_load(panel->bias + j));
    switch (divides) {
    case DIVIDES_NOT:
        break;
    case DIVIDES_BY_FACTOR:
        return vec_mul(value, vec_set(panel->factor));
    case DIVIDES:
        return vec_div(value, vec_set(panel->divisor));
    }
    return value;
}

static enum divides
divides_of(const panel_epilogue *panel)
{
    return panel->factor == 1.0f ? DIVIDES_NOT : panel->factor != 0.0f ? DIVIDES_BY_FACTOR : DIVIDES;
}

/* Whether every sum becomes a finite number before the activation: fma and division round monotonically, so none is
 * above what these operations make of 2^31, the largest magnitude of a sum, and of magnitudes. */
static int
is_always_finite(const panel_epilogue *panel)
{
    vec_s32 largest = vec_s32_zero();
    for (int64_t j = 0; j < TILE_COLUMNS; j += LANES) {
        const vec_f32 step = vec_abs(vec_load(panel->step + j));
        const vec_f32 most = vec_fma(vec_set(0x1p31f), step, vec_abs(vec_load(panel->bias + j)));
        largest = vec_s32_max(largest, vec_magnitude_bits(vec_div(most, vec_set(panel->divisor))));
    }
    return vec_s32_reduce_max(largest) < MAGNITUDE_INFINITY;
}

static inline void
store_floats(float *y, vec_f32 v, int64_t columns)
{
    if (columns >= LANES) {
        vec_store(y, v);
    }
    else if (columns > 0) {
        vec_store_n(y, v, (size_t)columns);
    }
}

static inline void
store_s8(int8_t *codes, vec_f32 v, int64_t columns)
{
    if (columns >= LANES) {
        vec_store_s8(codes, v);
    }
    else if (columns > 0) {
        vec_store_s8_n(codes, v, (size_t)columns);
    }
}

/* The code of v, as quantize_qs8 makes it. */
VEC_INLINE void
store_code(int8_t *codes, vec_f32 v, const qb_quant_range *range, int64_t columns)
{
    const vec_f32 scaled = vec_mul(v, vec_set(range->scale));
    store_s8(codes, vec_min(vec_set(range->upper), vec_max(vec_set(range->lower), scaled)), columns);
}

/* Sums (rows, TILE_COLUMNS) without an activation: what goes to `at` of the output.  columns is that of the panel, a
 * constant where it is whole. */
VEC_INLINE void
finish_floats(const int32_t *sums, int64_t rows, const panel_epilogue *panel, const code_output *out, int64_t at,
              enum divides divides, int64_t columns)
{
    const int64_t stride = out->stride;
    float *y = out->floats + at;
    for (int64_t i = 0; i < rows; ++i, sums += TILE_COLUMNS, y += stride) {
        for (int64_t j = 0; j < TILE_COLUMNS; j += LANES) {
            store_floats(y + j, finish_vector(sums, panel, j, divides), columns - j);
        }
    }
}

VEC_INLINE void
finish_codes(const int32_t *sums, int64_t rows, const panel_epilogue *panel, const code_output *out, int64_t at,
             enum divides divides, int64_t columns, int looks)
{
    const int64_t stride = out->stride;
    const qb_quant_range range = *out->range;
    int8_t *codes = out->codes + at;
    vec_s32 largest = vec_s32_zero();
    for (int64_t i = 0; i < rows; ++i, sums += TILE_COLUMNS, codes += stride) {
        for (int64_t j = 0; j < TILE_COLUMNS; j += LANES) {
            const vec_f32 value = finish_vector(sums, panel, j, divides);
            if (looks) {
                largest = vec_s32_max(largest, vec_magnitude_bits(value));
            }
            store_code(codes + j, value, &range, columns - j);
        }
    }
    if (looks && vec_s32_reduce_max(largest) >= MAGNITUDE_INFINITY) {
        *out->nonfinite = 1;
    }
}

static void
finish_without_activation(const int32_t *sums, int64_t rows, const panel_epilogue *panel, const code_output *out,
                          int64_t at, int looks)
{
    const enum divides divides = divides_of(panel);
    const int64_t columns = panel->columns;
    const int is_whole = columns == TILE_COLUMNS;
    if (out->floats != NULL && is_whole && divides == DIVIDES_NOT) {
        finish_floats(sums, rows, panel, out, at, DIVIDES_NOT, TILE_COLUMNS);
    }
    else if (out->floats != NULL && is_whole && divides == DIVIDES_BY_FACTOR) {
        finish_floats(sums, rows, panel, out, at, DIVIDES_BY_FACTOR, TILE_COLUMNS);
    }
    else if (out->floats != NULL) {
        finish_floats(sums, rows, panel, out, at, divides, columns);
    }
    else if (is_whole && divides == DIVIDES_NOT && !looks) {
        finish_codes(sums, rows, panel, out, at, DIVIDES_NOT, TILE_COLUMNS, 0);
    }
    else {
        finish_codes(sums, rows, panel, out, at, divides, columns, looks);
    }
}

#ifdef VEC_HAS_LOOKUP
/* Codes of the gelu of a row of a panel by the definition. */
static void
define_gelu_codes(const vec_f32 row[PANEL_VECTORS], const code_output *out, int8_t *codes)
{
    float values[TILE_COLUMNS];
    for (int64_t i = 0; i < PANEL_VECTORS; ++i) {
        vec_store(values + i * LANES, row[i]);
    }
    PRODUCT_ACTIVATION(QB_ACTIVATION_GELU, values, TILE_COLUMNS, values);
    for (int64_t i = 0; i < PANEL_VECTORS; ++i) {
        store_code(codes + i * LANES, vec_load(values + i * LANES), out->range, LANES);
    }
}

/* Finite sums of a whole panel whose gelu, finite too, is coded, by its screen. */
static void
finish_gelu_codes(const int32_t *sums, int64_t rows, const panel_epilogue *panel, const code_output *out, int64_t at,
                  float settled_distance)
{
    const vec_f32 scale = vec_set(out->range->scale);
    const vec_f32 lower = vec_set(out->range->lower);
    const vec_f32 upper = vec_set(out->range->upper);
    const vec_f32 distance = vec_set(settled_distance);
    int8_t *codes = out->codes + at;
    for (int64_t i = 0; i < rows; ++i, sums += TILE_COLUMNS, codes += out->stride) {
        vec_f32 row[PANEL_VECTORS];
        vec_f32 scaled[PANEL_VECTORS];
        int settled = 1;
        for (int64_t j = 0; j < PANEL_VECTORS; ++j) {
            row[j] = finish_vector(sums, panel, j * LANES, DIVIDES_NOT);
            settled &= gelu_screen(row[j], scale, distance, &scaled[j]);
        }
        if (!settled) {
            define_gelu_codes(row, out, codes);
            continue;
        }
        for (int64_t j = 0; j < PANEL_VECTORS; ++j) {
            vec_store_s8(codes + j * LANES, vec_min(upper, vec_max(lower, scaled[j])));
        }
    }
}
#endif

/* Sums with an activation.  Padding columns are 0 before it and finite after it. */
static void
finish_with_activation(const int32_t *sums, int64_t rows, const panel_epilogue *panel, const code_output *out,
                       int64_t at)
{
    _Alignas(64) float group[GROUP_TILES * TILE_ROWS * TILE_COLUMNS];
    const enum divides divides = divides_of(panel);
    vec_s32 largest = vec_s32_zero();
    int64_t finished = 0;
    do { /* there is a row */
        for (int64_t j = 0; j < TILE_COLUMNS; j += LANES) {
            vec_store(group + finished + j, finish_vector(sums + finished, panel, j, divides));
        }
        finished += TILE_COLUMNS;
    } while (finished < rows * TILE_COLUMNS);
    PRODUCT_ACTIVATION(panel->activation, group, (size_t)(rows * TILE_COLUMNS), group);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < TILE_COLUMNS; j += LANES) {
            const vec_f32 value = vec_load(group + i * TILE_COLUMNS + j);
            const int64_t to = at + i * out->stride + j;
            if (out->floats != NULL) {
                store_floats(out->floats + to, value, panel->columns - j);
                continue;
            }
            largest = vec_s32_max(largest, vec_magnitude_bits(value));
            store_code(out->codes + to, value, out->range, panel->columns - j);
        }
    }
    if (vec_s32_reduce_max(largest) >= MAGNITUDE_INFINITY) {
        *out->nonfinite = 1;
    }
}

#endif
