/* SPDX-License-Identifier: Apache-2.0
 *
 * The 16 float lanes of cpu/simd on Advanced SIMD: four registers.  What each function means is written in
 * simd/simd.h.  The max and min instructions of this ISA propagate NaN and order the zeros, so they are spelled as
 * compare and select here.
 */
#ifndef QB_KERNELS_CPU_NEON_VEC_H
#define QB_KERNELS_CPU_NEON_VEC_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/numerics.h"

typedef struct vec_f32 {
    float32x4_t q0, q1, q2, q3;
} vec_f32;

typedef struct vec_s32 {
    int32x4_t q0, q1, q2, q3;
} vec_s32;

static inline vec_f32
vec_set(float value)
{
    const float32x4_t q = vdupq_n_f32(value);
    return (vec_f32){q, q, q, q};
}

static inline vec_f32
vec_load(const float *p)
{
    return (vec_f32){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}

static inline vec_f32
vec_load_n(const float *p, size_t n, float fill)
{
    float lanes[16];
    vec_f32 filled = vec_set(fill);
    vst1q_f32(lanes, filled.q0);
    vst1q_f32(lanes + 4, filled.q1);
    vst1q_f32(lanes + 8, filled.q2);
    vst1q_f32(lanes + 12, filled.q3);
    memcpy(lanes, p, n * sizeof *p);
    return vec_load(lanes);
}

static inline void
vec_store(float *p, vec_f32 v)
{
    vst1q_f32(p, v.q0);
    vst1q_f32(p + 4, v.q1);
    vst1q_f32(p + 8, v.q2);
    vst1q_f32(p + 12, v.q3);
}

static inline void
vec_store_n(float *p, vec_f32 v, size_t n)
{
    float lanes[16];
    vec_store(lanes, v);
    memcpy(p, lanes, n * sizeof *p);
}

static inline vec_f32
vec_load_s32(const int32_t *p)
{
    return (vec_f32){vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4)), vcvtq_f32_s32(vld1q_s32(p + 8)),
                     vcvtq_f32_s32(vld1q_s32(p + 12))};
}

static inline vec_f32
vec_load_s8(const int8_t *p)
{
    const int8x16_t codes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(codes));
    const int16x8_t high = vmovl_s8(vget_high_s8(codes));
    return (vec_f32){vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                     vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))};
}

static inline vec_f32
vec_load_s8_n(const int8_t *p, size_t n)
{
    int8_t codes[16] = {0};
    memcpy(codes, p, n);
    return vec_load_s8(codes);
}

static inline void
vec_store_s8(int8_t *p, vec_f32 v)
{
    const int16x8_t low = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(v.q0)), vqmovn_s32(vcvtnq_s32_f32(v.q1)));
    const int16x8_t high = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(v.q2)), vqmovn_s32(vcvtnq_s32_f32(v.q3)));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

static inline void
vec_store_s8_n(int8_t *p, vec_f32 v, size_t n)
{
    int8_t codes[16];
    vec_store_s8(codes, v);
    memcpy(p, codes, n);
}

static inline void
vec_store_trunc_s32(int32_t *p, vec_f32 v)
{
    vst1q_s32(p, vcvtq_s32_f32(v.q0));
    vst1q_s32(p + 4, vcvtq_s32_f32(v.q1));
    vst1q_s32(p + 8, vcvtq_s32_f32(v.q2));
    vst1q_s32(p + 12, vcvtq_s32_f32(v.q3));
}

static inline vec_f32
vec_add(vec_f32 a, vec_f32 b)
{
    return (vec_f32){vaddq_f32(a.q0, b.q0), vaddq_f32(a.q1, b.q1), vaddq_f32(a.q2, b.q2), vaddq_f32(a.q3, b.q3)};
}

static inline vec_f32
vec_sub(vec_f32 a, vec_f32 b)
{
    return (vec_f32){vsubq_f32(a.q0, b.q0), vsubq_f32(a.q1, b.q1), vsubq_f32(a.q2, b.q2), vsubq_f32(a.q3, b.q3)};
}

static inline vec_f32
vec_mul(vec_f32 a, vec_f32 b)
{
    return (vec_f32){vmulq_f32(a.q0, b.q0), vmulq_f32(a.q1, b.q1), vmulq_f32(a.q2, b.q2), vmulq_f32(a.q3, b.q3)};
}

