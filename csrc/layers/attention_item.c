/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/attention_item.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Query rows whose scores are in flight at once: a multiple of the usual tile heights 6, 7, 12 and 14, and with 512
 * keys 168 KB of scores, which a level-2 cache holds beside the packed keys and values. */
#define BLOCK_ROWS 84

/* With fewer items than this per thread, items are cut by rows, but into parts of at least BLOCK_ROWS. */
#define ITEMS_PER_THREAD 4

typedef struct item_buffers {
    void *keys;         /* packed */
    void *values;       /* packed */
    float *scores;      /* (BLOCK_ROWS, S) */
    int8_t *codes;      /* (BLOCK_ROWS, S) */
    float *mask;        /* (S) additive, of one row */
    float *q_distances; /* (BLOCK_ROWS, 2 P - 1) q E'; relative positions only */
    float *k_distances; /* (S, 2 P - 1) k E'; relative_key_query only */
    void *product;      /* scratch of the product kernels */
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
plan_item(const qb_kernels *kernels, const qb_attention *layer, int64_t keys, qb_arena *arena, item_buffers *buffers)
{
    const int64_t d = layer->head_size;
    const int64_t distances = layer->distance.out_features;
    size_t packed_keys;
    size_t packed_values;
    size_t packed_distances;
    size_t scratch[3] = {0, 0, 0};
    product_sizes(kernels, keys, d, &packed_keys, &scratch[0]);
    product_sizes(kernels, d, keys, &packed_values, &scratch[1]);
    *buffers = (item_buffers){.keys = NULL};
    buffers->keys = qb_arena_take(arena, 1, packed_keys);
    buffers->values = qb_arena_take(arena, 1, packed_values);
    buffers->scores = qb_arena_take(arena, keys, BLOCK_ROWS * sizeof *buffers->scores);
    buffers->codes = qb_arena_take(arena, keys, BLOCK_ROWS);
    buffers->mask = qb_arena_take(arena, keys, sizeof *buffers->mask);
    if (layer->positions != QB_POSITIONS_ABSOLUTE) {
        product_sizes(kernels, distances, d, &packed_distances, &scratch[2]);
    }
    buffers->q_distances = qb_arena_take(arena, distances, BLOCK_ROWS * sizeof *buffers->q_distances);
    const int64_t distant_keys = layer->positions == QB_POSITIONS_RELATIVE_KEY_QUERY ? keys : 0;
    buffers->k_distances = qb_arena_take(arena, distant_keys, (size_t)distances * sizeof *buffers->k_distances);
    const size_t larger = scratch[0] > scratch[1] ? scratch[0] : scratch[1];
    buffers->product = qb_arena_take(arena, 1, larger > scratch[2] ? larger : scratch[2]);
}

size_t
qb_attention_item_bytes(const qb_kernels *kernels, const qb_attention *layer, int64_t keys)
{
    item_buffers buffers;
    qb_arena arena = qb_arena_measuring();
    plan_item(kernels, layer, keys, &arena, &buffers);
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
    return job->sequences->count * job->layer->heads * job->row_splits;
}

int64_t
qb_attention_probability_count(const qb_sequences *queries, const qb_sequences *keys, int64_t heads)
{
    int64_t count = 0;
    for (int64_t i = 0; i < queries->count; i++) {
        count += heads * queries->lengths[i] * keys->lengths[i];
    }
    return count;
}

/* ---- one item --------------------------------------------------------------------------------------------------- */

typedef struct item {
    int64_t sequence, head;
    int64_t rows;    /* T */
    int64_t keys;    /* S */
    int64_t at;      /* of its first row and first column in (M, N D) */
    int64_t key_at;  /* in (keys, N D) */
    float *kept;     /* (T, S) of this head, or NULL */
    int makes_codes; /* 1: softmax makes codes of the probabilities, which nobody needs as floats */
    item_buffers buffers;
} item;

static int64_t
width_of(const qb_attention_job *job)
{
    return job->layer->heads * job->layer->head_size;
}

static void
pack_operands(const qb_attention_job *job, const item *it)
{
    const int64_t d = job->layer->head_size;
    const int64_t h = width_of(job);
    const int64_t s = it->keys;
    if (job->computes_scores) { /* column j is key j, depth i its i-th feature */
        if (job->scores_arithmetic == QB_ARITHMETIC_INTEGER) {
            job->kernels->pack_qs8(job->k_codes + it->key_at, h, 1, 0, s, s, d, it->buffers.keys);
        }
        else {
            job->kernels->pack_f32(job->k + it->key_at, h, 1, 0, s, s, d, it->buffers.keys);
        }
    }
    if (job->computes_context) { /* column j is feature j, depth i the value at key i */
        if (job->context_arithmetic == QB_ARITHMETIC_INTEGER) {
            job->kernels->pack_qs8(job->v_codes + it->key_at, 1, h, 0, d, d, s, it->buffers.values);
        }
        else {
            job->kernels->pack_f32(job->v + it->key_at, 1, h, 0, d, d, s, it->buffers.values);
        }
    }
}

/* ---- relative positions ----------------------------------------------------------------------------------------- */

/* Rows of E that queries at places `first` .. `last` need for the item's keys up to `keys`, as whole panels. */
static void
distance_range(const qb_attention_job *job, const item *it, int64_t first, int64_t last, int64_t keys, int64_t *n0,
               int64_t *n1)
{
    const int64_t n = job->layer->distance.out_features;
    const int64_t *places = job->keys->places + job->keys->offsets[it->sequence];
    int64_t panel;
    size_t packed;
    size_t scratch;
    job->kernels->pack_f32_size(n, job->layer->head_size, &panel, &packed, &scratch);
    *n0 = (first - places[keys - 1] + n / 2) / panel * panel;
    *n1 = last - places[0] + n / 2 + 1;
}

/* y (rows, 2 P - 1) = x E', for rows of q or k. */
static void
multiply_distances(const qb_attention_job *job, const item *it, const float *x, int64_t rows, int64_t n0, int64_t n1,
                   float *y)
{
    const qb_linear *distance = &job->layer->distance;
    const qb_epilogue epilogue = {.divisor = 1.0f};
    job->kernels->product_f32(x, width_of(job), rows, distance->pack.data, n0, n1, distance->out_features,
                              distance->in_features, &epilogue, y, distance->out_features, it->buffers.product);
}

static void
prepare_key_distances(const qb_attention_job *job, const item *it, int64_t first, int64_t last)
{
    if (!job->computes_scores || job->layer->positions != QB_POSITIONS_RELATIVE_KEY_QUERY) {
        return;
    }
    const int64_t *places = job->sequences->places + job->sequences->offsets[it->sequence];
    int64_t n0;
    int64_t n1;
    distance_range(job, it, places[first], places[last - 1], it->keys, &n0, &n1);
    multiply_distances(job, it, job->unquantized_k + it->key_at, it->keys, n0, n1, it->buffers.k_distances);
}

/* s = (s + r) / sqrt(D) for the first `keys` keys of rows of products. */
static void
add_relative(const qb_attention_job *job, const item *it, int64_t row, int64_t rows, int64_t keys, float *s)
{
    const qb_attention *layer = job->layer;
    const int64_t n = layer->distance.out_features;
    const int64_t *q_places = job->sequences->places + job->sequences->offsets[it->sequence] + row;
    const int64_t *k_places = job->keys->places + job->keys->offsets[it->sequence];
    const float divisor = sqrtf((float)layer->head_size);
    const int adds_keys = layer->positions == QB_POSITIONS_RELATIVE_KEY_QUERY;
    int64_t n0;
    int64_t n1;
    distance_range(job, it, q_places[0], q_places[rows - 1], keys, &n0, &n1);
    multiply_distances(job, it, job->unquantized_q + it->at + row * width_of(job), rows, n0, n1,
                       it->buffers.q_distances);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t place = q_places[i] + n / 2; /* P - 1 */
        const float *of_query = it->buffers.q_distances + i * n;
        for (int64_t j = 0; j < keys; j++) {
            const int64_t distance = place - k_places[j];
            float x = s[i * it->keys + j] + of_query[distance];
            if (adds_keys) {
                x += it->buffers.k_distances[j * n + distance];
            }
            s[i * it->keys + j] = x / divisor;
        }
    }
}

