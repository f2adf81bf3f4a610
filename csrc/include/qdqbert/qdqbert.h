/* SPDX-License-Identifier: Apache-2.0
 *
 * qdqbert: quantized BERT in C.  The whole public interface, with qdqbert/device.h, which it includes.
 *
 * Rules that hold for every function of both, so that no paragraph repeats them:
 *
 * - A function that can fail returns qb_status and fills `*error` (which may be NULL) with a sentence that names the
 *   argument or layer, what was expected and what came.  On failure every object is as it was and every out pointer
 *   is untouched, unless the paragraph says otherwise.
 * - A pointer that comes out of a `_create` or `_open` function is owned by the caller and given back to the matching
 *   `_destroy`, `_close` or `_release`; every other pointer is borrowed from its object and lives as long as it.
 *   Giving back NULL is allowed.
 * - Children hold their parents alive: a model, session, quantizer or observer may be destroyed after its device.
 * - Option structs start with `struct_size = sizeof(the struct)`; bytes beyond the caller's size read as zero.
 * - Sizes of tensors are int64_t and counted in elements; byte counts are size_t.  Tensors are dense, row-major.
 * - Shape letters: B batch, T query length, S key length, H hidden, N heads, D head size, I intermediate, V vocabulary,
 *   P positions, C classes, L layers.
 *
 * Threads: different objects may be used from different threads at the same time.  One object may be used by one
 * thread at a time, except that any number of sessions may run forward on one model; a session that collects
 * statistics takes its model exclusively.  Violations are QB_ERR_STATE, never undefined behaviour.
 */
#ifndef QDQBERT_QDQBERT_H
#define QDQBERT_QDQBERT_H

#include <stddef.h>
#include <stdint.h>

#include "qdqbert/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- observers: what a calibrator has seen ----------------------------------------------------------------------- */

typedef struct qb_observer qb_observer; /* reference counted: shared by a quantizer and its calibrator object */

typedef enum qb_observer_kind { QB_OBSERVER_MAX = 0, QB_OBSERVER_HISTOGRAM = 1 } qb_observer_kind;

/* How the first histogram gets its edges and later ones grow (REFERENCE 2.8). */
typedef enum qb_histogram_rule {
    QB_HISTOGRAM_FROM_ZERO = 0, /* torch_hist=True: [0, max], then arange(0, max + width, width) */
    QB_HISTOGRAM_FROM_MIN = 1,  /* torch_hist=False: numpy.histogram of the magnitudes, edges appended */
    QB_HISTOGRAM_FIXED = 2      /* [0, fixed_max] for good: the second pass of the two-pass form; any split of the
                                 * data gives identical counts; a magnitude above fixed_max is QB_ERR_VALUE */
} qb_histogram_rule;

typedef struct qb_observer_options {
    uint32_t struct_size;
    qb_observer_kind kind;
    int32_t axis_count;        /* -1: per tensor; otherwise the axes that keep their own range (max only) */
    int32_t axes[QB_MAX_RANK]; /* may be negative, counted from the end */
    int32_t track_amax;        /* max only: keep every batch's amax */
    int64_t num_bins;          /* histogram only, >= 1 */
    int32_t skip_zeros;        /* histogram only */
    qb_histogram_rule rule;
    float fixed_max; /* QB_HISTOGRAM_FIXED only: > 0, finite */
} qb_observer_options;

QB_API qb_status qb_observer_create(qb_device *device, const qb_observer_options *options, qb_observer **observer,
                                    qb_error *error);
QB_API qb_observer *qb_observer_retain(qb_observer *observer);
QB_API void qb_observer_release(qb_observer *observer);

/* Count the elements of x (rank dims in shape).  QB_ERR_VALUE: a NaN or infinity (its flat index is in the sentence);
 * QB_ERR_SHAPE: max statistics whose shape changed ("amax shape changed ..."). */
QB_API qb_status qb_observer_collect(qb_observer *observer, const qb_interrupt *interrupt, const float *x, int32_t rank,
                                     const int64_t *shape, qb_error *error);
/* Forget everything.  QB_ERR_STATE, without a sentence: another thread is collecting. */
QB_API qb_status qb_observer_reset(qb_observer *observer);
/* Add what `other` has seen.  Exact for max; for histograms the edges must be equal (QB_ERR_STATE otherwise). */
QB_API qb_status qb_observer_merge(qb_observer *observer, const qb_observer *other, qb_error *error);

/* The pointers that the functions below give are good until the observer changes.  Between freeze and thaw it cannot:
 * whoever tries gets QB_ERR_STATE.  freeze is QB_ERR_STATE itself while another thread changes or has frozen it. */
QB_API qb_status qb_observer_freeze(qb_observer *observer, qb_error *error);
QB_API void qb_observer_thaw(qb_observer *observer);
QB_API int qb_observer_has_data(const qb_observer *observer);
/* max: values (product of shape) with kept dimensions, rank 0 if single; histogram: the largest magnitude, rank 0,
 * exact whatever the edges are.  QB_ERR_STATE before any data. */
QB_API qb_status qb_observer_amax(const qb_observer *observer, const float **values, int32_t *rank,
                                  const int64_t **shape, qb_error *error);
