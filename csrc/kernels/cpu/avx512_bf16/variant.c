/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512 with the instruction for bfloat16: the bf16 products, on top of everything that avx512 has.
 */
#include "kernels/cpu/variant.h"

static void
overlay(qb_kernels *kernels)
{
    QB_OVERLAY(kernels, pack_bf16_size, avx512_bf16);
    QB_OVERLAY(kernels, pack_bf16, avx512_bf16);
    QB_OVERLAY(kernels, product_bf16, avx512_bf16);
}

const qb_cpu_variant qb_cpu_variant_avx512_bf16 = {.name = "avx512_bf16",
                                                   .required_features = QB_CPU_AVX512 | QB_CPU_AVX512_BF16,
                                                   .is_side_branch = 0,
                                                   .overlay = overlay};
