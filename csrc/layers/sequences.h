/* SPDX-License-Identifier: Apache-2.0
 *
 * A ragged batch: the computed tokens of all sequences, concatenated without padding.  Activations are
 * (tokens, features); only attention looks at where sequences begin.  So padding costs nothing and cannot leak.
 *
 * A batch that computes its padding (QB_PADDING_COMPUTE) is the same thing with all sequences equally long and an
 * additive mask.
 */
#ifndef QB_LAYERS_SEQUENCES_H
#define QB_LAYERS_SEQUENCES_H

#include <stdint.h>

typedef struct qb_sequences {
    int64_t count;
    int64_t tokens;         /* sum of lengths */
    int64_t max_length;     /* largest of lengths */
    const int64_t *offsets; /* (count) first token of each sequence */
    const int64_t *lengths; /* (count), each >= 1 */
    const int64_t *places;  /* (tokens) column of each token in its row, counted from the first key that there ever was;
                             * increasing.  May be NULL without relative positions and without earlier keys. */
    /* Of tokens that are looked at; NULL: not given. */
    const float *mask;      /* additive, (tokens): one row of keys per sequence at its offset */
    const int64_t *mask_3d; /* (count, T, S) of 0 and 1; all sequences equally long, on both sides */
} qb_sequences;

#endif
