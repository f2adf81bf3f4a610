/* SPDX-License-Identifier: Apache-2.0
 *
 * Dropout in layers: which random word decides about which element, and that nothing else does.
 */
#include "kernels/cpu/ref/philox.h"
#include "layers/dropout.h"

#include "layer_case.h"

enum { SEQUENCES = 4, TOKENS = 31, FEATURES = 13, HEADS = 3, KEYS = 21, NODES = 12, NODE = 7 };

static const uint64_t seed = 0x123456789abcdef0u;
static const uint64_t step = 0x0000000500000003u;
static const int64_t offsets[SEQUENCES] = {0, 1, 20, 25};
static const int64_t lengths[SEQUENCES] = {1, 19, 5, 6};
static const qb_sequences sequences = {
    .count = SEQUENCES, .tokens = TOKENS, .max_length = 19, .offsets = offsets, .lengths = lengths};

/* What an element is multiplied with, from the definition. */
static float
naive_factor(int64_t sequence, int64_t element, double p)
{
    const ref_philox_words counter = {
        {(uint32_t)(element / 4), (uint32_t)(NODE + sequence * NODES), (uint32_t)step, (uint32_t)(step >> 32)}};
    const ref_philox_words words = ref_philox(counter, (uint32_t)seed, (uint32_t)(seed >> 32));
    return (double)words.word[element % 4] >= rint(p * 4294967296.0) ? (float)(1.0 / (1.0 - p)) : 0.0f;
}

static qb_dropout_node
node_of(float probability, const qb_sequences *of)
{
    return qb_dropout_node_of(probability, seed, step, NODE, NODES, of);
}

static void
test_elements_are_numbered_within_their_sequence(void)
{
    case_devices devices = case_devices_open();
    float *x = case_random(TOKENS * FEATURES, 1.0f, 1);
    float *y = case_memory(TOKENS * FEATURES * sizeof *y);
    const float p = 0.3f;
    const qb_dropout_node node = node_of(p, &sequences);
    for (size_t d = 0; d < devices.count; d++) {
        const qb_run run = qb_device_run(devices.at[d], NULL, NULL);
        CHECK(qb_dropout_apply(&run, &node, x, TOKENS, FEATURES, y) == QB_OK);
        int equal = 1;
        for (int64_t b = 0; b < SEQUENCES; b++) {
            for (int64_t i = 0; i < lengths[b] * FEATURES; i++) {
                const int64_t at = offsets[b] * FEATURES + i;
                equal &= y[at] == x[at] * naive_factor(b, i, (double)p);
            }
        }
        CHECK(equal);
    }
    free(x);
    free(y);
    case_devices_close(&devices);
}

static void
test_rows_may_be_cut_anywhere_and_output_may_be_the_input(void)
{
    qb_device *device = case_device(NULL, 1);
    float *x = case_random(TOKENS * FEATURES, 1.0f, 2);
    float *y = case_memory(TOKENS * FEATURES * sizeof *y);
    const qb_dropout_node node = node_of(0.5f, &sequences);
    qb_dropout_rows(&device->kernels, &node, FEATURES, 0, TOKENS, x, y);
    for (int64_t rows = 1; rows <= TOKENS; rows++) {
        float *cut = case_memory(TOKENS * FEATURES * sizeof *cut);
        memcpy(cut, x, TOKENS * FEATURES * sizeof *cut);
        for (int64_t row = 0; row < TOKENS; row += rows) {
            const int64_t end = row + rows < TOKENS ? row + rows : TOKENS;
            qb_dropout_rows(&device->kernels, &node, FEATURES, row, end, cut, cut);
        }
        CHECK(same_bits(cut, y, TOKENS * FEATURES));
        free(cut);
    }
    free(x);
    free(y);
    qb_device_close(device);
}

static void
test_rows_without_sequences_are_one_each(void)
{
    qb_device *device = case_device(NULL, 2);
    const qb_run run = qb_device_run(device, NULL, NULL);
    float *x = case_random(SEQUENCES * FEATURES, 1.0f, 3);
    float *y = case_memory(SEQUENCES * FEATURES * sizeof *y);
    const qb_dropout_node node = node_of(0.25f, NULL);
    CHECK(qb_dropout_apply(&run, &node, x, SEQUENCES, FEATURES, y) == QB_OK);
    for (int64_t i = 0; i < SEQUENCES * FEATURES; i++) {
        CHECK(y[i] == x[i] * naive_factor(i / FEATURES, i % FEATURES, 0.25));
    }
    free(x);
    free(y);
    qb_device_close(device);
}

static void
test_probabilities_are_numbered_by_query_head_and_key(void)
{
    case_devices devices = case_devices_open();
    enum { ROWS = 5, FIRST = 9 };
    float *x = case_random(ROWS * KEYS, 1.0f, 4);
    float *y = case_memory(ROWS * KEYS * sizeof *y);
    const qb_dropout_node node = node_of(0.4f, NULL);
    for (size_t d = 0; d < devices.count; d++) {
        for (int64_t head = 0; head < HEADS; head++) {
            qb_dropout_probabilities(&devices.at[d]->kernels, &node, 2, HEADS, head, FIRST, ROWS, KEYS, x, y);
            int equal = 1;
            for (int64_t i = 0; i < ROWS * KEYS; i++) {
                const int64_t row = (FIRST + i / KEYS) * HEADS + head;
                equal &= y[i] == x[i] * naive_factor(2, row * 131072 + i % KEYS, (double)0.4f);
            }
            CHECK(equal);
        }
    }
    free(x);
    free(y);
    case_devices_close(&devices);
}

static void
test_the_ends_of_the_scale_drop_nothing_and_everything(void)
{
    qb_device *device = case_device(NULL, 2);
    const qb_run run = qb_device_run(device, NULL, NULL);
    float *x = case_random(TOKENS * FEATURES, 1.0f, 5);
    float *y = case_memory(TOKENS * FEATURES * sizeof *y);
    const qb_dropout_node nothing = node_of(0.0f, &sequences);
    const qb_dropout_node everything = node_of(1.0f, &sequences);
    const qb_dropout_node nearly = node_of(0x1.fffffep-1f, &sequences);
    CHECK(!nothing.is_active && everything.is_active && nearly.is_active);
    CHECK(nearly.dropout.threshold == UINT32_MAX - 255 && nearly.dropout.factor == 0x1p24f);
    CHECK(qb_dropout_apply(&run, &everything, x, TOKENS, FEATURES, y) == QB_OK);
    for (int64_t i = 0; i < TOKENS * FEATURES; i++) {
        CHECK(y[i] == 0.0f);
    }
    CHECK(qb_dropout_apply(&run, NULL, x, TOKENS, FEATURES, y) == QB_OK);
    CHECK(same_bits(x, y, TOKENS * FEATURES));
    free(x);
    free(y);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_elements_are_numbered_within_their_sequence);
    RUN(test_rows_may_be_cut_anywhere_and_output_may_be_the_input);
    RUN(test_rows_without_sequences_are_one_each);
    RUN(test_probabilities_are_numbered_by_query_head_and_key);
    RUN(test_the_ends_of_the_scale_drop_nothing_and_everything);
    return check_report();
}
