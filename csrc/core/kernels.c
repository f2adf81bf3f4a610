/* SPDX-License-Identifier: Apache-2.0 */
#include "core/kernels.h"

static const char *const kernel_names[QB_KERNEL_COUNT] = {
#define QB_KERNEL(name, arguments) #name,
#include "core/kernel_list.inc"
#undef QB_KERNEL
};

size_t
qb_kernel_count(void)
{
    return QB_KERNEL_COUNT;
}

const char *
qb_kernel_name(size_t index)
{
    return index < QB_KERNEL_COUNT ? kernel_names[index] : NULL;
}
