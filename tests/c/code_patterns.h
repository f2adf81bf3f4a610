/* SPDX-License-Identifier: Apache-2.0
 *
 * Operands of codes that saturating, 16-bit or float32 arithmetic would get wrong.
 */
#ifndef QB_TESTS_CODE_PATTERNS_H
#define QB_TESTS_CODE_PATTERNS_H

#include "product_case.h"

static long long outputs; /* compared so far, of one variant */

/* Codes of an operand: of element i of row r. */
typedef enum pattern {
    PATTERN_LOWEST,      /* -128 */
    PATTERN_HIGHEST,     /* 127 */
    PATTERN_ALTERNATING, /* -128, 127, -128, ... and the next row the other way round */
    PATTERN_PAIRS,       /* -128, -128, 127, 127, ...: halves of a step of four */
    PATTERN_ENDS,        /* any of -128, -127, -1, 0, 1, 127 */
    PATTERN_RANDOM,      /* any code */
    PATTERN_COUNT
} pattern;

static inline int8_t
code_of(pattern p, int64_t row, int64_t i, unsigned long long *seed)
{
    static const int8_t ends[] = {-128, -127, -1, 0, 1, 127};
    switch (p) {
    case PATTERN_LOWEST:
        return -128;
    case PATTERN_HIGHEST:
        return 127;
    case PATTERN_ALTERNATING:
        return (row + i) % 2 == 0 ? -128 : 127;
    case PATTERN_PAIRS:
        return (row + i / 2) % 2 == 0 ? -128 : 127;
    case PATTERN_ENDS:
        return ends[(check_random(seed) >> 40) % COUNT(ends)];
    case PATTERN_RANDOM:
    case PATTERN_COUNT:
        break;
    }
    return (int8_t)(check_random(seed) >> 40);
}

/* Every pattern of a against every pattern of b. */
static inline void
compare_patterns(const product_case *p)
{
    operands o = operands_make(p, 17);
    unsigned long long seed = (unsigned long long)p->k;
    for (pattern a = PATTERN_LOWEST; a < PATTERN_COUNT; ++a) {
        for (int64_t i = 0; i < p->m * p->k; ++i) {
            o.qa[i] = code_of(a, i / p->k, i % p->k, &seed);
        }
        for (pattern b = PATTERN_LOWEST; b < PATTERN_COUNT; ++b) {
            for (int64_t i = 0; i < p->n * p->k; ++i) {
                o.qb[i] = code_of(b, i / p->k, i % p->k, &seed);
            }
            compare_operands(p, &o, TYPE_QS8);
            outputs += p->m * p->n;
        }
    }
    operands_free(&o);
}

#endif
