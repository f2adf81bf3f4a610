/* SPDX-License-Identifier: Apache-2.0
 *
 * An approximation of gelu that settles most of its codes.  gelu(x) = max(x, 0) - g(|x|), g(t) = t Phi(-t); here g is a
 * parabola on each of 32 segments, segment i around t = i / QB_GELU_SCREEN_RATE, through the values at Chebyshev's
 * three points of it, and beyond QB_GELU_SCREEN_LIMIT, where g is below 1.5e-6, what it is there.
 *
 * A code is rint(gelu(x) * scale), and the gelu of the contract (kernels/numerics.h) costs more than twice as much as
 * this. Where the approximation times scale is further from the middle between two integers than both can differ, the
 * code is the same; elsewhere the definition decides.
 */
#ifndef QB_KERNELS_GELU_SCREEN_H
#define QB_KERNELS_GELU_SCREEN_H

#define QB_GELU_SCREEN_SEGMENTS 32
#define QB_GELU_SCREEN_RATE 6.2f
#define QB_GELU_SCREEN_LIMIT 5.0f
/* Bound of the approximation's error, absolute; 1.71e-5 is the largest there is (tests/c/test_gelu_screen.c). */
#define QB_GELU_SCREEN_ERROR 1.8e-5f
/* Bound of what rounding adds, in codes, where it matters, below 130.  A code of more than 1 comes from a positive x,
 * where gelu is within 4 ulp, 2^-21; the product with scale is rounded twice and the last subtraction here once, 2^-24
 * each: 130 (2^-21 + 3 2^-24) = 8.5e-5.  Codes of negative x are below 0.17 scale, and smaller in proportion. */
#define QB_GELU_SCREEN_ROUNDING 1e-4f
/* The largest distance from an integer at which codes are settled, if it is not below this: a larger scale leaves too
 * many to the definition. */
#define QB_GELU_SCREEN_LEAST 0.45f

/* g(t) = c0 + t (c1 + t c2) */
static const float qb_gelu_screen_c0[QB_GELU_SCREEN_SEGMENTS] = {
    1.3168247e-07f, 1.0813413e-04f, 1.9519832e-03f, 9.5131835e-03f, 2.7707282e-02f, 6.0434416e-02f, 1.0887358e-01f,
    1.7058282e-01f, 2.3967783e-01f, 3.080001e-01f,  3.6688384e-01f, 4.08986e-01f,   4.296839e-01f,  4.2773145e-01f,
    4.0511423e-01f, 3.6626574e-01f, 3.1694108e-01f, 2.6306635e-01f, 2.0981471e-01f, 1.6104348e-01f, 1.19107455e-01f,
    8.4975645e-02f, 5.8534913e-02f, 3.896293e-02f,  2.5079029e-02f, 1.5619277e-02f, 9.41758e-03f,   5.499917e-03f,
    3.1124225e-03f, 1.7073957e-03f, 9.0826664e-04f, 5.5099843e-04f,
};
static const float qb_gelu_screen_c1[QB_GELU_SCREEN_SEGMENTS] = {
    4.999717e-01f,   4.9790052e-01f,  4.831842e-01f,   4.4610363e-01f,  3.8193354e-01f,  2.9189622e-01f,
    1.8269594e-01f,  6.487045e-02f,   -4.9546544e-02f, -1.4943567e-01f, -2.2651823e-01f, -2.7644092e-01f,
    -2.9892218e-01f, -2.9710346e-01f, -2.7640277e-01f, -2.4321643e-01f, -2.0376393e-01f, -1.6326463e-01f,
    -1.2551016e-01f, -9.2794724e-02f, -6.610298e-02f,  -4.5435943e-02f, -3.0169215e-02f, -1.9369958e-02f,
    -1.2034779e-02f, -7.2407397e-03f, -4.2209537e-03f, -2.3852517e-03f, -1.3071898e-03f, -6.9500133e-04f,
    -3.5860596e-04f, -2.1278701e-04f,
};
static const float qb_gelu_screen_c2[QB_GELU_SCREEN_SEGMENTS] = {
    -3.9821327e-01f, -3.8835925e-01f, -3.587596e-01f, -3.1315267e-01f, -2.564762e-01f, -1.9448613e-01f, -1.3289908e-01f,
    -7.662843e-02f,  -2.9244186e-02f, 7.2763544e-03f, 3.250847e-02f,   4.7310002e-02f, 5.341523e-02f,   5.299342e-02f,
    4.8256315e-02f,  4.1168258e-02f,  3.327852e-02f,  2.5666796e-02f,  1.897453e-02f,  1.3487873e-02f,  9.240406e-03f,
    6.1117467e-03f,  3.90792e-03f,    2.4181802e-03f, 1.4493101e-03f,  8.419056e-04f,  4.742891e-04f,   2.5924403e-04f,
    1.3754248e-04f,  7.085627e-05f,   3.5453864e-05f, 2.0574815e-05f,
};

#endif
