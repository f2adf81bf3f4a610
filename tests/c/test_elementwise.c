/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static void
elementwise_case(size_t v, size_t n, size_t shift, check_input kind)
{
    guarded a = guarded_make(n * sizeof(float), shift);
    guarded b = guarded_make(n * sizeof(float), 8);
    guarded expected = guarded_make(n * sizeof(float), 0);
    guarded found = guarded_make(n * sizeof(float), shift ^ 4);
    check_fill(guarded_floats(&a), n, kind, n);
    check_fill(guarded_floats(&b), n, kind, n + 9);
    tables.at[0].add_f32(guarded_floats(&a), guarded_floats(&b), n, guarded_floats(&expected));
    tables.at[v].add_f32(guarded_floats(&a), guarded_floats(&b), n, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), n));
    tables.at[0].scale_f32(guarded_floats(&a), 1.1f, n, guarded_floats(&expected));
    tables.at[v].scale_f32(guarded_floats(&a), 1.1f, n, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), n));
    tables.at[0].add_f32(guarded_floats(&a), guarded_floats(&b), n, guarded_floats(&expected));
    tables.at[v].add_f32(guarded_floats(&a), guarded_floats(&b), n, guarded_floats(&b));
    CHECK(same_floats(guarded_floats(&b), guarded_floats(&expected), n));
    guarded_free(&a);
    guarded_free(&b);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_sums_and_multiples_are_the_references(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                elementwise_case(v, check_lengths[l], check_shifts[l % COUNT(check_shifts)], (check_input)kind);
            }
        }
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_sums_and_multiples_are_the_references);
    return check_report();
}
