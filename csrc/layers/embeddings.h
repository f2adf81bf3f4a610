/* SPDX-License-Identifier: Apache-2.0
 *
 * Word, token-type and position embeddings, then LayerNorm and dropout; never quantized.
 *
 *   y = dropout(LayerNorm((word[id] + token_type[type]) + position[p]))       y (M, H), one row per computed token
 *
 * With relative positions, which attention adds, the last term is left out; the table is there all the same, as in the
 * original.
 *
 * The parentheses are the original's order of additions.  Positions are explicit, so a token that is not computed
 * changes nothing for the others.  A caller may bring its own word vectors.
 */
#ifndef QB_LAYERS_EMBEDDINGS_H
#define QB_LAYERS_EMBEDDINGS_H

#include "core/run.h"
#include "layers/coded.h"
#include "layers/dropout.h"
#include "layers/layer_norm.h"
#include "layers/scratch.h"

typedef struct qb_embeddings {
    int64_t features;        /* H */
    qb_parameter word;       /* (V, H) */
    qb_parameter position;   /* (P, H) */
    qb_parameter token_type; /* (types, H) */
    int64_t padding_token;   /* its word vector gets no gradient; -1: none, from init on, an owner may set one */
    int adds_positions;      /* 1 from init on; an owner with relative positions clears it */
    qb_layer_norm norm;
} qb_embeddings;

/* One entry per computed token, all in range (the session checks). */
typedef struct qb_embeddings_input {
    int64_t tokens;
    const int64_t *ids;       /* (M); NULL when vectors are given */
    const float *vectors;     /* (rows, H) word vectors, or NULL */
    const int64_t *rows;      /* (M) the row of `vectors` for each token; used with vectors only */
    const int64_t *types;     /* (M) */
    const int64_t *positions; /* (M) */
    const qb_dropout_node *dropout;
} qb_embeddings_input;

void qb_embeddings_init(qb_embeddings *self, int64_t vocabulary, int64_t positions, int64_t types, int64_t features,
                        float eps);
qb_status qb_embeddings_visit(qb_embeddings *self, const qb_visitor *visitor, const qb_path *path);
size_t qb_embeddings_scratch_bytes(const qb_embeddings *self);
/* y (M, H) and the codes that `wanted` asks for; NULL: y alone.  y is left alone if wanted->lacks_floats, which is 0 on
 * return if it was written.  `scratch` has slots of qb_embeddings_scratch_bytes.  Fails only when interrupted. */
qb_status qb_embeddings_forward(const qb_embeddings *self, const qb_run *run, const qb_embeddings_input *input,
                                qb_scratch *scratch, float *y, qb_coded *wanted);

void qb_embeddings_gradient_sizes(const qb_embeddings *self, int64_t tokens, qb_gradient_sizes *sizes);
/* dy (M, H) is overwritten with the gradient of the sum of the three vectors, which is that of a given word vector. */
qb_status qb_embeddings_backward(const qb_embeddings *self, const qb_gradient_work *work, const qb_run *run,
                                 const qb_embeddings_input *input, float *dy);

#endif
