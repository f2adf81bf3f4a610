/* SPDX-License-Identifier: Apache-2.0
 *
 * The roofs peak_f32 and peak_qs8: that they count what they did, leave registers and memory alone, and come from where
 * the products come from.  How fast they are is no test's business.
 */
#include "kernel_check.h"

static void
test_operations_grow_with_the_rounds(void)
{
    const kernel_tables tables = kernel_tables_load();
    for (size_t v = 0; v < tables.count; ++v) {
        void (*const peaks[])(int64_t, int64_t *) = {tables.at[v].peak_f32, tables.at[v].peak_qs8};
        for (size_t i = 0; i < COUNT(peaks); ++i) {
            int64_t one = -1;
            int64_t many = -1;
            int64_t none = -1;
            peaks[i](1, &one);
            peaks[i](1009, &many);
            peaks[i](0, &none);
            CHECK(one > 0 && one % 2 == 0);
            CHECK(many == 1009 * one);
            CHECK(none == 0);
            peaks[i](-1, &none);
            CHECK(none == 0);
        }
    }
}

/* A caller's own floats survive: the loops name every register that they change. */
static void
test_what_the_caller_computes_is_untouched(void)
{
    const kernel_tables tables = kernel_tables_load();
    for (size_t v = 0; v < tables.count; ++v) {
        float x[16];
        int64_t operations = 0;
        for (int i = 0; i < 16; ++i) {
            x[i] = (float)i * 1.5f;
        }
        const float a = x[3] + x[5];
        const float b = x[7] * x[9];
        tables.at[v].peak_f32(3, &operations);
        tables.at[v].peak_qs8(3, &operations);
        CHECK(a == 12.0f && b == 141.75f && a + b == 153.75f);
    }
}

/* A share of another variant's roof would be a share of nothing; openblas multiplies codes as it likes. */
static void
test_a_roof_comes_from_where_its_product_comes_from(void)
{
    for (size_t v = 0; v < qb_variant_count(); ++v) {
        qb_kernels kernels;
        if (strcmp(qb_variant_name(v), "openblas") != 0 &&
            qb_cpu_kernels_select(qb_variant_name(v), &kernels, NULL) == QB_OK) {
            CHECK(strcmp(kernels.variant[QB_KERNEL_INDEX_peak_f32], kernels.variant[QB_KERNEL_INDEX_product_f32]) == 0);
            CHECK(strcmp(kernels.variant[QB_KERNEL_INDEX_peak_qs8], kernels.variant[QB_KERNEL_INDEX_product_qs8]) == 0);
        }
    }
}

int
main(void)
{
    RUN(test_operations_grow_with_the_rounds);
    RUN(test_what_the_caller_computes_is_untouched);
    RUN(test_a_roof_comes_from_where_its_product_comes_from);
    return check_report();
}
