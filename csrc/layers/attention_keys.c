/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys and values of earlier calls, put before those of this call.
 *
 * A caller keeps them padded, (B, N, columns, D), as the original hands them out; here they become rows of (keys, N D)
 * like the projected ones, without the columns that are masked, so that everything after this sees one kind of key.
 */
#include <string.h>

#include "layers/attention.h"

typedef struct join_job {
    const qb_sequences *queries; /* their lengths are those of the projected keys */
    const qb_attention_keys *keys;
    int64_t heads, head_size;
    const float *new_k, *new_v; /* (projected, N D) */
    float *k, *v;               /* (keys, N D) */
} join_job;

static void
copy_earlier(const join_job *job, const float *from, int64_t sequence, int64_t count, float *to)
{
    const int64_t d = job->head_size;
    const int64_t h = job->heads * d;
    const int64_t width = job->keys->earlier_width;
    const int64_t *places = job->keys->sequences.places + job->keys->sequences.offsets[sequence];
    for (int64_t head = 0; head < job->heads; head++) {
        const float *rows = from + (sequence * job->heads + head) * width * d;
        for (int64_t i = 0; i < count; i++) {
            memcpy(to + i * h + head * d, rows + places[i] * d, (size_t)d * sizeof *to);
        }
    }
}

static void
join_sequences(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const join_job *job = argument;
    const int64_t h = job->heads * job->head_size;
    (void)worker;
    for (int64_t b = begin; b < end; b++) {
        const int64_t fresh = job->new_k == NULL ? 0 : job->queries->lengths[b];
        const int64_t earlier = job->keys->sequences.lengths[b] - fresh;
        const int64_t at = job->keys->sequences.offsets[b] * h;
        copy_earlier(job, job->keys->earlier_keys, b, earlier, job->k + at);
        copy_earlier(job, job->keys->earlier_values, b, earlier, job->v + at);
        if (fresh > 0) {
            const int64_t from = job->queries->offsets[b] * h;
            const size_t bytes = (size_t)(fresh * h) * sizeof *job->k;
            memcpy(job->k + at + earlier * h, job->new_k + from, bytes);
            memcpy(job->v + at + earlier * h, job->new_v + from, bytes);
        }
    }
}

qb_status
qb_attention_join_keys(const qb_attention *self, const qb_attention_work *work, const qb_run *run,
                       const qb_sequences *queries, const qb_attention_keys *keys)
{
    join_job job = {
        .queries = queries,
        .keys = keys,
        .heads = self->heads,
        .head_size = self->head_size,
        .new_k = keys->projected > 0 ? work->new_k : NULL,
        .new_v = keys->projected > 0 ? work->new_v : NULL,
        .k = work->k,
        .v = work->v,
    };
    return qb_run_parallel(run, keys->sequences.count, 1, join_sequences, &job);
}
