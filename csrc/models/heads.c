/* SPDX-License-Identifier: Apache-2.0 */
#include "models/heads.h"

#include <string.h>

#include "core/status.h"

static const qb_head_interface heads[] = {
    {QB_HEAD_QUESTION_ANSWERING, "question_answering", "qa_outputs", 0, 0, &qb_head_linear},
    {QB_HEAD_SEQUENCE_CLASSIFICATION, "sequence_classification", "classifier", 1, 1, &qb_head_pooled_linear},
    {QB_HEAD_TOKEN_CLASSIFICATION, "token_classification", "classifier", 0, 1, &qb_head_linear},
    {QB_HEAD_NEXT_SENTENCE, "next_sentence", "cls.seq_relationship", 1, 0, &qb_head_pooled_linear},
    {QB_HEAD_LANGUAGE_MODEL, "language_model", "cls.predictions", 0, 0, &qb_head_language_model},
};

#define HEADS_COUNT (sizeof heads / sizeof heads[0])

const qb_head_interface *
qb_head_find(qb_head kind)
{
    for (size_t i = 0; i < HEADS_COUNT; i++) {
        if (heads[i].kind == kind) {
            return &heads[i];
        }
    }
    return NULL;
}

qb_status
qb_head_from_name(const char *name, qb_head *kind, qb_error *error)
{
    char known[QB_ERROR_BYTES] = "none";
    if (name != NULL && strcmp(name, "none") == 0) {
        *kind = QB_HEAD_NONE;
        return QB_OK;
    }
    for (size_t i = 0; i < HEADS_COUNT; i++) {
        if (name != NULL && strcmp(name, heads[i].name) == 0) {
            *kind = heads[i].kind;
            return QB_OK;
        }
        (void)strncat(known, ", ", sizeof known - strlen(known) - 1);
        (void)strncat(known, heads[i].name, sizeof known - strlen(known) - 1);
    }
    return qb_fail(error, NULL, QB_ERR_VALUE, "head is \"%.60s\", expected one of %s", name == NULL ? "" : name, known);
}

int64_t
qb_head_classes(const qb_head_interface *head, const qb_bert_config *config)
{
    switch (head->kind) {
    case QB_HEAD_NONE:
        return 0;
    case QB_HEAD_NEXT_SENTENCE:
        return 2;
    case QB_HEAD_LANGUAGE_MODEL:
        return config->vocab_size;
    case QB_HEAD_QUESTION_ANSWERING:
    case QB_HEAD_SEQUENCE_CLASSIFICATION:
    case QB_HEAD_TOKEN_CLASSIFICATION:
        return config->num_labels;
    }
    return config->num_labels;
}

void
qb_head_layers_clear(qb_head_layers *self, qb_heap *heap)
{
    qb_linear_clear(&self->output, heap);
    qb_linear_clear(&self->transform, heap);
}

size_t
qb_head_layers_scratch_bytes(const qb_head_layers *self, const qb_kernels *kernels)
{
    const size_t output = qb_linear_scratch_bytes(&self->output, kernels);
    const size_t transform = self->transform.in_features == 0 ? 0 : qb_linear_scratch_bytes(&self->transform, kernels);
    return output > transform ? output : transform;
}
