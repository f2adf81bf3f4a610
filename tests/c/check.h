/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole C test framework: CHECK counts and reports, RUN names the fact that is being proved, and the exit status
 * says whether anything failed or nothing ran.
 */
#ifndef QB_TESTS_CHECK_H
#define QB_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_failures;
static int check_count;
static const char *check_current = "";

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        check_count++;                                                                                                 \
        if (!(condition)) {                                                                                            \
            check_failures++;                                                                                          \
            if (check_failures <= 20) {                                                                                \
                (void)fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, check_current, #condition);               \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* Text must contain `part`. */
#define CHECK_CONTAINS(text, part) CHECK(strstr((text), (part)) != NULL)

#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        check_current = #test;                                                                                         \
        test();                                                                                                        \
    } while (0)

static inline int
check_report(void)
{
    (void)printf("%d checks, %d failures\n", check_count, check_failures);
    return check_failures == 0 && check_count > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* A small reproducible generator (splitmix64), so that no test depends on the platform's rand. */
static inline unsigned long long
check_random(unsigned long long *state)
{
    unsigned long long z = (*state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

/* Uniform in [-1, 1). */
static inline float
check_uniform(unsigned long long *state)
{
    return (float)((double)(check_random(state) >> 11) / 4503599627370496.0 - 1.0);
}

#endif
