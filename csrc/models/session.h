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
};

#endif
