/* SPDX-License-Identifier: Apache-2.0
 *
 * Softmax of rows, as probabilities in place or as their codes, and its gradient.
 *
 * A row is passed over three times: mask and maximum; exponentials and their sum; scaling, and quantization.  The
 * second pass keeps the multipliers busy and little else, the first and the third the rest of the machine, and between
 * two passes combining the lanes takes as long as a short row.  So rows overlap: one loop takes a row through the first
 * pass, the row GAP before it through the second, and that GAP before this one through the third, while lanes of the
 * rows in between are combined.  Vectors are loaded before any is stored: with rows a power of two apart the addresses
 * differ in their upper bits only, and a load that looks like an earlier store waits for it.
 *
 * exp takes longer than the latency of an addition, so one chain per lane for the sum costs nothing.  The last, partial
 * vector of a row stays in a register from the second pass to the third.  Its absent lanes hold -infinity for the
 * maximum, and then +0, which leaves a sum of nonnegative terms as it is.
 *
 * The order in which maxima are combined does not matter: the only ties that differ in bits are +0 and -0, which
 * subtract alike except for the sign of a zero difference, and a NaN makes the row NaN through its own exponential.
 */
#include <math.h>

#include "kernels/cpu/simd/elementary.h"

enum { GAP = 2 };

/* What all rows of a call have in common.  makes_codes, and that mask is NULL, are constants wherever this is inlined.
 */
typedef struct softmax_call {
    float *x;
    size_t stride;
    size_t full, rest; /* columns in whole vectors, and after them */
    const float *mask;
    int makes_codes;
    float scale, upper; /* of codes */
    int8_t *codes;
} softmax_call;

/* What is known when `row` begins. */
typedef struct softmax_flight {
    vec_f32 max;        /* of row - 1, in lanes */
    float whole_max;    /* of row - 2 */
    vec_f32 sum;        /* of row - 3, in lanes */
    vec_f32 tail;       /* its last exponentials */
    float factor;       /* of row - 4 */
    vec_f32 older_tail; /* its last exponentials */
    int has_nan;        /* 1: so had a sum */
} softmax_flight;

/* What the passes of `row` are given. */
typedef struct softmax_turn {
    vec_f32 max;                  /* of row - 2 */
    vec_f32 factor, scale, upper; /* of row - 4 */
    vec_f32 tail;
} softmax_turn;

VEC_INLINE softmax_turn
take_turn(const softmax_call *call, softmax_flight *flight)
{
    softmax_turn turn = {
        .max = vec_set(flight->whole_max), .factor = vec_set(flight->factor), .tail = flight->older_tail};
    if (call->makes_codes) {
        turn.scale = vec_set(call->scale);
        turn.upper = vec_set(call->upper);
    }
    const float sum = vec_reduce_add(flight->sum);
    flight->has_nan |= isnan(sum);
    flight->factor = 1.0f / sum;
    flight->older_tail = flight->tail;
    flight->whole_max = vec_reduce_max(flight->max);
    return turn;
}

/* The last, partial vector of a row of scores, masked. */
VEC_INLINE vec_f32
load_tail(const softmax_call *call, const float *x)
{
    const vec_f32 tail = vec_load_n(x + call->full, call->rest, -INFINITY);
    return call->mask == NULL ? tail : vec_add(tail, vec_load_n(call->mask + call->full, call->rest, 0.0f));
}

/* A vector of scores in the first pass. */
VEC_INLINE vec_f32
mask_scores(const softmax_call *call, float *x, size_t c)
{
    vec_f32 v = vec_load(x + c);
    if (call->mask != NULL) {
        v = vec_add(v, vec_load(call->mask + c));
        vec_store(x + c, v);
    }
    return v;
}

VEC_INLINE vec_f32
exponentiate_tail(const softmax_call *call, const float *x, vec_f32 max)
{
    /* exp(-infinity) would be 0 too, but by an underflow that takes some CPUs a hundred cycles */
    const vec_f32 difference = vec_keep_n(vec_sub(load_tail(call, x), max), call->rest);
    return vec_keep_n(vec_exp_bounded(difference), call->rest);
}

/* The codes of exponentials, before the rounding that comes with the store: what quantize_qs8 makes of e * factor, but
 * without its lower bound and its test of every element.  In a row without NaN the largest exponential is exp(0) = 1
 * and none is negative or above it by more than its rounding; so the sum is at least 1, probabilities are finite and
 * not negative, and lower <= 0 bounds none of them.  A NaN, or a maximum that is infinite and taken from itself, makes
 * the sum NaN, and then every element of the row: has_nan says the same as the test. */