/* max with track_amax: number of batches kept, and each one's values (same shape as qb_observer_amax). */
QB_API int64_t qb_observer_tracked_count(const qb_observer *observer);
QB_API const float *qb_observer_tracked(const qb_observer *observer, int64_t index);
/* histogram: counts (bins) and edges (bins + 1); QB_ERR_STATE before any data. */
QB_API qb_status qb_observer_histogram(const qb_observer *observer, const int64_t **counts, const float **edges,
                                       int64_t *bins, qb_error *error);
/* histogram of QB_HISTOGRAM_FROM_MIN that has grown: the edges (bins + 1) that decide, of which those above are
 * roundings.  NULL where the two are the same. */
QB_API const double *qb_observer_fine_edges(const qb_observer *observer);
/* histogram: replace the contents (resuming a calibration).  counts >= 0, edges increasing; neighbours may be equal
 * where the bins are too narrow for normal floats. */
QB_API qb_status qb_observer_set_histogram(qb_observer *observer, const int64_t *counts, const float *edges,
                                           int64_t bins, qb_error *error);
/* histogram: after qb_observer_set_histogram, put back what qb_observer_fine_edges gave.  QB_ERR_VALUE if they do not
 * round to the edges that are there; QB_ERR_STATE for other rules and while there is no histogram. */
QB_API qb_status qb_observer_set_fine_edges(qb_observer *observer, const double *edges, int64_t bins, qb_error *error);
/* max: replace the contents (resuming a calibration).  histogram: put back the largest magnitude, which
 * qb_observer_set_histogram takes to be the last edge; QB_ERR_VALUE if it lies above that. */
QB_API qb_status qb_observer_set_amax(qb_observer *observer, const float *values, int32_t rank, const int64_t *shape,
                                      qb_error *error);

/* Range finders: pure functions of a constant histogram. (REFERENCE 2.8) */
QB_API qb_status qb_amax_percentile(const int64_t *counts, const float *edges, int64_t bins, double percentile,
                                    float *amax, qb_error *error);
/* `num_bits` 1 .. 16, or 0 for E4M3. */
QB_API qb_status qb_amax_mse(qb_device *device, const int64_t *counts, const float *edges, int64_t bins,
                             int32_t num_bits, int is_unsigned, int64_t stride, int64_t start_bin, float *amax,
                             qb_error *error);
QB_API qb_status qb_amax_entropy(qb_device *device, const int64_t *counts, const float *edges, int64_t bins,
                                 int32_t num_bits, int is_unsigned, int64_t stride, int64_t start_bin, float *amax,
                                 qb_error *error);

/* ---- quantizers -------------------------------------------------------------------------------------------------- */

typedef struct qb_quantizer qb_quantizer; /* reference counted; one inside a model holds the model alive */

typedef enum qb_number_format { QB_FORMAT_INTEGER = 0, QB_FORMAT_E4M3 = 1 } qb_number_format;

typedef struct qb_quantizer_options {
    uint32_t struct_size;
    qb_number_format format;
    int32_t num_bits; /* integer format: 1 .. 16 (0 is allowed as in the original: everything becomes zero) */
    int32_t is_unsigned;
    int32_t narrow_range; /* lower bound -bound instead of -bound - 1 */
    int32_t fake_quant;   /* 1: y = q / scale; 0: y = q and the scale is kept (real quantization) */
    int32_t learn_amax;   /* ranges are the two clip bounds */
    float scale_amax;     /* multiplies amax at use; 0: none */
    int32_t axis_count;   /* -1: per tensor */
    int32_t axes[QB_MAX_RANK];
} qb_quantizer_options;

/* Stages are bits, so calibration, training, evaluation and integer execution are one forward with different bits. */
enum {
    QB_STAGE_DISABLED = 1, /* the quantizer is the identity, whatever the other bits say */
    QB_STAGE_QUANT = 2,
    QB_STAGE_CLIP = 4,
    QB_STAGE_CALIB = 8
};

QB_API qb_status qb_quantizer_create(qb_device *device, const qb_quantizer_options *options, qb_quantizer **quantizer,
                                     qb_error *error);
QB_API qb_quantizer *qb_quantizer_retain(qb_quantizer *quantizer);
QB_API void qb_quantizer_release(qb_quantizer *quantizer);

QB_API qb_quantizer_options qb_quantizer_get_options(const qb_quantizer *quantizer);
/* Change options of a living quantizer (num_bits, is_unsigned, narrow_range, ...); validated as in create. */
QB_API qb_status qb_quantizer_set_options(qb_quantizer *quantizer, const qb_quantizer_options *options,
                                          qb_error *error);
QB_API uint32_t qb_quantizer_stages(const qb_quantizer *quantizer);
/* The same as qb_model_begin_change for the model that it is in; nothing for a quantizer of its own. */
QB_API qb_status qb_quantizer_begin_change(qb_quantizer *quantizer, qb_error *error);
QB_API void qb_quantizer_end_change(qb_quantizer *quantizer);
/* The name of a quantizer whose layer's weight is frozen (qb_model_seal), borrowed from its model; otherwise NULL. What
 * would change such a quantizer is QB_ERR_STATE, with this name in the sentence where there is one. */
