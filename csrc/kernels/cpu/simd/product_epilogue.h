/* SPDX-License-Identifier: Apache-2.0
 *
 * The epilogue of products that are computed in tiles of TILE_COLUMNS columns, for one panel of them, whatever
 * multiplies.
 */
#ifndef QB_KERNELS_CPU_SIMD_PRODUCT_EPILOGUE_H
#define QB_KERNELS_CPU_SIMD_PRODUCT_EPILOGUE_H

#include <math.h>
#include <string.h>

#include "kernels/cpu/variant.h"

/* The activations of the variant; one that has none of its own names another's. */
#ifndef PRODUCT_ACTIVATION
#define PRODUCT_ACTIVATION QB_FN(activation_f32)
#endif

/* The epilogue of one panel, padded to its width, so that loops over it have a constant length. */
typedef struct panel_epilogue {
    float step[TILE_COLUMNS];
    float bias[TILE_COLUMNS]; /* without bias -0 in float products: v + -0 is v, for v = -0 too */
    float divisor;
    float factor;    /* that gives the bits of the division, or 0 */
    int64_t columns; /* that are stored, 1 .. TILE_COLUMNS */
    int scaled;      /* a code product */
    qb_activation activation;
} panel_epilogue;

/* 1 / divisor where that is a power of two and not extreme, else 0: x * (1 / divisor) and x / divisor are one real
 * number then, rounded once either way.  The square root of a head size often is one, and a division takes five times
 * as long. */
static float
exact_factor(float divisor)
{
    int exponent;
    return frexpf(divisor, &exponent) == 0.5f && exponent > -100 && exponent < 100 ? 1.0f / divisor : 0.0f;
}

/* y = x (columns of a panel).  A length that the compiler knows is a few registers, another one is a call. */
static inline void
copy_columns(float *y, const float *x, int64_t columns)
{
    if (columns == TILE_COLUMNS) {
        memcpy(y, x, TILE_COLUMNS * sizeof(float));
    }
    else {
        memcpy(y, x, (size_t)columns * sizeof(float));
    }
}

/* What all panels have in common; panel_epilogue_move makes it that of one. */
static panel_epilogue
panel_epilogue_begin(const qb_epilogue *epilogue, int scaled)
{
    return (panel_epilogue){.divisor = epilogue->divisor,
                            .factor = exact_factor(epilogue->divisor),
                            .scaled = scaled,
                            .activation = epilogue->activation};
}

/* Columns `column` on, up to `end` or a panel. */
static void
panel_epilogue_move(panel_epilogue *panel, const qb_epilogue *epilogue, int64_t column, int64_t end)
{
    panel->columns = end - column < TILE_COLUMNS ? end - column : TILE_COLUMNS;
    if (panel->columns < TILE_COLUMNS || !panel->scaled || epilogue->bias == NULL) {
        for (int64_t j = 0; j < TILE_COLUMNS; ++j) {
            panel->step[j] = 0.0f;
            panel->bias[j] = panel->scaled ? 0.0f : -0.0f;
        }
    }
    if (panel->scaled) {
        copy_columns(panel->step, epilogue->step + column, panel->columns);
    }
    if (epilogue->bias != NULL) {
        copy_columns(panel->bias, epilogue->bias + column, panel->columns);
    }
}

#endif
