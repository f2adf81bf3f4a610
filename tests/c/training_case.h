/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests of training share: a batch with padding, a session that trains, and its gradients in one array.
 */
#ifndef QB_TESTS_TRAINING_CASE_H
#define QB_TESTS_TRAINING_CASE_H

#include "model_case.h"

enum { BATCH = 3, LENGTH = 19, TOKENS = BATCH * LENGTH, MOST_LOGITS = TOKENS * VOCABULARY };
enum { NODES = 2 + 5 * LAYERS, HEAD_NODE = NODES - 1 };

typedef struct training_case {
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    float logits[MOST_LOGITS];
    float d[MOST_LOGITS]; /* gradient of the logits */
    qb_forward_inputs inputs;
} training_case;

static inline void
training_fill(training_case *c)
{
    static const int64_t lengths[BATCH] = {19, 1, 12};
    unsigned long long seed = 5;
    model_ids(c->ids, TOKENS, 31);
    for (int64_t i = 0; i < TOKENS; i++) {
        c->mask[i] = i % LENGTH < lengths[i / LENGTH];
    }
    for (int64_t i = 0; i < MOST_LOGITS; i++) {
        c->d[i] = check_uniform(&seed);
    }
    c->inputs = model_inputs(BATCH, LENGTH, c->ids, c->mask);
}

static inline qb_session *
training_session(qb_model *model)
{
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = BATCH,
                                        .max_length = LENGTH,
                                        .keep_probabilities = 1,
                                        .trains = 1};
    return session_make_of(model, &options);
}

static inline qb_status
training_forward(qb_session *session, training_case *c, qb_error *error)
{
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = c->logits};
    return qb_session_forward(session, NULL, &c->inputs, &outputs, error);
}

static inline qb_status
training_backward(qb_session *session, const training_case *c, qb_error *error)
{
    const qb_backward_inputs inputs = {.struct_size = sizeof inputs, .d_logits = c->d};
    return qb_session_backward(session, NULL, &inputs, NULL, error);
}

/* All gradients in one array; *count is their number. */
static inline float *
training_gradients(const qb_model *model, int64_t *count)
{
    *count = 0;
    for (int pass = 0;; pass++) {
        float *all = pass == 0 ? NULL : case_memory((size_t)*count * sizeof *all);
        int64_t at = 0;
        for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
            const qb_parameter_info info = qb_model_parameter(model, i);
            const int64_t n = info.shape[0] * (info.rank == 2 ? info.shape[1] : 1);
            const float *gradient = qb_model_gradient(model, i);
            if (pass == 1 && gradient != NULL) {
                memcpy(all + at, gradient, (size_t)n * sizeof *all);
            }
            at += n;
        }
        *count = at;
        if (pass == 1) {
            return all;
        }
    }
}

/* 0: float, 1: codes with static ranges, 2: ranges made from each tensor. */
static inline void
training_set_mode(qb_model *model, int mode)
{
    if (mode == 0) {
        model_set_stages(model, QB_STAGE_DISABLED);
    }
    else if (mode == 1) {
        model_set_ranges(model);
    }
}

/* `p` for every dropout that an encoder with this head has. */
static inline void
training_set_dropout(training_case *c, qb_head head, float p, float probabilities[NODES])
{
    const int has_head = head == QB_HEAD_SEQUENCE_CLASSIFICATION || head == QB_HEAD_TOKEN_CLASSIFICATION;
    for (int64_t i = 0; i < NODES; i++) {
        const int is_cross = i > 0 && i < HEAD_NODE && ((i - 1) % 5 == 2 || (i - 1) % 5 == 3);
        probabilities[i] = is_cross || (i == HEAD_NODE && !has_head) ? 0.0f : p;
    }
    c->inputs.dropout_probabilities = probabilities;
    c->inputs.dropout_seed = 0xfedcba9876543210u;
    c->inputs.dropout_step = 11;
}

/* Logits, then gradients, of one step; *count is their number. */
static inline float *
training_step(qb_session *session, training_case *c, int64_t *count)
{
    CHECK(qb_model_zero_gradients(session->model, NULL, 0, NULL) == QB_OK);
    memset(c->logits, 0, sizeof c->logits);
    CHECK(training_forward(session, c, NULL) == QB_OK);
    CHECK(training_backward(session, c, NULL) == QB_OK);
    float *gradients = training_gradients(session->model, count);
    float *all = case_memory((size_t)(*count + MOST_LOGITS) * sizeof *all);
    memcpy(all, c->logits, sizeof c->logits);
    memcpy(all + MOST_LOGITS, gradients, (size_t)*count * sizeof *all);
    *count += MOST_LOGITS;
    free(gradients);
    return all;
}

static inline int
differ(const float *a, const float *b, int64_t count)
{
    return memcmp(a, b, (size_t)count * sizeof *a) != 0;
}

#endif
