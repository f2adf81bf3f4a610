/* SPDX-License-Identifier: Apache-2.0
 *
 * Choosing the kernels of a device: the reference first, then every variant that the CPU can run, weakest first, up to
 * the cap.  Which variants exist, and in which order, is written by the build (cpu_variants.inc), so nothing here names
 * an architecture.  A side branch (openblas) is chosen only by its own name: it is another way to compute what the
 * reference computes, not a step on the way to stronger ones.
 */
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "kernels/cpu/cpu_features.h"
#include "core/kernels.h"

#define QB_CPU_VARIANT(name) extern const qb_cpu_variant qb_cpu_variant_##name;
#include "cpu_variants.inc"
#undef QB_CPU_VARIANT

static const qb_cpu_variant *const variants[] = {
#define QB_CPU_VARIANT(name) &qb_cpu_variant_##name,
#include "cpu_variants.inc"
#undef QB_CPU_VARIANT
};

enum { VARIANT_COUNT = sizeof(variants) / sizeof(variants[0]) };

size_t
qb_variant_count(void)
{
    return VARIANT_COUNT;
}

const char *
qb_variant_name(size_t index)
{
    return index < VARIANT_COUNT ? variants[index]->name : NULL;
}

static int
is_supported(const qb_cpu_variant *variant)
{
    return (variant->required_features & ~qb_cpu_features()) == 0;
}

int
qb_variant_is_supported(size_t index)
{
    return index < VARIANT_COUNT && is_supported(variants[index]);
}

/* Index of the variant `isa`, VARIANT_COUNT if there is none. */
static size_t
find_variant(const char *isa)
{
    size_t index = 0;
    while (index < VARIANT_COUNT && strcmp(variants[index]->name, isa) != 0) {
        ++index;
    }
    return index;
}

static qb_status
fail_unknown(const char *isa, qb_error *error)
{
    char known[QB_ERROR_BYTES / 2] = "";
    size_t used = 0;
    for (size_t i = 0; i < VARIANT_COUNT && used < sizeof(known); ++i) {
        const int written =
            snprintf(known + used, sizeof(known) - used, "%s'%s'", i > 0 ? ", " : "", variants[i]->name);
        used += written > 0 ? (size_t)written : 0;
    }
    return qb_fail(error, NULL, QB_ERR_VALUE, "isa is '%.64s', expected one of %s", isa, known);
}

/* A slot that no variant filled would be a crash at its first use; here it is a sentence. */
static qb_status
check_complete(const qb_kernels *kernels, qb_error *error)
{
#define QB_KERNEL(name, arguments)                                                                                     \
    if (kernels->name == NULL) {                                                                                       \
        return qb_fail(error, NULL, QB_ERR_INTERNAL, "no variant implements the kernel " #name);                       \
    }
#include "core/kernel_list.inc"
#undef QB_KERNEL
    return QB_OK;
}

/* Whether the variant of that name gave the kernel at `index`. */
static int
comes_from(const qb_kernels *kernels, size_t index, const char *variant)
{
    return kernels->variant[index] != NULL && strcmp(kernels->variant[index], variant) == 0;
}

qb_status
qb_cpu_kernels_select(const char *isa, qb_kernels *kernels, qb_error *error)
{
    size_t cap = VARIANT_COUNT;
    if (isa != NULL) {
        cap = find_variant(isa);
        if (cap == VARIANT_COUNT) {
            return fail_unknown(isa, error);
        }
        if (!is_supported(variants[cap])) {
            return qb_fail(error, NULL, QB_ERR_UNSUPPORTED, "isa is '%s', but this CPU or its system does not offer it",
                           isa);
        }
    }
    qb_kernels made;
    memset(&made, 0, sizeof(made));
    for (size_t i = 0; i < VARIANT_COUNT && i <= cap; ++i) {
        if (is_supported(variants[i]) && (i == cap || !variants[i]->is_side_branch)) {
            variants[i]->overlay(&made);
            made.isa = variants[i]->name;
        }
    }
    QB_TRY(check_complete(&made, error));
    made.has_bf16 = !comes_from(&made, QB_KERNEL_INDEX_product_bf16, "ref") ||
                    comes_from(&made, QB_KERNEL_INDEX_product_f32, "ref");
    *kernels = made;
    return QB_OK;
}
