/* SPDX-License-Identifier: Apache-2.0
 *
 * amax_percentile, amax_mse, amax_entropy: closed forms, plain transcriptions of the definitions, purity, errors.
 */
#include <math.h>

#include "quant/histogram_check.h"
#include "quant_check.h"

enum { BINS = 700 };

static int64_t counts[BINS];
static float edges[BINS + 1];

/* A falling histogram with a few empty bins and a tail. */
static void
fill_histogram(unsigned long long seed)
{
    for (int i = 0; i < BINS; i++) {
        const double height = 3000.0 * exp(-(double)i / 60.0) * (1.0 + (double)check_uniform(&seed));
        counts[i] = (int64_t)height;
        edges[i] = 0.01f * (float)i;
    }
    counts[BINS - 2] = 1;
    edges[BINS] = 0.01f * (float)BINS;
}

static void
percentile_is_the_left_edge_of_the_first_bin_that_reaches_it(void)
{
    const int64_t c[4] = {5, 3, 0, 2};
    const float e[5] = {0.0f, 1.0f, 2.0f, 3.0f, 4.0f};
    float amax = -1.0f;
    CHECK(qb_amax_percentile(c, e, 4, 0.0, &amax, NULL) == QB_OK && amax == 0.0f);
    CHECK(qb_amax_percentile(c, e, 4, 50.0, &amax, NULL) == QB_OK && amax == 0.0f);
    CHECK(qb_amax_percentile(c, e, 4, 51.0, &amax, NULL) == QB_OK && amax == 1.0f);
    CHECK(qb_amax_percentile(c, e, 4, 81.0, &amax, NULL) == QB_OK && amax == 3.0f);
    CHECK(qb_amax_percentile(c, e, 4, 100.0, &amax, NULL) == QB_OK && amax == 3.0f);
    amax = -1.0f;
    qb_error error;
    CHECK(qb_amax_percentile(c, e, 4, 100.5, &amax, &error) == QB_ERR_VALUE && amax == -1.0f);
    CHECK_CONTAINS(error.message, "range");
    CHECK(qb_amax_percentile(c, e, 4, (double)NAN, &amax, NULL) == QB_ERR_VALUE);
}

/* The definition, bins^2 quantizations. */
static float
mse_by_definition(int num_bits, int is_unsigned, int stride, int start)
{
    double best = HUGE_VAL;
    float chosen = 0.0f;
    const float bound = ldexpf(1.0f, num_bits - 1 + is_unsigned) - 1.0f;
    for (int i = start; i < BINS; i += stride) {
        const float amax = (edges[i + 1] + edges[i]) / 2.0f;
        const float scale = bound / amax;
        double error = 0.0;
        for (int j = 0; j < BINS; j++) {
            const float center = (edges[j + 1] + edges[j]) / 2.0f;
            const float code = fminf(fmaxf(rintf(center * scale), is_unsigned ? 0.0f : -bound), bound);
            const double d = (double)(code / scale) - (double)center;
            error += (double)counts[j] * d * d;
        }
        if (error < best) {
            best = error;
            chosen = amax;
        }
    }
    return chosen;
}

static void
mse_equals_its_definition(void)
{
    qb_device *device = open_device(2, NULL);
    for (unsigned long long seed = 1; seed <= 6; seed++) {
        fill_histogram(seed);
        for (int num_bits = 2; num_bits <= 10; num_bits += 2) {
            for (int is_unsigned = 0; is_unsigned < 2; is_unsigned++) {
                float amax = 0.0f;
                CHECK(qb_amax_mse(device, counts, edges, BINS, num_bits, is_unsigned, 3, 20, &amax, NULL) == QB_OK);
                CHECK(amax == mse_by_definition(num_bits, is_unsigned, 3, 20));
            }
        }
    }
    qb_device_close(device);
}

