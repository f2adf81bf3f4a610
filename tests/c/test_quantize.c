/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

/* Narrow, full and unsigned ranges of 8, 4 and 16 bits; amax that makes ties, tiny, huge and dead ones. */
static const qb_quant_range ranges[] = {
    {1.0f, -127.0f, 127.0f},
    {1.0f, -128.0f, 127.0f},
    {2.0f, 0.0f, 127.0f},
    {127.0f / 0.7f, -127.0f, 127.0f},
    {7.0f / 3.0f, -8.0f, 7.0f},
    {127.0f / 6e-8f, -127.0f, 127.0f},
    {127.0f / 3e38f, -127.0f, 127.0f},
    {0.0f, -127.0f, 127.0f},
    {0.0f, 0.0f, 127.0f},
    {0.5f, -1.0f, 1.0f},
};
static const qb_quant_range wide_ranges[] = {{255.0f, 0.0f, 255.0f}, {32767.0f / 3.0f, -32768.0f, 32767.0f}};

static void
floats_case(size_t v, size_t n, size_t shift, check_input kind, const qb_quant_range *range)
{
    guarded x = guarded_make(n * sizeof(float), shift);
    guarded expected = guarded_make(n * sizeof(float), 0);
    guarded found = guarded_make(n * sizeof(float), shift ^ 4);
    check_fill(guarded_floats(&x), n, kind, n);
    tables.at[0].quantize_f32(guarded_floats(&x), n, range, guarded_floats(&expected));
    tables.at[v].quantize_f32(guarded_floats(&x), n, range, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), n));
    tables.at[v].quantize_f32(guarded_floats(&x), n, range, guarded_floats(&x));
    CHECK(same_floats(guarded_floats(&x), guarded_floats(&expected), n));
    guarded_free(&x);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_float_codes_are_the_references(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                const size_t shift = check_shifts[l % COUNT(check_shifts)];
                for (size_t r = 0; r < COUNT(ranges); ++r) {
                    floats_case(v, check_lengths[l], shift, (check_input)kind, &ranges[r]);
                }
                for (size_t r = 0; r < COUNT(wide_ranges); ++r) {
                    floats_case(v, check_lengths[l], shift, (check_input)kind, &wide_ranges[r]);
                }
            }
        }
    }
}

static void
codes_case(size_t v, size_t n, size_t shift, check_input kind, const qb_quant_range *range)
{
    guarded x = guarded_make(n * sizeof(float), shift);
    guarded expected = guarded_make(n, 0);
    guarded found = guarded_make(n, 1 + shift / 4);
    const float *values = guarded_floats(&x);
    int8_t *codes = (int8_t *)(void *)found.data;
    const int8_t *truth = (const int8_t *)(const void *)expected.data;
    check_fill(guarded_floats(&x), n, kind, n + 2);
    uint32_t expected_flag = 0;
    uint32_t flag = 0;
    tables.at[0].quantize_qs8(values, n, range, (int8_t *)(void *)expected.data, &expected_flag);
    tables.at[v].quantize_qs8(values, n, range, codes, &flag);
    CHECK(flag == expected_flag);
    int same = 1;
    for (size_t i = 0; i < n; ++i) {
        same = same && (codes[i] == truth[i] || !isfinite(values[i]));
    }
    CHECK(same);
    guarded_free(&x);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_int8_codes_are_the_references(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                for (size_t r = 0; r < COUNT(ranges); ++r) {
                    codes_case(v, check_lengths[l], check_shifts[l % COUNT(check_shifts)], (check_input)kind,
                               &ranges[r]);
                }
            }
        }
    }
}

static void
test_ties_go_to_even(void)
{
    const float x[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f, 127.5f, -127.5f, -128.5f, 128.0f};
    const int8_t expected[] = {0, 2, 2, 0, -2, -2, 126, -126, 127, -128, -128, 127};
    const qb_quant_range full = {1.0f, -128.0f, 127.0f};
    for (size_t v = 0; v < tables.count; ++v) {
        int8_t codes[COUNT(x)];
        uint32_t nonfinite = 0;
        tables.at[v].quantize_qs8(x, COUNT(x), &full, codes, &nonfinite);
        CHECK(memcmp(codes, expected, sizeof codes) == 0);
        CHECK(nonfinite == 0);
    }
}

static void
test_the_flag_is_set_by_one_bad_element_and_never_cleared(void)
{
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    const qb_quant_range range = {1.0f, -127.0f, 127.0f};
    float x[67];
    int8_t codes[COUNT(x)];
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at < COUNT(x); ++at) {
            check_fill(x, COUNT(x), INPUT_FINITE, at);
            uint32_t nonfinite = 7;
            tables.at[v].quantize_qs8(x, COUNT(x), &range, codes, &nonfinite);
            CHECK(nonfinite == 7);
            x[at] = bad[at % COUNT(bad)];
            tables.at[v].quantize_qs8(x, COUNT(x), &range, codes, &nonfinite);
            CHECK(nonfinite == 1);
        }
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_float_codes_are_the_references);
    RUN(test_int8_codes_are_the_references);
    RUN(test_ties_go_to_even);
    RUN(test_the_flag_is_set_by_one_bad_element_and_never_cleared);
    return check_report();
}
