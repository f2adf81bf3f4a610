/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests of models and sessions share: a small BERT whose sizes miss every tile, filled with reproducible numbers,
 * and forward calls in one line.
 */
#ifndef QB_TESTS_MODEL_CASE_H
#define QB_TESTS_MODEL_CASE_H

#include "layer_case.h"
#include "models/model.h"
#include "models/session.h"

enum { VOCABULARY = 37, HIDDEN = 30, LAYERS = 2, HEADS = 5, INTERMEDIATE = 70, POSITIONS = 40, LABELS = 2 };

static inline qb_model_options
model_options(qb_head head)
{
    const qb_model_options options = {
        .struct_size = sizeof options,
        .vocab_size = VOCABULARY,
        .hidden_size = HIDDEN,
        .num_layers = LAYERS,
        .num_heads = HEADS,
        .intermediate_size = INTERMEDIATE,
        .max_positions = POSITIONS,
        .type_vocab_size = 2,
        .num_labels = LABELS,
        .layer_norm_eps = 1e-12f,
        .hidden_act = "gelu",
        .add_pooling_layer = 1,
        .head = head,
        .input_quantizer = case_quantizer_options(8, 0),
        .weight_quantizer = case_quantizer_options(8, 1),
    };
    return options;
}

/* Weights in [-0.4, 0.4), LayerNorm weights around 1. */
static inline void
model_fill(qb_model *model)
{
    unsigned long long seed = 77;
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        const int is_norm = strstr(info.name, "LayerNorm.weight") != NULL;
        float *data = NULL;
        CHECK(qb_model_parameter_write(model, i, &data, NULL) == QB_OK);
        const int64_t n = info.shape[0] * (info.rank == 2 ? info.shape[1] : 1);
        for (int64_t j = 0; j < n; j++) {
            data[j] = (is_norm ? 1.0f : 0.0f) + 0.4f * check_uniform(&seed);
        }
    }
}

static inline qb_model *
model_make_of(qb_device *device, const qb_model_options *options)
{
    qb_model *model = NULL;
    CHECK(qb_model_create(device, options, &model, NULL) == QB_OK);
    model_fill(model);
    return model;
}

static inline qb_model *
model_make(qb_device *device, qb_head head)
{
    const qb_model_options options = model_options(head);
    return model_make_of(device, &options);
}

static inline void
model_set_stages(qb_model *model, uint32_t stages)
{
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        CHECK(qb_quantizer_set_stages(qb_model_quantizer(model, i), stages) == QB_OK);
    }
}

/* A static range for every activation. */
static inline void
model_set_ranges(qb_model *model)
{
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        const char *name = qb_model_quantizer_name(model, i);
        if (strstr(name, "_weight_quantizer") == NULL) {
            case_set_amax(qb_model_quantizer(model, i), strstr(name, "matmul_a") != NULL ? 1.0f : 3.0f);
        }
    }
}

static inline qb_session *
session_make_of(qb_model *model, const qb_session_options *options)
{
    qb_session *session = NULL;
    qb_error error;
    if (qb_session_create(model, options, &session, &error) != QB_OK) {
        (void)fprintf(stderr, "%s\n", error.message);
        CHECK(0);
    }
    return session;
}

static inline qb_session *
session_make(qb_model *model, int64_t max_sequences, int64_t max_length, int keep_probabilities)
{
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = max_sequences,
                                        .max_length = max_length,
                                        .keep_probabilities = keep_probabilities};
    return session_make_of(model, &options);
}

/* ids (B, T), reproducible. */
static inline void
model_ids(int64_t *ids, int64_t count, unsigned long long seed)
{
    for (int64_t i = 0; i < count; i++) {
        ids[i] = (int64_t)(check_random(&seed) % VOCABULARY);
    }
}

/* The inputs most tests want. */
static inline qb_forward_inputs
model_inputs(int64_t batch, int64_t length, const int64_t *ids, const int64_t *mask)
{
    const qb_forward_inputs inputs = {.struct_size = sizeof inputs,
                                      .batch = batch,
                                      .length = length,
                                      .input_ids = ids,
                                      .attention_mask = mask,
                                      .attention_mask_rank = 2};
    return inputs;
}

#endif
