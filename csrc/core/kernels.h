/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel table: one function pointer per line of kernel_list.inc.  A table is filled with the reference kernels
 * first and then overlaid by each variant that the CPU can run, weakest first, up to the cap (BLIS's context, oneDNN's
 * implementation list).  So nothing can be missing, and a new machine starts with one function.
 */
#ifndef QB_CORE_KERNELS_H
#define QB_CORE_KERNELS_H

#include "core/kernel_types.h"
#include "qdqbert/qdqbert.h"

enum {
#define QB_KERNEL(name, arguments) QB_KERNEL_INDEX_##name,
#include "core/kernel_list.inc"
#undef QB_KERNEL
    QB_KERNEL_COUNT
};

typedef struct qb_kernels {
#define QB_KERNEL(name, arguments) void(*name) arguments;
#include "core/kernel_list.inc"
#undef QB_KERNEL
    const char *variant[QB_KERNEL_COUNT]; /* where each slot came from: "ref", "avx2", ... */
    const char *isa;                      /* the strongest variant that was overlaid */
    int has_bf16; /* the bf16 slots are as fast as the float ones: they are vectors, or all products are the reference's
                   */
} qb_kernels;

/* One variant of the CPU kernels: a directory below kernels/cpu and this descriptor. */
typedef struct qb_cpu_variant {
    const char *name;                     /* "ref", "openblas", "avx2", "avx512", "avx512_vnni", ... */
    uint32_t required_features;           /* QB_CPU_... bits, all of which the CPU and the system must offer */
    int is_side_branch;                   /* 1: chosen only by its own name, skipped on the way to stronger ones */
    void (*overlay)(qb_kernels *kernels); /* sets the slots that this variant improves, with QB_OVERLAY */
} qb_cpu_variant;

enum {
    QB_CPU_AVX2 = 1,   /* AVX2 and FMA */
    QB_CPU_AVX512 = 2, /* AVX-512 F, BW, DQ, VL */
    QB_CPU_NEON = 4,   /* Advanced SIMD with fma */
    QB_CPU_AVX512_BF16 = 8,
    QB_CPU_AVX512_VNNI = 16,
    QB_CPU_AVX_VNNI = 32,     /* VPDPBUSD with 256 bits, without AVX-512 */
    QB_CPU_NEON_DOTPROD = 64, /* Advanced SIMD's dot products of bytes */
    QB_CPU_NEON_I8MM = 128    /* and its products of matrices of bytes */
};

/* In a variant's overlay: slot `name` becomes `name__<variant>`. */
#define QB_OVERLAY(kernels, name, suffix)                                                                              \
    do {                                                                                                               \
        (kernels)->name = name##__##suffix;                                                                            \
        (kernels)->variant[QB_KERNEL_INDEX_##name] = #suffix;                                                          \
    } while (0)

/* Implemented by kernels/cpu/cpu_device.c. ------------------------------------------------------------------------ */

/* Fill *kernels for this CPU, no variant stronger than `isa` (NULL: no cap).  QB_ERR_VALUE: unknown name, with the list
 * of known ones; QB_ERR_UNSUPPORTED: the CPU lacks it.  QB_ERR_INTERNAL names a slot that stayed empty. */
qb_status qb_cpu_kernels_select(const char *isa, qb_kernels *kernels, qb_error *error);

#endif
