/* SPDX-License-Identifier: Apache-2.0
 *
 * What a quantizer's options mean: which combinations are allowed, the bounds of the codes, the one definition of a
 * scale, and which dimensions of a tensor keep their own range.
 *
 * NUMERICS section 4; REFERENCE 2.2, 2.3.
 */
#ifndef QB_QUANT_QUANT_SPEC_H
#define QB_QUANT_QUANT_SPEC_H

#include "core/kernel_types.h"
#include "core/status.h"

#define QB_AMAX_DEAD 5.9604644775390625e-08f /* 2^-24: a range at or below it gives zeros */
#define QB_E4M3_MAX 448.0f                   /* largest finite E4M3 value */

/* Copy `options` (whose struct_size may be smaller: missing fields are zero) to *copy and check it.
 * QB_ERR_VALUE names the field. */
qb_status qb_quant_spec_read(const qb_quantizer_options *options, qb_quantizer_options *copy, const qb_path *path,
                             qb_error *error);

/* The number of codes above zero: 2^(num_bits - 1 + unsigned) - 1.  -0.5 for 0 signed bits, as in the original. */
float qb_quant_spec_bound(int32_t num_bits, int is_unsigned);
/* Bounds and scale of one range; amax is already multiplied by scale_amax.  The scale is 0 when the range is dead. */
qb_quant_range qb_quant_spec_range(int32_t num_bits, int is_unsigned, int narrow_range, float amax);

/* kept[d] = 1 for the dimensions of a tensor of this rank that `axes` names.  Negative axes count from the end; an axis
 * that the tensor does not have keeps nothing.  axis_count -1 keeps nothing at all. */
void qb_quant_spec_kept(int32_t axis_count, const int32_t *axes, int32_t rank, int kept[QB_MAX_RANK]);

#endif
