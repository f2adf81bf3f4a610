/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/observer_histogram.h"

#include <math.h>

#include "quant_check.h"

typedef struct contents {
    const int64_t *counts;
    const float *edges;
    int64_t bins;
} contents;

static contents
contents_of(const qb_observer *observer)
{
    contents c = {0};
    CHECK(qb_observer_histogram(observer, &c.counts, &c.edges, &c.bins, NULL) == QB_OK);
    return c;
}

static void
the_first_tensor_sets_the_width_and_later_ones_add_bins(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 4));
    CHECK(collect(observer, (float[]){0.0f, 0.5f, -1.0f, 4.0f, 3.99f}, 5) == QB_OK);
    contents c = contents_of(observer);
    CHECK(c.bins == 4 && c.edges[0] == 0.0f && c.edges[1] == 1.0f && c.edges[4] == 4.0f);
    CHECK(c.counts[0] == 2 && c.counts[1] == 1 && c.counts[2] == 0 && c.counts[3] == 2);
    CHECK(collect(observer, (float[]){6.5f, -4.0f}, 2) == QB_OK);
    c = contents_of(observer);
    CHECK(c.bins == 7 && c.edges[7] == 7.0f && c.edges[1] == 1.0f);
    CHECK(c.counts[3] == 2 && c.counts[4] == 1 && c.counts[6] == 1);
    CHECK(collect(observer, (float[]){7.0f}, 1) == QB_OK);
    c = contents_of(observer);
    CHECK(c.bins == 7 && c.counts[6] == 2);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
growth_counts_every_element_whatever_the_width(void)
{
    qb_device *device = open_device(1, NULL);
    unsigned long long state = 5;
    for (int round = 0; round < 300; round++) {
        qb_observer *observer = new_observer(
            device, histogram_options(round % 2 ? QB_HISTOGRAM_FROM_MIN : QB_HISTOGRAM_FROM_ZERO, 1 + round % 97));
        int64_t total = 0;
        float lowest = 0.0f;
        for (int batch = 0; batch < 4; batch++) {
            float x[50];
            const float range = (float)(batch + 1) * (1.0f + check_uniform(&state) * 0.9f);
            for (int i = 0; i < 50; i++) {
                x[i] = check_uniform(&state) * range;
            }
            CHECK(collect(observer, x, 50) == QB_OK);
            if (batch == 0) {
                lowest = contents_of(observer).edges[0];
            }
            for (int i = 0; i < 50; i++) {
                total += fabsf(x[i]) >= lowest; /* FROM_MIN loses what lies below its first edge */
            }
            const contents c = contents_of(observer);
            CHECK(counted(observer) == total);
            for (int64_t i = 0; i < c.bins; i++) {
                CHECK(c.edges[i] < c.edges[i + 1]);
            }
        }
        qb_observer_release(observer);
    }
    qb_device_close(device);
}

static void
zeros_wait_for_data(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 8));
    CHECK(collect(observer, (float[]){0.0f, -0.0f, 0.0f}, 3) == QB_OK);
    contents c = contents_of(observer);
    CHECK(c.bins == 8 && c.edges[8] == 0.0f && counted(observer) == 3);
    CHECK(collect(observer, (float[]){0.0f}, 1) == QB_OK && counted(observer) == 4);
    CHECK(collect(observer, (float[]){2.0f, 1.0f, 0.0f}, 3) == QB_OK);
    c = contents_of(observer);
    CHECK(c.bins == 8 && c.edges[8] == 2.0f);
    CHECK(c.counts[0] == 5 && c.counts[4] == 1 && c.counts[7] == 1);
    qb_observer_release(observer);

    qb_observer_options options = histogram_options(QB_HISTOGRAM_FROM_ZERO, 8);
    options.skip_zeros = 1;
    observer = new_observer(device, options);
    CHECK(collect(observer, (float[]){0.0f, 0.0f}, 2) == QB_OK);
    CHECK(!qb_observer_has_data(observer));
    CHECK(collect(observer, (float[]){0.0f, 3.0f}, 2) == QB_OK && counted(observer) == 1);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
