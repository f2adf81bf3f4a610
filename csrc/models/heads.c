/* SPDX-License-Identifier: Apache-2.0 */
#include "models/heads.h"

static const qb_head_interface *const heads[] = {
    &qb_head_question_answering,
    &qb_head_sequence_classification,
};

const qb_head_interface *
qb_head_find(qb_head kind)
{
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        if (heads[i]->kind == kind) {
            return heads[i];
        }
    }
    return NULL;
}