QB_API const char *qb_quantizer_frozen_name(const qb_quantizer *quantizer);
/* QB_ERR_STATE, without a sentence: another thread or a running session uses it, or it is frozen. */
QB_API qb_status qb_quantizer_set_stages(qb_quantizer *quantizer, uint32_t stages);

/* amax: rank 0 .. QB_MAX_RANK; values >= 0 or NaN.  `values == NULL` removes it (dynamic range again). */
QB_API qb_status qb_quantizer_set_amax(qb_quantizer *quantizer, const float *values, int32_t rank, const int64_t *shape,
                                       qb_error *error);
/* The gradients of learned bounds. */
QB_API void qb_quantizer_clip_gradient(const qb_quantizer *quantizer, float *minimum, float *maximum);
QB_API void qb_quantizer_set_clip_gradient(qb_quantizer *quantizer, float minimum, float maximum);
/* *values is NULL when there is none. */
QB_API void qb_quantizer_amax(const qb_quantizer *quantizer, const float **values, int32_t *rank,
                              const int64_t **shape);
QB_API qb_status qb_quantizer_set_clip(qb_quantizer *quantizer, float minimum, float maximum, qb_error *error);
QB_API void qb_quantizer_clip(const qb_quantizer *quantizer, float *minimum, float *maximum);
/* Multiplies x before everything else; NULL removes it. */
QB_API qb_status qb_quantizer_set_pre_quant_scale(qb_quantizer *quantizer, const float *values, int32_t rank,
                                                  const int64_t *shape, qb_error *error);
QB_API void qb_quantizer_pre_quant_scale(const qb_quantizer *quantizer, const float **values, int32_t *rank,
                                         const int64_t **shape);
/* The observer that QB_STAGE_CALIB feeds; retained.  NULL removes it.  QB_ERR_STATE as above. */
QB_API qb_status qb_quantizer_set_observer(qb_quantizer *quantizer, qb_observer *observer);

/* y = what the stages say about x.  y (same shape) may alias x.  `amax_used` (may be NULL) receives, when quantizing
 * with a per-tensor range, the range that was used (dynamic ones included). */
QB_API qb_status qb_quantizer_forward(qb_quantizer *quantizer, const qb_interrupt *interrupt, const float *x,
                                      int32_t rank, const int64_t *shape, float *y, float *amax_used, qb_error *error);

/* ---- functions on tensors (pytorch_quantization.tensor_quant and .utils) ----------------------------------------- */

/* A tensor with broadcasting rules: dimensions are aligned at the end, 1 stretches. */
typedef struct qb_tensor {
    const float *data;
    int32_t rank;
    const int64_t *shape;
} qb_tensor;

/* y = fake-quantized x when `fake`, otherwise integer values as float, and then `scale` (same shape as amax; may be
 * NULL) gets the scales.  NUMERICS section 4.  QB_ERR_VALUE: negative amax; a negative element of an unsigned tensor.
 */
QB_API qb_status qb_tensor_quant(qb_device *device, qb_tensor x, qb_tensor amax, int32_t num_bits, int is_unsigned,
                                 int narrow_range, int fake, float *y, float *scale, qb_error *error);
/* dx = dy where |x| <= amax, else 0: the clipped straight-through estimator of the line above. */
QB_API qb_status qb_tensor_quant_grad(qb_device *device, qb_tensor x, qb_tensor amax, const float *dy, float *dx,
                                      qb_error *error);
/* amax.data == NULL: cast to E4M3 and back without scaling. */
QB_API qb_status qb_scaled_e4m3(qb_device *device, qb_tensor x, qb_tensor amax, float *y, qb_error *error);
QB_API qb_status qb_fake_affine(qb_device *device, qb_tensor x, float minimum, float maximum, int32_t num_bits,
                                float *y, qb_error *error);
QB_API qb_status qb_clip(qb_device *device, qb_tensor x, qb_tensor minimum, qb_tensor maximum, float *y,
                         qb_error *error);
/* dminimum / dmaximum are scalars (bounds of one element) and may be NULL. */
QB_API qb_status qb_clip_grad(qb_device *device, qb_tensor x, qb_tensor minimum, qb_tensor maximum, const float *dy,
                              float *dx, float *dminimum, float *dmaximum, qb_error *error);
/* Largest magnitude over every axis that is not kept; y has x's rank with reduced axes 1 (keepdims). */
QB_API qb_status qb_reduce_amax(qb_device *device, qb_tensor x, int32_t kept_count, const int32_t *kept, float *y,
                                qb_error *error);
/* Quantize, multiply and dequantize as QuantLinear does: y (rows, out) of x (rows, in), weight (out, in), bias (out) or
 * NULL.  `x_shape`/`x_rank` describe x for quantizers with axes; the last dimension is `in`. */
QB_API qb_status qb_quant_linear(qb_device *device, qb_quantizer *input_quantizer, qb_quantizer *weight_quantizer,
                                 qb_tensor x, qb_tensor weight, const float *bias, float *y, qb_error *error);

/* ---- model ------------------------------------------------------------------------------------------------------- */

