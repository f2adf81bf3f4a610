/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/attention_item.h"

#include <float.h>

/* Query rows whose scores are in flight at once: a multiple of the usual tile heights 6, 7, 12 and 14, and with 512
 * keys 168 KB of scores, which a level-2 cache holds beside the packed keys and values. */
#define BLOCK_ROWS 84

/* With fewer items than this per thread, items are cut by rows, but into parts of at least BLOCK_ROWS. */
#define ITEMS_PER_THREAD 4

typedef struct item_buffers {
    void *keys;    /* packed */
    void *values;  /* packed */
    float *scores; /* (BLOCK_ROWS, S) */
    int8_t *codes; /* (BLOCK_ROWS, S) */
    float *mask;   /* (S) one row of a rank-3 mask */
    void *product; /* scratch of the product kernels */
} item_buffers;

/* What one product needs, whatever its arithmetic turns out to be. */
static void
product_sizes(const qb_kernels *kernels, int64_t n, int64_t k, size_t *packed, size_t *scratch)
{
    int64_t panel;
    size_t bytes[2];
    size_t work[2];
    kernels->pack_f32_size(n, k, &panel, &bytes[0], &work[0]);
    kernels->pack_qs8_size(n, k, &panel, &bytes[1], &work[1]);
    *packed = bytes[0] > bytes[1] ? bytes[0] : bytes[1];
    *scratch = work[0] > work[1] ? work[0] : work[1];
}

static void
plan_item(const qb_kernels *kernels, int64_t head_size, int64_t length, qb_arena *arena, item_buffers *buffers)
{
    size_t keys;
    size_t values;
    size_t scores_scratch;
    size_t context_scratch;
    product_sizes(kernels, length, head_size, &keys, &scores_scratch);
    product_sizes(kernels, head_size, length, &values, &context_scratch);
    buffers->keys = qb_arena_take(arena, 1, keys);
    buffers->values = qb_arena_take(arena, 1, values);
    buffers->scores = qb_arena_take(arena, length, BLOCK_ROWS * sizeof *buffers->scores);
    buffers->codes = qb_arena_take(arena, length, BLOCK_ROWS);
    buffers->mask = qb_arena_take(arena, length, sizeof *buffers->mask);
    buffers->product = qb_arena_take(arena, 1, scores_scratch > context_scratch ? scores_scratch : context_scratch);
}

size_t
qb_attention_item_bytes(const qb_kernels *kernels, int64_t head_size, int64_t length)
{
    item_buffers buffers;
    qb_arena arena = qb_arena_measuring();
    plan_item(kernels, head_size, length, &arena, &buffers);
    return arena.used;
}

int64_t
qb_attention_row_splits(const qb_sequences *sequences, int64_t heads, int32_t threads)
{
    const int64_t items = sequences->count * heads;
    const int64_t wanted = (int64_t)ITEMS_PER_THREAD * threads;
    const int64_t most = (sequences->max_length + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const int64_t splits = (wanted + items - 1) / items;
    return threads == 1 || splits < 1 ? 1 : splits < most ? splits : most;
}

int64_t
qb_attention_item_count(const qb_attention_job *job)
{
    return job->sequences->count * job->heads * job->row_splits;
}

int64_t
qb_attention_probability_count(const qb_sequences *sequences, int64_t heads)
{
    int64_t count = 0;
    for (int64_t i = 0; i < sequences->count; i++) {
        count += heads * sequences->lengths[i] * sequences->lengths[i];
    }
    return count;
}

/* ---- one item --------------------------------------------------------------------------------------------------- */

typedef struct item {
    int64_t sequence, head;
    int64_t rows; /* T = S */
    int64_t at;   /* of its first row and first column in (M, H) */
    float *kept;  /* (T, S) of this head, or NULL */
    item_buffers buffers;
} item;

static void
pack_operands(const qb_attention_job *job, const item *it)
{
    const int64_t d = job->head_size;
    const int64_t h = job->heads * d;
    const int64_t s = it->rows;
    if (job->computes_scores) { /* column j is key j, depth i its i-th feature */
        if (job->scores_arithmetic == QB_ARITHMETIC_INTEGER) {
            job->kernels->pack_qs8(job->k_codes + it->at, h, 1, 0, s, s, d, it->buffers.keys);
        }
        else {
            job->kernels->pack_f32(job->k + it->at, h, 1, 0, s, s, d, it->buffers.keys);
        }
    }
    if (job->computes_context) { /* column j is feature j, depth i the value at key i */
        if (job->context_arithmetic == QB_ARITHMETIC_INTEGER) {
            job->kernels->pack_qs8(job->v_codes + it->at, 1, h, 0, d, d, s, it->buffers.values);
        }
        else {
            job->kernels->pack_f32(job->v + it->at, 1, h, 0, d, d, s, it->buffers.values);
        }
    }
}

/* (1 - mask) * -FLT_MAX, the original's additive form of a 0/1 mask. */
static void
softmax_rank_3(const qb_attention_job *job, const item *it, int64_t row, int64_t rows, float *scores)
{
    const int64_t s = it->rows;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t *mask = job->sequences->mask_3d + (it->sequence * s + row + r) * s;
        for (int64_t j = 0; j < s; j++) {
            it->buffers.mask[j] = mask[j] != 0 ? 0.0f : -FLT_MAX;
        }
        job->kernels->softmax_f32(scores + r * s, 1, (size_t)s, (size_t)s, it->buffers.mask);
    }
}

