/* SPDX-License-Identifier: Apache-2.0
 *
 * A site: where two operands meet (a linear layer, an attention product, a residual add), each behind its quantizer.
 * The two quantizers decide which arithmetic the site uses (NUMERICS section 1):
 *
 *   integer      both operands become int8 codes; the sum of products is exact and scaled once.  One result on every
 *                machine, and the same whether a model is simulated, trained or run.
 *   float        neither quantizer changes its operand.
 *   dequantized  everything else: operands are the values q / scale (or the operand itself where a quantizer is off),
 *                and the product is the float one.
 *
 * Functions here prepare one operand for its site.
 */
#ifndef QB_LAYERS_SITE_H
#define QB_LAYERS_SITE_H

#include "core/run.h"
#include "qdqbert/qdqbert.h"

typedef enum qb_arithmetic { QB_ARITHMETIC_FLOAT = 0, QB_ARITHMETIC_INTEGER, QB_ARITHMETIC_DEQUANTIZED } qb_arithmetic;

/* Left operand a is an activation; b is one too, or a weight (rows, columns).  The slots belong to the layer and are
 * filled by the model, so a site can be described before and after; NULL in them: never quantized. */
typedef struct qb_site {
    qb_quantizer *const *a;
    qb_quantizer *const *b;
    int b_is_weight;
    int is_add; /* the operands are added and normalized, not multiplied */
} qb_site;

/* *reason (may be NULL) becomes static text: why not integer, or "" for integer and float. */
qb_arithmetic qb_site_arithmetic(const qb_site *site, const char **reason);
/* The quantizer that the reason speaks of: the first that does not fit codes, or the one that is off beside one that is
 * not.  NULL for integer and float. */
const qb_quantizer *qb_site_obstacle(const qb_site *site);
/* The kernel that an evaluation combines the operands with: an index of the kernel table (QB_KERNEL_INDEX_...).
 * `gives_codes`: the result travels in codes (qb_edge_refusal). */
size_t qb_site_kernel(const qb_site *site, int gives_codes);
/* "integer", "float" or "dequantized". */
const char *qb_arithmetic_text(qb_arithmetic arithmetic);

/* NULL if this quantizer of an activation can do its work here, otherwise a static sentence that says why not.
 * `last_axis_is_free`: ranges along the last axis are served (on the dequantized path). */
const char *qb_site_refusal(const qb_quantizer *quantizer, int last_axis_is_free);

/* ---- codes that travel -------------------------------------------------------------------------------------------
 *
 * Between two integer sites only codes travel: who makes a tensor makes the codes that its reader would make of it.
 * Whether that is so on an edge is decided here and nowhere else. */

/* What one layer makes and a site reads.  A site without slots is none. */
typedef struct qb_edge {
    qb_site maker;                 /* what makes the tensor: a product, or an add with its LayerNorm; or none */
    const char *origin;            /* what made it if no site did, as static text; only where edges are told */
    qb_site reader;                /* the site that reads it; none: the onlooker alone does */
    const qb_quantizer *quantizer; /* of the reader, on this tensor */
    const char *onlooker;          /* why somebody else needs the floats, as static text; NULL: nobody does */
} qb_edge;

/* NULL if codes travel; then *range (may be NULL) is the reader's.  Otherwise floats travel, and static text says why:
 * the reader is not integer; its range is known only when the whole tensor is; it collects, or looks for negative
 * elements; the maker is a product that is not integer; somebody else needs the floats. */
const char *qb_edge_refusal(const qb_edge *edge, qb_quant_range *range);

/* Who is told the edges of a forward, for people.  Layers make those that they ask about themselves, and those they are
 * told by `..._visit_edges`, in one place. */
typedef struct qb_edge_visitor {
    uint32_t asked; /* what the forward is asked for: QB_ASKED_... */
    void *context;
    void (*edge)(void *context, const qb_edge *edge);
} qb_edge_visitor;

/* Tell of an edge that begins as `from` does, with its maker or origin, and ends as `to`. */
void qb_edge_tell(const qb_edge_visitor *visitor, const qb_edge *from, const qb_edge *to);

/* ---- operands ---------------------------------------------------------------------------------------------------- */

/* The codes of one tensor, ready to be made. */
typedef struct qb_coding {
    const qb_path *path; /* the quantizer's name, for a NaN's sentence */
    const float *x;      /* (count) */
    int8_t *codes;       /* (count) */
    int64_t count;       /* elements, in rows of `columns` */
    qb_quant_range range;
} qb_coding;

#define QB_CODINGS_MAX 4

/* Make the codes of up to QB_CODINGS_MAX tensors in one parallel region.  QB_ERR_VALUE: a NaN or infinity, with the
 * site's name, row and column. */
qb_status qb_site_encode(const qb_run *run, const qb_coding *codings, int32_t codings_count, int64_t columns);
/* Its sentence about one element.  The run's path is the quantizer's. */
qb_status qb_site_fail_nonfinite(const qb_run *run, int64_t element, int64_t columns, int is_nan);

/* The per-tensor range of an activation x (tokens, features) at an integer site; x may be NULL if it is static.
 * QB_ERR_VALUE: qb_quantizer_check_range, qb_quantizer_range. */
qb_status qb_site_range(const qb_quantizer *quantizer, const qb_run *run, const float *x, int64_t tokens,
                        int64_t features, qb_quant_range *range);

/* What a dequantized site multiplies: *values is x itself if the quantizer changes nothing, otherwise `buffer`
 * (tokens, features; may be x) holds the quantized values.  QB_ERR_VALUE: qb_quantizer_check_range. */
qb_status qb_site_values(const qb_quantizer *quantizer, const qb_run *run, const float *x, int64_t tokens,
                         int64_t features, float *buffer, const float **values);

/* The gradient of an activation through its quantizer, in place: `gradient` (tokens, features) is that of the values on
 * entry and that of x on return (qb_quantizer_backward). */
qb_status qb_site_backward(qb_quantizer *quantizer, const qb_run *run, const float *x, int64_t tokens, int64_t features,
                           float *gradient);

/* Show x (tokens, features) to those of the quantizers that collect, in one pass, unless run->is_again.  Slots may hold
 * NULL.
 * count <= QB_QUANTIZER_GROUP.  The run's path names the first. */
qb_status qb_site_observe(qb_quantizer *const *quantizers, int32_t count, const qb_run *run, const float *x,
                          int64_t tokens, int64_t features);

#endif
