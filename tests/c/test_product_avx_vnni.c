/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of extreme codes on AVX-VNNI, bit for bit against the reference, on any CPU with AVX2: where VPDPBUSD is
 * missing the test carries it out (vpdpbusd_emulator.h), and every other instruction of the variant is the CPU's.  More
 * than 10^5 outputs, at fewer shapes than test_product_qs8.c has, which runs the variant on CPUs that have it.
 */
#define _GNU_SOURCE /* vpdpbusd_emulator.h, product_case.h */
#include <stdio.h>
#include <stdlib.h>

enum { SKIPPED = 77 }; /* exit status, known to ctest */

#if defined(__x86_64__) && defined(__linux__)

#include "code_patterns.h"
#include "kernels/cpu/cpu_features.h"
#include "vpdpbusd_emulator.h"

enum { OUTPUTS_MIN = 100000 };

static int is_emulated;

/* Takes the place of the library's: what the test can run, nothing that is stronger. */
uint32_t
qb_cpu_features(void)
{
    return QB_CPU_AVX2 | QB_CPU_AVX_VNNI;
}

static int
has_avx_vnni(void)
{
    size_t index = 0;
    while (index < qb_variant_count() && strcmp(qb_variant_name(index), "avx_vnni") != 0) {
        ++index;
    }
    return index < qb_variant_count();
}

/* The reference and the variant, no others: these take long enough. */
static void
load_two_tables(void)
{
    CHECK(qb_cpu_kernels_select("ref", &tables.at[0], NULL) == QB_OK);
    CHECK(qb_cpu_kernels_select("avx_vnni", &tables.at[1], NULL) == QB_OK);
    tables.count = 2;
}

/* ---- facts ------------------------------------------------------------------------------------------------------- */

static void
test_the_variant_multiplies_codes(void)
{
    CHECK(strcmp(tables.at[1].variant[QB_KERNEL_INDEX_product_qs8], "avx_vnni") == 0);
    CHECK(strcmp(tables.at[1].variant[QB_KERNEL_INDEX_product_f32], "avx2") == 0);
}

static void
test_short_depths_are_exact(void)
{
    static const int64_t depths[] = {1, 3, 4, 5, 8, 13, 17};
    for (size_t t = 0; t < COUNT(depths); ++t) {
        const product_case p = {.m = 8, .n = 37, .k = depths[t], .a_gap = 3, .c_gap = 5, .transposed = t % 2 != 0};
        compare_patterns(&p);
    }
}

static void
test_every_height_is_exact(void)
{
    for (int64_t m = 1; m <= 7; ++m) {
        const product_case p = {.m = m, .n = 31 + m % 3, .k = 6 + m % 3, .without_bias = 1};
        compare_patterns(&p);
    }
}

/* Longer than a chunk. */
static void
test_two_chunks_are_exact(void)
{
    const product_case p = {.m = 1, .n = 2, .k = 1543, .a_gap = 3, .c_gap = 2};
    operands o = operands_make(&p, 17);
    compare_operands(&p, &o, TYPE_QS8);
    memset(o.qa, -128, (size_t)(p.m * p.k));
    memset(o.qb, -128, (size_t)(p.n * p.k));
    compare_operands(&p, &o, TYPE_QS8);
    operands_free(&o);
}

static void
test_packed_codes_can_be_unpacked(void)
{
    enum { N = 37, K = 29 };
    const qb_kernels *kernels = &tables.at[1];
    int8_t codes[N * K];
    int8_t again[N * K];
    unsigned long long seed = 5;
    int64_t panel = 0;
    size_t bytes = 0;
    size_t scratch = 0;
    for (size_t i = 0; i < COUNT(codes); ++i) {
        codes[i] = (int8_t)(check_random(&seed) >> 40);
    }
    kernels->pack_qs8_size(N, K, &panel, &bytes, &scratch);
    block packed = block_make(ROLE_PACKED, bytes, 64);

    kernels->pack_qs8(codes, K, 1, 0, N, N, K, packed.data);
    kernels->unpack_qs8(packed.data, 0, N, N, K, again);

    CHECK(memcmp(again, codes, sizeof codes) == 0);
    block_check(&packed);
}

static void
test_a_hundred_thousand_outputs_were_compared(void)
{
    CHECK(outputs >= OUTPUTS_MIN);
    CHECK(!is_emulated || emulated_instructions > 0);
}

int
main(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        (void)printf("skipped: needs a CPU with AVX2 and FMA\n");
        return SKIPPED;
    }
    if (!has_avx_vnni()) {
        (void)printf("skipped: avx_vnni is not in this build, whose assembler does not know it\n");
        return SKIPPED;
    }
    emulator_start();
    is_emulated = emulator_is_needed();
    RUN(load_regions);
    RUN(load_two_tables);
    RUN(test_the_variant_multiplies_codes);
    RUN(test_short_depths_are_exact);
    RUN(test_every_height_is_exact);
    RUN(test_two_chunks_are_exact);
    RUN(test_packed_codes_can_be_unpacked);
    RUN(test_a_hundred_thousand_outputs_were_compared);
    (void)printf("%lld outputs, %ld instructions emulated\n", outputs, (long)emulated_instructions);
    return check_report();
}

#else

int
main(void)
{
    (void)printf("skipped: needs x86-64 Linux\n");
    return SKIPPED;
}

#endif
