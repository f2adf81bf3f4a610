/* SPDX-License-Identifier: Apache-2.0
 *
 * The 16 float lanes of cpu/simd on AVX2 and FMA: two registers, lanes 0-7 and 8-15.  What each function means is
 * written in simd/simd.h.
 */
#ifndef QB_KERNELS_CPU_AVX2_VEC_H
#define QB_KERNELS_CPU_AVX2_VEC_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/numerics.h"

typedef struct vec_f32 {
    __m256 low, high;
} vec_f32;

typedef struct vec_s32 {
    __m256i low, high;
} vec_s32;

/* All ones in lanes below n. */
static inline vec_s32
vec_first(size_t n)
{
    const __m256i count = _mm256_set1_epi32((int)n);
    return (vec_s32){_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                     _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}

static inline vec_f32
vec_set(float value)
{
    const __m256 v = _mm256_set1_ps(value);
    return (vec_f32){v, v};
}

static inline vec_f32
vec_load(const float *p)
{
    return (vec_f32){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline vec_f32
vec_load_n(const float *p, size_t n, float fill)
{
    const vec_s32 first = vec_first(n);
    const __m256 f = _mm256_set1_ps(fill);
    return (vec_f32){_mm256_blendv_ps(f, _mm256_maskload_ps(p, first.low), _mm256_castsi256_ps(first.low)),
                     _mm256_blendv_ps(f, _mm256_maskload_ps(p + 8, first.high), _mm256_castsi256_ps(first.high))};
}

static inline void
vec_store(float *p, vec_f32 v)
{
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
}

/* In pieces of 8, 4, 2 and 1: a masked store blocks loads of its whole 32 bytes until it has left the store buffer, and
 * what follows a row's tail is often the next row; on some CPUs it is a long microcoded instruction as well. */
static inline void
vec_store_n(float *p, vec_f32 v, size_t n)
{
    __m256 eight = v.low;
    if (n & 8) {
        _mm256_storeu_ps(p, eight);
        eight = v.high;
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
    return (vec_f32){_mm256_cvtepi32_ps(_mm256_loadu_si256((const void *)p)),
                     _mm256_cvtepi32_ps(_mm256_loadu_si256((const void *)(p + 8)))};
}

static inline vec_f32
vec_load_s8(const int8_t *p)
{
    const __m128i codes = _mm_loadu_si128((const void *)p);
    return (vec_f32){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)),
                     _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes)))};
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
    /* packs interleaves the two halves by 128 bits; the permutation puts them in order */
    const __m256i words =
        _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high)), 0xd8);
    _mm_storeu_si128((void *)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
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
    _mm256_storeu_si256((void *)p, _mm256_cvttps_epi32(v.low));
    _mm256_storeu_si256((void *)(p + 8), _mm256_cvttps_epi32(v.high));
}

