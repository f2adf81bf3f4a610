/* SPDX-License-Identifier: Apache-2.0
 *
 * What everything else of qdqbert stands on: errors, memory, devices and their kernels, names.  A part of
 * qdqbert/qdqbert.h, whose rules hold here too.
 */
#ifndef QDQBERT_DEVICE_H
#define QDQBERT_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#if defined(QDQBERT_SHARED) && defined(__GNUC__)
#define QB_API __attribute__((visibility("default")))
#else
#define QB_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status and errors ------------------------------------------------------------------------------------------ */

typedef enum qb_status {
    QB_OK = 0,
    QB_ERR_NOMEM,       /* an allocation failed, or a size does not fit the address space */
    QB_ERR_SHAPE,       /* a tensor has the wrong rank or dimensions */
    QB_ERR_VALUE,       /* a scalar, an option or an element has a value that is not allowed */
    QB_ERR_INDEX,       /* an id, position or label is out of range */
    QB_ERR_STATE,       /* the object is not in a state that allows the call */
    QB_ERR_UNSUPPORTED, /* well-formed, but not built or not buildable here */
    QB_ERR_BACKEND,     /* the machine refused: threads, device, system call */
    QB_ERR_INTERRUPTED, /* qb_interrupt asked to stop */
    QB_ERR_INTERNAL     /* a broken invariant: a bug in qdqbert */
} qb_status;

#define QB_ERROR_BYTES 512
#define QB_MAX_RANK 8
#define QB_NAME_BYTES 128 /* longest dotted name of a parameter or quantizer, with its NUL */

typedef struct qb_error {
    qb_status status;
    char message[QB_ERROR_BYTES]; /* UTF-8, NUL-terminated, cut at the end if too long */
} qb_error;

/* The status in words ("shape mismatch"); never NULL. */
QB_API const char *qb_status_text(qb_status status);

QB_API const char *qb_version(void); /* "0.1.0" */

/* Asked from the calling thread at most every 20 ms during long calls; non-zero stops the call with
 * QB_ERR_INTERRUPTED, and every statistic is as before the call. */
typedef struct qb_interrupt {
    int (*poll)(void *context);
    void *context;
} qb_interrupt;

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Where every byte of the library comes from.  `allocate` returns memory aligned to `alignment` (a power of two) or
 * NULL; `release` gets the size and alignment that were asked for.  Both may be called from any thread. */
typedef struct qb_allocator {
    void *(*allocate)(void *context, size_t size, size_t alignment);
    void (*release)(void *context, void *pointer, size_t size, size_t alignment);
    void *context;
} qb_allocator;

typedef struct qb_memory_statistics {
    uint64_t allocations; /* calls to allocate that succeeded, ever */
    uint64_t live_blocks;
    uint64_t live_bytes;
    uint64_t peak_bytes; /* largest live_bytes so far */
} qb_memory_statistics;

/* ---- device ------------------------------------------------------------------------------------------------------ */

typedef struct qb_device qb_device; /* kernels, threads and memory of one machine; reference counted */

typedef struct qb_device_options {
    uint32_t struct_size;
    const char *isa;               /* strongest kernel variant to use, e.g. "ref" or "avx2"; NULL: the environment's
                                    * QDQBERT_CPU_ISA, and without it the best one that the CPU has */
    int32_t num_threads;           /* 1 .. 1024; 0: as many as affinity and cgroup give this process */
    const qb_allocator *allocator; /* NULL: the C library's; copied, its context must outlive the device */
} qb_device_options;

/* Open the CPU.  `options` may be NULL.  QB_ERR_VALUE: unknown isa (the sentence lists the known ones), threads out of
 * range; QB_ERR_UNSUPPORTED: an isa that this CPU lacks.  Threads start on first use. */
QB_API qb_status qb_device_open(const qb_device_options *options, qb_device **device, qb_error *error);
QB_API qb_device *qb_device_retain(qb_device *device);
QB_API void qb_device_close(qb_device *device);

QB_API const char *qb_device_isa(const qb_device *device); /* "avx512_bf16", "avx2", "neon", "ref" ... */
QB_API int32_t qb_device_num_threads(const qb_device *device);
/* 1 .. 1024, or 0 for the default.  Waits for a running parallel region to finish.  Results do not depend on it. */
QB_API qb_status qb_device_set_num_threads(qb_device *device, int32_t num_threads, qb_error *error);
/* QB_OK if the device has products of bfloat16 operands with the bits of their contract (core/kernel_list.inc), which
 * are tried the first time that this is asked; QB_ERR_UNSUPPORTED says what is missing, or which product differed. */
QB_API qb_status qb_device_check_bf16(qb_device *device, qb_error *error);
QB_API qb_memory_statistics qb_device_memory_statistics(const qb_device *device);

/* The CPUs of this machine, and what this process may use of them. */
typedef struct qb_cpu_limits {
    int32_t online;   /* CPUs that run */
    int32_t affinity; /* those in the affinity mask of the calling thread */
    int32_t quota;    /* what the CPU quota of the process's cgroup (v2, then v1) is worth, rounded up; 0: no limit */
    int32_t threads;  /* of a device by default: the smaller of the last two, 1 .. 1024 */
} qb_cpu_limits;
QB_API qb_cpu_limits qb_cpu_limits_read(void);

/* The roof of a device's products, in the calling thread alone: the instructions of their inner loop without loads,
 * `rounds` times over.  Returns the operations done, 2 for each multiply-add. */
QB_API int64_t qb_device_peak(const qb_device *device, int32_t is_integer, int64_t rounds);

/* A product to be timed: y (rows, n) = a (rows, k) b', with b packed before, on all threads of the device; of codes,
 * y is codes too. */
typedef struct qb_product_trial {
    uint32_t struct_size;
    int32_t is_integer; /* operands are int8 codes, otherwise floats */
    int64_t rows, n, k; /* 1 .. 65,536 each */
    int64_t weights;    /* different b that take turns, as those of a model's layers do; 1 .. 1,024 */
    int64_t repeats;    /* products that are timed, after one that is not; 1 .. 1,000,000 */
} qb_product_trial;
/* seconds (repeats): what each took.  QB_ERR_VALUE names the number that is out of range. */
QB_API qb_status qb_device_time_product(qb_device *device, const qb_product_trial *trial, const qb_interrupt *interrupt,
                                        double *seconds, qb_error *error);

/* Every kernel once, in the order of kernel_list.inc, and the variant that `device` uses for it ("ref", "avx2", ...).
 */
QB_API size_t qb_kernel_count(void);
QB_API const char *qb_kernel_name(size_t index);
QB_API const char *qb_device_kernel_variant(const qb_device *device, size_t index);
/* Variants compiled in, weakest first, and whether this CPU can run them. */
QB_API size_t qb_variant_count(void);
QB_API const char *qb_variant_name(size_t index);
QB_API int qb_variant_is_supported(size_t index);

/* ---- names ------------------------------------------------------------------------------------------------------- */

/* 1 if the glob (*, ?, [a-c], [!x]; a star also spans dots) matches the whole name. */
QB_API int qb_glob_match(const char *pattern, const char *name);
/* Edit distance of two names, for "did you mean". */
QB_API int64_t qb_name_distance(const char *a, const char *b);

#ifdef __cplusplus
}
#endif
#endif
