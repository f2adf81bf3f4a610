/* SPDX-License-Identifier: Apache-2.0
 *
 * An architecture without vector variants: the reference kernels alone.
 */
#include "kernels/cpu/cpu_features.h"

uint32_t
qb_cpu_features(void)
{
    return 0;
}
