/* SPDX-License-Identifier: Apache-2.0
 *
 * See quant_spec.h.  NaN compares false with everything, so an amax of NaN is not dead and its scale is NaN: a fake
 * quantizer then gives NaN, as in the original.
 */
#include "quant/quant_spec.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

qb_status
qb_quant_spec_read(const qb_quantizer_options *options, qb_quantizer_options *copy, const qb_path *path,
                   qb_error *error)
{
    if (options == NULL) {
        return qb_fail(error, path, QB_ERR_VALUE, "options is NULL, expected quantizer options");
    }
    qb_quantizer_options o = {0};
    if (options->struct_size < sizeof o.struct_size) {
        return qb_fail(error, path, QB_ERR_VALUE, "options.struct_size is %" PRIu32 ", expected sizeof its struct",
                       options->struct_size);
    }
    memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);
    o.struct_size = (uint32_t)sizeof o;
    if (o.format != QB_FORMAT_INTEGER && o.format != QB_FORMAT_E4M3) {
        return qb_fail(error, path, QB_ERR_VALUE, "format is %d, expected QB_FORMAT_INTEGER or QB_FORMAT_E4M3",
                       (int)o.format);
    }
    if (o.format == QB_FORMAT_INTEGER && (o.num_bits < 0 || o.num_bits > 16)) {
        return qb_fail(error, path, QB_ERR_VALUE, "num_bits is %" PRId32 ", expected 0 .. 16", o.num_bits);
    }
    if (!isfinite(o.scale_amax) || o.scale_amax < 0.0f) {
        return qb_fail(error, path, QB_ERR_VALUE, "scale_amax is %g, expected a finite factor > 0, or 0 for none",
                       (double)o.scale_amax);
    }
    if (o.axis_count < -1 || o.axis_count > QB_MAX_RANK) {
        return qb_fail(error, path, QB_ERR_VALUE, "axis_count is %" PRId32 ", expected -1 .. %d", o.axis_count,
                       QB_MAX_RANK);
    }
    for (int32_t i = 0; i < o.axis_count; i++) {
        if (o.axes[i] < -QB_MAX_RANK || o.axes[i] >= QB_MAX_RANK) {
            return qb_fail(error, path, QB_ERR_VALUE, "axes[%" PRId32 "] is %" PRId32 ", expected %d .. %d", i,
                           o.axes[i], -QB_MAX_RANK, QB_MAX_RANK - 1);
        }
        for (int32_t before = 0; before < i; before++) {
            if (o.axes[before] == o.axes[i]) {
                return qb_fail(error, path, QB_ERR_VALUE, "axes[%" PRId32 "] is %" PRId32 ", which is there already", i,
                               o.axes[i]);
            }
        }
    }
    if (o.learn_amax && o.axis_count >= 0) {
        return qb_fail(error, path, QB_ERR_VALUE, "learn_amax needs one range, but axes are given: axis must be none");
    }
    o.is_unsigned = o.is_unsigned != 0;
    o.narrow_range = o.narrow_range != 0;
    o.fake_quant = o.fake_quant != 0;
    o.learn_amax = o.learn_amax != 0;
    *copy = o;
    return QB_OK;
}

float
qb_quant_spec_bound(int32_t num_bits, int is_unsigned)
{
    return ldexpf(1.0f, num_bits - 1 + (is_unsigned ? 1 : 0)) - 1.0f;
}

qb_quant_range
qb_quant_spec_range(int32_t num_bits, int is_unsigned, int narrow_range, float amax)
{
    const float bound = qb_quant_spec_bound(num_bits, is_unsigned);
    qb_quant_range range = {.scale = 0.0f, .lower = 0.0f, .upper = bound};
    if (!is_unsigned) {
        range.lower = narrow_range ? -bound : -bound - 1.0f;
    }
    if (!(amax <= QB_AMAX_DEAD)) {
        range.scale = bound / amax;
    }
    return range;
}

void
qb_quant_spec_kept(int32_t axis_count, const int32_t *axes, int32_t rank, int kept[QB_MAX_RANK])
{
    for (int32_t d = 0; d < QB_MAX_RANK; d++) {
        kept[d] = 0;
    }
    for (int32_t i = 0; i < axis_count; i++) {
        const int32_t axis = axes[i] < 0 ? axes[i] + rank : axes[i];
        if (axis >= 0 && axis < rank) {
            kept[axis] = 1;
        }
    }
}
