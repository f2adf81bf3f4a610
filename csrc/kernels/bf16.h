/* SPDX-License-Identifier: Apache-2.0
 *
 * A float32 as bfloat16, its upper half: to nearest, ties to even; denormals become zero, with their sign, also those
 * that are nearest to the smallest normal number; infinities stay, and what is too large becomes one; a NaN keeps its
 * upper half and becomes quiet.  So VCVTNEPS2BF16 is documented (Intel 64 and IA-32 Architectures Software Developer's
 * Manual, volume 2); it is written here in integers, which every variant compiles to its own vectors, so that no bit of
 * it depends on a processor.
 */
#ifndef QB_KERNELS_BF16_H
#define QB_KERNELS_BF16_H

#include <stdint.h>
#include <string.h>

/* The bfloat16 of x in the lower half.  Of internal linkage in every object, so that no copy is everybody's. */
static inline uint32_t
qb_bf16_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t upper = bits >> 16;
    const uint32_t rounded = (bits + 0x7fffu + (upper & 1u)) >> 16;
    const uint32_t normal = magnitude < 0x00800000u ? upper & 0x8000u : rounded;
    return magnitude > 0x7f800000u ? upper | 0x40u : normal;
}

/* Depths 2p and 2p + 1 in one word, in the order of the instruction's operands: the even depth below. */
static inline uint32_t
qb_bf16_pair(float even, float odd)
{
    return qb_bf16_bits(even) | qb_bf16_bits(odd) << 16;
}

#endif
