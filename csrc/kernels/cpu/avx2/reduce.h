/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums over the lanes of an AVX2 register, for the packing of code products.
 */
#ifndef QB_KERNELS_CPU_AVX2_REDUCE_H
#define QB_KERNELS_CPU_AVX2_REDUCE_H

#include <immintrin.h>
#include <stdint.h>

/* Of eight int32, modulo 2^32. */
static inline int32_t
reduce_add_s32(__m256i v)
{
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

#endif
