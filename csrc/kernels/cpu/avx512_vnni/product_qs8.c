/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes on AVX512-VNNI: those of avx_vnni/vpdpbusd_pack.h, with the activations of avx512.
 */
#include "kernels/cpu/variant.h"

void activation_f32__avx512(qb_activation activation, const float *x, size_t n, float *y);
#define PRODUCT_ACTIVATION activation_f32__avx512

#include "kernels/cpu/avx_vnni/vpdpbusd_pack.h"
