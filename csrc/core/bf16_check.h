/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a processor's bfloat16 products have the bits of their contract.
 *
 * The vendors document the instruction to the bit, in one sentence on rounding and one on denormals; chips may read
 * such a sentence differently.  So whoever asks for these products has them tried first, on products in which any other
 * reading would show: sums that cancel, overflow, end between 2^-126 and its neighbour below, pairs whose order
 * matters.  A device that differs in a bit does not have bf16 products: what a training run computes must not depend on
 * where it runs.
 */
#ifndef QB_CORE_BF16_CHECK_H
#define QB_CORE_BF16_CHECK_H

#include "core/alloc.h"
#include "core/kernels.h"
#include "core/status.h"

/* QB_OK if pack_bf16 and product_bf16 of the two tables give equal bits (any NaN equals any other) on some ten thousand
 * sums; QB_ERR_UNSUPPORTED with the first that differs; QB_ERR_NOMEM. */
qb_status qb_bf16_check(const qb_kernels *kernels, const qb_kernels *reference, qb_heap *heap, qb_error *error);

#endif
