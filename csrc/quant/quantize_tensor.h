/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise work on whole tensors with ranges that are stretched over them: quantize, its straight-through gradient,
 * multiply by factors.  One place that turns axes into contiguous runs for the kernels and splits them over threads.
 */
#ifndef QB_QUANT_QUANTIZE_TENSOR_H
#define QB_QUANT_QUANTIZE_TENSOR_H

#include "core/run.h"
#include "quant/broadcast.h"

/* How to quantize; amax comes beside it. */
typedef struct qb_quantization {
    qb_number_format format;
    int32_t num_bits;
    int is_unsigned;
    int narrow_range;
    int fake;         /* 0: codes as floats */
    float scale_amax; /* multiplies amax; 0: none */
} qb_quantization;

/* The plan for a small tensor `name` over x, or QB_ERR_SHAPE with both shapes. */
qb_status qb_plan_over(const qb_run *run, int32_t rank, const int64_t *shape, const char *name, int32_t small_rank,
                       const int64_t *small_shape, qb_broadcast *plan);

/* y = x quantized with amax stretched by `plan`.  y may alias x.  No allocation.
 * Integer format: NUMERICS section 4.  A range whose scale is zero without being dead (amax infinite, or one signed
 * bit) gives NaN when fake, as 0 / 0 in the original.
 * E4M3: round(x * s) / s with s = qb_e4m3_scale(amax), 0 where |x| < 2^-24; always fake.
 * QB_ERR_VALUE: a negative element of an unsigned tensor; QB_ERR_INTERRUPTED. */
qb_status qb_quantize_over(const qb_run *run, const qb_quantization *quantization, const float *x, const float *amax,
                           const qb_broadcast *plan, float *y);
/* dx = dy where |x| <= amax, else 0. */
qb_status qb_quantize_grad_over(const qb_run *run, const float *x, const float *amax, const qb_broadcast *plan,
                                const float *dy, float *dx);
/* y = x * factor.  y may alias x. */
qb_status qb_multiply_over(const qb_run *run, const float *x, const float *factor, const qb_broadcast *plan, float *y);
/* y = max(min(x, maximum), minimum) with single bounds.  y may alias x.  NaN stays NaN. */
qb_status qb_clip_to(const qb_run *run, const float *x, int64_t count, float minimum, float maximum, float *y);
/* QB_ERR_VALUE with the index if an element of x (count) is below zero. */
qb_status qb_check_nonnegative(const qb_run *run, const float *x, int64_t count);

#endif