static inline vec_f32
vec_div(vec_f32 a, vec_f32 b)
{
    return (vec_f32){vdivq_f32(a.q0, b.q0), vdivq_f32(a.q1, b.q1), vdivq_f32(a.q2, b.q2), vdivq_f32(a.q3, b.q3)};
}

static inline vec_f32
vec_sqrt(vec_f32 v)
{
    return (vec_f32){vsqrtq_f32(v.q0), vsqrtq_f32(v.q1), vsqrtq_f32(v.q2), vsqrtq_f32(v.q3)};
}

static inline vec_f32
vec_fma(vec_f32 a, vec_f32 b, vec_f32 c)
{
    return (vec_f32){vfmaq_f32(c.q0, a.q0, b.q0), vfmaq_f32(c.q1, a.q1, b.q1), vfmaq_f32(c.q2, a.q2, b.q2),
                     vfmaq_f32(c.q3, a.q3, b.q3)};
}

static inline float32x4_t
vec_quad_max(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

static inline float32x4_t
vec_quad_min(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

static inline vec_f32
vec_max(vec_f32 a, vec_f32 b)
{
    return (vec_f32){vec_quad_max(a.q0, b.q0), vec_quad_max(a.q1, b.q1), vec_quad_max(a.q2, b.q2),
                     vec_quad_max(a.q3, b.q3)};
}

static inline vec_f32
vec_min(vec_f32 a, vec_f32 b)
{
    return (vec_f32){vec_quad_min(a.q0, b.q0), vec_quad_min(a.q1, b.q1), vec_quad_min(a.q2, b.q2),
                     vec_quad_min(a.q3, b.q3)};
}

static inline vec_f32
vec_rint(vec_f32 v)
{
    return (vec_f32){vrndnq_f32(v.q0), vrndnq_f32(v.q1), vrndnq_f32(v.q2), vrndnq_f32(v.q3)};
}

static inline vec_f32
vec_abs(vec_f32 v)
{
    return (vec_f32){vabsq_f32(v.q0), vabsq_f32(v.q1), vabsq_f32(v.q2), vabsq_f32(v.q3)};
}

static inline vec_f32
vec_copysign(vec_f32 magnitude, vec_f32 sign)
{
    const uint32x4_t mask = vdupq_n_u32(0x80000000u);
    return (vec_f32){vbslq_f32(mask, sign.q0, magnitude.q0), vbslq_f32(mask, sign.q1, magnitude.q1),
                     vbslq_f32(mask, sign.q2, magnitude.q2), vbslq_f32(mask, sign.q3, magnitude.q3)};
}

static inline vec_f32
vec_select_greater(vec_f32 a, vec_f32 b, vec_f32 yes, vec_f32 no)
{
    return (vec_f32){vbslq_f32(vcgtq_f32(a.q0, b.q0), yes.q0, no.q0), vbslq_f32(vcgtq_f32(a.q1, b.q1), yes.q1, no.q1),
                     vbslq_f32(vcgtq_f32(a.q2, b.q2), yes.q2, no.q2), vbslq_f32(vcgtq_f32(a.q3, b.q3), yes.q3, no.q3)};
}

static inline vec_f32
vec_select_less_equal(vec_f32 a, vec_f32 b, vec_f32 yes, vec_f32 no)
{
    return (vec_f32){vbslq_f32(vcleq_f32(a.q0, b.q0), yes.q0, no.q0), vbslq_f32(vcleq_f32(a.q1, b.q1), yes.q1, no.q1),
                     vbslq_f32(vcleq_f32(a.q2, b.q2), yes.q2, no.q2), vbslq_f32(vcleq_f32(a.q3, b.q3), yes.q3, no.q3)};
}

/* q where the lane number, first + 0 .. 3, is below n. */
static inline float32x4_t
vec_quad_keep(float32x4_t q, uint32_t first, size_t n)
{
    static const uint32_t lanes[4] = {0, 1, 2, 3};
    const uint32x4_t lane = vaddq_u32(vld1q_u32(lanes), vdupq_n_u32(first));
    const uint32x4_t kept = vcltq_u32(lane, vdupq_n_u32((uint32_t)n));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(q), kept));
}

static inline vec_f32
vec_keep_n(vec_f32 v, size_t n)
{
    return (vec_f32){vec_quad_keep(v.q0, 0, n), vec_quad_keep(v.q1, 4, n), vec_quad_keep(v.q2, 8, n),
                     vec_quad_keep(v.q3, 12, n)};
}

