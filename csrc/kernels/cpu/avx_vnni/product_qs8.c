/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of codes on AVX-VNNI: those of avx_vnni/vpdpbusd_pack.h, with the activations of avx2.
 */
#include "kernels/cpu/variant.h"

void activation_f32__avx2(qb_activation activation, const float *x, size_t n, float *y);
#define PRODUCT_ACTIVATION activation_f32__avx2

#include "kernels/cpu/avx_vnni/vpdpbusd_pack.h"
