/* SPDX-License-Identifier: Apache-2.0
 *
 * What every source of a CPU variant includes: QB_FN(softmax_f32) is the variant's own symbol, softmax_f32__avx2, and
 * all kernels of the list are declared under such names.  The build defines QB_VARIANT (cmake/cpu_variant.cmake).
 * Declaring a kernel that the variant does not define is harmless.
 */
#ifndef QB_KERNELS_CPU_VARIANT_H
#define QB_KERNELS_CPU_VARIANT_H

#include "core/kernels.h"

#define QB_FN_PASTE(name, variant) name##__##variant
#define QB_FN_EXPAND(name, variant) QB_FN_PASTE(name, variant)
#define QB_FN(name) QB_FN_EXPAND(name, QB_VARIANT)

#define QB_KERNEL(name, arguments) void QB_FN(name) arguments;
#include "core/kernel_list.inc"
#undef QB_KERNEL

#endif
