/* SPDX-License-Identifier: Apache-2.0
 *
 * A small tensor stretched over a large one: dimensions are aligned at the end and 1 stretches.  A plan cuts the large
 * tensor into contiguous runs over which the small one is either constant or advances by one element per element, so
 * that kernels see plain arrays whatever the axes are.
 */
#ifndef QB_QUANT_BROADCAST_H
#define QB_QUANT_BROADCAST_H

#include <stdint.h>

#include "qdqbert/qdqbert.h"

typedef struct qb_broadcast {
    int64_t count; /* elements of the large tensor */
    int64_t runs;  /* count = runs * length */
    int64_t length;
    int64_t step; /* 0: the small operand is constant over a run; 1: it advances */
    int32_t dims; /* dimensions that number the runs, outermost first */
    int64_t size[QB_MAX_RANK];
    int64_t stride[QB_MAX_RANK]; /* of the small tensor, in elements */
} qb_broadcast;

/* 1, or 0 when the small shape does not stretch to the large one.  Dimensions are >= 0 and the product of the large
 * shape fits int64_t. */
int qb_broadcast_plan(int32_t rank, const int64_t *shape, int32_t small_rank, const int64_t *small_shape,
                      qb_broadcast *plan);
/* Element of the small tensor at which run `run` starts. */
int64_t qb_broadcast_offset(const qb_broadcast *plan, int64_t run);
/* Element of the small tensor that belongs to element `index` of the large one. */
int64_t qb_broadcast_element(const qb_broadcast *plan, int64_t index);

#endif
