/* SPDX-License-Identifier: Apache-2.0
 *
 * Advanced SIMD with the instruction for dot products of four bytes: the products of codes, on top of everything that
 * neon has.
 */
#include "kernels/cpu/variant.h"

static void
overlay(qb_kernels *kernels)
{
    QB_OVERLAY(kernels, pack_qs8_size, neon_dotprod);
    QB_OVERLAY(kernels, pack_qs8, neon_dotprod);
    QB_OVERLAY(kernels, unpack_qs8, neon_dotprod);
    QB_OVERLAY(kernels, product_qs8, neon_dotprod);
    QB_OVERLAY(kernels, product_qs8_codes, neon_dotprod);
    QB_OVERLAY(kernels, peak_qs8, neon_dotprod);
}

const qb_cpu_variant qb_cpu_variant_neon_dotprod = {.name = "neon_dotprod",
                                                    .required_features = QB_CPU_NEON | QB_CPU_NEON_DOTPROD,
                                                    .is_side_branch = 0,
                                                    .overlay = overlay};