static double
divergence_by_definition(const int64_t *bins, int size, int i, int levels)
{
    static double q[BINS + 1];
    static double p[BINS + 1];
    double outside = 0.0;
    double mass = 0.0;
    double total = 0.0;
    for (int j = 0; j < size; j++) {
        total += (double)bins[j];
        outside += j >= i ? (double)bins[j] : 0.0;
    }
    for (int j = 0; j < i; j++) {
        double sum = 0.0;
        int filled = 0;
        for (int k = 0; k < i; k++) {
            if ((int64_t)k * levels / i == (int64_t)j * levels / i && bins[k] > 0) {
                sum += (double)bins[k];
                filled++;
            }
        }
        q[j] = bins[j] > 0 ? sum / filled : 0.0;
        p[j] = (double)bins[j] + (j == i - 1 ? outside : 0.0);
        mass += q[j];
    }
    double divergence = 0.0;
    for (int j = 0; j < i; j++) {
        if (p[j] > 0.0) {
            divergence += q[j] > 0.0 ? p[j] / total * log(p[j] / total / (q[j] / mass)) : HUGE_VAL;
        }
    }
    return divergence;
}

static void
entropy_equals_its_definition(void)
{
    qb_device *device = open_device(2, NULL);
    for (unsigned long long seed = 1; seed <= 3; seed++) {
        fill_histogram(seed);
        int64_t bins[BINS];
        memcpy(bins, counts, sizeof bins);
        bins[0] = bins[1];
        for (int num_bits = 4; num_bits <= 8; num_bits += 2) {
            const int start = 100;
            const int stride = 40;
            double best = HUGE_VAL;
            float expected = 0.0f;
            for (int i = start; i <= BINS; i += stride) {
                const double d = divergence_by_definition(bins, BINS, i, 1 << (num_bits - 1));
                if (d <= best) {
                    best = d;
                    expected = edges[i];
                }
            }
            float amax = 0.0f;
            CHECK(qb_amax_entropy(device, counts, edges, BINS, num_bits, 0, stride, start, &amax, NULL) == QB_OK);
            CHECK(amax == expected);
        }
    }
    qb_device_close(device);
}

static void
an_outlier_is_clipped_by_entropy(void)
{
    qb_device *device = open_device(1, NULL);
    unsigned long long state = 15;
    for (int i = 0; i < BINS; i++) {
        counts[i] = i < 300 ? 100 + (int64_t)(50.0f * check_uniform(&state)) : 0;
        edges[i] = 0.01f * (float)i;
    }
    edges[BINS] = 0.01f * (float)BINS;
    counts[BINS - 1] = 1;
    float amax = 0.0f;
    CHECK(qb_amax_entropy(device, counts, edges, BINS, 8, 0, 1, 128, &amax, NULL) == QB_OK);
    CHECK(amax < 3.2f);
    qb_device_close(device);
}

static void
finding_changes_no_histogram_and_threads_change_no_range(void)
{
    fill_histogram(9);
    int64_t counts_before[BINS];
    float edges_before[BINS + 1];
    memcpy(counts_before, counts, sizeof counts);
    memcpy(edges_before, edges, sizeof edges);
    float first[2] = {0.0f, 0.0f};
    for (int32_t threads = 1; threads <= 4; threads++) {
        qb_device *device = open_device(threads, NULL);
        float amax[2];
        CHECK(qb_amax_mse(device, counts, edges, BINS, 8, 0, 1, 128, &amax[0], NULL) == QB_OK);
        CHECK(qb_amax_entropy(device, counts, edges, BINS, 8, 0, 1, 128, &amax[1], NULL) == QB_OK);
        CHECK(threads == 1 || memcmp(amax, first, sizeof amax) == 0);
        memcpy(first, amax, sizeof first);
        qb_device_close(device);
    }
    CHECK(memcmp(counts_before, counts, sizeof counts) == 0);
    CHECK(memcmp(edges_before, edges, sizeof edges) == 0);
}

