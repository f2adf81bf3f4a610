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
 * gelu_clipped(x) = min(10, gelu(x)), |error| as of gelu; gelu > -0.17, so no bound is needed below.
 *
 * quick_gelu(x) = x / (1 + exp(-1.702 x)), |error| <= 4 ulp where exp(-1.702 |x|) is a normal number, below 2^-142
 * elsewhere.  1.702 is no float, and exp magnifies the rounding of the product: both are carried along in l.
 *
 *     u = max(-64, min(64, x)),  a = -|u|
 *     h = a * K_high,  l = fma(a, K_low, fma(a, K_high, -h))         h + l = -1.702 |u|
 *     z, n as in exp(h);  r = fma(n, -ln2_high, h) + fma(n, -ln2_low, l);  e = p * 2^n as in exp
 *     quick_gelu = ((x > 0) ? x : u * e) / (1 + e)
 *
 * sigmoid(x) = 1 / (1 + exp(-x)), |error| <= 3 ulp, down to its denormals
 *
 *     e = exp(-|x|);  sigmoid = ((x > 0) ? 1 : e) / (1 + e)
 *
 * mish(x) = x tanh(log(1 + exp(x))), |error| <= 5 ulp where exp(x) is a normal number, below 2^-142 elsewhere
 *
 * tanh(log(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1) = n / (n + 2) with n = e^2 + 2 e, a sum of positive terms.  From
 * e = exp(10) on the quotient rounds to 1, so e is held where it cannot overflow.
 *
 *     e = exp(min(20, x)),  n = fma(e, e, e + e)
 *     mish = max(-128, x) * (n / (n + 2))
 *
 * laplace(x) = Phi((x - mu) / sigma), mu = 0.707107, sigma = 0.282095; |error| <= 7 ulp for x <= 1, down to its
 * denormals, and <= 2 ulp above
 *
 * With (mu - x) / sigma = v + w, w the rounding of v, and t + k its magnitude, t = |v| and k = w or -w, to first order
 * in k Phi(-t - k) = exp(-t^2 / 2) (M(t) - k / sqrt(2 pi)) with the Mills ratio of gelu.  That is laplace on the left
 * of mu, and on the right it is 1 minus that.  Without k, the rounding of v would be magnified v^2 times by exp.  The
 * rounding of mu - x comes from Knuth's exact sum (The Art of Computer Programming 2, section 4.2.2, theorem B), which
 * has no branch.
 *
 *     u = max(-3.5, min(4, x))                                       laplace(-3.5) < 2^-165, 1 - laplace(4) < 2^-103
 *     d = mu_high - u,  b = d - mu_high
 *     f = ((mu_high - (d - b)) - (u + b)) + mu_low                   d + f = mu - u
 *     v = d * R_high                                                 R = 1 / sigma
 *     w = fma(d, R_low, fma(f, R_high, fma(d, R_high, -v)))
 *     s = -v / 2,  h = v * s,  l = fma(v, s, -h)                     h + l = -v^2 / 2
 *     z, n, r as in quick_gelu;  p as in exp;  M as in gelu
 *     k = (v > 0) ? w : -w,  m = fma(k, -1 / sqrt(2 pi), M(|v|))
 *     g = (p * m) * 2^n,  laplace = (v > 0) ? g : 1 - g
 *
 * relu(x) = max(0, x) and relu6(x) = min(6, relu(x)) are exact.
 *
 * relu_squared(x) = relu(x) * relu(x), |error| <= 1/2 ulp; infinite where the square is above FLT_MAX.
 *
 * leaky_relu(x) = max(x * 0.01f, x), |error| <= 1 ulp of (x < 0) ? x / 100 : x; 0.01f is 2^-25.4 below 1/100.
 *
 * Derivatives.  A function x F(x), F rising from 0 to 1 with F(-x) = 1 - F(x), has the derivative d(x) = 1 - d(-x).  So
 * it is computed as g on the left and 1 - g on the right, where g, the derivative at -|x|, is exp(-...) times a
 * difference of two positive terms.  They cancel at its zero, where ulp of the derivative say nothing; so on the left
 * the bound is in S, the sum of the two terms, S = exp(-...) (first + second).  On the right 1 - g lies between 1/2 and
 * 1.13, and ulp do.
 *
 * gelu'(x) = Phi(x) + x phi(x); |error| <= 1 ulp + 2^-22 S on the left, S = Phi(x) + |x| phi(x), and <= 3 ulp on the
 * right
 *
 *     t, h, l, z, n, r, M as in gelu;  p as in exp
 *     m = fma(t, -1 / sqrt(2 pi), M)
 *     g = (p * m) * 2^n,  gelu' = (x > 0) ? 1 - g : g
 *
 * gelu_clipped'(x) = gelu'(x) for x <= 10 and 0 above.
 *
 * The derivative of x / (1 + exp(-v)), v odd in x: with w = |x v'(x)| and e = exp(-|v|)
 *
 *     D = 1 + e,  g = (e * (D - w)) / (D * D),  derivative = (x > 0) ? 1 - g : g,    S = e (1 + w / D) / D
 *
 * silu'(x), |error| <= 1 ulp + 5 * 2^-24 S on the left, <= 3 ulp on the right
 *
 *     e = exp(-|x|),  w = min(128, |x|)
 *
 * quick_gelu'(x), |error| as of silu'
 *
 *     u, e as in quick_gelu;  w = |u| * K_high
 *
 * gelu_tanh'(x), |error| <= 1 ulp + (6 + 3 |v|) 2^-24 S on the left, and <= 3 ulp on the right
 *
 *     u, v, e as in gelu_tanh;  w = |u| * fma(u * u, 3 K3, K1)
 *
 * Where exp(-|v|) is below 2^-126 its error of 2^-150 meets w: 2^-142 on top of silu' and quick_gelu', whose w is below
 * 105 there, and 2^-141 of gelu_tanh', whose w is below 312.
 *
 * sigmoid'(x) = e / ((1 + e) (1 + e)), e = exp(-|x|), |error| <= 4 ulp
 *
 * tanh'(x) = 4 e / ((1 + e) (1 + e)), e = exp(-(|x| + |x|)), |error| <= 4 ulp
 *
 * mish'(x) = e ((e + 2) b + 4 x (e + 1)) / b^2, b = (1 + e)^2 + 1, e = exp(x); |error| <= 5 ulp for positive x, and
 * <= 1 ulp + 6 * 2^-24 S for negative x, S = e ((e + 2) b + 4 |x| (e + 1)) / b^2; and 2^-142 on top where e is below
 * 2^-126
 *
 *     u = max(-128, min(20, x)),  e = exp(u),  b = fma(e, e, e + e) + 2
 *     mish' = (e * fma(4 u, e + 1, (e + 2) * b)) / (b * b)
 *
 * laplace'(x) = exp(-((x - mu) / sigma)^2 / 2) / (sigma sqrt(2 pi)), |error| <= 3 ulp, down to its denormals
 *
 *     u = max(-3.5, min(5, x));  v, w, s, h as in laplace;  l = fma(-v, w, fma(v, s, -h))
 *     z, n, r, p as in laplace;  laplace' = (p * R / sqrt(2 pi)) * 2^n
 *
 * relu'(x) = (x > 0) ? 1 : 0, relu6'(x) = (0 < x < 6) ? 1 : 0 and leaky_relu'(x) = (x > 0) ? 1 : 0.01f, so at a corner
 * the slope that PyTorch takes; relu_squared'(x) = relu(x) + relu(x).  Exact but for 0.01f; NaN where x is NaN.
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

#define QB_NORMAL_DENSITY 0x1.988454p-2f /* 1 / sqrt(2 pi) */

#define QB_TANH_LIMIT 10.0f            /* 1 - tanh(10) < 2^-27 */
#define QB_SILU_LOWEST (-128.0f)       /* keeps -infinity * 0 away; any value below -104 would do */
#define QB_GELU_TANH_LIMIT 15.0f       /* v(15) = 264 > 104 */
#define QB_GELU_TANH_K1 0x1.988454p+0f /* 2 sqrt(2/pi) */
#define QB_GELU_TANH_K3 0x1.2444f2p-4f /* 0.044715 K1 */

#define QB_GELU_CLIPPED_HIGHEST 10.0f

#define QB_QUICK_GELU_LIMIT 64.0f         /* 1.702 * 64 = 108.9 > 104 */
#define QB_QUICK_GELU_HIGH 0x1.b3b646p+0f /* the sum of both is 1.702 within 2^-55 of it */
#define QB_QUICK_GELU_LOW (-0x1.78d4fep-26f)

#define QB_MISH_LOWEST (-128.0f) /* as QB_SILU_LOWEST */
#define QB_MISH_HIGHEST 20.0f

#define QB_LAPLACE_LOWEST (-3.5f)
#define QB_LAPLACE_HIGHEST 4.0f
#define QB_LAPLACE_MU_HIGH 0x1.6a09eep-1f /* the sum of both is 0.707107 within 2^-51 of it */
#define QB_LAPLACE_MU_LOW (-0x1.01d192p-27f)
#define QB_LAPLACE_RATE_HIGH 0x1.c5bf74p+1f /* the sum of both is 1 / 0.282095 within 2^-49 of it */
#define QB_LAPLACE_RATE_LOW (-0x1.afc956p-24f)

#define QB_RELU6_HIGHEST 6.0f
#define QB_LEAKY_RELU_SLOPE 0.01f

#define QB_SILU_GRAD_LIMIT 128.0f           /* keeps 0 * infinity away; any value above 104 would do */
#define QB_GELU_TANH_GRAD_K3 0x1.b6676cp-3f /* 3 K3 */
#define QB_LAPLACE_GRAD_HIGHEST 5.0f        /* laplace'(5) < 2^-166 */
#define QB_LAPLACE_GRAD_PEAK 0x1.6a09d4p+0f /* 1 / (sigma sqrt(2 pi)) */

#endif