/* p * 2^n of one register: 2^n as a product of two floats, the first of which is exact. */
static inline float32x4_t
vec_quad_scale_exponent(float32x4_t p, float32x4_t z)
{
    const int32x4_t bias = vdupq_n_s32(127);
    const int32x4_t n = vsubq_s32(vreinterpretq_s32_f32(z), vdupq_n_s32(QB_EXP_SHIFT_BITS));
    const int32x4_t half = vshrq_n_s32(n, 1);
    const int32x4_t first = vshlq_n_s32(vaddq_s32(half, bias), 23);
    const int32x4_t second = vshlq_n_s32(vaddq_s32(vsubq_s32(n, half), bias), 23);
    return vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(first)), vreinterpretq_f32_s32(second));
}

static inline vec_f32
vec_scale_exponent(vec_f32 p, vec_f32 z)
{
    return (vec_f32){vec_quad_scale_exponent(p.q0, z.q0), vec_quad_scale_exponent(p.q1, z.q1),
                     vec_quad_scale_exponent(p.q2, z.q2), vec_quad_scale_exponent(p.q3, z.q3)};
}

static inline vec_s32
vec_bits(vec_f32 v)
{
    return (vec_s32){vreinterpretq_s32_f32(v.q0), vreinterpretq_s32_f32(v.q1), vreinterpretq_s32_f32(v.q2),
                     vreinterpretq_s32_f32(v.q3)};
}

static inline vec_s32
vec_magnitude_bits(vec_f32 v)
{
    return vec_bits(vec_abs(v));
}

static inline vec_f32
vec_from_bits(vec_s32 v)
{
    return (vec_f32){vreinterpretq_f32_s32(v.q0), vreinterpretq_f32_s32(v.q1), vreinterpretq_f32_s32(v.q2),
                     vreinterpretq_f32_s32(v.q3)};
}

static inline vec_s32
vec_s32_zero(void)
{
    const int32x4_t q = vdupq_n_s32(0);
    return (vec_s32){q, q, q, q};
}

static inline vec_s32
vec_s32_max(vec_s32 a, vec_s32 b)
{
    return (vec_s32){vmaxq_s32(a.q0, b.q0), vmaxq_s32(a.q1, b.q1), vmaxq_s32(a.q2, b.q2), vmaxq_s32(a.q3, b.q3)};
}

static inline int32_t
vec_s32_reduce_max(vec_s32 v)
{
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(v.q0, v.q2), vmaxq_s32(v.q1, v.q3)));
}

static inline float
vec_reduce_add(vec_f32 v)
{
    const float32x4_t four = vaddq_f32(vaddq_f32(v.q0, v.q2), vaddq_f32(v.q1, v.q3));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static inline float
vec_reduce_max(vec_f32 v)
{
    const float32x4_t four = vec_quad_max(vec_quad_max(v.q0, v.q2), vec_quad_max(v.q1, v.q3));
    const float32x4_t two = vec_quad_max(four, vextq_f32(four, four, 2));
    const float32x4_t one = vec_quad_max(two, vextq_f32(two, two, 1));
    return vgetq_lane_f32(one, 0);
}

/* 4 x 4 of the 16 x 16. */
static inline void
vec_transpose_quads(const float *x, size_t x_stride, float *y, size_t y_stride)
{
    const float32x4x2_t a = vtrnq_f32(vld1q_f32(x), vld1q_f32(x + x_stride));
    const float32x4x2_t b = vtrnq_f32(vld1q_f32(x + 2 * x_stride), vld1q_f32(x + 3 * x_stride));
    vst1q_f32(y, vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0])));
    vst1q_f32(y + y_stride, vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1])));
    vst1q_f32(y + 2 * y_stride, vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0])));
    vst1q_f32(y + 3 * y_stride, vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1])));
}

static inline void
vec_transpose(const float *x, size_t x_stride, float *y, size_t y_stride)
{
    for (size_t i = 0; i < 16; i += 4) {
        for (size_t j = 0; j < 16; j += 4) {
            vec_transpose_quads(x + i * x_stride + j, x_stride, y + j * y_stride + i, y_stride);
        }
    }
}

typedef struct vec_f64 {
    float64x2_t pair[8];
} vec_f64;

static inline vec_f64
vec_f64_zero(void)
{
    const float64x2_t zero = vdupq_n_f64(0.0);
    return (vec_f64){{zero, zero, zero, zero, zero, zero, zero, zero}};
}

