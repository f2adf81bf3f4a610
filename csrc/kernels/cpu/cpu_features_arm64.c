/* SPDX-License-Identifier: Apache-2.0
 *
 * Advanced SIMD with fused multiply-add is part of every 64-bit Arm CPU that runs a general operating system.  What
 * came later only the system can say, since the registers that know it are not for programs: Linux hands a word of bits
 * to every process, macOS answers by name.  Elsewhere nothing later is assumed.
 */
#include "kernels/cpu/cpu_features.h"

#include "core/kernels.h"

#if defined(__linux__)

#include <sys/auxv.h>

/* Linux, Documentation/arch/arm64/elf_hwcaps.rst; written out because older C libraries do not name them all. */
enum {
    HWCAP_BIT_ASIMDDP = 20, /* of AT_HWCAP */
    HWCAP2_BIT_I8MM = 13    /* of AT_HWCAP2 */
};

static uint32_t
later_features(void)
{
    uint32_t features = 0;
    if (getauxval(AT_HWCAP) >> HWCAP_BIT_ASIMDDP & 1) {
        features |= QB_CPU_NEON_DOTPROD;
    }
    if (getauxval(AT_HWCAP2) >> HWCAP2_BIT_I8MM & 1) {
        features |= QB_CPU_NEON_I8MM;
    }
    return features;
}

#elif defined(__APPLE__)

#include <sys/sysctl.h>

/* Whether the system knows the feature and says 1. */
static int
has_feature(const char *name)
{
    int value = 0;
    size_t bytes = sizeof value;
    return sysctlbyname(name, &value, &bytes, NULL, 0) == 0 && value != 0;
}

static uint32_t
later_features(void)
{
    return (has_feature("hw.optional.arm.FEAT_DotProd") ? (uint32_t)QB_CPU_NEON_DOTPROD : 0) |
           (has_feature("hw.optional.arm.FEAT_I8MM") ? (uint32_t)QB_CPU_NEON_I8MM : 0);
}

#else

static uint32_t
later_features(void)
{
    return 0;
}

#endif

uint32_t
qb_cpu_features(void)
{
    return QB_CPU_NEON | later_features();
}
