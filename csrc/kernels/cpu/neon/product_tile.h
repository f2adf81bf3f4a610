/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the float product on Advanced SIMD: up to 8 rows by 8 columns.
 *
 * 16 accumulators, two registers of b and 8 of a (four depths of each row, used lane by lane) fit the 32 registers.
 * They are named variables, not arrays, which gcc would store in every round.  Every accumulator is one chain over the
 * depth, in order.
 */
#ifndef QB_KERNELS_CPU_NEON_PRODUCT_TILE_H
#define QB_KERNELS_CPU_NEON_PRODUCT_TILE_H

#include <arm_neon.h>
#include <stdint.h>

enum {
    TILE_ROWS = 8,
    TILE_COLUMNS = 8,
    TILE_DEPTH = 768,              /* of a chunk */
    TILE_CACHE_BYTES = 256 * 1024, /* of a level-2 cache of 512 KiB or more, for the rows of a */
    TILE_AHEAD_LEAST = 16,         /* bytes that a tile fetches ahead per depth, and at most: all of a panel */
    TILE_AHEAD_MOST = 32
};

/* X for each row of a tile */
#define ROWS_1(X) X(0)
#define ROWS_2(X) ROWS_1(X) X(1)
#define ROWS_3(X) ROWS_2(X) X(2)
#define ROWS_4(X) ROWS_3(X) X(3)
#define ROWS_5(X) ROWS_4(X) X(4)
#define ROWS_6(X) ROWS_5(X) X(5)
#define ROWS_7(X) ROWS_6(X) X(6)
#define ROWS_8(X) ROWS_7(X) X(7)

/* clang-format off */
#define BEGIN(i)                                                                                                       \
    float32x4_t low##i = start_stride > 0 ? vld1q_f32(start + (i) * start_stride) : vdupq_n_f32(0.0f);                    \
    float32x4_t high##i = start_stride > 0 ? vld1q_f32(start + (i) * start_stride + 4) : vdupq_n_f32(0.0f);               \
    float32x4_t row##i;
#define LOAD_FOUR(i) row##i = vld1q_f32(a + (i) * lda + t);
#define LOAD_ONE(i) row##i = vld1q_dup_f32(a + (i) * lda + t);
#define ADD_LANE(i, lane)                                                                                              \
    low##i = vfmaq_laneq_f32(low##i, b_low, row##i, lane);                                                             \
    high##i = vfmaq_laneq_f32(high##i, b_high, row##i, lane);
#define ADD_0(i) ADD_LANE(i, 0)
#define ADD_1(i) ADD_LANE(i, 1)
#define ADD_2(i) ADD_LANE(i, 2)
#define ADD_3(i) ADD_LANE(i, 3)
#define END(i)                                                                                                         \
    vst1q_f32(tile + (i) * 8, low##i);                                                                                 \
    vst1q_f32(tile + (i) * 8 + 4, high##i);

/* One depth: t + lane. */
#define DEPTH(R, lane)                                                                                                 \
    b_low = vld1q_f32(panel + (t + (lane)) * 8);                                                                       \
    b_high = vld1q_f32(panel + (t + (lane)) * 8 + 4);                                                                  \
    ROWS_##R(ADD_##lane)

/* tile (R, 8) = start (R, 8; row distance start_stride, in elements) + a (R, k; row distance lda) times panel (k, 8);
 * start_stride 0: +0; start may be tile.  ahead_bytes a depth are fetched from `ahead` on, which may be any address; they are
 * TILE_AHEAD_LEAST to TILE_AHEAD_MOST. */
#define DEFINE_TILE(R)                                                                                                 \
    static void tile_##R(int64_t k, const float *a, int64_t lda, const float *panel, const float *start,               \
                         int64_t start_stride, float *tile, const char *ahead, int64_t ahead_bytes)                    \
    {                                                                                                                  \
        float32x4_t b_low;                                                                                             \
        float32x4_t b_high;                                                                                            \
        ROWS_##R(BEGIN)                                                                                                \
        int64_t t = 0;                                                                                                 \
        for (; t + 4 <= k; t += 4) {                                                                                   \
            __builtin_prefetch(ahead + t * ahead_bytes, 0, 2);                                                         \
            __builtin_prefetch(ahead + (t + 2) * ahead_bytes, 0, 2);                                                   \
            ROWS_##R(LOAD_FOUR)                                                                                        \
            DEPTH(R, 0)                                                                                                \
            DEPTH(R, 1)                                                                                                \
            DEPTH(R, 2)                                                                                                \
            DEPTH(R, 3)                                                                                                \
        }                                                                                                              \
        for (; t < k; ++t) {                                                                                           \
            ROWS_##R(LOAD_ONE)                                                                                         \
            DEPTH(R, 0)                                                                                                \
        }                                                                                                              \
        ROWS_##R(END)                                                                                                  \
    }
/* clang-format on */

DEFINE_TILE(1)
DEFINE_TILE(2)
DEFINE_TILE(3)
DEFINE_TILE(4)
DEFINE_TILE(5)
DEFINE_TILE(6)
DEFINE_TILE(7)
DEFINE_TILE(8)

static void (*const tiles[TILE_ROWS])(int64_t, const float *, int64_t, const float *, const float *, int64_t, float *,
                                      const char *,
                                      int64_t) = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6, tile_7, tile_8};

#endif