static inline vec_f64
vec_f64_add_square(vec_f64 sum, vec_f32 v)
{
    const float32x4_t quads[4] = {v.q0, v.q1, v.q2, v.q3};
    for (size_t i = 0; i < 4; ++i) {
        const float64x2_t low = vcvt_f64_f32(vget_low_f32(quads[i]));
        const float64x2_t high = vcvt_high_f64_f32(quads[i]);
        sum.pair[2 * i] = vfmaq_f64(sum.pair[2 * i], low, low);
        sum.pair[2 * i + 1] = vfmaq_f64(sum.pair[2 * i + 1], high, high);
    }
    return sum;
}

static inline double
vec_f64_reduce_add(vec_f64 v)
{
    for (size_t distance = 4; distance > 0; distance /= 2) {
        for (size_t i = 0; i < distance; ++i) {
            v.pair[i] = vaddq_f64(v.pair[i], v.pair[i + distance]);
        }
    }
    return vgetq_lane_f64(v.pair[0], 0) + vgetq_lane_f64(v.pair[0], 1);
}

typedef struct vec_u32 {
    uint32x4_t q[4];
} vec_u32;

static inline vec_u32
vec_u32_set(uint32_t value)
{
    const uint32x4_t q = vdupq_n_u32(value);
    return (vec_u32){{q, q, q, q}};
}

static inline vec_u32
vec_u32_load(const uint32_t *p)
{
    return (vec_u32){{vld1q_u32(p), vld1q_u32(p + 4), vld1q_u32(p + 8), vld1q_u32(p + 12)}};
}

static inline vec_u32
vec_u32_add(vec_u32 a, vec_u32 b)
{
    return (vec_u32){
        {vaddq_u32(a.q[0], b.q[0]), vaddq_u32(a.q[1], b.q[1]), vaddq_u32(a.q[2], b.q[2]), vaddq_u32(a.q[3], b.q[3])}};
}

static inline vec_u32
vec_u32_xor(vec_u32 a, vec_u32 b)
{
    return (vec_u32){
        {veorq_u32(a.q[0], b.q[0]), veorq_u32(a.q[1], b.q[1]), veorq_u32(a.q[2], b.q[2]), veorq_u32(a.q[3], b.q[3])}};
}

static inline vec_u32
vec_u32_multiply(vec_u32 a, vec_u32 b, vec_u32 *product_low)
{
    vec_u32 product_high;
    for (size_t i = 0; i < 4; ++i) {
        const uint32x4_t first = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a.q[i]), vget_low_u32(b.q[i])));
        const uint32x4_t second = vreinterpretq_u32_u64(vmull_high_u32(a.q[i], b.q[i]));
        product_low->q[i] = vuzp1q_u32(first, second);
        product_high.q[i] = vuzp2q_u32(first, second);
    }
    return product_high;
}

static inline vec_f32
vec_u32_select_at_least(vec_u32 a, vec_u32 b, vec_f32 yes, vec_f32 no)
{
    return (vec_f32){
        vbslq_f32(vcgeq_u32(a.q[0], b.q[0]), yes.q0, no.q0), vbslq_f32(vcgeq_u32(a.q[1], b.q[1]), yes.q1, no.q1),
        vbslq_f32(vcgeq_u32(a.q[2], b.q[2]), yes.q2, no.q2), vbslq_f32(vcgeq_u32(a.q[3], b.q[3]), yes.q3, no.q3)};
}

static inline void
vec_transpose_fours_quad(float32x4_t *a, float32x4_t *b, float32x4_t *c, float32x4_t *d)
{
    const float32x4x2_t ab = vtrnq_f32(*a, *b);
    const float32x4x2_t cd = vtrnq_f32(*c, *d);
    *a = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
    *b = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
    *c = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
    *d = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}

static inline void
vec_transpose_fours(vec_f32 v[4])
{
    vec_transpose_fours_quad(&v[0].q0, &v[1].q0, &v[2].q0, &v[3].q0);
    vec_transpose_fours_quad(&v[0].q1, &v[1].q1, &v[2].q1, &v[3].q1);
    vec_transpose_fours_quad(&v[0].q2, &v[1].q2, &v[2].q2, &v[3].q2);
    vec_transpose_fours_quad(&v[0].q3, &v[1].q3, &v[2].q3, &v[3].q3);
}

#endif
