/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loop of the float product on Advanced SIMD: up to 8 rows by 8 columns.
 *
 * 16 accumulators, two registers of b and 8 of a (four depths of each row, used lane by lane) fit the 32 registers, so
 * intrinsics are enough here.  Every accumulator is one chain over the depth, in order.
 */
#ifndef QB_KERNELS_CPU_NEON_PRODUCT_TILE_H
#define QB_KERNELS_CPU_NEON_PRODUCT_TILE_H

#include <arm_neon.h>
#include <stdint.h>

enum {
    TILE_ROWS = 8,
    TILE_COLUMNS = 8,
    TILE_DEPTH = 768,             /* of a chunk */
    TILE_CACHE_BYTES = 256 * 1024 /* of a level-2 cache of 512 KiB or more, for the rows of a */
};

/* sums[i] += a[i][lane] * b, for the depth `first + lane`. */
#define DEPTH(R, lane)                                                                                                 \
    do {                                                                                                               \
        const float32x4_t b0 = vld1q_f32(panel + (first + (lane)) * 8);                                                \
        const float32x4_t b1 = vld1q_f32(panel + (first + (lane)) * 8 + 4);                                            \
        for (int i = 0; i < (R); ++i) {                                                                                \
            low[i] = vfmaq_laneq_f32(low[i], b0, rows[i], lane);                                                       \
            high[i] = vfmaq_laneq_f32(high[i], b1, rows[i], lane);                                                     \
        }                                                                                                              \
    } while (0)

/* tile (R, 8) = a (R, k; row distance lda) times panel (k, 8), on top of what tile holds if resume.  A quarter of a
 * cache line per depth is fetched from `ahead` on, which may be any address. */
#define DEFINE_TILE(R)                                                                                                 \
    static void tile_##R(int64_t k, const float *a, int64_t lda, const float *panel, int resume, float *tile,          \
                         const char *ahead)                                                                            \
    {                                                                                                                  \
        float32x4_t low[R];                                                                                            \
        float32x4_t high[R];                                                                                           \
        float32x4_t rows[R];                                                                                           \
        for (int i = 0; i < (R); ++i) {                                                                                \
            low[i] = resume ? vld1q_f32(tile + i * 8) : vdupq_n_f32(0.0f);                                             \
            high[i] = resume ? vld1q_f32(tile + i * 8 + 4) : vdupq_n_f32(0.0f);                                        \
        }                                                                                                              \
        int64_t first = 0;                                                                                             \
        for (; first + 4 <= k; first += 4) {                                                                           \
            __builtin_prefetch(ahead + first * 16, 0, 2);                                                              \
            for (int i = 0; i < (R); ++i) {                                                                            \
                rows[i] = vld1q_f32(a + i * lda + first);                                                              \
            }                                                                                                          \
            DEPTH(R, 0);                                                                                               \
            DEPTH(R, 1);                                                                                               \
            DEPTH(R, 2);                                                                                               \
            DEPTH(R, 3);                                                                                               \
        }                                                                                                              \
        for (; first < k; ++first) {                                                                                   \
            for (int i = 0; i < (R); ++i) {                                                                            \
                rows[i] = vld1q_dup_f32(a + i * lda + first);                                                          \
            }                                                                                                          \
            DEPTH(R, 0);                                                                                               \
        }                                                                                                              \
        for (int i = 0; i < (R); ++i) {                                                                                \
            vst1q_f32(tile + i * 8, low[i]);                                                                           \
            vst1q_f32(tile + i * 8 + 4, high[i]);                                                                      \
        }                                                                                                              \
    }

DEFINE_TILE(1)
DEFINE_TILE(2)
DEFINE_TILE(3)
DEFINE_TILE(4)
DEFINE_TILE(5)
DEFINE_TILE(6)
DEFINE_TILE(7)
DEFINE_TILE(8)

static void (*const tiles[TILE_ROWS])(int64_t, const float *, int64_t, const float *, int, float *,
                                      const char *) = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6, tile_7, tile_8};

#endif