reset_restores_the_number_of_bins(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 16));
    CHECK(collect(observer, (float[]){1.0f}, 1) == QB_OK);
    CHECK(collect(observer, (float[]){50.0f}, 1) == QB_OK);
    CHECK(contents_of(observer).bins == 800);
    CHECK(qb_observer_reset(observer) == QB_OK && !qb_observer_has_data(observer));
    CHECK(collect(observer, (float[]){1.0f}, 1) == QB_OK);
    CHECK(contents_of(observer).bins == 16);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
a_fixed_range_does_not_care_how_data_are_split(void)
{
    static float x[100003];
    fill_uniform(x, 100003, 2.0f, 11);
    qb_observer_options options = histogram_options(QB_HISTOGRAM_FIXED, 257);
    options.fixed_max = 2.0f;
    qb_device *one = open_device(1, NULL);
    qb_device *four = open_device(4, NULL);
    qb_observer *whole = new_observer(one, options);
    qb_observer *parts = new_observer(four, options);
    qb_observer *rest = new_observer(four, options);
    CHECK(collect(whole, x, 100003) == QB_OK);
    CHECK(collect(rest, x + 70001, 100003 - 70001) == QB_OK);
    CHECK(collect(parts, x + 13, 70001 - 13) == QB_OK);
    CHECK(collect(parts, x, 13) == QB_OK);
    CHECK(qb_observer_merge(parts, rest, NULL) == QB_OK);
    const contents a = contents_of(whole);
    const contents b = contents_of(parts);
    CHECK(a.bins == 257 && b.bins == 257);
    CHECK(memcmp(a.counts, b.counts, 257 * sizeof *a.counts) == 0);
    CHECK(memcmp(a.edges, b.edges, 258 * sizeof *a.edges) == 0);
    CHECK(counted(whole) == 100003);
    qb_error error;
    CHECK(qb_observer_collect(whole, NULL, (float[]){2.5f}, 0, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "fixed_max");
    CHECK(counted(whole) == 100003);
    qb_observer_release(whole);
    qb_observer_release(parts);
    qb_observer_release(rest);
    qb_device_close(one);
    qb_device_close(four);
}

/* Steps of such a range are subnormal: their rounding, times the number of bins, is many steps. */
static void
edges_of_a_subnormal_range_never_decrease(void)
{
    const int64_t sizes[] = {1, 2, 3, 7, 128, 2048, 2049};
    const float ranges[] = {1e-45f, 3e-44f, 1e-40f, 9.97e-41f, 1.17549421e-38f, 2.4e-35f};
    qb_device *device = open_device(1, NULL);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t j = 0; j < sizeof ranges / sizeof *ranges; j++) {
            qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, sizes[i]));
            const float x[] = {ranges[j], -ranges[j] / 2, ranges[j] / 3, 0.0f};
            CHECK(collect(observer, x, 4) == QB_OK);
            const contents c = contents_of(observer);
            CHECK(c.bins == sizes[i] && c.edges[0] == 0.0f && c.edges[c.bins] == ranges[j] && counted(observer) == 4);
            for (int64_t k = 0; k < c.bins; k++) {
                CHECK(c.edges[k] <= c.edges[k + 1]);
            }
            qb_observer *resumed = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, sizes[i]));
            CHECK(qb_observer_set_histogram(resumed, c.counts, c.edges, c.bins, NULL) == QB_OK);
            qb_observer_release(resumed);
            float amax = -1.0f;
            CHECK(qb_amax_percentile(c.counts, c.edges, c.bins, 100.0, &amax, NULL) == QB_OK);
            CHECK(amax >= 0.0f && amax <= ranges[j]);
            qb_observer_release(observer);
        }
    }
    qb_device_close(device);
}