static void
compute_probabilities(const qb_attention_job *job, const item *it, int64_t row, int64_t rows, float *p)
{
    const int64_t d = job->head_size;
    const int64_t h = job->heads * d;
    const int64_t s = it->rows;
    const int64_t from = it->at + row * h;
    if (job->scores_arithmetic == QB_ARITHMETIC_INTEGER) {
        job->kernels->product_qs8(job->q_codes + from, h, rows, it->buffers.keys, 0, s, s, d, &job->scores, p, s,
                                  it->buffers.product);
    }
    else {
        job->kernels->product_f32(job->q + from, h, rows, it->buffers.keys, 0, s, s, d, &job->scores, p, s,
                                  it->buffers.product);
    }
    if (job->sequences->mask_3d != NULL) {
        softmax_rank_3(job, it, row, rows, p);
    }
    else {
        const float *mask = job->sequences->mask;
        job->kernels->softmax_f32(p, (size_t)rows, (size_t)s, (size_t)s,
                                  mask == NULL ? NULL : mask + job->sequences->offsets[it->sequence]);
    }
    if (job->head_mask != NULL) {
        job->kernels->scale_f32(p, job->head_mask[it->head], (size_t)(rows * s), p);
    }
}

static void
compute_context(qb_attention_job *job, const item *it, int64_t row, int64_t rows, const float *p)
{
    const int64_t d = job->head_size;
    const int64_t h = job->heads * d;
    const int64_t s = it->rows;
    const size_t n = (size_t)(rows * s);
    float *c = job->context_rows + it->at + row * h;
    if (job->context_arithmetic == QB_ARITHMETIC_INTEGER) {
        uint32_t nonfinite = 0;
        job->kernels->quantize_qs8(p, n, &job->probability_range, it->buffers.codes, &nonfinite);
        if (nonfinite != 0) {
            atomic_store_explicit(&job->failed, 1, memory_order_relaxed);
        }
        job->kernels->product_qs8(it->buffers.codes, s, rows, it->buffers.values, 0, d, d, s, &job->context, c, h,
                                  it->buffers.product);
        return;
    }
    if (job->quantizes_probabilities) {
        job->kernels->fake_quant_f32(p, n, &job->probability_range, it->buffers.scores);
        p = it->buffers.scores;
    }
    job->kernels->product_f32(p, s, rows, it->buffers.values, 0, d, d, s, &job->context, c, h, it->buffers.product);
}

static void
compute_item(qb_attention_job *job, item *it, int64_t first, int64_t last)
{
    pack_operands(job, it);
    for (int64_t row = first; row < last; row += BLOCK_ROWS) {
        const int64_t rows = last - row < BLOCK_ROWS ? last - row : BLOCK_ROWS;
        float *p = it->kept != NULL ? it->kept + row * it->rows : it->buffers.scores;
        if (job->computes_scores) {
            compute_probabilities(job, it, row, rows, p);
        }
        if (job->computes_context) {
            compute_context(job, it, row, rows, p);
        }
    }
}

/* Where the kept probabilities of a sequence begin. */
static float *
kept_of_sequence(const qb_attention_job *job, int64_t sequence)
{
    float *at = job->probabilities;
    for (int64_t i = 0; at != NULL && i < sequence; i++) {
        at += job->heads * job->sequences->lengths[i] * job->sequences->lengths[i];
    }
    return at;
}

void
qb_attention_compute_items(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    qb_attention_job *job = argument;
    const int64_t h = job->heads * job->head_size;
    const int32_t slot = qb_scratch_claim(job->scratch, worker);
    for (int64_t i = begin; i < end; i++) {
        const int64_t pair = i / job->row_splits;
        const int64_t part = i % job->row_splits;
        item it = {.sequence = pair / job->heads, .head = pair % job->heads};
        it.rows = job->sequences->lengths[it.sequence];
        it.at = job->sequences->offsets[it.sequence] * h + it.head * job->head_size;
        it.kept = kept_of_sequence(job, it.sequence);
        if (it.kept != NULL) {
            it.kept += it.head * it.rows * it.rows;
        }
        qb_arena arena = qb_scratch_arena(job->scratch, slot);
        plan_item(job->kernels, job->head_size, it.rows, &arena, &it.buffers);
        compute_item(job, &it, it.rows * part / job->row_splits, it.rows * (part + 1) / job->row_splits);
    }
    qb_scratch_release(job->scratch, slot);
}
