/* SPDX-License-Identifier: Apache-2.0
 *
 * What this CPU and its operating system offer, as QB_CPU_... bits.  One of cpu_features_*.c is compiled.
 */
#ifndef QB_KERNELS_CPU_FEATURES_H
#define QB_KERNELS_CPU_FEATURES_H

#include <stdint.h>

uint32_t qb_cpu_features(void);

#endif
