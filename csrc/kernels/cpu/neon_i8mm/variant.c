/* SPDX-License-Identifier: Apache-2.0
 *
 * Advanced SIMD with the instruction for products of matrices of bytes: the products of codes, on top of everything
 * that neon has.
 */
#include "kernels/cpu/variant.h"

static void
overlay(qb_kernels *kernels)
{
    QB_OVERLAY(kernels, pack_qs8_size, neon_i8mm);
    QB_OVERLAY(kernels, pack_qs8, neon_i8mm);
    QB_OVERLAY(kernels, unpack_qs8, neon_i8mm);
    QB_OVERLAY(kernels, product_qs8, neon_i8mm);
    QB_OVERLAY(kernels, product_qs8_codes, neon_i8mm);
    QB_OVERLAY(kernels, peak_qs8, neon_i8mm);
}

const qb_cpu_variant qb_cpu_variant_neon_i8mm = {
    .name = "neon_i8mm", .required_features = QB_CPU_NEON | QB_CPU_NEON_I8MM, .is_side_branch = 0, .overlay = overlay};
