/* SPDX-License-Identifier: Apache-2.0
 *
 * Loops that are the same on every ISA are written once in this directory and compiled once per variant, against the
 * variant's vec.h.  A vector has 16 float lanes whatever the registers hold (one zmm, two ymm, four q), because the
 * reductions of the contract have 16 lanes (core/kernel_list.inc).  vec.h provides:
 *
 *   vec_f32, vec_s32                      16 floats, 16 int32
 *   vec_set(value)                        one value in every lane
 *   vec_load(p)  vec_store(p, v)          16 elements, no alignment needed
 *   vec_load_n(p, n, fill)                the first n < 16 elements, `fill` in the other lanes, nothing else is read
 *   vec_store_n(p, v, n)                  the first n < 16 lanes, nothing else is written
 *   vec_load_s32(p)                       int32 to float, rounded to nearest even
 *   vec_load_s8(p)  vec_load_s8_n(p, n)   int8 to float; absent lanes are 0
 *   vec_store_s8(p, v), ..._n             integral floats in [-128, 127] to int8
 *   vec_store_trunc_s32(p, v)             floats in [0, 2^31) to int32, towards zero
 *   vec_add sub mul div sqrt fma          IEEE, round to nearest even; fma(a, b, c) = a * b + c
 *   vec_max(a, b)  vec_min(a, b)          (a > b) ? a : b and (a < b) ? a : b, so b where either is NaN
 *   vec_rint(v)                           to an integer, half to even, keeps the sign of zero
 *   vec_abs(v)  vec_copysign(m, s)
 *   vec_select_greater(a, b, yes, no)     (a > b) ? yes : no; `no` where unordered
 *   vec_select_less_equal(a, b, yes, no)  (a <= b) ? yes : no; `no` where unordered
 *   vec_keep_n(v, n)                      +0 in lanes n and above
 *   vec_scale_exponent(p, z)              p * 2^n rounded once, z = n + QB_EXP_SHIFT, -290 <= n <= 129
 *                                         (numerics.h); NaN if p is
 *   vec_bits(v)  vec_from_bits(b)         the float's bits
 *   vec_magnitude_bits(v)                 the same without sign
 *   vec_lookup(table, n + 2^23 * 3 / 2)   table[n] of 32 floats, n an integer; only with VEC_HAS_LOOKUP
 *   vec_from_integer(v)                   v - vec_rint(v), 0 for an infinity; only with VEC_HAS_LOOKUP
 *   vec_all_less_equal(a, b)              1: a <= b in every lane; only with VEC_HAS_LOOKUP
 *   vec_s32_zero()  vec_s32_max(a, b)  vec_s32_reduce_max(v)
 *   vec_reduce_add(v)  vec_reduce_max(v)  the tree (l, l+8), (l, l+4), (l, l+2), (l, l+1)
 *   vec_f64                               16 float64, for sums of squares
 *   vec_f64_zero()  vec_f64_add_square(sum, v)  vec_f64_reduce_add(sum)  fma(v, v, sum); the same tree
 *   vec_u32                               16 uint32, for counters
 *   vec_u32_set  vec_u32_load  vec_u32_add  vec_u32_xor
 *   vec_u32_multiply(a, b, &low)          the upper halves of the products, and the lower ones
 *   vec_u32_select_at_least(a, b, yes, no)   (a >= b) ? yes : no
 *   vec_transpose_fours(v)                of 4 vectors: in every group of 4 lanes, lane j of v[i] and lane i of v[j]
 * change places vec_transpose(x, x_stride, y, y_stride)  y[j][i] = x[i][j] of 16 x 16 floats, row distances x_stride
 * and y_stride
 */
#ifndef QB_KERNELS_CPU_SIMD_SIMD_H
#define QB_KERNELS_CPU_SIMD_SIMD_H

#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/variant.h"
#include "vec.h"

#endif
