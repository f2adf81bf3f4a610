/* SPDX-License-Identifier: Apache-2.0
 *
 * Panels of packed codes know nothing of each other: whoever has the rows of one panel packs it where it lies.
 */
#define _DEFAULT_SOURCE /* product_case.h */
#include "code_patterns.h"

static void
check_panels(const qb_kernels *kernels, const int8_t *codes, int64_t n, int64_t k)
{
    int64_t panel = 0;
    size_t bytes = 0;
    size_t one = 0;
    size_t scratch = 0;
    kernels->pack_qs8_size(n, k, &panel, &bytes, &scratch);
    const int64_t rows = panel;
    kernels->pack_qs8_size(rows, k, &panel, &one, &scratch);
    block whole = block_make(ROLE_PACKED, bytes, 64);
    kernels->pack_qs8(codes, k, 1, 0, n, n, k, whole.data);
    char *parts = malloc(bytes);
    CHECK(panel == rows && parts != NULL);
    memset(parts, GUARD_PATTERN, bytes);
    for (int64_t first = 0; first < n; first += 2 * rows) {
        const int64_t count = n - first < 2 * rows ? n - first : 2 * rows;
        kernels->pack_qs8(codes + first * k, k, 1, 0, count, count, k, parts + (size_t)(first / rows) * one);
    }
    CHECK(memcmp(parts, whole.data, bytes) == 0);
    block_check(&whole);
    free(parts);
}

static void
test_panels_are_packed_one_by_one(void)
{
    static const int64_t sizes[] = {1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 97, 129, 200};
    int8_t codes[200 * 200];
    unsigned long long seed = 29;
    for (size_t i = 0; i < COUNT(codes); ++i) {
        codes[i] = code_of(i % 3 == 0 ? PATTERN_ENDS : PATTERN_RANDOM, 0, 0, &seed);
    }
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t s = 0; s < COUNT(sizes); ++s) {
            for (size_t t = 0; t < COUNT(sizes); ++t) {
                check_panels(&tables.at[v], codes, sizes[s], sizes[t]);
            }
        }
    }
}

int
main(void)
{
    RUN(load_regions);
    RUN(load_tables);
    RUN(test_panels_are_packed_one_by_one);
    return check_report();
}
