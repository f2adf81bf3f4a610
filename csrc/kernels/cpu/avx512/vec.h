/* SPDX-License-Identifier: Apache-2.0
 *
 * The 16 float lanes of cpu/simd on AVX-512 (F, BW, DQ, VL): one register.  What each function means is written in
 * simd/simd.h.
 */
#ifndef QB_KERNELS_CPU_AVX512_VEC_H
#define QB_KERNELS_CPU_AVX512_VEC_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/numerics.h"

typedef __m512 vec_f32;
typedef __m512i vec_s32;

static inline __mmask16
vec_first(size_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

static inline vec_f32
vec_set(float value)
{
    return _mm512_set1_ps(value);
}

static inline vec_f32
vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline vec_f32
vec_load_n(const float *p, size_t n, float fill)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), vec_first(n), p);
}

static inline void
vec_store(float *p, vec_f32 v)
{
    _mm512_storeu_ps(p, v);
}

/* In pieces of 8, 4, 2 and 1: a masked store blocks loads of its whole 64 bytes until it has left the store buffer, and
 * what follows a row's tail is often the next row (three times slower softmax of 37 columns on Zen 5). */
static inline void
vec_store_n(float *p, vec_f32 v, size_t n)
{
    __m256 eight = _mm512_castps512_ps256(v);
    if (n & 8) {
        _mm256_storeu_ps(p, eight);
        eight = _mm512_extractf32x8_ps(v, 1);
        p += 8;
    }
    __m128 four = _mm256_castps256_ps128(eight);
    if (n & 4) {
        _mm_storeu_ps(p, four);
        four = _mm256_extractf128_ps(eight, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((void *)p, four);
        four = _mm_movehl_ps(four, four);
        p += 2;
    }
    if (n & 1) {
        _mm_store_ss(p, four);
    }
}

static inline vec_f32
vec_load_s32(const int32_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}

static inline vec_f32
vec_load_s8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}

static inline vec_f32
vec_load_s8_n(const int8_t *p, size_t n)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(vec_first(n), p)));
}

static inline void
vec_store_s8(int8_t *p, vec_f32 v)
{
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

static inline void
vec_store_s8_n(int8_t *p, vec_f32 v, size_t n)
{
    _mm_mask_storeu_epi8(p, vec_first(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

static inline void
vec_store_trunc_s32(int32_t *p, vec_f32 v)
{
    _mm512_storeu_si512((void *)p, _mm512_cvttps_epi32(v));
}

static inline vec_f32
vec_add(vec_f32 a, vec_f32 b)
{
    return _mm512_add_ps(a, b);
}

static inline vec_f32
vec_sub(vec_f32 a, vec_f32 b)
{
    return _mm512_sub_ps(a, b);
}

static inline vec_f32
vec_mul(vec_f32 a, vec_f32 b)
{
    return _mm512_mul_ps(a, b);
}

static inline vec_f32
vec_div(vec_f32 a, vec_f32 b)
{
    return _mm512_div_ps(a, b);
}

static inline vec_f32
vec_sqrt(vec_f32 v)
{
    return _mm512_sqrt_ps(v);
}

static inline vec_f32
vec_fma(vec_f32 a, vec_f32 b, vec_f32 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vec_f32
vec_max(vec_f32 a, vec_f32 b)
{
    return _mm512_max_ps(a, b); /* the second operand if unordered, by the instruction's definition */
}

static inline vec_f32
vec_min(vec_f32 a, vec_f32 b)
{
    return _mm512_min_ps(a, b);
}

static inline vec_f32
vec_rint(vec_f32 v)
{
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec_f32
vec_abs(vec_f32 v)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), v);
}

static inline vec_f32
vec_copysign(vec_f32 magnitude, vec_f32 sign)
{
    const vec_f32 mask = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(mask, magnitude), _mm512_and_ps(mask, sign));
}

static inline vec_f32
vec_select_greater(vec_f32 a, vec_f32 b, vec_f32 yes, vec_f32 no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes);
}

static inline vec_f32
vec_select_less_equal(vec_f32 a, vec_f32 b, vec_f32 yes, vec_f32 no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LE_OQ), no, yes);
}

static inline vec_f32
vec_keep_n(vec_f32 v, size_t n)
{
    return _mm512_maskz_mov_ps(vec_first(n), v);
}

static inline vec_f32
vec_scale_exponent(vec_f32 p, vec_f32 z)
{
    return _mm512_scalef_ps(p, _mm512_sub_ps(z, _mm512_set1_ps(QB_EXP_SHIFT)));
}

static inline vec_s32
vec_magnitude_bits(vec_f32 v)
{
    return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}

static inline vec_s32
vec_bits(vec_f32 v)
{
    return _mm512_castps_si512(v);
}

static inline vec_f32
vec_from_bits(vec_s32 v)
{
    return _mm512_castsi512_ps(v);
}

static inline vec_s32
vec_s32_zero(void)
{
    return _mm512_setzero_si512();
}

static inline vec_s32
vec_s32_max(vec_s32 a, vec_s32 b)
{
    return _mm512_max_epi32(a, b);
}

static inline int32_t
vec_s32_reduce_max(vec_s32 v)
{
    const __m256i a = _mm256_max_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0xb1));
    return _mm_cvtsi128_si32(b);
}

