/* SPDX-License-Identifier: Apache-2.0
 *
 * One TensorQuantizer: options, stages, range, and what they do to a tensor (NUMERICS section 4; REFERENCE 2.7).
 *
 * Layers ask a quantizer three things: is it off (then the tensor passes), does it collect (then it is shown the float
 * tensor), and can its site run on integer codes (then they take one range and use quantize_qs8 and product_qs8).
 * Whatever does not fit codes goes through qb_quantizer_apply, which is correct for every combination.
 *
 * Order inside one call, as in the original and with its slips mended: a disabled quantizer is the identity; then
 * pre_quant_scale; then collect; then clip, but not while collecting; then quantize.  Negative axes count from the end
 * everywhere; an axis beyond the tensor's rank keeps nothing.  Activations should be shown with the rank that users
 * think in, (1, tokens, features) for (B, T, features), so that axes mean the same as in the original.
 *
 * Everything here reads a const quantizer, except the calls that collect: any number of sessions may run forward on
 * one quantizer.
 *
 * Errors carry the site's name if the caller put it on the run's path.
 */
#ifndef QB_QUANT_QUANTIZER_H
#define QB_QUANT_QUANTIZER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "core/kernel_types.h"
#include "core/run.h"
#include "quant/observer.h"
#include "qdqbert/qdqbert.h"

/* A small tensor of ranges or factors with its shape. */
typedef struct qb_small_tensor {
    float *data; /* NULL: none; owned */
    int64_t count;
    int32_t rank;
    int is_finite; /* all elements are: every forward asks, and the elements of a weight's amax are far away by then */
    int64_t shape[QB_MAX_RANK];
} qb_small_tensor;

/* The object that a quantizer inside a model belongs to.  All hooks are called with `context`. */
typedef struct qb_quantizer_owner {
    void *context;                 /* NULL: the quantizer stands alone and counts its own references */
    void (*retain)(void *context); /* a reference to the quantizer is one to its owner */
    void (*release)(void *context);
    qb_status (*begin_write)(void *context, qb_error *error); /* QB_ERR_STATE while a session runs */
    void (*end_write)(void *context);                         /* advances the owner's epoch */
} qb_quantizer_owner;

struct qb_quantizer {
    qb_device *device;
    qb_quantizer_owner owner;
    atomic_int references; /* of a quantizer without owner */
    atomic_int busy;       /* 1 while a public call works on it; a second one is QB_ERR_STATE */
    qb_quantizer_options options;
    _Atomic uint32_t stages; /* QB_STAGE_... */
    float clip_minimum;      /* learn_amax: the two bounds */
    float clip_maximum;
    float clip_minimum_gradient; /* backward adds to them */
    float clip_maximum_gradient;
    qb_small_tensor amax;
    qb_small_tensor pre_quant_scale;
    qb_observer *observer; /* retained; NULL: none */
    uint64_t revision;     /* advances with every change that can change results: packed weights remember it */
    const char *frozen;    /* its name in a model that keeps its layer's weight as codes, borrowed: nothing above may
                            * change any more; NULL: it may */
};

/* ---- life inside a model ------------------------------------------------------------------------------------------
 */

/* Give a fresh quantizer (one reference) to an owner.  From then on retain and release go to the owner, and the owner
 * ends it with qb_quantizer_destroy. */
void qb_quantizer_set_owner(qb_quantizer *quantizer, const qb_quantizer_owner *owner);
/* Free it now, whoever refers to it.  NULL is allowed. */
void qb_quantizer_destroy(qb_quantizer *quantizer);

/* The public setters and forward work between these.  QB_ERR_STATE: the owner has a running session, or another thread
 * works on a quantizer without owner. */
qb_status qb_quantizer_begin_write(qb_quantizer *quantizer, qb_error *error);
void qb_quantizer_end_write(qb_quantizer *quantizer);

/* ---- what a site has to do ----------------------------------------------------------------------------------------
 */

/* 1 if the output is the input and nothing is collected: disabled, or neither quantizing nor clipping nor collecting.
 * (A pre_quant_scale keeps it on.) */
int qb_quantizer_is_off(const qb_quantizer *quantizer);
/* 1 if the output is the input, though the tensor may have to be collected. */
int qb_quantizer_is_identity(const qb_quantizer *quantizer);
/* 1 if the site must show its tensor to qb_quantizer_collect (enabled, QB_STAGE_CALIB, an observer is there). */
int qb_quantizer_wants_collect(const qb_quantizer *quantizer);
/* 1 if it quantizes, or clips, as the stages stand. */
int qb_quantizer_quantizes(const qb_quantizer *quantizer);
int qb_quantizer_clips(const qb_quantizer *quantizer);
/* 1 if it quantizes with a range that is computed from each tensor. */
int qb_quantizer_is_dynamic(const qb_quantizer *quantizer);
/* 1 if the range is one number for the whole tensor. */
int qb_quantizer_is_per_tensor(const qb_quantizer *quantizer);
/* NULL if an activation site can run on int8 codes: quantizing, integer format, fake_quant, per tensor, at most 8 bits
 * signed or 7 unsigned, no learned range, no pre_quant_scale, no clip; otherwise a static sentence that says why. */