VEC_INLINE vec_f32
scale_to_codes(vec_f32 e, const softmax_turn *turn)
{
    return vec_min(turn->upper, vec_mul(vec_mul(e, turn->factor), turn->scale));
}

/* A vector in the third pass. */
VEC_INLINE void
finish(const softmax_call *call, size_t at, vec_f32 e, const softmax_turn *turn)
{
    if (call->makes_codes) {
        vec_store_s8(call->codes + at, scale_to_codes(e, turn));
    }
    else {
        vec_store(call->x + at, vec_mul(e, turn->factor));
    }
}

VEC_INLINE void
finish_tail(const softmax_call *call, size_t at, const softmax_turn *turn)
{
    if (call->makes_codes) {
        vec_store_s8_n(call->codes + at, scale_to_codes(turn->tail, turn), call->rest);
    }
    else {
        vec_store_n(call->x + at, vec_mul(turn->tail, turn->factor), call->rest);
    }
}

/* The three passes of rows row, row - GAP and row - 2 GAP together. */
VEC_INLINE void
pass_three_rows(const softmax_call *call, size_t row, softmax_flight *flight)
{
    const softmax_turn turn = take_turn(call, flight);
    float *first = call->x + row * call->stride;
    float *second = first - GAP * call->stride;
    const size_t third = (row - 2 * GAP) * call->stride;
    vec_f32 max = vec_set(-INFINITY);
    vec_f32 sum = vec_set(0.0f);
    for (size_t c = 0; c < call->full; c += LANES) {
        const vec_f32 last = vec_load(call->x + third + c);
        const vec_f32 e = vec_exp_bounded(vec_sub(vec_load(second + c), turn.max));
        max = vec_max(max, mask_scores(call, first, c));
        sum = vec_add(sum, e);
        vec_store(second + c, e);
        finish(call, third + c, last, &turn);
    }
    if (call->rest > 0) {
        finish_tail(call, third + call->full, &turn);
        flight->tail = exponentiate_tail(call, second, turn.max);
        sum = vec_add(sum, flight->tail);
        max = vec_max(max, load_tail(call, first));
    }
    flight->max = max;
    flight->sum = sum;
}

/* The first pass of a row alone: its maximum. */
VEC_INLINE vec_f32
mask_row(const softmax_call *call, float *x)
{
    vec_f32 max0 = call->rest > 0 ? load_tail(call, x) : vec_set(-INFINITY);
    vec_f32 max1 = max0;
    size_t c = 0;
    for (; c + 2 * LANES <= call->full; c += 2 * LANES) {
        max0 = vec_max(max0, mask_scores(call, x, c));
        max1 = vec_max(max1, mask_scores(call, x, c + LANES));
    }
    if (c < call->full) {
        max0 = vec_max(max0, mask_scores(call, x, c));
    }
    return vec_max(max0, max1);
}

/* The second: its sum. */
VEC_INLINE vec_f32
exponentiate_row(const softmax_call *call, float *x, vec_f32 max, vec_f32 *tail)
{
    vec_f32 sum = vec_set(0.0f);
    for (size_t c = 0; c < call->full; c += LANES) {
        const vec_f32 e = vec_exp_bounded(vec_sub(vec_load(x + c), max));
        vec_store(x + c, e);
        sum = vec_add(sum, e);
    }
    if (call->rest > 0) {
        *tail = exponentiate_tail(call, x, max);
        sum = vec_add(sum, *tail);
    }
    return sum;
}

/* The third. */
VEC_INLINE void
finish_row(const softmax_call *call, size_t row, const softmax_turn *turn)
{
    const size_t at = row * call->stride;
    for (size_t c = 0; c < call->full; c += LANES) {
        finish(call, at + c, vec_load(call->x + at + c), turn);
    }
    if (call->rest > 0) {
        finish_tail(call, at + call->full, turn);
    }
}

/* What is left of pass_three_rows where one of the rows is not there. */
VEC_INLINE void
pass_some_rows(const softmax_call *call, size_t row, size_t rows, softmax_flight *flight)
{
    const softmax_turn turn = take_turn(call, flight);
    if (row >= 2 * GAP) {
        finish_row(call, row - 2 * GAP, &turn);
    }
    if (row >= GAP && row - GAP < rows) {
        flight->sum = exponentiate_row(call, call->x + (row - GAP) * call->stride, turn.max, &flight->tail);
    }
    if (row < rows) {
        flight->max = mask_row(call, call->x + row * call->stride);
    }
}