/* ---- probabilities ---------------------------------------------------------------------------------------------- */

/* Keys that the query `row` of a causal item sees: its own is the last of them. */
static int64_t
visible_keys(const item *it, int64_t row)
{
    return it->keys - it->rows + row + 1;
}

static void
note_nonfinite(qb_attention_job *job, uint32_t nonfinite)
{
    if (nonfinite != 0) {
        atomic_store_explicit(&job->failed, 1, memory_order_relaxed);
    }
}

/* Softmax of `rows` scores from row `first` of the block on, over `columns` keys: in place, or as codes. */
static void
softmax_rows(qb_attention_job *job, const item *it, int64_t first, int64_t rows, int64_t columns, const float *mask,
             float *scores)
{
    const int64_t at = first * it->keys;
    const size_t stride = (size_t)it->keys;
    if (!it->makes_codes) {
        job->kernels->softmax_f32(scores + at, (size_t)rows, (size_t)columns, stride, mask);
        return;
    }
    uint32_t nonfinite = 0;
    job->kernels->softmax_qs8(scores + at, (size_t)rows, (size_t)columns, stride, mask, &job->probability_range,
                              it->buffers.codes + at, &nonfinite);
    note_nonfinite(job, nonfinite);
}

/* A mask of each row's own: (1 - mask) * -FLT_MAX, the original's additive form of 0 and 1.  Of rank 3 it says all;
 * otherwise padding and causality are one mask, as in the original, so that a query that sees padding alone gets the
 * original's probabilities. */