typedef struct qb_model qb_model; /* reference counted */

typedef enum qb_head {
    QB_HEAD_NONE = 0, /* QDQBertModel; names carry no "bert." prefix */
    QB_HEAD_QUESTION_ANSWERING = 1,
    QB_HEAD_SEQUENCE_CLASSIFICATION = 2, /* multiple choice too: one label, one sequence for each choice */
    QB_HEAD_TOKEN_CLASSIFICATION = 3,
    QB_HEAD_NEXT_SENTENCE = 4, /* two classes, whatever num_labels says */
    QB_HEAD_LANGUAGE_MODEL = 5 /* masked and causal */
} qb_head;

/* "none", "question_answering", "sequence_classification", "token_classification", "next_sentence", "language_model".
 * QB_ERR_VALUE: another name; the sentence lists the known ones. */
QB_API qb_status qb_head_from_name(const char *name, qb_head *head, qb_error *error);

/* Where the numbers of a parameter are. */
typedef enum qb_storage {
    QB_STORAGE_FLOATS = 0, /* in the model's block */
    QB_STORAGE_CODES,      /* nowhere as floats: int8 codes, packed for the device's kernels (qb_model_write_codes) */
    QB_STORAGE_LENT        /* floats of the caller's, such as a mapped file, that the model reads and never writes */
} qb_storage;

/* A parameter that is not to be in the model's block. */
typedef struct qb_parameter_storage {
    const char *name;   /* of the parameter; read while the model is created */
    qb_storage storage; /* QB_STORAGE_CODES: of the weight of a linear layer with quantizers, or QB_STORAGE_LENT */
    const float *lent;  /* QB_STORAGE_LENT: of the parameter's shape, aligned as floats are */
} qb_parameter_storage;

typedef struct qb_model_options {
    uint32_t struct_size;
    int64_t vocab_size, hidden_size, num_layers, num_heads, intermediate_size, max_positions, type_vocab_size;
    int64_t num_labels;
    float layer_norm_eps;
    const char *hidden_act;    /* a name of transformers, such as "gelu"; the error for another one lists them all */
    int32_t add_pooling_layer; /* QB_HEAD_NONE only; the heads know theirs */
    qb_head head;
    qb_quantizer_options input_quantizer;  /* every *_input_quantizer starts like this */
    qb_quantizer_options weight_quantizer; /* every _weight_quantizer */
    const char *position_embedding_type;   /* "absolute" or NULL, "relative_key", "relative_key_query" */
    int32_t add_cross_attention;           /* each layer also attends to encoder_hidden_states, when they are given */
    int32_t tie_word_embeddings;    /* QB_HEAD_LANGUAGE_MODEL only: the scores use the table of word embeddings */
    const int64_t *heads_of_layers; /* (num_layers) self-attention heads left in each layer, 1 .. num_heads, of the
                                     * size hidden_size / num_heads; NULL: num_heads everywhere */
    int64_t padding_token; /* 1 + the id whose word vector gets no gradient as an input; 0: every one gets its own */
    const qb_parameter_storage *storages; /* (storages_count) for inference alone: no session trains such a model */
    int64_t storages_count;
    void (*release_lent)(void *context); /* called when the model is freed, if it was created; or NULL */
    void *lent_context;
} qb_model_options;

/* Parameters are zero, quantizers have QB_STAGE_QUANT and no amax.  A tied table is one parameter, under the name of
 * the embedding; the bias of a language model is "cls.predictions.bias".  QB_ERR_VALUE names the option that is wrong.
 */
QB_API qb_status qb_model_create(qb_device *device, const qb_model_options *options, qb_model **model, qb_error *error);
QB_API qb_model *qb_model_retain(qb_model *model);
QB_API void qb_model_release(qb_model *model);
QB_API qb_device *qb_model_device(const qb_model *model);

QB_API int qb_model_has_pooler(const qb_model *model);
QB_API int64_t qb_model_heads(const qb_model *model, int64_t layer); /* N of one layer's self-attention */
/* Shape of the logits of a (batch, length) call that asks for all; returns the rank, 0 for QB_HEAD_NONE. */
QB_API int32_t qb_model_logits_shape(const qb_model *model, int64_t batch, int64_t length, int64_t shape[3]);

/* Dropouts of a model of so many layers L, 2 + 5 L: number 0 is that of the embeddings; 1 + 5 i .. 5 + 5 i of layer i:
 * the probabilities and the output of attention, the same of cross-attention, the output of the feed-forward half; the
 * last one the head's.  Those that the model lacks have numbers too. */
QB_API int64_t qb_model_dropout_count(const qb_model *model);

typedef struct qb_parameter_info {
    const char *name; /* "bert.encoder.layer.0.attention.self.query.weight" */
    int32_t rank;
    int64_t shape[QB_MAX_RANK];
    const float *data; /* all parameters lie in one block, in this order; each starts on a multiple of 64 bytes.  NULL
                        * if it is kept as codes, and elsewhere if it was lent. */
    qb_storage storage;
    const char *codes_reason; /* static text: why products need more than its codes; NULL: they do not */
    size_t bytes;             /* of its floats in the block: 0 if it is kept as codes or was lent */
    size_t packed_bytes; /* of what products read instead, as far as it is made, while none is; quantized layers only */
} qb_parameter_info;