/* 1 if a row had a NaN. */
VEC_INLINE int
softmax_rows(const softmax_call *call, size_t rows)
{
    const vec_f32 one = vec_set(1.0f);
    softmax_flight flight = {.max = one, .sum = one, .tail = one, .older_tail = one};
    for (size_t row = 0; row < rows + 2 * GAP; ++row) {
        if (row == 2 * GAP && row < rows) {
            softmax_flight here = flight; /* in registers */
            for (; row < rows; ++row) {
                pass_three_rows(call, row, &here);
            }
            flight = here;
        }
        pass_some_rows(call, row, rows, &flight);
    }
    return flight.has_nan;
}

void
QB_FN(softmax_f32)(float *scores, size_t rows, size_t columns, size_t stride, const float *mask)
{
    const size_t rest = columns % LANES;
    softmax_call call = {.x = scores, .stride = stride, .full = columns - rest, .rest = rest};
    if (mask == NULL) {
        (void)softmax_rows(&call, rows);
        return;
    }
    call.mask = mask;
    (void)softmax_rows(&call, rows);
}

void
QB_FN(softmax_qs8)(float *scores, size_t rows, size_t columns, size_t stride, const float *mask,
                   const qb_quant_range *range, int8_t *codes, uint32_t *nonfinite)
{
    const size_t rest = columns % LANES;
    softmax_call call = {.x = scores,
                         .stride = stride,
                         .full = columns - rest,
                         .rest = rest,
                         .makes_codes = 1,
                         .scale = range->scale,
                         .upper = range->upper,
                         .codes = codes};
    int has_nan;
    if (mask == NULL) {
        has_nan = softmax_rows(&call, rows);
    }
    else {
        call.mask = mask;
        has_nan = softmax_rows(&call, rows);
    }
    if (has_nan) {
        *nonfinite = 1;
    }
}

/* ---- gradient ------------------------------------------------------------------------------------------------------
 */

enum { BLOCK = 4 };

/* `count` rows together, whose chains of fma overlap.  Absent lanes multiply +0 by -0: an accumulator may have become
 * -0 by underflow and must stay so. */
VEC_INLINE void
gradient_rows(const float *p, float *dp, size_t count, size_t columns, size_t stride, float factor)
{
    const size_t rest = columns % LANES;
    const size_t full = columns - rest;
    vec_f32 sum[BLOCK];
    for (size_t i = 0; i < count; ++i) {
        sum[i] = vec_set(0.0f);
    }
    for (size_t c = 0; c < full; c += LANES) {
        for (size_t i = 0; i < count; ++i) {
            sum[i] = vec_fma(vec_load(p + i * stride + c), vec_load(dp + i * stride + c), sum[i]);
        }
    }
    const vec_f32 scale = vec_set(factor);
    for (size_t i = 0; i < count; ++i) {
        const float *row = p + i * stride;
        float *out = dp + i * stride;
        vec_f32 tail_p = vec_set(0.0f);
        vec_f32 tail = vec_set(-0.0f);
        if (rest > 0) {
            tail_p = vec_load_n(row + full, rest, 0.0f);
            tail = vec_load_n(out + full, rest, -0.0f);
            sum[i] = vec_fma(tail_p, tail, sum[i]);
        }
        const vec_f32 total = vec_set(vec_reduce_add(sum[i]));
        for (size_t c = 0; c < full; c += LANES) {
            vec_store(out + c, vec_mul(vec_mul(vec_load(row + c), vec_sub(vec_load(out + c), total)), scale));
        }
        if (rest > 0) {
            vec_store_n(out + full, vec_mul(vec_mul(tail_p, vec_sub(tail, total)), scale), rest);
        }
    }
}

void
QB_FN(softmax_grad_f32)(const float *p, float *dp, size_t rows, size_t columns, size_t stride, float factor)
{
    size_t row = 0;
    for (; row + BLOCK <= rows; row += BLOCK) {
        gradient_rows(p + row * stride, dp + row * stride, BLOCK, columns, stride, factor);
    }
    for (; row < rows; ++row) {
        gradient_rows(p + row * stride, dp + row * stride, 1, columns, stride, factor);
    }
}