const char *qb_quantizer_integer_reason(const qb_quantizer *quantizer);
/* The same for the weight (rows, columns) of a linear layer, whose range may also keep axis 0. */
const char *qb_quantizer_weight_reason(const qb_quantizer *quantizer);

/* ---- work ----------------------------------------------------------------------------------------------------------
 */

/* Show x to the quantizer's observer (after pre_quant_scale).  Nothing happens unless qb_quantizer_wants_collect. */
qb_status qb_quantizer_collect(qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank,
                               const int64_t *shape);
/* The same for several quantizers of one tensor, sharing the passes over it (qb_observer_collect_group).
 * count <= QB_QUANTIZER_GROUP.  All or nothing. */
#define QB_QUANTIZER_GROUP QB_OBSERVER_GROUP
qb_status qb_quantizer_collect_group(qb_quantizer *const *quantizers, int32_t count, const qb_run *run, const float *x,
                                     int32_t rank, const int64_t *shape);
/* Journal of the observer, for a forward that must leave no trace when it fails.  Without QB_STAGE_CALIB or without an
 * observer `begin` does nothing. */
qb_status qb_quantizer_begin(qb_quantizer *quantizer, const qb_run *run);
void qb_quantizer_commit(qb_quantizer *quantizer);
void qb_quantizer_rollback(qb_quantizer *quantizer);

/* `gradient` (of x's shape) holds dy on entry and dx on return; gradients of learned bounds are added to.
 * A quantizer that changes nothing leaves it alone; NULL is such a quantizer.
 * QB_ERR_UNSUPPORTED: a pre_quant_scale, or a scale_amax that the gradient would depend on. */
qb_status qb_quantizer_backward(qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank,
                                const int64_t *shape, float *gradient);

/* QB_ERR_VALUE if the quantizer quantizes to a format whose largest code is 0 (one bit, or none and unsigned), which
 * gives NaN, as in the original; or with a range of its own that is NaN or infinite, with which no code can be made;
 * the sentence has the first such element.  (A load_calib_amax that is not strict leaves NaN where nothing was
 * collected.) */
qb_status qb_quantizer_check_range(const qb_quantizer *quantizer, const qb_run *run);
/* The per-tensor range that quantizing x needs (static, or dynamic: the largest magnitude of x; scale_amax included).
 * Requires qb_quantizer_integer_reason(quantizer) == NULL.  x may be NULL if the range is static.
 * QB_ERR_VALUE: the range is dynamic and x holds a NaN or infinity (with its flat index); the quantizer is unsigned and
 * x, where it is given, holds a negative element. */
qb_status qb_quantizer_range(const qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank,
                             const int64_t *shape, qb_quant_range *range);
/* The same for a weight (rows, columns), whose reason is NULL: scale (rows) gets one scale per row, 0 where dead, equal
 * ones if the range is per tensor; *lower and *upper get the codes' bounds.  weight may be NULL if the range is static.
 */
qb_status qb_quantizer_weight_range(const qb_quantizer *quantizer, const qb_run *run, const float *weight, int64_t rows,
                                    int64_t columns, float *scale, float *lower, float *upper);
/* 1 / scale: the value of one code; 0 when the range is dead. */
float qb_quant_range_step(const qb_quant_range *range);
float qb_quant_scale_step(float scale);
/* The range of one amax (already scaled); a negative amax is not allowed here. */
qb_quant_range qb_quant_range_of(const qb_quantizer_options *options, float amax);

/* y = what the stages say about x, collecting aside.  y (same shape) may alias x.  Allocates only for a dynamic range
 * that keeps axes.  `amax_used` may be NULL; otherwise it gets the range if that is per tensor.
 * Non-finite elements pass: NaN stays NaN, infinities clamp.  A range that is NaN or infinite gives NaN, as in the
 * original; a site of a model asks qb_quantizer_check_range before.
 * QB_ERR_SHAPE: amax or pre_quant_scale does not broadcast to x.  QB_ERR_VALUE: a negative element of an unsigned
 * quantizer's tensor. */
qb_status qb_quantizer_apply(const qb_quantizer *quantizer, const qb_run *run, const float *x, int32_t rank,
                             const int64_t *shape, float *y, float *amax_used);

#endif
