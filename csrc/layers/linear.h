/* SPDX-License-Identifier: Apache-2.0
 *
 * A linear layer with a quantizer on its input and one on its weight, and the template of every other layer.
 *
 *   y = activation(Qx(x) Qw(W)' + b)      x (M, K), W (N, K), b (N), y (M, N)
 *
 * Three ways to the same line, chosen by the two quantizers (layers/site.h):
 *
 *   integer      acc[m,n] = sum_k qx[m,k] qw[n,k] exactly; y = fma((float)acc, step_x * step_w[n], b[n])
 *   float        acc = fma(x[m,k], w[n,k], acc), k increasing; y = acc + b[n]
 *   dequantized  the same of q / scale
 *
 * The weight is kept packed in the form that its path needs, next to the parameter it was made from, and is made anew
 * when the parameter or its quantizer changed (`prepare`, which the model calls before the first forward that needs
 * it). Runs that round the operands of float products to bfloat16 have a form of their own.  A layer is const while
 * sessions run forward; everything a call writes lies in its work struct.
 *
 * A layer that multiplies codes needs the floats no longer.  Its weight may be kept as codes (QB_STORAGE_CODES): the
 * packed weight is then all there is, made by qb_linear_write_codes, and its quantizers must stay as they are.
 *
 * Backward, of the line above without its activation (who fuses one has its gradient):
 *
 *   db += sum_m dy[m]
 *   dW += (dy' Qx(x)) where |W| <= amax_w, else 0
 *   dx  = (dy Qw(W)) where |x| <= amax_x, else 0
 *
 * Source: pytorch_quantization.nn.QuantLinear; NUMERICS section 1.
 */
#ifndef QB_LAYERS_LINEAR_H
#define QB_LAYERS_LINEAR_H

#include "core/arena.h"
#include "core/run.h"
#include "layers/coded.h"
#include "layers/gradient.h"
#include "layers/product.h"
#include "layers/scratch.h"
#include "layers/site.h"
#include "layers/visit.h"

/* What the packed weight was made from and how. */
typedef enum qb_weight_form {
    QB_WEIGHT_NONE = 0,
    QB_WEIGHT_F32,       /* the parameter itself */
    QB_WEIGHT_F32_QUANT, /* its quantized values */
    QB_WEIGHT_BF16,      /* the two rounded to bfloat16 */
    QB_WEIGHT_BF16_QUANT,
    QB_WEIGHT_QS8 /* its codes */
} qb_weight_form;

typedef struct qb_linear_pack {
    qb_weight_form form;
    void *data;  /* the kernels' layout; owned */
    float *step; /* (N) value of one code of each row; QB_WEIGHT_QS8 only; owned */
    uint64_t parameter_revision;
    uint64_t quantizer_revision;
} qb_linear_pack;

typedef struct qb_linear qb_linear;

struct qb_linear {        /* shared by all sessions; const while they run forward */
    int64_t in_features;  /* K */
    int64_t out_features; /* N */
    qb_parameter weight;  /* (N, K) */
    qb_parameter bias;    /* (N) */
    int has_bias;         /* 1 from init on; an owner may clear it before it visits */
    int is_quantized;     /* 0: pooler and heads, which have no quantizers */
    qb_quantizer *input_quantizer;
    qb_quantizer *weight_quantizer;
    qb_linear_pack pack;      /* floats, or codes */
    qb_linear_pack bf16_pack; /* of runs with uses_bf16, where there are no codes */
    struct {
        const qb_observer *observer;
        uint64_t observer_revision;
        uint64_t parameter_revision;
    } observed; /* what the last qb_linear_observe_weight saw and left */
};

typedef struct qb_linear_work { /* one per session */
    int8_t *codes;              /* (max rows, K) the input's codes on the integer path; may be shared, see plan */
    float *values;              /* (max rows, K) the input's values on the dequantized path; may be shared */
    float *step;                /* (N) step_x * step_w */
    qb_scratch *scratch;        /* the session's */
} qb_linear_work;

/* One product, prepared: what qb_linear_begin leaves for qb_linear_finish.  Valid while x and the work struct are. */
typedef struct qb_linear_call {
    const qb_linear *layer;
    qb_arithmetic arithmetic;
    qb_product product;
} qb_linear_call;

#define QB_LINEAR_CALLS_MAX 3

/* The site of input and weight. */
qb_site qb_linear_site(const qb_linear *self);
void qb_linear_init(qb_linear *self, int64_t in_features, int64_t out_features, int is_quantized);
/* Give back the packed weights.  The parameters belong to the model. */
void qb_linear_clear(qb_linear *self, qb_heap *heap);
qb_status qb_linear_visit(qb_linear *self, const qb_visitor *visitor, const qb_path *path);
/* The site and the weight alone, for owners that call the bias otherwise or have none. */
qb_status qb_linear_visit_weight(qb_linear *self, const qb_visitor *visitor, const qb_path *path);
/* Bytes of scratch that one chunk of the product needs. */
size_t qb_linear_scratch_bytes(const qb_linear *self, const qb_kernels *kernels);
/* codes and values are lent by the parent: they live for one call only, so layers that run one after the other share
 * them (NULL while measuring; never used if the layer has no quantizers). */