static void
nothing_to_choose_from_is_an_error(void)
{
    qb_device *device = open_device(1, NULL);
    fill_histogram(10);
    float amax = -1.0f;
    qb_error error;
    CHECK(qb_amax_mse(device, counts, edges, 64, 8, 0, 1, 128, &amax, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "start_bin is 128");
    CHECK(qb_amax_entropy(device, counts, edges, 64, 8, 0, 1, 128, &amax, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "64 bins");
    CHECK(qb_amax_entropy(device, counts, edges, 128, 8, 0, 1, 128, &amax, NULL) == QB_OK && amax == edges[128]);
    amax = -1.0f;
    CHECK(qb_amax_mse(device, counts, edges, BINS, 17, 0, 1, 128, &amax, NULL) == QB_ERR_VALUE);
    CHECK(qb_amax_mse(device, counts, edges, BINS, 8, 0, 0, 128, &amax, NULL) == QB_ERR_VALUE);
    CHECK(qb_amax_entropy(device, counts, edges, BINS, 0, 0, 1, 128, &amax, NULL) == QB_ERR_VALUE);
    CHECK(qb_amax_entropy(device, counts, edges, BINS, 8, 0, 1, 0, &amax, NULL) == QB_ERR_VALUE);
    CHECK(amax == -1.0f);
    qb_device_close(device);
}

static void
broken_histograms_are_refused_with_the_place(void)
{
    int64_t c[3] = {1, 2, 3};
    float e[4] = {0.0f, 1.0f, 2.0f, 3.0f};
    int64_t total = 0;
    qb_error error;
    CHECK(qb_histogram_check(c, e, 3, &total, NULL) == QB_OK && total == 6);
    c[1] = -2;
    CHECK(qb_histogram_check(c, e, 3, &total, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "counts[1] is -2");
    c[1] = INT64_MAX;
    CHECK(qb_histogram_check(c, e, 3, &total, NULL) == QB_ERR_VALUE);
    c[1] = 2;
    e[2] = 0.5f;
    CHECK(qb_histogram_check(c, e, 3, &total, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "edges[2]");
    e[2] = 2.0f;
    CHECK(qb_histogram_check((int64_t[]){0, 0, 0}, e, 3, &total, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "empty");
    CHECK(qb_histogram_check(NULL, e, 3, &total, NULL) == QB_ERR_VALUE);
    CHECK(qb_histogram_check(c, e, 0, &total, NULL) == QB_ERR_VALUE);
}

static void
counts_beyond_float64_are_a_count_mismatch_or_right(void)
{
    qb_device *device = open_device(1, NULL);
    fill_histogram(12);
    for (int i = 0; i < BINS; i++) {
        counts[i] <<= 30; /* totals around 2^47: exact */
    }
    float amax = 0.0f;
    CHECK(qb_amax_entropy(device, counts, edges, BINS, 8, 0, 7, 128, &amax, NULL) == QB_OK);
    CHECK(qb_amax_mse(device, counts, edges, BINS, 8, 0, 7, 128, &amax, NULL) == QB_OK);
    qb_device_close(device);
}

static void
running_out_of_memory_is_told(void)
{
    fill_histogram(13);
    for (long left = 0; left < 2; left++) {
        rationed_memory memory = {-1};
        qb_device *device = open_device(1, &memory);
        float amax = -1.0f;
        memory.left = left;
        const qb_status mse = qb_amax_mse(device, counts, edges, BINS, 8, 0, 1, 128, &amax, NULL);
        CHECK(mse == (left == 0 ? QB_ERR_NOMEM : QB_OK));
        memory.left = left;
        const qb_status entropy = qb_amax_entropy(device, counts, edges, BINS, 8, 0, 1, 128, &amax, NULL);
        CHECK(entropy == (left == 0 ? QB_ERR_NOMEM : QB_OK));
        CHECK(left > 0 || amax == -1.0f);
        memory.left = -1;
        qb_device_close(device);
    }
}

static void
e4m3_has_a_best_range_too(void)
{
    qb_device *device = open_device(1, NULL);
    fill_histogram(14);
    float amax = 0.0f;
    CHECK(qb_amax_mse(device, counts, edges, BINS, 0, 0, 1, 128, &amax, NULL) == QB_OK);
    CHECK(amax >= 1.28f && amax <= 7.0f);
    qb_device_close(device);
}

int
main(void)
{
    RUN(percentile_is_the_left_edge_of_the_first_bin_that_reaches_it);
    RUN(mse_equals_its_definition);
    RUN(entropy_equals_its_definition);
    RUN(an_outlier_is_clipped_by_entropy);
    RUN(finding_changes_no_histogram_and_threads_change_no_range);
    RUN(nothing_to_choose_from_is_an_error);
    RUN(broken_histograms_are_refused_with_the_place);
    RUN(counts_beyond_float64_are_a_count_mismatch_or_right);
    RUN(running_out_of_memory_is_told);
    RUN(e4m3_has_a_best_range_too);
    return check_report();
}