/* Growth under FROM_MIN makes edges that float32 cannot hold; counting and growing go on from the exact ones. */
static void
contents_put_back_go_on_to_the_last_bit(void)
{
    const qb_histogram_rule rules[] = {QB_HISTOGRAM_FROM_ZERO, QB_HISTOGRAM_FROM_MIN};
    qb_device *device = open_device(1, NULL);
    for (int rule = 0; rule < 2; rule++) {
        for (int before = 1; before <= 4; before++) {
            unsigned long long state = 11;
            qb_observer *whole = new_observer(device, histogram_options(rules[rule], 33));
            qb_observer *resumed = new_observer(device, histogram_options(rules[rule], 33));
            for (int batch = 0; batch < 8; batch++) {
                float x[97];
                for (int i = 0; i < 97; i++) {
                    x[i] = check_uniform(&state) * (float)(1 + batch * batch) * 0.37f;
                }
                CHECK(collect(whole, x, 97) == QB_OK);
                if (batch < before) {
                    const contents c = contents_of(whole);
                    const double *fine = qb_observer_fine_edges(whole);
                    CHECK((fine != NULL) == (rule == 1 && batch > 0));
                    CHECK(qb_observer_set_histogram(resumed, c.counts, c.edges, c.bins, NULL) == QB_OK);
                    CHECK(fine == NULL || qb_observer_set_fine_edges(resumed, fine, c.bins, NULL) == QB_OK);
                }
                else {
                    CHECK(collect(resumed, x, 97) == QB_OK);
                }
                const contents a = contents_of(whole);
                const contents b = contents_of(resumed);
                CHECK(a.bins == b.bins);
                CHECK(memcmp(a.counts, b.counts, (size_t)a.bins * sizeof *a.counts) == 0);
                CHECK(memcmp(a.edges, b.edges, (size_t)(a.bins + 1) * sizeof *a.edges) == 0);
            }
            qb_observer_release(whole);
            qb_observer_release(resumed);
        }
    }
    qb_device_close(device);
}

static void
fine_edges_that_are_none_are_refused(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_MIN, 2));
    const int64_t counts[] = {1, 2};
    const double good[] = {0.0, 1.00000001, 2.0};
    CHECK(qb_observer_set_fine_edges(observer, good, 2, NULL) == QB_ERR_STATE); /* nothing is there */
    CHECK(qb_observer_set_histogram(observer, counts, (float[]){0.0f, 1.0f, 2.0f}, 2, NULL) == QB_OK);
    CHECK(qb_observer_set_fine_edges(observer, good, 1, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_set_fine_edges(observer, NULL, 2, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_set_fine_edges(observer, (double[]){0.0, 1.1, 2.0}, 2, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_set_fine_edges(observer, (double[]){0.0, (double)NAN, 2.0}, 2, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_fine_edges(observer) == NULL);
    CHECK(qb_observer_set_fine_edges(observer, good, 2, NULL) == QB_OK);
    CHECK(qb_observer_fine_edges(observer)[1] == good[1]);
    qb_observer_release(observer);
    qb_observer *other = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 2));
    CHECK(qb_observer_set_histogram(other, counts, (float[]){0.0f, 1.0f, 2.0f}, 2, NULL) == QB_OK);
    CHECK(qb_observer_set_fine_edges(other, good, 2, NULL) == QB_ERR_STATE);
    qb_observer_release(other);
    qb_device_close(device);
}

static void
histograms_of_different_edges_do_not_merge(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *a = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 8));
    qb_observer *b = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 8));
    qb_observer *empty = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 8));
    CHECK(collect(a, (float[]){1.0f}, 1) == QB_OK);
    CHECK(collect(b, (float[]){2.0f}, 1) == QB_OK);
    CHECK(qb_observer_merge(a, b, NULL) == QB_ERR_STATE && counted(a) == 1);
    CHECK(qb_observer_merge(a, empty, NULL) == QB_OK && counted(a) == 1);
    CHECK(qb_observer_merge(empty, a, NULL) == QB_OK && counted(empty) == 1);
    qb_observer_release(a);
    qb_observer_release(b);
    qb_observer_release(empty);
    qb_device_close(device);
}

