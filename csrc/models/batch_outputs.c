/* SPDX-License-Identifier: Apache-2.0
 *
 * From ragged results back to the caller's padded tensors.
 */
#include <string.h>

#include "models/batch.h"

void
qb_batch_scatter(const qb_batch *batch, const float *x, int64_t features, float *y)
{
    const int64_t rows = batch->batch * batch->length;
    const size_t bytes = (size_t)features * sizeof *y;
    int64_t next = 0;
    for (int64_t m = 0; m < batch->sequences.tokens; m++) {
        memset(y + next * features, 0, (size_t)(batch->rows[m] - next) * bytes);
        memcpy(y + batch->rows[m] * features, x + m * features, bytes);
        next = batch->rows[m] + 1;
    }
    memset(y + next * features, 0, (size_t)(rows - next) * bytes);
}

void
qb_batch_gather(const qb_batch *batch, const float *y, int64_t features, float *x)
{
    for (int64_t m = 0; m < batch->sequences.tokens; m++) {
        memcpy(x + m * features, y + batch->rows[m] * features, (size_t)features * sizeof *x);
    }
}

void
qb_batch_gather_accumulate(const qb_batch *batch, const qb_kernels *kernels, const float *y, int64_t features, float *x)
{
    for (int64_t m = 0; m < batch->sequences.tokens; m++) {
        float *row = x + m * features;
        kernels->add_f32(row, y + batch->rows[m] * features, (size_t)features, row);
    }
}

void
qb_batch_scatter_pairs(const qb_batch *batch, const qb_sequences *keys, int64_t width, const float *x, int64_t heads,
                       float *y)
{
    const int64_t t = batch->length;
    memset(y, 0, (size_t)(batch->batch * heads * t * width) * sizeof *y);
    for (int64_t b = 0; b < batch->batch; b++) {
        const int64_t rows = batch->sequences.lengths[b];
        const int64_t s = keys->lengths[b];
        const int64_t *row_of = batch->rows + batch->sequences.offsets[b]; /* b * T + t */
        const int64_t *column_of = keys->places + keys->offsets[b];
        for (int64_t pair = 0; pair < heads * rows; pair++) {
            const int64_t row = row_of[pair % rows] - b * t;
            float *out = y + ((b * heads + pair / rows) * t + row) * width;
            for (int64_t j = 0; j < s; j++) {
                out[column_of[j]] = x[j];
            }
            x += s;
        }
    }
}

/* y (N, width, D) of one sequence: rows of x (count, N D) at the columns in places. */
static void
place_rows(const float *x, const int64_t *places, int64_t count, int64_t heads, int64_t head_size, int64_t width,
           float *y)
{
    for (int64_t i = 0; i < count; i++) {
        for (int64_t head = 0; head < heads; head++) {
            memcpy(y + (head * width + places[i]) * head_size, x + (i * heads + head) * head_size,
                   (size_t)head_size * sizeof *y);
        }
    }
}

void
qb_batch_scatter_keys(const qb_batch *batch, const float *earlier, const float *x, int64_t heads, int64_t head_size,
                      float *y)
{
    const qb_sequences *own = &batch->sequences;
    const int64_t past = batch->past * head_size;
    const int64_t width = past + batch->length * head_size;
    for (int64_t i = 0; i < batch->batch * heads; i++) {
        if (past > 0) {
            memcpy(y + i * width, earlier + i * past, (size_t)past * sizeof *y);
        }
        memset(y + i * width + past, 0, (size_t)(width - past) * sizeof *y);
    }
    for (int64_t b = 0; b < batch->batch; b++) {
        place_rows(x + own->offsets[b] * heads * head_size, own->places + own->offsets[b], own->lengths[b], heads,
                   head_size, batch->past + batch->length, y + b * heads * width);
    }
}

void
qb_batch_scatter_encoder_keys(const qb_batch *batch, const float *x, int64_t heads, int64_t head_size, float *y)
{
    const qb_sequences *encoder = &batch->encoder;
    const int64_t s = batch->encoder_length;
    memset(y, 0, (size_t)(batch->batch * heads * s * head_size) * sizeof *y);
    for (int64_t b = 0; b < batch->batch; b++) {
        place_rows(x + encoder->offsets[b] * heads * head_size, encoder->places + encoder->offsets[b],
                   encoder->lengths[b], heads, head_size, s, y + b * heads * s * head_size);
    }
}
