/* SPDX-License-Identifier: Apache-2.0
 *
 * Errors are values with sentences.  A failing function returns qb_fail(...); its callers pass the status on with
 * QB_TRY.  Where the failure happened is a chain of qb_path nodes on the stack, one per layer that was entered, and is
 * turned into text ("bert.encoder.layer.3.attention.self.query: ...") only when something fails, so success pays one
 * pointer per layer.  setjmp was rejected: it would jump over parallel regions and over the interpreter's lock.
 */
#ifndef QB_CORE_STATUS_H
#define QB_CORE_STATUS_H

#include "qdqbert/qdqbert.h"

/* One step of "where am I"; lives on the stack of the layer that made it. */
typedef struct qb_path {
    const struct qb_path *parent; /* NULL at the root */
    const char *name;             /* "attention", "self._input_quantizer"; may hold dots; "" adds nothing */
} qb_path;

#if defined(__GNUC__)
#define QB_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#else
#define QB_PRINTF(format_index, first_argument)
#endif

/* Write "path: sentence" into *error (unless NULL) and return status.  path may be NULL. */
qb_status qb_fail(qb_error *error, const qb_path *path, qb_status status, const char *format, ...) QB_PRINTF(4, 5);

/* The dotted path, cut at the end if it does not fit; returns buffer. */
const char *qb_path_text(const qb_path *path, char *buffer, size_t bytes);

/* The only control-flow macro of the project. */
#define QB_TRY(call)                                                                                                   \
    do {                                                                                                               \
        const qb_status qb_s_ = (call);                                                                                \
        if (qb_s_ != QB_OK) {                                                                                          \
            return qb_s_;                                                                                              \
        }                                                                                                              \
    } while (0)

#endif
