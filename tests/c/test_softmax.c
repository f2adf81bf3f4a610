/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static void
softmax_case(size_t v, size_t rows, size_t columns, size_t gap, check_input kind, float factor, int masked)
{
    const size_t stride = columns + gap;
    const size_t elements = rows > 0 ? (rows - 1) * stride + columns : 0;
    guarded expected = guarded_make(elements * sizeof(float), 0);
    guarded found = guarded_make(elements * sizeof(float), 4);
    guarded mask = guarded_make(columns * sizeof(float), 12);
    check_fill(guarded_floats(&expected), elements, kind, columns + rows);
    for (size_t i = 0; i < elements; ++i) {
        guarded_floats(&expected)[i] *= factor;
    }
    memcpy(found.data, expected.data, expected.bytes);
    for (size_t c = 0; c < columns; ++c) {
        guarded_floats(&mask)[c] = c % 3 == 1 ? -FLT_MAX : 0.0f;
    }
    const float *added = masked ? guarded_floats(&mask) : NULL;
    tables.at[0].softmax_f32(guarded_floats(&expected), rows, columns, stride, added);
    tables.at[v].softmax_f32(guarded_floats(&found), rows, columns, stride, added);
    CHECK(same_floats(guarded_floats(&found), guarded_floats(&expected), elements));
    guarded_free(&expected);
    guarded_free(&found);
    guarded_free(&mask);
}

static void
test_every_variant_gives_the_references_bits(void)
{
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t l = 0; l < COUNT(check_lengths); ++l) {
            const size_t columns = check_lengths[l];
            for (int masked = 0; masked < 2; ++masked) {
                for (int kind = 0; kind < INPUT_KINDS; ++kind) {
                    softmax_case(v, 3, columns, 5, (check_input)kind, 1.0f, masked);
                }
                softmax_case(v, 1, columns, 0, INPUT_UNIFORM, 8.0f, masked);
                softmax_case(v, 2, columns, 1, INPUT_UNIFORM, 120.0f, masked); /* exp underflows, naive exp overflows */
                softmax_case(v, 0, columns, 0, INPUT_UNIFORM, 1.0f, masked);
            }
        }
    }
}

static void
test_a_nan_makes_its_row_nan_and_no_other(void)
{
    enum { COLUMNS = 37 };
    for (size_t v = 0; v < tables.count; ++v) {
        for (size_t at = 0; at < COLUMNS; ++at) {
            float x[2 * COLUMNS];
            check_fill(x, 2 * COLUMNS, INPUT_UNIFORM, at);
            x[COLUMNS + at] = NAN;
            tables.at[v].softmax_f32(x, 2, COLUMNS, COLUMNS, NULL);
            int clean = 1;
            int spoiled = 1;
            for (size_t c = 0; c < COLUMNS; ++c) {
                clean = clean && x[c] > 0.0f;
                spoiled = spoiled && isnan(x[COLUMNS + c]);
            }
            CHECK(clean);
            CHECK(spoiled);
        }
    }
}

static void
test_masked_positions_are_exactly_zero_and_leave_the_rest_alone(void)
{
    enum { KEPT = 21, COLUMNS = 40 };
    for (size_t v = 0; v < tables.count; ++v) {
        float alone[KEPT];
        float padded[COLUMNS];
        float mask[COLUMNS];
        check_fill(padded, COLUMNS, INPUT_UNIFORM, 3);
        memcpy(alone, padded, sizeof alone);
        for (size_t c = 0; c < COLUMNS; ++c) {
            mask[c] = c < KEPT ? 0.0f : -FLT_MAX;
        }
        tables.at[v].softmax_f32(alone, 1, KEPT, KEPT, NULL);
        tables.at[v].softmax_f32(padded, 1, COLUMNS, COLUMNS, mask);
        CHECK(memcmp(alone, padded, sizeof alone) == 0);
        int zero = 1;
        for (size_t c = KEPT; c < COLUMNS; ++c) {
            zero = zero && float_bits(padded[c]) == 0;
        }
        CHECK(zero);
    }
}

/* exp is within 1 ulp and its argument, a rounded difference, within half an ulp of up to 16, which is 16 * 2^-24
 * relative in exp; the sum of n nonnegative terms adds ceil(n / 16) + 4 roundings, the two last operations one each.
 * With the same for the denominator's terms: (2 * (1 + 16 + 1) + n / 16 + 8) * 2^-24. */
static void
test_probabilities_are_close_to_the_truth(void)
{
    enum { COLUMNS = 301 };
    const double bound = (36.0 + COLUMNS / 16.0 + 8.0) * 0x1p-24;
    for (size_t v = 0; v < tables.count; ++v) {
        float x[COLUMNS];
        double truth[COLUMNS];
        double sum = 0.0;
        check_fill(x, COLUMNS, INPUT_UNIFORM, 21);
        for (size_t c = 0; c < COLUMNS; ++c) {
            x[c] *= 8.0f;
            truth[c] = exp((double)x[c]);
            sum += truth[c];
        }
        tables.at[v].softmax_f32(x, 1, COLUMNS, COLUMNS, NULL);
        double worst = 0.0;
        for (size_t c = 0; c < COLUMNS; ++c) {
            const double error = fabs((double)x[c] * sum / truth[c] - 1.0);
            worst = error > worst ? error : worst;
        }
        CHECK(worst <= bound);
    }
}

/* Recorded on x86-64; other machines must compute the same. */
static void
test_bits_are_the_same_on_every_machine(void)
{
    enum { ROWS = 11, COLUMNS = 157 };
    for (size_t v = 0; v < tables.count; ++v) {
        float x[ROWS * COLUMNS];
        check_fill(x, COUNT(x), INPUT_UNIFORM, 77);
        for (size_t i = 0; i < COUNT(x); ++i) {
            x[i] *= 20.0f;
        }
        tables.at[v].softmax_f32(x, ROWS, COLUMNS, COLUMNS, NULL);
        CHECK(same_hash("softmax_f32", hash_floats(hash_start, x, COUNT(x)), 0xabf51a3de661eb37u));
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_every_variant_gives_the_references_bits);
    RUN(test_a_nan_makes_its_row_nan_and_no_other);
    RUN(test_masked_positions_are_exactly_zero_and_leave_the_rest_alone);
    RUN(test_bits_are_the_same_on_every_machine);
    RUN(test_probabilities_are_close_to_the_truth);
    return check_report();
}