static inline float
vec_reduce_add(vec_f32 v)
{
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    b = _mm_add_ss(b, _mm_shuffle_ps(b, b, 1));
    return _mm_cvtss_f32(b);
}

static inline float
vec_reduce_max(vec_f32 v)
{
    const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    b = _mm_max_ss(b, _mm_shuffle_ps(b, b, 1));
    return _mm_cvtss_f32(b);
}

static inline void
vec_transpose(const float *x, size_t x_stride, float *y, size_t y_stride)
{
    __m512 pairs[16];
    for (size_t i = 0; i < 16; i += 2) {
        const __m512 a = _mm512_loadu_ps(x + i * x_stride);
        const __m512 b = _mm512_loadu_ps(x + (i + 1) * x_stride);
        pairs[i] = _mm512_unpacklo_ps(a, b);
        pairs[i + 1] = _mm512_unpackhi_ps(a, b);
    }
    /* 128-bit lane k of fours[4 j + i] holds rows 4 j .. 4 j + 3 of column 4 k + i */
    __m512 fours[16];
    for (size_t j = 0; j < 16; j += 4) {
        fours[j] = _mm512_shuffle_ps(pairs[j], pairs[j + 2], 0x44);
        fours[j + 1] = _mm512_shuffle_ps(pairs[j], pairs[j + 2], 0xee);
        fours[j + 2] = _mm512_shuffle_ps(pairs[j + 1], pairs[j + 3], 0x44);
        fours[j + 3] = _mm512_shuffle_ps(pairs[j + 1], pairs[j + 3], 0xee);
    }
    for (size_t i = 0; i < 4; ++i) {
        const __m512 even0 = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0x88);
        const __m512 even8 = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0x88);
        const __m512 odd0 = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0xdd);
        const __m512 odd8 = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0xdd);
        _mm512_storeu_ps(y + i * y_stride, _mm512_shuffle_f32x4(even0, even8, 0x88));
        _mm512_storeu_ps(y + (i + 4) * y_stride, _mm512_shuffle_f32x4(odd0, odd8, 0x88));
        _mm512_storeu_ps(y + (i + 8) * y_stride, _mm512_shuffle_f32x4(even0, even8, 0xdd));
        _mm512_storeu_ps(y + (i + 12) * y_stride, _mm512_shuffle_f32x4(odd0, odd8, 0xdd));
    }
}

#define VEC_HAS_LOOKUP

static inline vec_f32
vec_lookup(const float table[32], vec_f32 shifted)
{
    return _mm512_permutex2var_ps(_mm512_loadu_ps(table), _mm512_castps_si512(shifted), _mm512_loadu_ps(table + 16));
}

static inline vec_f32
vec_from_integer(vec_f32 v)
{
    return _mm512_reduce_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline int
vec_all_less_equal(vec_f32 a, vec_f32 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ) == 0xffff;
}

typedef struct vec_f64 {
    __m512d low, high;
} vec_f64;

static inline vec_f64
vec_f64_zero(void)
{
    return (vec_f64){_mm512_setzero_pd(), _mm512_setzero_pd()};
}

static inline vec_f64
vec_f64_add_square(vec_f64 sum, vec_f32 v)
{
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    return (vec_f64){_mm512_fmadd_pd(low, low, sum.low), _mm512_fmadd_pd(high, high, sum.high)};
}

static inline double
vec_f64_reduce_add(vec_f64 v)
{
    const __m512d eight = _mm512_add_pd(v.low, v.high);
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

typedef __m512i vec_u32;

static inline vec_u32
vec_u32_set(uint32_t value)
{
    return _mm512_set1_epi32((int32_t)value);
}

static inline vec_u32
vec_u32_load(const uint32_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}

static inline vec_u32
vec_u32_add(vec_u32 a, vec_u32 b)
{
    return _mm512_add_epi32(a, b);
}

static inline vec_u32
vec_u32_xor(vec_u32 a, vec_u32 b)
{
    return _mm512_xor_si512(a, b);
}

static inline vec_u32
vec_u32_multiply(vec_u32 a, vec_u32 b, vec_u32 *product_low)
{
    /* the instruction multiplies even lanes; each product's halves go to where its factors were */
    const __m512i even = _mm512_mul_epu32(a, b);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
    *product_low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    return _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}

static inline vec_f32
vec_u32_select_at_least(vec_u32 a, vec_u32 b, vec_f32 yes, vec_f32 no)
{
    return _mm512_mask_blend_ps(_mm512_cmpge_epu32_mask(a, b), no, yes);
}

static inline void
vec_transpose_fours(vec_f32 v[4])
{
    const __m512 ab_low = _mm512_unpacklo_ps(v[0], v[1]);
    const __m512 ab_high = _mm512_unpackhi_ps(v[0], v[1]);
    const __m512 cd_low = _mm512_unpacklo_ps(v[2], v[3]);
    const __m512 cd_high = _mm512_unpackhi_ps(v[2], v[3]);
    v[0] = _mm512_shuffle_ps(ab_low, cd_low, 0x44);
    v[1] = _mm512_shuffle_ps(ab_low, cd_low, 0xee);
    v[2] = _mm512_shuffle_ps(ab_high, cd_high, 0x44);
    v[3] = _mm512_shuffle_ps(ab_high, cd_high, 0xee);
}

#endif
