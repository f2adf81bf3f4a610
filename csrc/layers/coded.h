/* SPDX-License-Identifier: Apache-2.0
 *
 * A tensor on its way from the layer that makes it to the sites that read it.
 *
 * An integer site multiplies or adds codes.  Whoever makes its operand makes the codes at once, while the elements are
 * in registers or in the nearest cache, so that a quarter of the bytes travel and no pass over the tensor is left.  A
 * reader with another range, or one that is not integer, still gets what it needs: the floats, and codes of its own.
 *
 * The same struct is the order and the delivery: readers say what they take (qb_coded_want), the maker makes it, and
 * the readers find it (qb_coded_find).  A struct of zeros is a tensor of floats alone.
 */
#ifndef QB_LAYERS_CODED_H
#define QB_LAYERS_CODED_H

#include <stdatomic.h>

#include "layers/site.h"

typedef struct qb_coded {
    int lacks_floats; /* 1: nobody wants the floats, and they were not written: every reader finds its codes */
    int32_t count;    /* of made; their ranges differ */
    struct {
        qb_quant_range range;
        int8_t *codes; /* dense */
    } made[QB_CODINGS_MAX];
    /* The first NaN or infinity among the elements that were coded, for the sentence of the first site that looks at
     * the codes: 0: there is none; otherwise 1 + 2 * element + is it a NaN. */
    int64_t nonfinite;
} qb_coded;

/* A tensor that nobody wants yet. */
qb_coded qb_coded_begin(void);
/* One more reader: in codes, which `codes` has room for, if qb_edge_refusal allows that and there is room (NULL:
 * there is none), otherwise in floats. */
void qb_coded_want(qb_coded *coded, const qb_edge *edge, int8_t *codes);
/* The codes of this range, to the bit, or NULL. */
const int8_t *qb_coded_find(const qb_coded *coded, const qb_quant_range *range);
/* Codes that a reader made for itself serve the others too. */
void qb_coded_add(qb_coded *coded, const qb_quant_range *range, int8_t *codes);

/* For makers that have whole rows in the cache: the codes of elements first .. first + n - 1, of which x is the first,
 * from inside a parallel region.  *nonfinite, 0 before it, becomes the smallest coded->nonfinite of all chunks; the
 * maker stores it there. */
void qb_coded_make(const qb_coded *coded, const qb_kernels *kernels, const float *x, int64_t first, int64_t n,
                   _Atomic int64_t *nonfinite);
/* QB_ERR_VALUE, with the sentence of qb_site_encode, if the codes are of a NaN or infinity.  The run's path is the
 * reader's quantizer's. */
qb_status qb_coded_check(const qb_coded *coded, const qb_run *run, int64_t columns);

#endif