/* Several changes that no forward may come between: it is refused until the matching end, while the functions that
 * change the model or one of its quantizers work as ever and cannot meet a session.  Sections nest.  QB_ERR_STATE while
 * a session runs. */
QB_API qb_status qb_model_begin_change(qb_model *model, qb_error *error);
QB_API void qb_model_end_change(qb_model *model);

QB_API int64_t qb_model_parameter_count(const qb_model *model);
QB_API qb_parameter_info qb_model_parameter(const qb_model *model, int64_t index);
/* Writable pointer; the call advances the model's epoch, so that packed weights are made anew.  QB_ERR_STATE while a
 * session runs.  QB_ERR_INDEX. */
QB_API qb_status qb_model_parameter_write(qb_model *model, int64_t index, float **data, qb_error *error);

/* The gradient of a parameter, of its shape, that backward adds to; NULL while no session trains, and for a parameter
 * that is not trained.  Valid as long as the model. */
QB_API float *qb_model_gradient(const qb_model *model, int64_t index);
/* Whether backward computes a parameter's gradient; all are, at first.  QB_ERR_STATE while a backward runs;
 * QB_ERR_INDEX. */
QB_API qb_status qb_model_set_trainable(qb_model *model, int64_t index, int32_t is_trainable, qb_error *error);
/* The gradients of `count` parameters become zero; indices NULL: those of all, and of the learned bounds.  QB_ERR_STATE
 * while a backward runs; QB_ERR_INDEX. */
QB_API qb_status qb_model_zero_gradients(qb_model *model, const int64_t *indices, int64_t count, qb_error *error);
/* The length of the gradients of `count` parameters together: sqrt of the sum of squares, in float64, parameter after
 * parameter; indices NULL: of all parameters.  0 while there are none.  QB_ERR_INDEX. */
QB_API qb_status qb_model_gradient_norm(const qb_model *model, const int64_t *indices, int64_t count, double *norm,
                                        qb_error *error);
/* Multiply them.  QB_ERR_STATE while a backward runs; QB_ERR_INDEX. */
QB_API qb_status qb_model_scale_gradients(qb_model *model, float factor, const int64_t *indices, int64_t count,
                                          qb_error *error);

/* ---- weights as codes: of linear layers whose two quantizers let them multiply int8 codes.  A model that keeps some
 * is created with qb_model_options.storages, its quantizers get settings and ranges and its other parameters numbers,
 * codes are written, and it is sealed.  It then computes the bits of the model that the codes came from. ---- */

/* Where the codes (out, in) of one weight are: in memory, or wherever `read` gets them from. */
typedef struct qb_codes_source {
    int64_t index;       /* of the parameter */
    const int8_t *codes; /* or NULL */
    /* Copy rows first .. first + count - 1; called on several threads at once.  Non-zero: it cannot. */
    int (*read)(void *context, int64_t first, int64_t count, int8_t *codes);
    void *context;
} qb_codes_source;

/* Pack the codes of weights that are kept as codes, on all threads at once.  QB_ERR_STATE: one is not, the model is
 * sealed or runs a forward, the range is dynamic, or the quantizers do not multiply codes, with the reason;
 * QB_ERR_VALUE: a code that the weight quantizer does not give, with row and column, or a range that is not finite, or
 * a weight that is named twice; QB_ERR_BACKEND: `read` could not; QB_ERR_INDEX.  All weights are then as before. */
QB_API qb_status qb_model_write_codes(qb_model *model, const qb_codes_source *sources, int64_t count,
                                      const qb_interrupt *interrupt, qb_error *error);
/* The codes of a weight, kept as codes or as floats.  Other threads may run forwards meanwhile; a change is refused, as
 * beside a forward.  QB_ERR_STATE: it has none yet, is not multiplied as codes, with the reason, or the model is being
 * changed or collects statistics; QB_ERR_VALUE: as a forward says it; QB_ERR_INDEX. */
QB_API qb_status qb_model_read_codes(qb_model *model, int64_t index, int8_t *codes, const qb_interrupt *interrupt,
                                     qb_error *error);
/* values = codes / scale, of the weight quantizer's static range, whatever keeps the weight: quantizing them gives the
 * codes again.  Errors as qb_model_write_codes. */
QB_API qb_status qb_model_values_of_codes(const qb_model *model, int64_t index, const int8_t *codes, float *values,
                                          const qb_interrupt *interrupt, qb_error *error);
/* From now on whatever would change a quantizer of a weight that is kept as codes is QB_ERR_STATE.  QB_ERR_STATE: one
 * has no codes yet, or its quantizers have changed since; the model is sealed already, or runs a forward. */
QB_API qb_status qb_model_seal(qb_model *model, qb_error *error);
/* How often the model or a quantizer of it has been changed.  QB_ERR_STATE while a change is under way. */
QB_API qb_status qb_model_epoch(qb_model *model, uint64_t *epoch, qb_error *error);