static inline vec_f32
vec_add(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

static inline vec_f32
vec_sub(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}

static inline vec_f32
vec_mul(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

static inline vec_f32
vec_div(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}

static inline vec_f32
vec_sqrt(vec_f32 v)
{
    return (vec_f32){_mm256_sqrt_ps(v.low), _mm256_sqrt_ps(v.high)};
}

static inline vec_f32
vec_fma(vec_f32 a, vec_f32 b, vec_f32 c)
{
    return (vec_f32){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

static inline vec_f32
vec_max(vec_f32 a, vec_f32 b)
{
    /* the second operand if unordered, by the instruction's definition */
    return (vec_f32){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}

static inline vec_f32
vec_min(vec_f32 a, vec_f32 b)
{
    return (vec_f32){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}

static inline vec_f32
vec_rint(vec_f32 v)
{
    return (vec_f32){_mm256_round_ps(v.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                     _mm256_round_ps(v.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

static inline vec_f32
vec_abs(vec_f32 v)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (vec_f32){_mm256_andnot_ps(sign, v.low), _mm256_andnot_ps(sign, v.high)};
}

static inline vec_f32
vec_copysign(vec_f32 magnitude, vec_f32 sign)
{
    const __m256 mask = _mm256_set1_ps(-0.0f);
    return (vec_f32){_mm256_or_ps(_mm256_andnot_ps(mask, magnitude.low), _mm256_and_ps(mask, sign.low)),
                     _mm256_or_ps(_mm256_andnot_ps(mask, magnitude.high), _mm256_and_ps(mask, sign.high))};
}

static inline vec_f32
vec_select_greater(vec_f32 a, vec_f32 b, vec_f32 yes, vec_f32 no)
{
    return (vec_f32){_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ)),
                     _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ))};
}

static inline vec_f32
vec_select_less_equal(vec_f32 a, vec_f32 b, vec_f32 yes, vec_f32 no)
{
    return (vec_f32){_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_LE_OQ)),
                     _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_LE_OQ))};
}

static inline vec_f32
vec_keep_n(vec_f32 v, size_t n)
{
    const vec_s32 first = vec_first(n);
    return (vec_f32){_mm256_and_ps(v.low, _mm256_castsi256_ps(first.low)),
                     _mm256_and_ps(v.high, _mm256_castsi256_ps(first.high))};
}

/* p * 2^n of one register: 2^n as a product of two floats, the first of which is exact. */
static inline __m256
vec_scale_exponent_half(__m256 p, __m256 z)
{
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(z), _mm256_set1_epi32(QB_EXP_SHIFT_BITS));
    const __m256i half = _mm256_srai_epi32(n, 1);
    const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

static inline vec_f32
vec_scale_exponent(vec_f32 p, vec_f32 z)
{
    return (vec_f32){vec_scale_exponent_half(p.low, z.low), vec_scale_exponent_half(p.high, z.high)};
}

static inline vec_s32
vec_magnitude_bits(vec_f32 v)
{
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return (vec_s32){_mm256_and_si256(_mm256_castps_si256(v.low), mask),
                     _mm256_and_si256(_mm256_castps_si256(v.high), mask)};
}

static inline vec_s32
vec_bits(vec_f32 v)
{
    return (vec_s32){_mm256_castps_si256(v.low), _mm256_castps_si256(v.high)};
}

static inline vec_f32
vec_from_bits(vec_s32 v)
{
    return (vec_f32){_mm256_castsi256_ps(v.low), _mm256_castsi256_ps(v.high)};
}

static inline vec_s32
vec_s32_zero(void)
{
    return (vec_s32){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

static inline vec_s32
vec_s32_max(vec_s32 a, vec_s32 b)
{
    return (vec_s32){_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
}

static inline int32_t
vec_s32_reduce_max(vec_s32 v)
{
    const __m256i a = _mm256_max_epi32(v.low, v.high);
    __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0xb1));
    return _mm_cvtsi128_si32(b);
}

static inline float
vec_reduce_add(vec_f32 v)
{
    const __m256 a = _mm256_add_ps(v.low, v.high);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    b = _mm_add_ss(b, _mm_shuffle_ps(b, b, 1));
    return _mm_cvtss_f32(b);
}

static inline float
vec_reduce_max(vec_f32 v)
{
    const __m256 a = _mm256_max_ps(v.low, v.high);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    b = _mm_max_ss(b, _mm_shuffle_ps(b, b, 1));
    return _mm_cvtss_f32(b);
}

/* 8 x 8 of the 16 x 16. */
static inline void
vec_transpose_quarter(const float *x, size_t x_stride, float *y, size_t y_stride)
{
    __m256 pairs[8];
    for (size_t i = 0; i < 8; i += 2) {
        const __m256 a = _mm256_loadu_ps(x + i * x_stride);
        const __m256 b = _mm256_loadu_ps(x + (i + 1) * x_stride);
        pairs[i] = _mm256_unpacklo_ps(a, b);
        pairs[i + 1] = _mm256_unpackhi_ps(a, b);
    }
    for (size_t i = 0; i < 2; ++i) {
        /* columns 2 i, 2 i + 1 and 2 i + 4, 2 i + 5: their rows 0-3 and 4-7 */
        const __m256 even0 = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        const __m256 even4 = _mm256_shuffle_ps(pairs[i + 4], pairs[i + 6], 0x44);
        const __m256 odd0 = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        const __m256 odd4 = _mm256_shuffle_ps(pairs[i + 4], pairs[i + 6], 0xee);
        _mm256_storeu_ps(y + (2 * i) * y_stride, _mm256_permute2f128_ps(even0, even4, 0x20));
        _mm256_storeu_ps(y + (2 * i + 1) * y_stride, _mm256_permute2f128_ps(odd0, odd4, 0x20));
        _mm256_storeu_ps(y + (2 * i + 4) * y_stride, _mm256_permute2f128_ps(even0, even4, 0x31));
        _mm256_storeu_ps(y + (2 * i + 5) * y_stride, _mm256_permute2f128_ps(odd0, odd4, 0x31));
    }
}

static inline void
vec_transpose(const float *x, size_t x_stride, float *y, size_t y_stride)
{
    vec_transpose_quarter(x, x_stride, y, y_stride);
    vec_transpose_quarter(x + 8, x_stride, y + 8 * y_stride, y_stride);
    vec_transpose_quarter(x + 8 * x_stride, x_stride, y + 8, y_stride);
    vec_transpose_quarter(x + 8 * x_stride + 8, x_stride, y + 8 * y_stride + 8, y_stride);
}

typedef struct vec_f64 {
    __m256d quarter[4];
} vec_f64;

static inline vec_f64
vec_f64_zero(void)
{
    const __m256d zero = _mm256_setzero_pd();
    return (vec_f64){{zero, zero, zero, zero}};
}

static inline __m256d
vec_f64_add_square_quarter(__m256d sum, __m128 v)
{
    const __m256d wide = _mm256_cvtps_pd(v);
    return _mm256_fmadd_pd(wide, wide, sum);
}

static inline vec_f64
vec_f64_add_square(vec_f64 sum, vec_f32 v)
{
    return (vec_f64){{vec_f64_add_square_quarter(sum.quarter[0], _mm256_castps256_ps128(v.low)),
                      vec_f64_add_square_quarter(sum.quarter[1], _mm256_extractf128_ps(v.low, 1)),
                      vec_f64_add_square_quarter(sum.quarter[2], _mm256_castps256_ps128(v.high)),
                      vec_f64_add_square_quarter(sum.quarter[3], _mm256_extractf128_ps(v.high, 1))}};
}

static inline double
vec_f64_reduce_add(vec_f64 v)
{
    const __m256d four =
        _mm256_add_pd(_mm256_add_pd(v.quarter[0], v.quarter[2]), _mm256_add_pd(v.quarter[1], v.quarter[3]));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

typedef struct vec_u32 {
    __m256i low, high;
} vec_u32;

static inline vec_u32
vec_u32_set(uint32_t value)
{
    const __m256i v = _mm256_set1_epi32((int32_t)value);
    return (vec_u32){v, v};
}

static inline vec_u32
vec_u32_load(const uint32_t *p)
{
    return (vec_u32){_mm256_loadu_si256((const void *)p), _mm256_loadu_si256((const void *)(p + 8))};
}

static inline vec_u32
vec_u32_add(vec_u32 a, vec_u32 b)
{
    return (vec_u32){_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}

static inline vec_u32
vec_u32_xor(vec_u32 a, vec_u32 b)
{
    return (vec_u32){_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}

static inline __m256i
vec_u32_multiply_half(__m256i a, __m256i b, __m256i *product_low)
{
    /* the instruction multiplies even lanes; each product's halves go to where its factors were */
    const __m256i even = _mm256_mul_epu32(a, b);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
    *product_low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

static inline vec_u32
vec_u32_multiply(vec_u32 a, vec_u32 b, vec_u32 *product_low)
{
    return (vec_u32){vec_u32_multiply_half(a.low, b.low, &product_low->low),
                     vec_u32_multiply_half(a.high, b.high, &product_low->high)};
}

static inline __m256
vec_u32_select_half(__m256i a, __m256i b, __m256 yes, __m256 no)
{
    const __m256i is_at_least = _mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a);
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(is_at_least));
}

static inline vec_f32
vec_u32_select_at_least(vec_u32 a, vec_u32 b, vec_f32 yes, vec_f32 no)
{
    return (vec_f32){vec_u32_select_half(a.low, b.low, yes.low, no.low),
                     vec_u32_select_half(a.high, b.high, yes.high, no.high)};
}

static inline void
vec_transpose_fours_half(__m256 *a, __m256 *b, __m256 *c, __m256 *d)
{
    const __m256 ab_low = _mm256_unpacklo_ps(*a, *b);
    const __m256 ab_high = _mm256_unpackhi_ps(*a, *b);
    const __m256 cd_low = _mm256_unpacklo_ps(*c, *d);
    const __m256 cd_high = _mm256_unpackhi_ps(*c, *d);
    *a = _mm256_shuffle_ps(ab_low, cd_low, 0x44);
    *b = _mm256_shuffle_ps(ab_low, cd_low, 0xee);
    *c = _mm256_shuffle_ps(ab_high, cd_high, 0x44);
    *d = _mm256_shuffle_ps(ab_high, cd_high, 0xee);
}

static inline void
vec_transpose_fours(vec_f32 v[4])
{
    vec_transpose_fours_half(&v[0].low, &v[1].low, &v[2].low, &v[3].low);
    vec_transpose_fours_half(&v[0].high, &v[1].high, &v[2].high, &v[3].high);
}

#endif
