/* SPDX-License-Identifier: Apache-2.0
 *
 * Advanced SIMD with fused multiply-add is part of every 64-bit Arm CPU that runs a general operating system.
 */
#include "kernels/cpu/cpu_features.h"

#include "core/kernels.h"

uint32_t
qb_cpu_features(void)
{
    return QB_CPU_NEON;
}