QB_API int64_t qb_model_quantizer_count(const qb_model *model);
/* "bert.encoder.layer.0.attention.self.query._input_quantizer"; order of the original's named_modules. */
QB_API const char *qb_model_quantizer_name(const qb_model *model, int64_t index);
QB_API qb_quantizer *qb_model_quantizer(qb_model *model, int64_t index); /* borrowed */

/* What a forward may be asked for that decides where floats are needed: bits. */
enum {
    QB_ASKED_KEYS = 1,         /* qb_forward_outputs.keys, values, cross_keys, cross_values */
    QB_ASKED_HIDDEN_STATES = 2 /* qb_forward_outputs.hidden_states */
};

/* Which way a linear layer, a product of attention or a residual add will be computed by an evaluation, for people:
 * "integer", "float", "dequantized", and why. */
typedef struct qb_site_info {
    const char *name;     /* "bert.encoder.layer.0.attention.self.query" */
    const char *path;     /* "integer", "float" or "dequantized" */
    const char *reason;   /* static text; "" for integer and float */
    const char *obstacle; /* name of the quantizer that the reason speaks of; "" for integer and float */
    const char *kernel;   /* what combines the two operands: a name of the kernel table, "product_qs8_codes" */
    const char *variant;  /* where the device has that kernel from: "avx2" */
} qb_site_info;
QB_API int64_t qb_model_site_count(const qb_model *model);
/* In a forward that is asked for QB_ASKED_..., without keys of earlier calls, and that attends to an encoder if the
 * model can. */
QB_API qb_site_info qb_model_site(const qb_model *model, int64_t index, uint32_t asked);

/* A tensor on its way to one of those that read it, in such a forward: as int8 codes, or as floats, and why. */
typedef struct qb_edge_info {
    const char *maker;     /* the site that makes it (an add with its LayerNorm), "embeddings", or
                            * "encoder_hidden_states" */
    const char *reader;    /* the site that reads it, as `quantizer` says; "" for others, who read floats */
    const char *quantizer; /* of the reader, on this tensor; "" without */
    const char *refusal;   /* static text: why floats travel; "" if codes do */
} qb_edge_info;
QB_API int64_t qb_model_edge_count(const qb_model *model, uint32_t asked);
QB_API qb_edge_info qb_model_edge(const qb_model *model, int64_t index, uint32_t asked);

/* ---- session: one caller's workspace ----------------------------------------------------------------------------- */

typedef struct qb_session qb_session;

typedef enum qb_padding {
    QB_PADDING_SKIP = 0,   /* positions with attention_mask 0 are not computed and read as zero */
    QB_PADDING_COMPUTE = 1 /* they are computed, as the original did, and counted in statistics */
} qb_padding;

typedef struct qb_session_options {
    uint32_t struct_size;
    int64_t max_sequences;      /* largest batch */
    int64_t max_length;         /* longest sequence, 1 .. max_positions */
    int64_t max_tokens;         /* most computed tokens in one call; 0: max_sequences * max_length */
    int32_t keep_probabilities; /* room for attention probabilities of a whole layer: needed for output_attentions, and
                                 * whenever an attention-probability quantizer collects, is dynamic or does not fit int8
                                 * codes (qb_model_needs_probabilities) */
    const qb_interrupt *interrupt; /* asked while the session is made: packing a large model takes seconds; or NULL */
    int64_t max_past;              /* most keys and values of earlier calls in a sequence; 0: none */
    int64_t max_encoder_length;    /* longest sequence of encoder_hidden_states; 0: none.  A query looks at 131,071 keys
                                    * at most, beyond which a sum of codes would not be exact. */
    int32_t trains;                /* keep what qb_session_backward needs; max_past must be 0 then */
    int32_t recomputes;            /* gradient checkpointing: keep each layer's input only, and compute the rest again
                                    * in backward, with equal bits; needs trains */
    int32_t bf16_products;         /* float products of linear layers, forward and backward, round their operands to
                                    * bfloat16 and add up in float32; needs trains, and a device that
                                    * qb_device_check_bf16 approves of */
} qb_session_options;

/* Reserve every byte that forward needs, and pack the weights; after this no forward within the limits allocates
 * (calibration may: growing histograms; so may the first forward after a change of weights, quantizers or threads).
 * QB_ERR_INTERRUPTED: the interrupt asked for it.
 * QB_ERR_VALUE names the limit, or a weight with a NaN that is to become codes; QB_ERR_UNSUPPORTED names a quantizer
 * whose axes cannot be served: activations take one range, or ranges along the last axis of a linear layer's or
 * residual add's input; or bf16_products that the device lacks. */
QB_API qb_status qb_session_create(qb_model *model, const qb_session_options *options, qb_session **session,
                                   qb_error *error);
QB_API void qb_session_destroy(qb_session *session);
/* 1 if `model`, as its quantizers stand now, needs keep_probabilities. */
QB_API int qb_model_needs_probabilities(const qb_model *model);

