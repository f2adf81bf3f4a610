/* SPDX-License-Identifier: Apache-2.0
 *
 * Dotted names: an append-only registry, glob matching over whole names, and edit distance for "did you mean".  The
 * original toggled by regular-expression search, where "layer.1" also hit "layer.10" and a pattern that hit nothing was
 * silence; globs match the whole name, and callers can tell what a pattern matched.
 */
#ifndef QB_CORE_NAMES_H
#define QB_CORE_NAMES_H

#include "core/alloc.h"
#include "core/status.h"

typedef struct qb_names {
    qb_heap *heap;
    char (*text)[QB_NAME_BYTES]; /* (capacity) */
    int64_t count;
    int64_t capacity;
} qb_names;

void qb_names_init(qb_names *names, qb_heap *heap);
void qb_names_clear(qb_names *names); /* gives the memory back */
/* Append the path in words; QB_ERR_NOMEM; QB_ERR_VALUE when it is longer than QB_NAME_BYTES - 1. */
qb_status qb_names_append(qb_names *names, const qb_path *path, qb_error *error);
/* Index of an exact name, or -1. */
int64_t qb_names_find(const qb_names *names, const char *name);

#endif
