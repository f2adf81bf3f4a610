/* SPDX-License-Identifier: Apache-2.0 */
#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *
qb_status_text(qb_status status)
{
    switch (status) {
    case QB_OK:
        return "success";
    case QB_ERR_NOMEM:
        return "out of memory";
    case QB_ERR_SHAPE:
        return "shape mismatch";
    case QB_ERR_VALUE:
        return "invalid value";
    case QB_ERR_INDEX:
        return "index out of range";
    case QB_ERR_STATE:
        return "wrong state";
    case QB_ERR_UNSUPPORTED:
        return "not supported";
    case QB_ERR_BACKEND:
        return "backend failure";
    case QB_ERR_INTERRUPTED:
        return "interrupted";
    case QB_ERR_INTERNAL:
        return "internal error";
    }
    return "unknown status";
}

const char *
qb_version(void)
{
    return QDQBERT_VERSION;
}

/* Appends the path from the root down.  Recursion depth is the depth of the model's tree. */
static size_t
append_path(const qb_path *path, char *buffer, size_t bytes, size_t used)
{
    if (path == NULL) {
        return used;
    }
    used = append_path(path->parent, buffer, bytes, used);
    for (const char *c = path->name; *c != '\0' && used + 1 < bytes; c++) {
        if (c == path->name && used > 0) {
            buffer[used++] = '.';
            if (used + 1 >= bytes) {
                break;
            }
        }
        buffer[used++] = *c;
    }
    return used;
}

const char *
qb_path_text(const qb_path *path, char *buffer, size_t bytes)
{
    if (bytes > 0) {
        buffer[append_path(path, buffer, bytes, 0)] = '\0';
    }
    return buffer;
}

qb_status
qb_fail(qb_error *error, const qb_path *path, qb_status status, const char *format, ...)
{
    if (error == NULL) {
        return status;
    }
    error->status = status;
    size_t used = append_path(path, error->message, QB_ERROR_BYTES - 2, 0);
    if (used > 0) {
        error->message[used++] = ':';
        error->message[used++] = ' ';
    }
    error->message[used] = '\0';
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(error->message + used, QB_ERROR_BYTES - used, format, arguments);
    va_end(arguments);
    return status;
}
