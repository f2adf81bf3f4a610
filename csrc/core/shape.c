/* SPDX-License-Identifier: Apache-2.0 */
#include "core/shape.h"

#include <inttypes.h>
#include <stdio.h>

int
qb_size_multiply(size_t a, size_t b, size_t *out)
{
    if (b != 0 && a > SIZE_MAX / b) {
        return 0;
    }
    *out = a * b;
    return 1;
}

int
qb_size_add(size_t a, size_t b, size_t *out)
{
    if (a > SIZE_MAX - b) {
        return 0;
    }
    *out = a + b;
    return 1;
}

int
qb_shape_elements(int32_t rank, const int64_t *shape, int64_t *elements)
{
    int64_t product = 1;
    int has_zero = 0;
    for (int32_t i = 0; i < rank; i++) {
        if (shape[i] < 0) {
            return 0;
        }
        has_zero |= shape[i] == 0;
    }
    for (int32_t i = 0; i < rank && !has_zero; i++) {
        if (product > INT64_MAX / shape[i]) {
            return 0;
        }
        product *= shape[i];
    }
    *elements = has_zero ? 0 : product;
    return 1;
}

int
qb_shape_equal(int32_t rank_a, const int64_t *a, int32_t rank_b, const int64_t *b)
{
    if (rank_a != rank_b) {
        return 0;
    }
    for (int32_t i = 0; i < rank_a; i++) {
        if (a[i] != b[i]) {
            return 0;
        }
    }
    return 1;
}

const char *
qb_shape_text(int32_t rank, const int64_t *shape, char *buffer, size_t bytes)
{
    int used = snprintf(buffer, bytes, "(");
    for (int32_t i = 0; i < rank && used >= 0 && (size_t)used < bytes; i++) {
        used += snprintf(buffer + used, bytes - (size_t)used, i == 0 ? "%" PRId64 : ", %" PRId64, shape[i]);
    }
    if (used >= 0 && (size_t)used < bytes) {
        (void)snprintf(buffer + used, bytes - (size_t)used, ")");
    }
    return buffer;
}
