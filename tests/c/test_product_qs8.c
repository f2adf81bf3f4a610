/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of extreme codes on every variant that this machine runs, bit for bit against the reference: more than 10^6
 * outputs, of operands that saturating, 16-bit or float32 arithmetic would get wrong, at depths and shapes around every
 * tile's steps.  test_product.c holds the reference to the definition.  And the way back, from packed codes to codes.
 */
#define _DEFAULT_SOURCE /* product_case.h */
#include "code_patterns.h"

enum { OUTPUTS_MIN = 1000000 };

/* ---- facts ------------------------------------------------------------------------------------------------------- */

static void
test_short_depths_are_exact(void)
{
    for (int64_t k = 1; k <= 34; ++k) {
        const product_case p = {.m = 9, .n = 37, .k = k, .a_gap = k % 3, .c_gap = k % 5, .transposed = k % 2 != 0};
        compare_patterns(&p);
    }
}

static void
test_every_height_and_width_is_exact(void)
{
    for (int64_t m = 1; m <= 15; ++m) {
        for (int64_t n = 1; n <= 34; n += n % 16 == 0 || n % 16 == 15 ? 1 : 5) {
            const product_case p = {.m = m, .n = n, .k = 45, .without_bias = 1};
            compare_patterns(&p);
        }
    }
}

static void
test_many_outputs_are_exact(void)
{
    static const int64_t depths[] = {1, 7, 64};
    for (size_t t = 0; t < COUNT(depths); ++t) {
        const product_case p = {.m = 131, .n = 83, .k = depths[t], .transposed = t % 2 != 0};
        compare_patterns(&p);
    }
}

/* Longer than a chunk of any variant, and around the depths at which chunks are cut. */
static void
test_depths_of_several_chunks_are_exact(void)
{
    static const int64_t depths[] = {767, 1023, 1025, 1531, 2051, 3075, 4096, 4097, 8203};
    for (size_t t = 0; t < COUNT(depths); ++t) {
        const product_case p = {.m = 7, .n = 19, .k = depths[t], .a_gap = 3, .c_gap = 2};
        compare_patterns(&p);
    }
}

static void
test_the_longest_depths_are_exact(void)
{
    static const int64_t depths[] = {QB_DEPTH_MAX - 2, QB_DEPTH_MAX - 1, QB_DEPTH_MAX};
    for (size_t t = 0; t < COUNT(depths); ++t) {
        const product_case p = {.m = 5, .n = 3, .k = depths[t], .without_bias = 1};
        compare_patterns(&p);
    }
}

/* Columns n0 .. n1-1 are there again, and nothing beside them is written. */
static void
check_columns(const qb_kernels *kernels, const block *packed, const int8_t *codes, int64_t column_stride, int64_t n0,
              int64_t n1, int64_t n, int64_t k)
{
    block again = block_make(ROLE_B, (size_t)(n * k), 1);
    kernels->unpack_qs8(packed->data, n0, n1, n, k, (int8_t *)again.data);
    int are_equal = 1;
    for (int64_t i = 0; i < n * k; ++i) {
        const int64_t at = column_stride == 1 ? i % k * n + i / k : i;
        const int is_asked_for = i >= n0 * k && i < n1 * k;
        const unsigned char expected = is_asked_for ? (unsigned char)codes[at] : GUARD_PATTERN;
        are_equal = are_equal && again.data[i] == expected;
    }
    CHECK(are_equal);
    block_check(&again);
}

static void
check_unpacked(const qb_kernels *kernels, const int8_t *codes, int64_t n, int64_t k, int64_t column_stride)
{
    int64_t panel = 0;
    size_t bytes = 0;
    size_t scratch = 0;
    kernels->pack_qs8_size(n, k, &panel, &bytes, &scratch);
    block packed = block_make(ROLE_PACKED, bytes, 64);
    kernels->pack_qs8(codes, column_stride, column_stride == 1 ? n : 1, 0, n, n, k, packed.data);
    const int64_t middle = n / 2 / panel * panel;
    check_columns(kernels, &packed, codes, column_stride, 0, n, n, k);
    check_columns(kernels, &packed, codes, column_stride, 0, middle, n, k);
    check_columns(kernels, &packed, codes, column_stride, middle, n, n, k);
    block_check(&packed);
}

static void
test_packed_codes_can_be_unpacked(void)
{
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 65, 97};
    int8_t codes[97 * 97];
    for (size_t v = 0; v < tables.count; ++v) {
        unsigned long long seed = 23;
        for (size_t i = 0; i < COUNT(codes); ++i) {
            codes[i] = code_of(i % 3 == 0 ? PATTERN_ENDS : PATTERN_RANDOM, 0, 0, &seed);
        }
        for (size_t s = 0; s < COUNT(sizes); ++s) {
            for (size_t t = 0; t < COUNT(sizes); ++t) {
                check_unpacked(&tables.at[v], codes, sizes[s], sizes[t], sizes[t]);
                check_unpacked(&tables.at[v], codes, sizes[s], sizes[t], 1);
            }
        }
    }
}

static void
test_a_million_outputs_were_compared(void)
{
    CHECK(outputs >= OUTPUTS_MIN);
}

int
main(void)
{
    RUN(load_regions);
    RUN(load_tables);
    RUN(test_short_depths_are_exact);
    RUN(test_every_height_and_width_is_exact);
    RUN(test_many_outputs_are_exact);
    RUN(test_depths_of_several_chunks_are_exact);
    RUN(test_the_longest_depths_are_exact);
    RUN(test_packed_codes_can_be_unpacked);
    RUN(test_a_million_outputs_were_compared);
    return check_report();
}
