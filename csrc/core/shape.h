/* SPDX-License-Identifier: Apache-2.0
 *
 * Size arithmetic that cannot wrap, and shapes in words.  Every byte count in the project goes through here.
 */
#ifndef QB_CORE_SHAPE_H
#define QB_CORE_SHAPE_H

#include <stddef.h>
#include <stdint.h>

/* 1 and the result, or 0 when it does not fit (*out is then untouched). */
int qb_size_multiply(size_t a, size_t b, size_t *out);
int qb_size_add(size_t a, size_t b, size_t *out);
/* Product of the dimensions (1 for rank 0); 0 when a dimension is negative or the product exceeds INT64_MAX. */
int qb_shape_elements(int32_t rank, const int64_t *shape, int64_t *elements);
int qb_shape_equal(int32_t rank_a, const int64_t *a, int32_t rank_b, const int64_t *b);
/* "(2, 7, 64)", "()" for rank 0; cut if it does not fit; returns buffer. */
const char *qb_shape_text(int32_t rank, const int64_t *shape, char *buffer, size_t bytes);

#define QB_SHAPE_TEXT_BYTES 200 /* enough for QB_MAX_RANK dimensions */

#endif
