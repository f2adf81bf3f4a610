/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_check.h"

static kernel_tables tables;

static void
histogram_case(size_t v, size_t n, int64_t bins, float last_edge, int skip_zeros, check_input kind)
{
    guarded x = guarded_make(n * sizeof(float), 4);
    guarded expected = guarded_make((size_t)bins * sizeof(int64_t), 0);
    guarded found = guarded_make((size_t)bins * sizeof(int64_t), 8);
    int64_t *truth = (int64_t *)(void *)expected.data;
    int64_t *counts = (int64_t *)(void *)found.data;
    check_fill(guarded_floats(&x), n, kind, n + (size_t)bins);
    for (int64_t b = 0; b < bins; ++b) {
        truth[b] = counts[b] = b * 3;
    }
    tables.at[0].histogram_f32(guarded_floats(&x), n, last_edge, bins, skip_zeros, truth);
    tables.at[v].histogram_f32(guarded_floats(&x), n, last_edge, bins, skip_zeros, counts);
    CHECK(memcmp(truth, counts, expected.bytes) == 0);
    guarded_free(&x);
    guarded_free(&expected);
    guarded_free(&found);
}

/* Bins around a vector, around the sizes of the counters' tables, and more than they hold; lengths below and above. */
static void
test_counts_are_the_references(void)
{
    static const int64_t bins[] = {1, 2, 15, 128, 2048, 4094, 4095, 4096, 5000, 16383, 16384, 20011};
    static const size_t lengths[] = {0, 1, 15, 17, 31, 33, 127, 2047, 2051, 4099, 20021};
    for (size_t v = 1; v < tables.count; ++v) {
        for (size_t b = 0; b < COUNT(bins); ++b) {
            for (size_t l = 0; l < COUNT(lengths); ++l) {
                histogram_case(v, lengths[l], bins[b], 1.0f, 0, INPUT_UNIFORM);
                histogram_case(v, lengths[l], bins[b], 0.7f, 1, INPUT_UNIFORM);
                histogram_case(v, lengths[l], bins[b], 150.0f, (int)(l % 2), INPUT_TIES);
                histogram_case(v, lengths[l], bins[b], 1e-38f, 1, INPUT_DENORMAL);
                histogram_case(v, lengths[l], bins[b], 3.1f, 0, INPUT_ANY);
                histogram_case(v, lengths[l], bins[b], 0.7f, 0, INPUT_CONSTANT);
                histogram_case(v, lengths[l], bins[b], FLT_MAX, 0, INPUT_FINITE);
            }
        }
    }
}

static void
test_the_edge_counts_and_more_does_not(void)
{
    const float x[] = {2.0f, -2.0f, 2.0000002f, NAN, INFINITY, 0.0f, -0.0f, 0.5f, -1.0f, 1.9999999f};
    for (size_t v = 0; v < tables.count; ++v) {
        int64_t counts[4] = {0};
        tables.at[v].histogram_f32(x, COUNT(x), 2.0f, 4, 0, counts);
        CHECK(counts[0] == 2 && counts[1] == 1 && counts[2] == 1 && counts[3] == 3);
        memset(counts, 0, sizeof counts);
        tables.at[v].histogram_f32(x, COUNT(x), 2.0f, 4, 1, counts);
        CHECK(counts[0] == 0 && counts[1] == 1 && counts[2] == 1 && counts[3] == 3);
    }
}

static void
test_histograms_add_up(void)
{
    enum { LENGTH = 6007, CUT = 2999, BINS = 97 };
    static float x[LENGTH];
    check_fill(x, LENGTH, INPUT_UNIFORM, 11);
    for (size_t v = 0; v < tables.count; ++v) {
        int64_t whole[BINS] = {0};
        int64_t parts[BINS] = {0};
        tables.at[v].histogram_f32(x, LENGTH, 0.9f, BINS, 0, whole);
        tables.at[v].histogram_f32(x, CUT, 0.9f, BINS, 0, parts);
        tables.at[v].histogram_f32(x + CUT, LENGTH - CUT, 0.9f, BINS, 0, parts);
        CHECK(memcmp(whole, parts, sizeof whole) == 0);
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_counts_are_the_references);
    RUN(test_the_edge_counts_and_more_does_not);
    RUN(test_histograms_add_up);
    return check_report();
}
