/* SPDX-License-Identifier: Apache-2.0
 *
 * Rounding of a float32 to the nearest value of the 8-bit float with 4 exponent and 3 mantissa bits (OCP E4M3: bias 7,
 * largest 448, subnormals down to 2^-9, no infinity).
 */
#ifndef QB_QUANT_E4M3_H
#define QB_QUANT_E4M3_H

/* Nearest value, ties to the even mantissa; magnitudes above 448 and infinities saturate to 448; NaN stays NaN; the
 * sign of zero is kept. */
float qb_e4m3_round(float x);

/* The scale of a range: 448 * (1 / amax), rounded twice, as the original's 448 / amax is computed. */
float qb_e4m3_scale(float amax);

/* qb_e4m3_round(x * scale) / scale, and 0 where |x| < 2^-24, which hides what a tiny amax would do. */
float qb_e4m3_round_scaled(float x, float scale);

#endif
