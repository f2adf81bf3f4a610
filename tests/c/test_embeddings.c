/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/embeddings.h"

#include <float.h>

#include "layer_case.h"
#include "layers/layer_norm.h"

enum { VOCABULARY = 50, POSITIONS = 40, TYPES = 2 };

static qb_status
bind_parameter(void *context, const qb_path *path, qb_parameter *parameter)
{
    float **next = context;
    (void)path;
    parameter->data = *next;
    *next += parameter->shape[0] * (parameter->rank == 2 ? parameter->shape[1] : 1);
    return QB_OK;
}

static void
check_rows(const qb_embeddings *e, const qb_embeddings_input *in, const float *y)
{
    const int64_t h = e->features;
    for (int64_t i = 0; i < in->tokens; i++) {
        const float *word = in->vectors != NULL ? in->vectors + in->rows[i] * h : e->word.data + in->ids[i] * h;
        const float *type = e->token_type.data + in->types[i] * h;
        const float *position = e->position.data + in->positions[i] * h;
        double mean = 0.0;
        double variance = 0.0;
        for (int64_t f = 0; f < h; f++) {
            mean += ((double)word[f] + (double)type[f] + (double)position[f]) / (double)h;
        }
        for (int64_t f = 0; f < h; f++) {
            const double d = (double)word[f] + (double)type[f] + (double)position[f] - mean;
            variance += d * d / (double)h;
        }
        for (int64_t f = 0; f < h; f++) {
            const double d = (double)word[f] + (double)type[f] + (double)position[f] - mean;
            const double exact = d / sqrt(variance + (double)e->norm.eps) * (double)e->norm.weight.data[f] +
                                 (double)e->norm.bias.data[f];
            /* Sums of h terms of magnitude <= 3 in float32, normalized to magnitudes <= 4 and scaled by <= 1. */
            CHECK(fabs((double)y[i * h + f] - exact) <= (double)(h + 16) * 4.0 * (double)FLT_EPSILON);
        }
    }
}

static void
embed(qb_device *device, const qb_embeddings *e, const qb_embeddings_input *input, float *y, qb_coded *wanted)
{
    case_plan plan;
    const qb_run run = qb_device_run(device, NULL, NULL);
    case_plan_scratch(&plan, device, qb_embeddings_scratch_bytes(e));
    CHECK(qb_embeddings_forward(e, &run, input, &plan.scratch, y, wanted) == QB_OK);
    free(plan.scratch_block);
}

/* Codes of two ranges are those of the floats, which are written only where they are wanted. */
static void
check_codes(qb_device *device, const qb_embeddings *e, const qb_embeddings_input *input, const float *floats)
{
    const int64_t n = input->tokens * e->features;
    const qb_quant_range ranges[] = {{127.0f / 1.5f, -127.0f, 127.0f}, {7.0f / 2.5f, -8.0f, 7.0f}};
    int8_t *expected = case_memory((size_t)n);
    int8_t *codes = case_memory(2 * (size_t)n);
    float *y = case_memory((size_t)n * sizeof *y);
    for (int lacks = 0; lacks < 2; lacks++) {
        qb_coded wanted = {.lacks_floats = lacks};
        qb_coded_add(&wanted, &ranges[0], codes);
        qb_coded_add(&wanted, &ranges[1], codes + n);
        for (int64_t i = 0; i < n; i++) {
            y[i] = -3.0f;
        }
        embed(device, e, input, y, &wanted);
        CHECK(wanted.lacks_floats == lacks && wanted.nonfinite == 0);
        for (int r = 0; r < 2; r++) {
            uint32_t nonfinite = 0;
            device->kernels.quantize_qs8(floats, (size_t)n, &ranges[r], expected, &nonfinite);
            CHECK(memcmp(codes + r * n, expected, (size_t)n) == 0);
        }
        int untouched = 1;
        for (int64_t i = 0; i < n; i++) {
            untouched = untouched && y[i] == -3.0f;
        }
        CHECK(lacks ? untouched : same_bits(y, floats, n));
    }
    free(expected);
    free(codes);
    free(y);
}

static void
test_embeddings_are_the_definition_with_equal_bits_on_every_device(void)
{
    case_devices devices = case_devices_open();
    const int64_t sizes[] = {1, 2, 17, 31};
    const int64_t widths[] = {14, 48, 30};
    for (size_t w = 0; w < COUNT(widths); w++) {
        const int64_t h = widths[w];
        qb_embeddings e;
        qb_embeddings_init(&e, VOCABULARY, POSITIONS, TYPES, h, 1e-12f);
        float *parameters = case_random((VOCABULARY + POSITIONS + TYPES + 2) * h, 1.0f, 31);
        float *next = parameters;
        const qb_visitor visitor = {.context = &next, .parameter = bind_parameter};
        CHECK(qb_embeddings_visit(&e, &visitor, NULL) == QB_OK);
        for (size_t s = 0; s < COUNT(sizes); s++) {
            int64_t ids[31], types[31], positions[31], rows[31];
            for (int64_t i = 0; i < sizes[s]; i++) {
                ids[i] = (i * 7 + 3) % VOCABULARY;
                types[i] = i % TYPES;
                positions[i] = (i * 11 + 1) % POSITIONS;
                rows[i] = sizes[s] - 1 - i;
            }
            float *vectors = case_random(sizes[s] * h, 1.0f, 32);
            float *expected = case_memory((size_t)(sizes[s] * h) * sizeof *expected);
            float *y = case_memory((size_t)(sizes[s] * h) * sizeof *y);
            for (int by_vector = 0; by_vector < 2; by_vector++) {
                const qb_embeddings_input input = {.tokens = sizes[s],
                                                   .ids = by_vector ? NULL : ids,
                                                   .vectors = by_vector ? vectors : NULL,
                                                   .rows = rows,
                                                   .types = types,
                                                   .positions = positions};
                for (size_t d = 0; d < devices.count; d++) {
                    embed(devices.at[d], &e, &input, d == 0 ? expected : y, NULL);
                    CHECK(d == 0 || same_bits(y, expected, sizes[s] * h));
                    check_codes(devices.at[d], &e, &input, expected);
                }
                check_rows(&e, &input, expected);
            }
            free(vectors);
            free(expected);
            free(y);
        }
        free(parameters);
    }
    case_devices_close(&devices);
}

int
main(void)
{
    RUN(test_embeddings_are_the_definition_with_equal_bits_on_every_device);
    return check_report();
}
