/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512 with the instruction for products of bytes: the products of codes, on top of everything that avx512 has.
 */
#include "kernels/cpu/variant.h"

static void
overlay(qb_kernels *kernels)
{
    QB_OVERLAY(kernels, pack_qs8_size, avx512_vnni);
    QB_OVERLAY(kernels, pack_qs8, avx512_vnni);
    QB_OVERLAY(kernels, unpack_qs8, avx512_vnni);
    QB_OVERLAY(kernels, product_qs8, avx512_vnni);
    QB_OVERLAY(kernels, peak_qs8, avx512_vnni);
    QB_OVERLAY(kernels, product_qs8_codes, avx512_vnni);
}

const qb_cpu_variant qb_cpu_variant_avx512_vnni = {.name = "avx512_vnni",
                                                   .required_features = QB_CPU_AVX512 | QB_CPU_AVX512_VNNI,
                                                   .is_side_branch = 0,
                                                   .overlay = overlay};