void qb_linear_plan(const qb_linear *self, qb_linear_work *work, qb_arena *arena, int8_t *codes, float *values,
                    qb_scratch *scratch);

/* Bring the packed weight that such a run needs up to date, and give another one back if it is out of date.  May
 * allocate. Nobody may run forward meanwhile whose packed weight is out of date. QB_ERR_VALUE: a NaN or infinity in a
 * weight that becomes codes, or in a quantizer's range; QB_ERR_UNSUPPORTED: a quantizer that cannot work here, with its
 * name; QB_ERR_NOMEM. */
qb_status qb_linear_prepare(qb_linear *self, const qb_run *run);
/* Show the weight to its quantizer if that collects; an unchanged weight is not read again for a maximum that cannot
 * change.  Only a session that has the model to itself may call it. */
qb_status qb_linear_observe_weight(qb_linear *self, const qb_run *run);

/* ---- the weight as codes (linear_codes.c); codes (N, K) int8 ---- */

/* NULL if the weight's codes are all that products need, as the quantizers stand; otherwise a static sentence. */
const char *qb_linear_codes_reason(const qb_linear *self);
/* One weight of those that are written together. */
typedef struct qb_linear_codes {
    qb_linear *layer;
    const qb_path *path;           /* the layer's */
    const qb_codes_source *source; /* whose index is not looked at */
} qb_linear_codes;

/* Pack the codes of weights of QB_STORAGE_CODES, whose quantizers have their ranges, instead of those they had; all in
 * one region.  No layer may stand twice.  QB_ERR_STATE: qb_linear_codes_reason, or the weight's range is not static.
 * QB_ERR_VALUE: the range is not finite; a code that the quantizer does not give, with its row and column.
 * QB_ERR_BACKEND: a source could not be read.  QB_ERR_NOMEM.  The weights are then as before. */
qb_status qb_linear_write_codes(const qb_run *run, const qb_linear_codes *items, int64_t count);
/* The codes that are multiplied.  QB_ERR_STATE: qb_linear_codes_reason, or there are none yet.  QB_ERR_VALUE: as
 * qb_linear_prepare. */
qb_status qb_linear_read_codes(const qb_linear *self, const qb_run *run, int8_t *codes);
/* values (N, K) = codes / scale, of the quantizer's static range.  Quantizing them gives the codes again, for all that
 * qb_linear_write_codes takes: |values * scale - codes| <= 127 * 2^-23.  Errors as qb_linear_write_codes. */
qb_status qb_linear_values_of_codes(const qb_linear *self, const qb_run *run, const int8_t *codes, float *values);
/* Bytes of packed weights. */
size_t qb_linear_packed_bytes(const qb_linear *self, const qb_kernels *kernels);

/* y = activation(x W' + b); x (rows, K) must not overlap y (rows, N).  A collecting input quantizer sees x.  The run's
 * path is the layer's own.  No allocation.  QB_ERR_VALUE: a NaN or infinity at an integer or collecting quantizer. */
qb_status qb_linear_forward(const qb_linear *self, const qb_linear_work *work, const qb_run *run, const float *x,
                            int64_t rows, qb_activation activation, float *y);

/* The same in two steps, for layers that share an input and want one parallel region, and for those whose input or
 * output travels in codes (layers/coded.h).  begin prepares the input, without showing it to a collecting quantizer.
 * `coded` (may be NULL) says which codes of x there are: those of the range to the bit are used, and others that are
 * made here are added for the layers that share x.  x's floats must be there unless coded->lacks_floats. */
qb_status qb_linear_begin(const qb_linear *self, const qb_linear_work *work, const qb_run *run, const float *x,
                          qb_coded *coded, int64_t rows, qb_activation activation, float *y, qb_linear_call *call);
/* The end of the edge on which x comes. */
qb_edge qb_linear_edge(const qb_linear *self);
/* Between the two: the codes (rows, N) of this range are made instead of y; they may lie in y's memory.  Integer
 * products only (qb_edge_refusal). */
void qb_linear_give_codes(qb_linear_call *call, const qb_quant_range *range, int8_t *codes);
/* Compute up to QB_LINEAR_CALLS_MAX calls.  Where codes were to be given and a result is a NaN or infinity, y is made
 * after all, so that whoever reads it says where. */
qb_status qb_linear_finish(const qb_run *run, qb_linear_call *calls, int32_t calls_count, qb_scratch *scratch);
/* What a finished call has left: the codes, or the floats. */
qb_coded qb_linear_given(const qb_linear_call *call);

/* What backward of up to `rows` rows needs. */
void qb_linear_gradient_sizes(const qb_linear *self, const qb_kernels *kernels, int64_t rows, qb_gradient_sizes *sizes);
/* x (rows, K) as forward got it, dy (rows, N) -> dx (rows, K), and the parameters' gradients, as far as they are
 * wanted. dx may be NULL; it must not overlap x or dy.  The run's path is the layer's own. */
qb_status qb_linear_backward(const qb_linear *self, const qb_gradient_work *work, const qb_run *run, const float *x,
                             int64_t rows, const float *dy, float *dx);
/* dx is added to. */
qb_status qb_linear_backward_accumulate(const qb_linear *self, const qb_gradient_work *work, const qb_run *run,
                                        const float *x, int64_t rows, const float *dy, float *dx);

#endif