static void
softmax_masked_rows(qb_attention_job *job, const item *it, int64_t row, int64_t rows, float *scores)
{
    const int64_t s = it->keys;
    const float *padding = job->keys->mask == NULL ? NULL : job->keys->mask + job->keys->offsets[it->sequence];
    float *mask = it->buffers.mask;
    for (int64_t r = row; r < row + rows; r++) {
        const int64_t *of_row = job->keys->mask_3d;
        if (of_row != NULL) {
            of_row += (it->sequence * it->rows + r) * s;
        }
        for (int64_t j = 0; j < s; j++) {
            const int is_padding = padding != NULL && padding[j] != 0.0f;
            const int is_seen = of_row != NULL ? of_row[j] != 0 : !is_padding && j < visible_keys(it, r);
            mask[j] = is_seen ? 0.0f : -FLT_MAX;
        }
        softmax_rows(job, it, r - row, 1, s, mask, scores);
    }
}

/* Without padding among the keys, a causal row ends where its query stands. */
static void
softmax_causal_rows(qb_attention_job *job, const item *it, int64_t row, int64_t rows, float *scores)
{
    const int64_t s = it->keys;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t seen = visible_keys(it, row + r);
        softmax_rows(job, it, r, 1, seen, NULL, scores);
        if (it->makes_codes) {
            memset(it->buffers.codes + r * s + seen, 0, (size_t)(s - seen));
        }
        else {
            memset(scores + r * s + seen, 0, (size_t)(s - seen) * sizeof *scores);
        }
    }
}

/* p (rows, S), or the codes of it where the item makes those. */
static void
compute_probabilities(qb_attention_job *job, const item *it, int64_t row, int64_t rows, float *p)
{
    const int64_t d = job->layer->head_size;
    const int64_t h = width_of(job);
    const int64_t s = it->keys;
    const int64_t from = it->at + row * h;
    const float *mask = job->keys->mask;
    const int has_row_masks = job->keys->mask_3d != NULL || (job->is_causal && mask != NULL);
    const int64_t needed = job->is_causal && !has_row_masks ? visible_keys(it, row + rows - 1) : s;
    if (job->scores_arithmetic == QB_ARITHMETIC_INTEGER) {
        job->kernels->product_qs8(job->q_codes + from, h, rows, it->buffers.keys, 0, needed, s, d, &job->scores, p, s,
                                  it->buffers.product);
    }
    else {
        job->kernels->product_f32(job->q + from, h, rows, it->buffers.keys, 0, needed, s, d, &job->scores, p, s,
                                  it->buffers.product);
    }
    if (job->layer->positions != QB_POSITIONS_ABSOLUTE) {
        add_relative(job, it, row, rows, needed, p);
    }
    if (has_row_masks) {
        softmax_masked_rows(job, it, row, rows, p);
    }
    else if (job->is_causal) {
        softmax_causal_rows(job, it, row, rows, p);
    }
    else {
        softmax_rows(job, it, 0, rows, s, mask == NULL ? NULL : mask + job->keys->offsets[it->sequence], p);
    }
    if (job->dropout != NULL) {
        qb_dropout_probabilities(job->kernels, job->dropout, it->sequence, job->layer->heads, it->head, row, rows, s, p,
                                 p);
    }
    if (job->head_mask != NULL) {
        job->kernels->scale_f32(p, job->head_mask[it->head], (size_t)(rows * s), p);
    }
}

