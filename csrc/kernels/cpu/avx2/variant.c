/* SPDX-License-Identifier: Apache-2.0
 *
 * Every kernel of the list, but for the bf16 products, comes from simd/, compiled against this directory's vec.h and
 * product_tile.h.
 */
#include "kernels/cpu/variant.h"

static void
overlay(qb_kernels *kernels)
{
#define QB_KERNEL(name, arguments) QB_OVERLAY(kernels, name, avx2);
#define QB_WITHOUT_BF16
#include "core/kernel_list.inc"
#undef QB_WITHOUT_BF16
#undef QB_KERNEL
}

const qb_cpu_variant qb_cpu_variant_avx2 = {
    .name = "avx2", .required_features = QB_CPU_AVX2, .is_side_branch = 0, .overlay = overlay};
