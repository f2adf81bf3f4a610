/* SPDX-License-Identifier: Apache-2.0
 *
 * The compiler's builtin reads cpuid and also asks the operating system (xgetbv) whether it saves the registers.  What
 * older compilers have no name for is read from cpuid; its registers are those of a feature that has been asked for.
 */
#include "kernels/cpu/cpu_features.h"

#include <cpuid.h>

#include "core/kernels.h"

/* Leaf 7, of which subleaf 0 says how many more there are. */
static int
has_avx_vnni(void)
{
    enum { LEAF = 7, AVX_VNNI_BIT = 4 };
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    if (!__get_cpuid_count(LEAF, 0, &a, &b, &c, &d) || a < 1) {
        return 0;
    }
    return __get_cpuid_count(LEAF, 1, &a, &b, &c, &d) && (a >> AVX_VNNI_BIT & 1);
}

uint32_t
qb_cpu_features(void)
{
    uint32_t features = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        features |= QB_CPU_AVX2;
        if (has_avx_vnni()) {
            features |= QB_CPU_AVX_VNNI;
        }
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
