/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static const qb_quant_range ranges[] = {
    {1.0f, -127.0f, 127.0f},    {127.0f / 0.7f, -128.0f, 127.0f},       {255.0f / 2.9f, 0.0f, 255.0f},
    {7.0f / 3.0f, -7.0f, 7.0f}, {127.0f / 6e-8f, -127.0f, 127.0f},      {127.0f / 3e38f, -127.0f, 127.0f},
    {0.0f, -127.0f, 127.0f},    {32767.0f / 3.0f, -32767.0f, 32767.0f},
};

static void
tensor_case(size_t v, size_t n, size_t shift, check_input kind, const qb_quant_range *range)
{
    guarded x = guarded_make(n * sizeof(float), shift);
    guarded expected = guarded_make(n * sizeof(float), 0);
    guarded found = guarded_make(n * sizeof(float), shift ^ 4);
    check_fill(guarded_floats(&x), n, kind, n + 3);
    tables.at[0].fake_quant_f32(guarded_floats(&x), n, range, guarded_floats(&expected));
    tables.at[v].fake_quant_f32(guarded_floats(&x), n, range, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), n));
    tables.at[v].fake_quant_f32(guarded_floats(&x), n, range, guarded_floats(&x));
    CHECK(same_floats(guarded_floats(&x), guarded_floats(&expected), n));
    guarded_free(&x);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_values_are_the_references(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                for (size_t r = 0; r < COUNT(ranges); ++r) {
                    tensor_case(v, check_lengths[l], check_shifts[l % COUNT(check_shifts)], (check_input)kind,
                                &ranges[r]);
                }
            }
        }
    }
}

static void
columns_case(size_t v, size_t rows, size_t columns, check_input kind)
{
    const size_t n = rows * columns;
    guarded x = guarded_make(n * sizeof(float), 4);
    guarded scale = guarded_make(columns * sizeof(float), 8);
    guarded expected = guarded_make(n * sizeof(float), 0);
    guarded found = guarded_make(n * sizeof(float), 20);
    check_fill(guarded_floats(&x), n, kind, columns + 5);
    for (size_t c = 0; c < columns; ++c) {
        guarded_floats(&scale)[c] = c % 7 == 3 ? 0.0f : 127.0f / (0.1f + (float)c);
    }
    tables.at[0].fake_quant_columns_f32(guarded_floats(&x), rows, columns, guarded_floats(&scale), -127.0f, 127.0f,
                                        guarded_floats(&expected));
    tables.at[v].fake_quant_columns_f32(guarded_floats(&x), rows, columns, guarded_floats(&scale), -127.0f, 127.0f,
                                        guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), n));
    guarded_free(&x);
    guarded_free(&scale);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_columns_have_their_own_scales(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                columns_case(v, check_lengths[l] > 200 ? 2 : 5, check_lengths[l], (check_input)kind);
            }
        }
    }
}

static void
test_nan_passes_and_infinities_clamp(void)
{
    const qb_quant_range range = {127.0f / 2.0f, -127.0f, 127.0f};
    for (size_t v = 0; v < tables.count; ++v) {
        float x[35];
        for (size_t at = 0; at < COUNT(x); ++at) {
            x[at] = at % 3 == 0 ? NAN : at % 3 == 1 ? INFINITY : -INFINITY;
        }
        tables.at[v].fake_quant_f32(x, COUNT(x), &range, x);
        int as_promised = 1;
        for (size_t at = 0; at < COUNT(x); ++at) {
            as_promised = as_promised && (at % 3 == 0 ? isnan(x[at]) : x[at] == (at % 3 == 1 ? 2.0f : -2.0f));
        }
        CHECK(as_promised);
    }
}

static void
test_a_dead_range_gives_zero_and_keeps_nan(void)
{
    const qb_quant_range dead = {0.0f, -127.0f, 127.0f};
    for (size_t v = 0; v < tables.count; ++v) {
        float x[] = {1.0f, -3e38f, 0.0f, NAN, 1e-45f};
        tables.at[v].fake_quant_f32(x, COUNT(x), &dead, x);
        CHECK(x[0] == 0.0f && x[1] == 0.0f && x[2] == 0.0f && isnan(x[3]) && x[4] == 0.0f);
    }
}

