/* SPDX-License-Identifier: Apache-2.0
 *
 * The compiler's builtin reads cpuid and also asks the operating system (xgetbv) whether it saves the registers.
 */
#include "kernels/cpu/cpu_features.h"

#include "core/kernels.h"

uint32_t
qb_cpu_features(void)
{
    uint32_t features = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        features |= QB_CPU_AVX2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            features |= QB_CPU_AVX512;
            if (__builtin_cpu_supports("avx512vnni")) {
                features |= QB_CPU_AVX512_VNNI;
            }
            if (__builtin_cpu_supports("avx512bf16")) {
                features |= QB_CPU_AVX512_BF16;
            }
        }
    }
    return features;
}
