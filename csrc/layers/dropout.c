/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/dropout.h"

#include <math.h>

#include "layers/gradient.h"

/* Rows that one chunk takes. */
#define GRAIN 16

/* Numbers from one row of probabilities to the next. */
#define KEY_STRIDE ((int64_t)1 << 17)
_Static_assert(KEY_STRIDE > QB_DEPTH_MAX, "rows of probabilities must not share numbers");

qb_dropout_node
qb_dropout_node_of(float probability, uint64_t seed, uint64_t step, uint32_t node, uint32_t nodes,
                   const qb_sequences *sequences)
{
    const double p = (double)probability;
    const int is_everything = p >= 1.0;
    return (qb_dropout_node){
        .is_active = p > 0.0,
        .dropout = {.seed = seed,
                    .step = step,
                    .node = node,
                    .threshold = is_everything ? UINT32_MAX : (uint32_t)rint(p * 4294967296.0),
                    .factor = is_everything ? 0.0f : (float)(1.0 / (1.0 - p))},
        .nodes = nodes,
        .sequences = sequences,
    };
}

static qb_dropout
of_sequence(const qb_dropout_node *node, int64_t sequence)
{
    qb_dropout dropout = node->dropout;
    dropout.node += (uint32_t)sequence * node->nodes;
    return dropout;
}

/* The sequence that a row belongs to. */
static int64_t
find_sequence(const qb_sequences *sequences, int64_t row)
{
    int64_t low = 0;
    int64_t high = sequences->count - 1;
    while (low < high) {
        const int64_t middle = low + (high - low + 1) / 2;
        if (sequences->offsets[middle] <= row) {
            low = middle;
        }
        else {
            high = middle - 1;
        }
    }
    return low;
}

void
qb_dropout_rows(const qb_kernels *kernels, const qb_dropout_node *node, int64_t features, int64_t begin, int64_t end,
                const float *x, float *y)
{
    const qb_sequences *sequences = node->sequences;
    int64_t sequence = sequences == NULL ? begin : find_sequence(sequences, begin);
    for (int64_t row = begin; row < end; sequence++) {
        const int64_t offset = sequences == NULL ? row : sequences->offsets[sequence];
        const int64_t past = sequences == NULL ? row + 1 : offset + sequences->lengths[sequence];
        const int64_t rows = (past < end ? past : end) - row;
        const qb_dropout dropout = of_sequence(node, sequence);
        kernels->dropout_f32(x + row * features, (size_t)(rows * features), &dropout,
                             (uint64_t)((row - offset) * features), y + row * features);
        row += rows;
    }
}

typedef struct dropout_job {
    const qb_kernels *kernels;
    const qb_dropout_node *node;
    int64_t features;
    const float *x;
    float *y;
} dropout_job;

static void
drop_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const dropout_job *job = argument;
    (void)worker;
    qb_dropout_rows(job->kernels, job->node, job->features, begin, end, job->x, job->y);
}

qb_status
qb_dropout_apply(const qb_run *run, const qb_dropout_node *node, const float *x, int64_t rows, int64_t features,
                 float *y)
{
    if (node == NULL) {
        return x == y ? QB_OK : qb_gradient_copy(run, x, rows * features, y);
    }
    dropout_job job = {.kernels = run->kernels, .node = node, .features = features, .x = x, .y = y};
    return qb_run_parallel(run, rows, GRAIN, drop_rows, &job);
}

void
qb_dropout_probabilities(const qb_kernels *kernels, const qb_dropout_node *node, int64_t sequence, int64_t heads,
                         int64_t head, int64_t first_query, int64_t rows, int64_t keys, const float *x, float *y)
{
    const qb_dropout dropout = of_sequence(node, sequence);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t row = (first_query + i) * heads + head;
        kernels->dropout_f32(x + i * keys, (size_t)keys, &dropout, (uint64_t)(row * KEY_STRIDE), y + i * keys);
    }
}