static void
counts_do_not_stop_at_two_to_the_24_or_32(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 2));
    const int64_t counts[2] = {((int64_t)1 << 40) + 1, 0};
    CHECK(qb_observer_set_histogram(observer, counts, (float[]){0.0f, 1.0f, 2.0f}, 2, NULL) == QB_OK);
    CHECK(collect(observer, (float[]){0.5f, 1.5f}, 2) == QB_OK);
    const contents c = contents_of(observer);
    CHECK(c.counts[0] == ((int64_t)1 << 40) + 2 && c.counts[1] == 1);
    float amax = 0.0f;
    CHECK(qb_amax_percentile(c.counts, c.edges, 2, 100.0, &amax, NULL) == QB_OK);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
contents_that_are_no_histogram_are_refused(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 2));
    const int64_t counts[2] = {1, 2};
    CHECK(qb_observer_set_histogram(observer, (int64_t[]){1, -1}, (float[]){0, 1, 2}, 2, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_set_histogram(observer, counts, (float[]){0, 1, 1}, 2, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_set_histogram(observer, counts, (float[]){0, NAN, 1}, 2, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_set_histogram(observer, counts, (float[]){1, 2, 3}, 2, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_set_histogram(observer, counts, (float[]){0, 1, 2}, 0, NULL) == QB_ERR_VALUE);
    CHECK(qb_observer_set_histogram(observer, NULL, (float[]){0, 1, 2}, 2, NULL) == QB_ERR_VALUE);
    CHECK(!qb_observer_has_data(observer));
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
numpys_rule_starts_at_the_smallest_magnitude(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_MIN, 4));
    CHECK(collect(observer, (float[]){1.0f, -2.0f, 5.0f, 4.9999995f, 3.0f}, 5) == QB_OK);
    contents c = contents_of(observer);
    CHECK(c.bins == 4 && c.edges[0] == 1.0f && c.edges[4] == 5.0f);
    CHECK(c.counts[0] == 1 && c.counts[1] == 1 && c.counts[2] == 1 && c.counts[3] == 2);
    CHECK(collect(observer, (float[]){0.5f, 7.5f}, 2) == QB_OK); /* the first lies below all edges */
    c = contents_of(observer);
    CHECK(c.bins == 7 && c.edges[7] == 8.0f && c.counts[6] == 1 && counted(observer) == 6);
    CHECK(qb_observer_reset(observer) == QB_OK);
    CHECK(collect(observer, (float[]){3.0f, 3.0f}, 2) == QB_OK);
    c = contents_of(observer);
    CHECK(c.edges[0] == 2.5f && c.edges[4] == 3.5f && c.counts[2] == 2);
    qb_observer_release(observer);
    qb_device_close(device);
}

static void
absurd_growth_is_an_error_not_an_allocation(void)
{
    qb_device *device = open_device(1, NULL);
    qb_observer *observer = new_observer(device, histogram_options(QB_HISTOGRAM_FROM_ZERO, 2048));
    CHECK(collect(observer, (float[]){1e-20f}, 1) == QB_OK);
    qb_error error;
    CHECK(qb_observer_collect(observer, NULL, (float[]){1.0f}, 0, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "bins");
    CHECK(counted(observer) == 1);
    qb_observer_release(observer);
    qb_device_close(device);
}

int
main(void)
{
    RUN(the_first_tensor_sets_the_width_and_later_ones_add_bins);
    RUN(growth_counts_every_element_whatever_the_width);
    RUN(zeros_wait_for_data);
    RUN(reset_restores_the_number_of_bins);
    RUN(a_fixed_range_does_not_care_how_data_are_split);
    RUN(edges_of_a_subnormal_range_never_decrease);
    RUN(contents_put_back_go_on_to_the_last_bit);
    RUN(fine_edges_that_are_none_are_refused);
    RUN(histograms_of_different_edges_do_not_merge);
    RUN(counts_do_not_stop_at_two_to_the_24_or_32);
    RUN(contents_that_are_no_histogram_are_refused);
    RUN(numpys_rule_starts_at_the_smallest_magnitude);
    RUN(absurd_growth_is_an_error_not_an_allocation);
    return check_report();
}
