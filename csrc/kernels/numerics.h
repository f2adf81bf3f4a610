/* SPDX-License-Identifier: Apache-2.0
 *
 * The elementary functions of this project, to the bit: definitions, coefficients and error bounds.  Two scalar and
 * vector implementations follow this text (cpu/ref/elementary.h, cpu/simd/elementary.h) and must agree in every bit;
 * tests/c/test_elementary.c measures the bounds.  Coefficients: tests/reference/elementary_coefficients.py.
 *
 * Only operations that IEEE 754 fixes are used (+ - * / fma and exact manipulations of sign and exponent), so that
 * every machine computes the same float32.  max(a, b) = (a > b) ? a : b and min(a, b) = (a < b) ? a : b pass the second
 * operand on when either is NaN; operands below are ordered such that a NaN argument gives a NaN result.
 *
 * exp(x), |error| <= 1 ulp; exactly 0 for x <= -104, infinite from 88.73 on
 *
 *     x = max(-104, min(89, x))
 *     z = fma(x, 1/ln 2, 1.5 * 2^23),  n = z - 1.5 * 2^23            n = rint(x / ln 2), also in the low bits of z
 *     r = fma(n, -ln2_low, fma(n, -ln2_high, x))                     |r| <= ln(2) / 2
 *     c = C0 + C1 r + C2 r^2 + C3 r^3 + C4 r^4                       Horner, fma
 *     p = fma(fma(c, r, 1), r, 1)
 *     exp = p * 2^n, rounded once                                    two exact powers of two where 2^n is no float
 *
 * gelu(x) = x Phi(x), |error| <= 4 ulp for x >= -1, and <= 6 ulp in the left tail, down to its denormals
 *
 * With g(t) = t Phi(-t) it is -g(-x) on the left and x - g(x) on the right, without cancellation on either side (g <=
 * x / 2), and Phi(-t) = exp(-t^2 / 2) M(t) with the bounded, smooth Mills ratio M.  The rounding error of t^2 would be
 * magnified t^2 times by exp, so it is carried along.
 *
 *     t = min(15, |x|),  s = -t / 2,  h = t * s,  l = fma(t, s, -h)
 *     z, n as in exp(h);  r = fma(n, -ln2_high, h) + fma(n, -ln2_low, l);  c as in exp
 *     q = fma(t, fma(c, r, 1) * r, t)                                t exp(r), rounded once at the end
 *     M = (N0 + N1 t + ... + N4 t^4) / (1 + D1 t + ... + D5 t^5)     Horner, fma; all terms positive
 *     gelu = max(x, 0) - (q * M) * 2^n
 *
 * tanh(x), |error| <= 3 ulp
 *
 *     t = min(10, |x|);  z, n, r, c as in exp(t + t)
 *     q = fma(r * r, c, r)                                           expm1(r)
 *     e = fma(2^n, q, 2^n - 1)                                       expm1(2t)
 *     tanh = copysign(e / (e + 2), x)
 *
 * silu(x) = x / (1 + exp(-x)), |error| <= 4 ulp where exp(-|x|) is a normal number, below 2^-142 elsewhere
 *
 *     e = exp(-|x|);  silu = ((x > 0) ? x : max(x, -128) * e) / (1 + e)
 *
 * gelu_tanh(x) = x / (1 + exp(-v)), v = 2 sqrt(2/pi) (x + 0.044715 x^3); |error| <= 4 ulp + 2^-22 |v gelu_tanh(x)| for
 * negative x, whose argument's rounding exp magnifies, and <= 4 ulp for positive x
 *
 *     u = max(-15, min(15, x));  v = u * fma(u * u, K3, K1);  e = exp(-|v|)
 *     gelu_tanh = ((x > 0) ? x : u * e) / (1 + e)
 *
 * relu(x) = max(0, x).
 */
#ifndef QB_KERNELS_NUMERICS_H
#define QB_KERNELS_NUMERICS_H

#define QB_EXP_LOWEST (-104.0f)
#define QB_EXP_HIGHEST 89.0f
#define QB_EXP_LOG2E 0x1.715476p+0f
#define QB_EXP_LN2_HIGH 0x1.62e43p-1f
#define QB_EXP_LN2_LOW (-0x1.05c61p-29f)
#define QB_EXP_SHIFT 0x1.8p+23f      /* adding it rounds to an integer and leaves that in the low bits */
#define QB_EXP_SHIFT_BITS 0x4b400000 /* its bits: int32 bits of z minus this is n */

/* Relative error of 1 + r + r^2 c(r) against exp(r): 2^-28.2. */
#define QB_EXP_C0 0x1.fffffcp-2f
#define QB_EXP_C1 0x1.55548cp-3f
#define QB_EXP_C2 0x1.555858p-5f
#define QB_EXP_C3 0x1.123ddep-7f
#define QB_EXP_C4 0x1.6ac71ep-10f

/* Relative error of N / D against exp(t^2/2) Phi(-t) on [0, 15]: 2^-25.8. */
#define QB_MILLS_LIMIT 15.0f
#define QB_MILLS_N0 0x1.0p-1f
#define QB_MILLS_N1 0x1.c1d372p-2f
#define QB_MILLS_N2 0x1.78c4b6p-3f
#define QB_MILLS_N3 0x1.4ee5cep-5f
#define QB_MILLS_N4 0x1.102f7cp-8f
#define QB_MILLS_D1 0x1.ad2beap+0f
#define QB_MILLS_D2 0x1.349ec2p+0f
#define QB_MILLS_D3 0x1.e2b8d4p-2f
#define QB_MILLS_D4 0x1.a3c1cep-4f
#define QB_MILLS_D5 0x1.552158p-7f

#define QB_TANH_LIMIT 10.0f            /* 1 - tanh(10) < 2^-27 */
#define QB_SILU_LOWEST (-128.0f)       /* keeps -infinity * 0 away; any value below -104 would do */
#define QB_GELU_TANH_LIMIT 15.0f       /* v(15) = 264 > 104 */
#define QB_GELU_TANH_K1 0x1.988454p+0f /* 2 sqrt(2/pi) */
#define QB_GELU_TANH_K3 0x1.2444f2p-4f /* 0.044715 K1 */

#endif
