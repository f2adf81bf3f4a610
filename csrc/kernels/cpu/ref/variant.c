/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference defines every kernel, so a table that starts with it is complete.
 */
#include "kernels/cpu/variant.h"

static void
overlay(qb_kernels *kernels)
{
#define QB_KERNEL(name, arguments) QB_OVERLAY(kernels, name, ref);
#include "core/kernel_list.inc"
#undef QB_KERNEL
}

const qb_cpu_variant qb_cpu_variant_ref = {
    .name = "ref", .required_features = 0, .is_side_branch = 0, .overlay = overlay};
