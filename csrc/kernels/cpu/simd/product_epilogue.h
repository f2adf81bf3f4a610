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

static panel_epilogue
panel_epilogue_of(const qb_epilogue *epilogue, int scaled, int64_t column, int64_t end)
{
    panel_epilogue made;
    made.columns = end - column < TILE_COLUMNS ? end - column : TILE_COLUMNS;
    made.divisor = epilogue->divisor;
    made.factor = exact_factor(epilogue->divisor);
    made.activation = epilogue->activation;
    made.scaled = scaled;
    for (int64_t j = 0; j < TILE_COLUMNS; ++j) {
        made.step[j] = scaled && j < made.columns ? epilogue->step[column + j] : 0.0f;
        made.bias[j] = scaled ? 0.0f : -0.0f;
        if (epilogue->bias != NULL && j < made.columns) {
            made.bias[j] = epilogue->bias[column + j];
        }
    }
    return made;
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

#endif