static void
compute_context(qb_attention_job *job, const item *it, int64_t row, int64_t rows, const float *p)
{
    const int64_t d = job->layer->head_size;
    const int64_t h = width_of(job);
    const int64_t s = it->keys;
    const size_t n = (size_t)(rows * s);
    float *c = job->context_rows + it->at + row * h;
    if (job->context_arithmetic == QB_ARITHMETIC_INTEGER) {
        if (!it->makes_codes) {
            uint32_t nonfinite = 0;
            job->kernels->quantize_qs8(p, n, &job->probability_range, it->buffers.codes, &nonfinite);
            note_nonfinite(job, nonfinite);
        }
        if (job->context_codes == NULL) {
            job->kernels->product_qs8(it->buffers.codes, s, rows, it->buffers.values, 0, d, d, s, &job->context, c, h,
                                      it->buffers.product);
            return;
        }
        uint32_t nonfinite = 0;
        job->kernels->product_qs8_codes(it->buffers.codes, s, rows, it->buffers.values, 0, d, d, s, &job->context,
                                        &job->context_range, job->context_codes + it->at + row * h, h, &nonfinite,
                                        it->buffers.product);
        if (nonfinite != 0) {
            atomic_store_explicit(&job->is_context_nonfinite, 1, memory_order_relaxed);
        }
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
    if (first == last) { /* a sequence of fewer rows than parts */
        return;
    }
    it->makes_codes = job->computes_scores && job->computes_context && it->kept == NULL && job->dropout == NULL &&
                      job->head_mask == NULL && job->context_arithmetic == QB_ARITHMETIC_INTEGER;
    pack_operands(job, it);
    prepare_key_distances(job, it, first, last);
    for (int64_t row = first; row < last; row += BLOCK_ROWS) {
        const int64_t rows = last - row < BLOCK_ROWS ? last - row : BLOCK_ROWS;
        float *p = it->kept != NULL ? it->kept + row * it->keys : it->buffers.scores;
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
        at += job->layer->heads * job->sequences->lengths[i] * job->keys->lengths[i];
    }
    return at;
}

static item
item_of(const qb_attention_job *job, int64_t sequence, int64_t head)
{
    const int64_t h = width_of(job);
    item it = {.sequence = sequence, .head = head};
    it.rows = job->sequences->lengths[sequence];
    it.keys = job->keys->lengths[sequence];
    it.at = job->sequences->offsets[sequence] * h + head * job->layer->head_size;
    it.key_at = job->keys->offsets[sequence] * h + head * job->layer->head_size;
    return it;
}

void
qb_attention_item_probabilities(const qb_attention_job *job, int64_t sequence, int64_t head, qb_arena arena, float *p)
{
    item it = item_of(job, sequence, head);
    qb_attention_job scores = *job;
    scores.computes_scores = 1;
    scores.computes_context = 0;
    scores.dropout = NULL;
    scores.head_mask = NULL;
    it.kept = p;
    plan_item(job->kernels, job->layer, it.keys, &arena, &it.buffers);
    compute_item(&scores, &it, 0, it.rows);
}

void
qb_attention_compute_items(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    qb_attention_job *job = argument;
    const int64_t heads = job->layer->heads;
    const int32_t slot = qb_scratch_claim(job->scratch, worker);
    for (int64_t i = begin; i < end; i++) {
        const int64_t pair = i / job->row_splits;
        const int64_t part = i % job->row_splits;
        item it = item_of(job, pair / heads, pair % heads);
        it.kept = kept_of_sequence(job, it.sequence);
        if (it.kept != NULL) {
            it.kept += it.head * it.rows * it.keys;
        }
        qb_arena arena = qb_scratch_arena(job->scratch, slot);
        plan_item(job->kernels, job->layer, it.keys, &arena, &it.buffers);
        compute_item(job, &it, it.rows * part / job->row_splits, it.rows * (part + 1) / job->row_splits);
    }
    qb_scratch_release(job->scratch, slot);
}
