/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests of kernels share: the tables of all variants that this machine runs, buffers with guard bands at chosen
 * misalignments, inputs that break naive kernels, and comparison of bits.
 */
#ifndef QB_TESTS_KERNEL_CHECK_H
#define QB_TESTS_KERNEL_CHECK_H

#include <float.h>
#include <math.h>
#include <stdint.h>

#include "check.h"
#include "core/kernels.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { MAX_VARIANTS = 8, GUARD_BYTES = 192, GUARD_PATTERN = 0xA5 };

/* Around the vector (16), twice and four times it, and primes. */
static const size_t check_lengths[] = {0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 255, 768, 1023, 4099};
/* Bytes above a multiple of 64. */
static const size_t check_shifts[] = {0, 4, 36};

typedef struct kernel_tables {
    qb_kernels at[MAX_VARIANTS]; /* at[0] is the reference */
    size_t count;
} kernel_tables;

static inline kernel_tables
kernel_tables_load(void)
{
    kernel_tables tables = {.count = 0};
    for (size_t i = 0; i < qb_variant_count() && tables.count < MAX_VARIANTS; ++i) {
        if (qb_variant_is_supported(i)) {
            qb_error error;
            CHECK(qb_cpu_kernels_select(qb_variant_name(i), &tables.at[tables.count], &error) == QB_OK);
            ++tables.count;
        }
    }
    CHECK(tables.count > 0 && strcmp(tables.at[0].isa, "ref") == 0);
    return tables;
}

/* ---- guarded buffers -----------------------------------------------------------------------------------------------
 */

typedef struct guarded {
    unsigned char *base;
    unsigned char *data;
    size_t bytes;
} guarded;

/* `bytes` bytes that start `shift` above a multiple of 64, surrounded by and filled with GUARD_PATTERN. */
static inline guarded
guarded_make(size_t bytes, size_t shift)
{
    const size_t total = bytes + 2 * GUARD_BYTES + 128;
    guarded made = {.base = malloc(total), .bytes = bytes};
    if (made.base == NULL) {
        (void)fprintf(stderr, "no memory for a test\n");
        exit(EXIT_FAILURE);
    }
    memset(made.base, GUARD_PATTERN, total);
    made.data = made.base + GUARD_BYTES + (64 - (uintptr_t)(made.base + GUARD_BYTES) % 64) + shift;
    return made;
}

static inline float *
guarded_floats(const guarded *buffer)
{
    return (float *)(void *)buffer->data;
}

/* Frees the buffer; fails the test if a byte around it changed. */
static inline void
guarded_free(guarded *buffer)
{
    int intact = 1;
    for (size_t i = 0; i < GUARD_BYTES; ++i) {
        intact = intact && buffer->data[-(ptrdiff_t)i - 1] == GUARD_PATTERN;
    }
    const unsigned char *behind = buffer->data + buffer->bytes;
    for (size_t i = 0; i < 64; ++i) {
        intact = intact && behind[i] == GUARD_PATTERN;
    }
    CHECK(intact);
    free(buffer->base);
}

/* ---- inputs --------------------------------------------------------------------------------------------------------
 */

static inline uint32_t
float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float
float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

typedef enum check_input {
    INPUT_UNIFORM,  /* [-1, 1) */
    INPUT_WIDE,     /* both signs, magnitudes from 2^-40 to 2^40 */
    INPUT_TIES,     /* multiples of 1/2 up to 150: rounding ties at scale 1 */
    INPUT_DENORMAL, /* denormals and zeros of both signs */
    INPUT_FINITE,   /* any finite bits */
    INPUT_ANY,      /* any bits, NaN and infinities among them, and the special values */
    INPUT_CONSTANT, /* one value */
    INPUT_KINDS
} check_input;

static inline float
check_special(unsigned long long choice)
{
    static const float values[] = {0.0f,    -0.0f,    1.0f,         -1.0f,    0.5f,     -0.5f,   1.5f,    126.5f,
                                   FLT_MAX, -FLT_MAX, FLT_MIN,      -FLT_MIN, INFINITY, NAN,     88.8f,   -104.0f,
                                   -103.9f, -87.4f,   1e-45f,       -1e-45f,  127.5f,   -128.5f, 15.0f,   -15.0f,
                                   -14.3f,  10.0f,    5.960464e-8f, 3e38f,    -3e38f,   1e-38f,  -200.0f, 200.0f};
    const float value = values[choice % COUNT(values)];
    return choice / COUNT(values) % 64 == 0 ? -value : value;
}

static inline float
check_input_one(check_input kind, unsigned long long *state)
{
    const unsigned long long random = check_random(state);
    const uint32_t bits = (uint32_t)(random >> 32);
    switch (kind) {
    case INPUT_UNIFORM:
        return check_uniform(state);
    case INPUT_WIDE:
        return ldexpf(check_uniform(state), (int)(random % 81) - 40);
    case INPUT_TIES:
        return (float)((int)(random % 601) - 300) * 0.5f;
    case INPUT_DENORMAL:
        return float_from_bits(bits & 0x807fffffu & (random % 5 == 0 ? 0x80000000u : 0xffffffffu));
    case INPUT_FINITE: {
        const float value = float_from_bits(bits);
        return isfinite(value) ? value : check_uniform(state);
    }
    case INPUT_ANY:
        return random % 3 == 0 ? check_special(random >> 8) : float_from_bits(bits);
    case INPUT_CONSTANT:
    case INPUT_KINDS:
        break;
    }
    return 0.7f;
}

static inline void
check_fill(float *x, size_t n, check_input kind, unsigned long long seed)
{
    for (size_t i = 0; i < n; ++i) {
        x[i] = check_input_one(kind, &seed);
    }
}

/* ---- comparison ----------------------------------------------------------------------------------------------------
 */

/* Equal bits, or both NaN. */
static inline int
same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        if (float_bits(a[i]) != float_bits(b[i]) && !(isnan(a[i]) && isnan(b[i]))) {
            (void)fprintf(stderr, "element %zu of %zu: %a and %a\n", i, n, (double)a[i], (double)b[i]);
            return 0;
        }
    }
    return 1;
}

/* FNV-1a over the bits, every NaN alike: what a result is on one machine, another can be held to. */
static inline uint64_t
hash_floats(uint64_t hash, const float *x, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        const uint32_t bits = isnan(x[i]) ? 0x7fc00000u : float_bits(x[i]);
        for (int shift = 0; shift < 32; shift += 8) {
            hash = (hash ^ (bits >> shift & 0xffu)) * 0x100000001b3u;
        }
    }
    return hash;
}

static const uint64_t hash_start = 0xcbf29ce484222325u;

/* The recorded hash, or a message with the new one. */
static inline int
same_hash(const char *name, uint64_t found, uint64_t recorded)
{
    if (found != recorded) {
        (void)fprintf(stderr, "%s: bits hash to 0x%016llx, recorded 0x%016llx\n", name, (unsigned long long)found,
                      (unsigned long long)recorded);
    }
    return found == recorded;
}

#endif
