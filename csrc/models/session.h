/* SPDX-License-Identifier: Apache-2.0
 *
 * A session: one caller's workspace for one model.
 *
 * Everything that forward writes lies in one block that is planned when the session is made, so forward does not
 * allocate.  The one exception is announced: raising the device's thread count makes the next forward take scratch for
 * the new threads.
 */
#ifndef QB_MODELS_SESSION_H
#define QB_MODELS_SESSION_H

#include <stdatomic.h>

#include "models/batch.h"
#include "models/model.h"

struct qb_session {
    qb_model *model;            /* retained */
    qb_session_options options; /* max_tokens resolved */
    _Atomic int is_busy;
    void *block;
    void *scratch_block;
    qb_scratch scratch;
    qb_batch batch;
    qb_bert_work bert;
    qb_head_work head;
    /* Of sessions that train: gradients of x_L, of the pooled output and of the encoder's states, and what the last
     * forward was asked. */
    float *dhidden;                /* (max tokens, H) */
    float *dpooled;                /* (max sequences, H) */
    float *dmemory;                /* (max encoder tokens, H); NULL: no cross-attention */
    qb_dropout_node *dropouts;     /* (qb_dropout_nodes_count) */
    int has_forward;               /* it succeeded */
    uint64_t epoch;                /* of the model then */
    qb_forward_inputs last_inputs; /* borrowed arrays */
    int last_pooled, last_logits;  /* whether they were computed */
};

/* What a call wants and where it puts it. */
typedef struct qb_forward_call {
    qb_session *session;
    const qb_run *run;
    qb_forward_inputs inputs;
    qb_forward_outputs outputs;
} qb_forward_call;

/* A call as the encoder gets it. */
typedef struct qb_bert_call {
    qb_bert_keys of_self, of_cross;
    qb_bert_inputs inputs; /* points to the two above */
} qb_bert_call;

/* A run of the session's, with its arithmetic, and the packed weights that it needs. */
qb_run qb_session_run(const qb_session *session, const qb_interrupt *interrupt, qb_error *error);
qb_packing qb_session_packing(const qb_session *session);

void qb_forward_call_resolve(qb_forward_call *call, qb_bert_call *bert);
qb_head_inputs qb_forward_call_head_inputs(const qb_forward_call *call);

#endif
