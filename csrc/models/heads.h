/* SPDX-License-Identifier: Apache-2.0
 *
 * The head interface: what turns hidden states into logits.  A head is one file with one constant of this type and a
 * line in the table below; a head that the models of this file do not have is a new file, not a new branch.
 *
 * Heads are float products: the original quantizes none of them.
 */
#ifndef QB_MODELS_HEADS_H
#define QB_MODELS_HEADS_H

#include "layers/linear.h"
#include "models/batch.h"
#include "qdqbert/qdqbert.h"

typedef struct qb_head_inputs {
    const qb_batch *batch;
    const float *hidden; /* (M, H) */
    const float *pooled; /* (B, H); NULL without pooler */
} qb_head_inputs;

typedef struct qb_head_interface {
    qb_head kind;
    int needs_pooler;
    const char *layer_name; /* "qa_outputs" */
    /* Rows of logits for so many tokens and sequences. */
    int64_t (*rows)(int64_t tokens, int64_t sequences);
    /* logits (rows, C) from the inputs. */
    qb_status (*forward)(const qb_linear *layer, const qb_linear_work *work, const qb_run *run,
                         const qb_head_inputs *inputs, float *logits);
    /* Put them where the caller expects them; positions that were not computed become zero. */
    void (*store)(const qb_batch *batch, const float *logits, int64_t classes, float *out);
} qb_head_interface;

extern const qb_head_interface qb_head_question_answering;
extern const qb_head_interface qb_head_sequence_classification;

/* NULL for QB_HEAD_NONE and for values that are no head. */
const qb_head_interface *qb_head_find(qb_head kind);

#endif