typedef struct qb_forward_inputs {
    uint32_t struct_size;
    int64_t batch, length;         /* B, T */
    const int64_t *input_ids;      /* (B, T), or NULL when inputs_embeds is given */
    const float *inputs_embeds;    /* (B, T, H), or NULL */
    const int64_t *attention_mask; /* (B, past + T) or (B, T, past + T) of 0 and 1; NULL: ones */
    int32_t attention_mask_rank;   /* 2 or 3 */
    const int64_t *token_type_ids; /* (B, T); NULL: zeros */
    const int64_t *position_ids;   /* (B, T); NULL: past .. past + T - 1 in each row */
    const float *head_mask; /* the heads of layer 0, then those of layer 1, ...; NULL: ones.  Cross-attention takes
                             * the same factors, so its layers need all their heads. */
    qb_padding padding;     /* a mask of rank 3 needs QB_PADDING_COMPUTE */
    int32_t is_causal;      /* with a mask of rank 2 or none: token t sees the keys 0 .. past + t */
    int64_t past_length;    /* keys and values of earlier calls before those of this one */
    const float *const *past_keys; /* (L) of (B, N, past, D); needed if past_length > 0 */
    const float *const *past_values;
    int64_t encoder_length;                /* S of cross-attention; 0: it is left out, and no state, mask or key of
                                            * an encoder is given */
    const float *encoder_hidden_states;    /* (B, S, H), or NULL when cross_keys and cross_values are given */
    const int64_t *encoder_attention_mask; /* (B, S) or (B, T, S) of 0 and 1; NULL: ones */
    int32_t encoder_attention_mask_rank;   /* 2 or 3 */
    const float *const *cross_keys;        /* (L) of (B, N, S, D) that an earlier call handed out, or NULL */
    const float *const *cross_values;
    const int64_t *logits_positions; /* (K) b * T + t, in any order: the only tokens that a language model scores, into
                                      * logits (K, V); NULL: all */
    int64_t logits_count;            /* K */
    const float *dropout_probabilities;  /* (qb_model_dropout_count) of being dropped, 0 .. 1, for each dropout of the
                                          * model; NULL: nothing is dropped.  Sessions that train only; not read after
                                          * the call. */
    uint64_t dropout_seed, dropout_step; /* what is dropped follows from these two, and from where an element is */
} qb_forward_inputs;

/* Buffers that the caller offers; NULL: not wanted.  Positions that are not computed are written as zero.  After a
 * failure their contents are unspecified. */
typedef struct qb_forward_outputs {
    uint32_t struct_size;
    float *last_hidden_state;       /* (B, T, H) */
    float *pooler_output;           /* (B, H); models with a pooler */
    float *logits;                  /* qb_model_logits_shape */
    float *const *hidden_states;    /* (L + 1) of (B, T, H) */
    float *const *attentions;       /* (L) of (B, N, T, past + T) */
    float *const *cross_attentions; /* (L) of (B, N, T, S) */
    float *const *keys; /* (L) of (B, N, past + T, D): for past_keys of the next call; with values or not at all */
    float *const *values;
    float *const *cross_keys; /* (L) of (B, N, S, D): what encoder_hidden_states were projected to */
    float *const *cross_values;
} qb_forward_outputs;

/* QB_ERR_SHAPE: larger than the session's limits, more tokens than positions; QB_ERR_INDEX: an id out of range (with
 * argument, row, column, value); QB_ERR_VALUE: a mask element that is not 0 or 1, a sequence that is all padding (with
 * QB_PADDING_SKIP), a first position that is pooled but not computed, an output that the model lacks, a NaN or
 * infinity at an integer or collecting site (with its name), a probability of a dropout that the model lacks;
 * QB_ERR_STATE: keep_probabilities is needed and was not planned, dropout without `trains`, or the model is busy with
 * another session's statistics. */
QB_API qb_status qb_session_forward(qb_session *session, const qb_interrupt *interrupt, const qb_forward_inputs *inputs,
                                    const qb_forward_outputs *outputs, qb_error *error);

/* Gradients of outputs, of the shapes that forward gave them; NULL: zero. */
typedef struct qb_backward_inputs {
    uint32_t struct_size;
    const float *d_last_hidden_state; /* (B, T, H) */
    const float *d_pooler_output; /* (B, H); needs that forward was asked for it, or for the logits of a pooled head */
    const float *d_logits;        /* qb_model_logits_shape, or (K, V); needs that forward was asked for them */
    const float *const *d_hidden_states; /* (L + 1) of (B, T, H), each of which may be NULL: of x_0, x_1, ... x_L, in
                                          * addition to what comes from above; whether forward was asked for them or
                                          * not */
} qb_backward_inputs;

/* Gradients of inputs that the caller offers room for; NULL: not wanted.  Positions that were not computed are zero. */
typedef struct qb_backward_outputs {
    uint32_t struct_size;
    float *d_inputs_embeds;         /* (B, T, H) of the word vectors, whether they were given or looked up */
    float *d_encoder_hidden_states; /* (B, S, H) */
} qb_backward_outputs;

/* Add the gradients of the parameters, for what the last forward of this session computed; may be called again.  All
 * arrays that forward was given must still be there.
 * QB_ERR_STATE: the session was made without `trains`, its last forward failed or there was none, the model has changed
 * since, or another backward runs; QB_ERR_VALUE: the gradient of an output that was not asked for, or that the model
 * lacks; QB_ERR_UNSUPPORTED: a quantizer without a gradient (pre_quant_scale, scale_amax), with its name. */
