/* SPDX-License-Identifier: Apache-2.0
 *
 * Histogram of magnitudes.  Indices are computed on 16 lanes; counting is scalar.  Two increments of the same counter
 * in a row wait for each other (a store to load forward, about five cycles), and activations crowd into few bins, so
 * elements go round robin to COPIES tables, which are added up at the end.  Elements that are not counted get an index
 * of their own behind the last bin instead of a branch.
 */
#include <string.h>

#include "kernels/cpu/simd/simd.h"

enum {
    COPIES = 4,
    BATCH = 512,    /* elements whose indices are computed together; a multiple of LANES */
    TABLE = 16384,  /* uint32 counters on the stack: 64 KiB */
    CHUNK = 1 << 30 /* elements between flushes: no counter wraps */
};

typedef struct histogram_grid {
    float last_edge;
    float bins;
    int skip_zeros;
    float last_bin;
} histogram_grid;

/* Indices of 16 magnitudes as floats to be truncated; `bins` for those that are not counted.  The bound is written such
 * that an overflow ends in the last bin, and a NaN (infinity / infinity) too. */
static inline vec_f32
grid_position(const histogram_grid *grid, vec_f32 x)
{
    const vec_f32 magnitude = vec_abs(x);
    const vec_f32 edge = vec_set(grid->last_edge);
    const vec_f32 trash = vec_set(grid->bins);
    vec_f32 position = vec_div(vec_mul(magnitude, trash), edge);
    position = vec_min(position, vec_set(grid->last_bin));
    position = vec_select_less_equal(magnitude, edge, position, trash);
    if (grid->skip_zeros) {
        position = vec_select_greater(magnitude, vec_set(0.0f), position, trash);
    }
    return position;
}

/* Indices of n <= BATCH elements.  They go through memory as a batch, because a compiler that sees both sides picks
 * them out of the register lane by lane, which is slower. */
static void
find_indices(const histogram_grid *grid, const float *x, size_t n, int32_t *index)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec_store_trunc_s32(index + i, grid_position(grid, vec_load(x + i)));
    }
    if (i < n) {
        vec_store_trunc_s32(index + i, grid_position(grid, vec_load_n(x + i, n - i, 0.0f)));
    }
}

/* All of x (n) into COPIES tables that lie table_stride apart; 0 makes them one. */
static void
count_into_tables(const histogram_grid *grid, const float *x, size_t n, uint32_t *tables, size_t table_stride)
{
    int32_t index[BATCH];
    for (size_t first = 0; first < n; first += BATCH) {
        const size_t length = n - first < BATCH ? n - first : BATCH;
        find_indices(grid, x + first, length, index);
        size_t i = 0;
        for (; i + COPIES <= length; i += COPIES) {
            ++tables[(uint32_t)index[i]];
            ++tables[(uint32_t)index[i + 1] + table_stride];
            ++tables[(uint32_t)index[i + 2] + 2 * table_stride];
            ++tables[(uint32_t)index[i + 3] + 3 * table_stride];
        }
        for (; i < length; ++i) {
            ++tables[index[i]];
        }
    }
}

/* Straight into the result: for few elements, or more bins than the tables hold. */
static void
count_directly(const histogram_grid *grid, const float *x, size_t n, int64_t *counts)
{
    int32_t index[BATCH];
    const int32_t trash = (int32_t)grid->bins;
    for (size_t first = 0; first < n; first += BATCH) {
        const size_t length = n - first < BATCH ? n - first : BATCH;
        find_indices(grid, x + first, length, index);
        for (size_t i = 0; i < length; ++i) {
            if (index[i] != trash) {
                ++counts[index[i]];
            }
        }
    }
}

void
QB_FN(histogram_f32)(const float *x, size_t n, float last_edge, int64_t bins, int skip_zeros, int64_t *counts)
{
    const histogram_grid grid = {last_edge, (float)bins, skip_zeros, (float)(bins - 1)};
    const size_t size = (size_t)bins + 1;
    if (n < size || size > TABLE) {
        count_directly(&grid, x, n, counts);
        return;
    }
    uint32_t tables[TABLE];
    const size_t copies = COPIES * size <= TABLE ? COPIES : 1;
    for (size_t first = 0; first < n; first += CHUNK) {
        const size_t length = n - first < CHUNK ? n - first : CHUNK;
        memset(tables, 0, copies * size * sizeof *tables);
        count_into_tables(&grid, x + first, length, tables, copies > 1 ? size : 0);
        for (size_t copy = 0; copy < copies; ++copy) {
            for (int64_t bin = 0; bin < bins; ++bin) {
                counts[bin] += tables[copy * size + (size_t)bin];
            }
        }
    }
}
