/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2 with the instruction for products of bytes in its 256-bit form: the products of codes, on top of everything that
 * avx2 has.
 */
#include "kernels/cpu/variant.h"

static void
overlay(qb_kernels *kernels)
{
    QB_OVERLAY(kernels, pack_qs8_size, avx_vnni);
    QB_OVERLAY(kernels, pack_qs8, avx_vnni);
    QB_OVERLAY(kernels, unpack_qs8, avx_vnni);
    QB_OVERLAY(kernels, product_qs8, avx_vnni);
    QB_OVERLAY(kernels, product_qs8_codes, avx_vnni);
    QB_OVERLAY(kernels, peak_qs8, avx_vnni);
}

const qb_cpu_variant qb_cpu_variant_avx_vnni = {
    .name = "avx_vnni", .required_features = QB_CPU_AVX2 | QB_CPU_AVX_VNNI, .is_side_branch = 0, .overlay = overlay};