static void
gradient_case(size_t v, size_t n, float amax, check_input kind)
{
    guarded x = guarded_make(n * sizeof(float), 4);
    guarded dy = guarded_make(n * sizeof(float), 8);
    guarded expected = guarded_make(n * sizeof(float), 0);
    guarded found = guarded_make(n * sizeof(float), 12);
    check_fill(guarded_floats(&x), n, kind, n);
    check_fill(guarded_floats(&dy), n, INPUT_WIDE, n + 1);
    tables.at[0].fake_quant_grad_f32(guarded_floats(&x), guarded_floats(&dy), n, amax, guarded_floats(&expected));
    tables.at[v].fake_quant_grad_f32(guarded_floats(&x), guarded_floats(&dy), n, amax, guarded_floats(&found));
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), n));
    memcpy(found.data, dy.data, n * sizeof(float));
    tables.at[v].fake_quant_grad_f32(guarded_floats(&x), guarded_floats(&dy), n, amax, guarded_floats(&dy));
    CHECK(same_floats(guarded_floats(&dy), guarded_floats(&expected), n));
    tables.at[v].fake_quant_grad_f32(guarded_floats(&x), guarded_floats(&found), n, amax, guarded_floats(&x));
    CHECK(same_floats(guarded_floats(&x), guarded_floats(&expected), n));
    guarded_free(&x);
    guarded_free(&dy);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_gradient_passes_inside_the_range_including_its_ends(void)
{
    const float x[] = {1.0f, -1.0f, 1.0000001f, -1.0000001f, NAN, 0.0f, INFINITY};
    const float dy[] = {2.0f, 2.0f, 2.0f, 2.0f, 2.0f, 2.0f, 2.0f};
    const float expected[] = {2.0f, 2.0f, 0.0f, 0.0f, 0.0f, 2.0f, 0.0f};
    for (size_t v = 0; v < tables.count; ++v) {
        float dx[COUNT(x)];
        tables.at[v].fake_quant_grad_f32(x, dy, COUNT(x), 1.0f, dx);
        CHECK(memcmp(dx, expected, sizeof dx) == 0);
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            gradient_case(v, check_lengths[l], 0.5f, INPUT_UNIFORM);
            gradient_case(v, check_lengths[l], 0.5f, INPUT_TIES);
            gradient_case(v, check_lengths[l], 1.0f, INPUT_ANY);
        }
    }
}

static void
columns_gradient_case(size_t v, size_t rows, size_t columns, check_input kind)
{
    const size_t n = rows * columns;
    guarded x = guarded_make(n * sizeof(float), 4);
    guarded dy = guarded_make(n * sizeof(float), 8);
    guarded amax = guarded_make(columns * sizeof(float), 20);
    guarded expected = guarded_make(n * sizeof(float), 0);
    guarded found = guarded_make(n * sizeof(float), 12);
    check_fill(guarded_floats(&x), n, kind, n);
    check_fill(guarded_floats(&dy), n, INPUT_WIDE, n + 1);
    for (size_t c = 0; c < columns; ++c) {
        const float limits_in_turn[] = {0.5f, 0.0f, 1e30f, 2.5f, 0.25f, INFINITY, 1e-40f};
        guarded_floats(&amax)[c] = limits_in_turn[c % COUNT(limits_in_turn)];
    }
    for (size_t i = 0; i < n; ++i) { /* column by column the kernel of one range */
        tables.at[0].fake_quant_grad_f32(guarded_floats(&x) + i, guarded_floats(&dy) + i, 1,
                                         guarded_floats(&amax)[i % columns], guarded_floats(&expected) + i);
    }
    float *dx = guarded_floats(&found);
    const float *limits = guarded_floats(&amax);
    tables.at[v].fake_quant_grad_columns_f32(guarded_floats(&x), guarded_floats(&dy), rows, columns, limits, dx);
    CHECK(same_floats(dx, guarded_floats(&expected), n));
    memcpy(dx, dy.data, dy.bytes);
    tables.at[v].fake_quant_grad_columns_f32(guarded_floats(&x), dx, rows, columns, limits, dx);
    CHECK(same_floats(dx, guarded_floats(&expected), n));
    memcpy(dx, x.data, x.bytes);
    tables.at[v].fake_quant_grad_columns_f32(dx, guarded_floats(&dy), rows, columns, limits, dx);
    CHECK(same_floats(dx, guarded_floats(&expected), n));
    guarded_free(&x);
    guarded_free(&dy);
    guarded_free(&amax);
    guarded_free(&expected);
    guarded_free(&found);
}

static void
test_gradients_of_columns_are_clipped_by_their_own_ranges(void)
{
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                columns_gradient_case(v, check_lengths[l] > 200 ? 2 : 5, check_lengths[l], (check_input)kind);
            }
        }
        columns_gradient_case(v, 0, 33, INPUT_UNIFORM);
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_values_are_the_references);
    RUN(test_columns_have_their_own_scales);
    RUN(test_nan_passes_and_infinities_clamp);
    RUN(test_a_dead_range_gives_zero_and_keeps_nan);
    RUN(test_gradient_passes_inside_the_range_including_its_ends);
    RUN(test_gradients_of_columns_are_clipped_by_their_own_ranges);
    return check_report();
}
