/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/quant_spec.h"

#include <math.h>
#include <string.h>

#include "quant_check.h"

static void
bounds_follow_bits_and_sign(void)
{
    CHECK(qb_quant_spec_bound(8, 0) == 127.0f);
    CHECK(qb_quant_spec_bound(8, 1) == 255.0f);
    CHECK(qb_quant_spec_bound(4, 0) == 7.0f);
    CHECK(qb_quant_spec_bound(2, 0) == 1.0f);
    CHECK(qb_quant_spec_bound(1, 0) == 0.0f);
    CHECK(qb_quant_spec_bound(16, 1) == 65535.0f);
    const qb_quant_range full = qb_quant_spec_range(8, 0, 0, 1.0f);
    CHECK(full.lower == -128.0f && full.upper == 127.0f && full.scale == 127.0f);
    const qb_quant_range narrow = qb_quant_spec_range(8, 0, 1, 1.0f);
    CHECK(narrow.lower == -127.0f && narrow.upper == 127.0f);
    const qb_quant_range positive = qb_quant_spec_range(7, 1, 0, 1.0f);
    CHECK(positive.lower == 0.0f && positive.upper == 127.0f);
}

static void
ranges_up_to_two_to_the_minus_24_are_dead(void)
{
    CHECK(qb_quant_spec_range(8, 0, 0, 0x1p-24f).scale == 0.0f);
    CHECK(qb_quant_spec_range(8, 0, 0, 0.0f).scale == 0.0f);
    CHECK(qb_quant_spec_range(8, 0, 0, nextafterf(0x1p-24f, 1.0f)).scale > 0.0f);
    CHECK(isnan(qb_quant_spec_range(8, 0, 0, NAN).scale));
}

static void
kept_axes_count_from_both_ends_and_missing_ones_keep_nothing(void)
{
    int kept[QB_MAX_RANK];
    qb_quant_spec_kept(2, (int32_t[]){-2, 0}, 3, kept);
    CHECK(kept[0] && kept[1] && !kept[2]);
    qb_quant_spec_kept(1, (int32_t[]){5}, 3, kept);
    CHECK(!kept[0] && !kept[1] && !kept[2] && !kept[5]);
    qb_quant_spec_kept(-1, NULL, 3, kept);
    CHECK(!kept[0] && !kept[1] && !kept[2]);
}

static void
refused(qb_quantizer_options options, const char *part)
{
    qb_quantizer_options copy = {0};
    qb_error error;
    CHECK(qb_quant_spec_read(&options, &copy, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, part);
    CHECK(copy.struct_size == 0);
}

static void
options_that_make_no_sense_are_named(void)
{
    qb_quantizer_options o = int8_options();
    o.num_bits = 17;
    refused(o, "num_bits is 17");
    o.num_bits = -1;
    refused(o, "num_bits is -1");
    o = int8_options();
    o.axis_count = 3;
    memcpy(o.axes, (int32_t[]){0, -1, 0}, 3 * sizeof *o.axes);
    refused(o, "axes[2] is 0, which is there already");
    o = int8_options();
    o.scale_amax = NAN;
    refused(o, "scale_amax");
    o = int8_options();
    o.axis_count = QB_MAX_RANK + 1;
    refused(o, "axis_count is 9");
    o = int8_options();
    o.axis_count = 1;
    o.axes[0] = 8;
    refused(o, "axes[0] is 8");
    o = int8_options();
    o.learn_amax = 1;
    o.axis_count = 1;
    refused(o, "learn_amax");
    o = int8_options();
    o.struct_size = 0;
    refused(o, "struct_size");
}

static void
fields_beyond_an_older_struct_read_as_zero(void)
{
    qb_quantizer_options o = int8_options();
    o.struct_size = (uint32_t)offsetof(qb_quantizer_options, axis_count);
    qb_quantizer_options copy;
    CHECK(qb_quant_spec_read(&o, &copy, NULL, NULL) == QB_OK);
    CHECK(copy.axis_count == 0 && copy.num_bits == 8 && copy.struct_size == sizeof copy);
}

int
main(void)
{
    RUN(bounds_follow_bits_and_sign);
    RUN(ranges_up_to_two_to_the_minus_24_are_dead);
    RUN(kept_axes_count_from_both_ends_and_missing_ones_keep_nothing);
    RUN(options_that_make_no_sense_are_named);
    RUN(fields_beyond_an_older_struct_read_as_zero);
    return check_report();
}