QB_API qb_status qb_session_backward(qb_session *session, const qb_interrupt *interrupt,
                                     const qb_backward_inputs *inputs, const qb_backward_outputs *outputs,
                                     qb_error *error);

/* ---- optimizers -------------------------------------------------------------------------------------------------- */

typedef struct qb_optimizer qb_optimizer;

typedef enum qb_optimizer_kind {
    QB_OPTIMIZER_ADAMW = 0, /* Loshchilov and Hutter 2019, as torch.optim.AdamW */
    QB_OPTIMIZER_SGD        /* as torch.optim.SGD with dampening 0 */
} qb_optimizer_kind;

/* What one group of parameters is stepped with; those of the other kind are not read. */
typedef struct qb_optimizer_settings {
    uint32_t struct_size;
    double learning_rate; /* >= 0 */
    double weight_decay;  /* >= 0; AdamW takes lr * weight_decay of the parameter away, SGD adds weight_decay of it to
                           * the gradient */
    double beta1, beta2;  /* AdamW: in [0, 1) */
    double eps;           /* AdamW: >= 0 */
    double momentum;      /* SGD: >= 0 */
    int32_t is_nesterov;  /* SGD: needs momentum */
} qb_optimizer_settings;

/* Holds the model and, once a parameter has been stepped, its moments: two numbers for each of the model's, or one. */
QB_API qb_status qb_optimizer_create(qb_model *model, qb_optimizer_kind kind, qb_optimizer **optimizer,
                                     qb_error *error);
QB_API void qb_optimizer_destroy(qb_optimizer *optimizer); /* NULL is allowed */
/* One step of the parameters at `indices` (of qb_model_parameter); those without a gradient are left alone, as in
 * torch. Equal bits for any number of threads and on every variant.  QB_ERR_INDEX, QB_ERR_VALUE: nothing is stepped.
 * QB_ERR_STATE while a session runs. */
QB_API qb_status qb_optimizer_step(qb_optimizer *optimizer, const int64_t *indices, int64_t count,
                                   const qb_optimizer_settings *settings, qb_error *error);
/* A parameter's moments, of its shape, for checkpoints: AdamW's two, SGD's momentum (its second is NULL); *steps is how
 * often it was stepped.  QB_ERR_INDEX. */
QB_API qb_status qb_optimizer_state(qb_optimizer *optimizer, int64_t index, float **first, float **second,
                                    int64_t *steps, qb_error *error);
/* Say how often a parameter was stepped, after its moments were read from a checkpoint.  QB_ERR_INDEX, QB_ERR_VALUE. */
QB_API qb_status qb_optimizer_set_steps(qb_optimizer *optimizer, int64_t index, int64_t steps, qb_error *error);

/* ---- losses --------------------------------------------------------------------------------------------------------
 *
 * Values are computed in float64 and added up row after row: one result on any number of threads and every variant.
 * Gradients are float32, those of rows from the softmax of core/kernel_list.inc.
 */

/* Mean cross-entropy of logits (rows, classes) against labels (rows) that are not ignore_index; NaN if none is left.
 * label_smoothing in [0, 1] is the share of the target that is spread over all classes, as in torch. */
QB_API qb_status qb_cross_entropy(qb_device *device, const float *logits, int64_t rows, int64_t classes,
                                  const int64_t *labels, int64_t ignore_index, double label_smoothing, float *loss,
                                  qb_error *error);
/* Mean of KL(softmax(teacher / temperature) || softmax(logits / temperature)) over the rows whose label is not
 * ignore_index, or over all if labels is NULL; NaN if none is left. */
QB_API qb_status qb_kl_divergence(qb_device *device, const float *logits, const float *teacher, int64_t rows,
                                  int64_t classes, const int64_t *labels, int64_t ignore_index, double temperature,
                                  float *loss, qb_error *error);
QB_API qb_status qb_mean_squared_error(const float *x, const float *y, int64_t count, float *loss, qb_error *error);
QB_API qb_status qb_binary_cross_entropy(const float *logits, const float *labels, int64_t count, float *loss,
                                         qb_error *error);

/* `factor` times the gradients of the four with respect to their first array; dlogits and dx have its shape and may be
 * it.  Rows that do not count get zeros; NaN where no row counts. */
QB_API qb_status qb_cross_entropy_grad(qb_device *device, const float *logits, int64_t rows, int64_t classes,
                                       const int64_t *labels, int64_t ignore_index, double label_smoothing,
                                       float factor, float *dlogits, qb_error *error);
QB_API qb_status qb_kl_divergence_grad(qb_device *device, const float *logits, const float *teacher, int64_t rows,
                                       int64_t classes, const int64_t *labels, int64_t ignore_index, double temperature,
                                       float factor, float *dlogits, qb_error *error);
QB_API qb_status qb_mean_squared_error_grad(const float *x, const float *y, int64_t count, float factor, float *dx,
                                            qb_error *error);
QB_API qb_status qb_binary_cross_entropy_grad(const float *logits, const float *labels, int64_t count, float factor,
                                              float *dlogits, qb_error *error);

#ifdef __cplusplus
}
#endif
#endif
