/* SPDX-License-Identifier: Apache-2.0
 *
 * What attention needs of a session's memory.
 */
#include "core/shape.h"
#include "layers/attention.h"
#include "layers/attention_item.h"

int64_t
qb_attention_key_tokens(const qb_attention *self, const qb_limits *limits)
{
    return self->is_cross ? limits->sequences * limits->encoder_length
                          : limits->tokens + limits->sequences * limits->past;
}

int64_t
qb_attention_key_length(const qb_attention *self, const qb_limits *limits)
{
    return self->is_cross ? limits->encoder_length : limits->length + limits->past;
}

size_t
qb_attention_scratch_bytes(const qb_attention *self, const qb_kernels *kernels, const qb_limits *limits)
{
    const size_t sizes[] = {
        qb_linear_scratch_bytes(&self->query, kernels),
        qb_residual_norm_scratch_bytes(&self->output, kernels),
        qb_attention_item_bytes(kernels, self, qb_attention_key_length(self, limits)),
    };
    size_t largest = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        largest = sizes[i] > largest ? sizes[i] : largest;
    }
    return largest;
}

void
qb_attention_lent_plan(const qb_attention *self, qb_attention_lent *lent, qb_arena *arena, const qb_limits *limits)
{
    const int64_t m = limits->tokens;
    const int64_t keys = qb_attention_key_tokens(self, limits);
    const size_t h = (size_t)self->query.out_features;
    *lent = (qb_attention_lent){.q_values = NULL};
    if (limits->trains || self->positions != QB_POSITIONS_ABSOLUTE) {
        lent->q_values = qb_arena_take(arena, m, h * sizeof *lent->q_values);
        lent->k_values = qb_arena_take(arena, keys, h * sizeof *lent->k_values);
    }
    if (limits->trains) {
        lent->v_values = qb_arena_take(arena, keys, h * sizeof *lent->v_values);
    }
    lent->q_codes = qb_arena_take(arena, m, h);
    lent->k_codes = qb_arena_take(arena, keys, h);
    lent->v_codes = qb_arena_take(arena, keys, h);
    if (limits->keep_probabilities) {
        /* The largest sum of T * S under the limits is max tokens * max keys of a sequence; the count of bytes is
         * checked in two steps because it has three large factors. */
        size_t row = 0;
        if (!qb_size_multiply((size_t)qb_attention_key_length(self, limits),
                              (size_t)self->heads * sizeof *lent->probabilities, &row)) {
            arena->failed = 1;
        }
        lent->probabilities = qb_arena_take(arena, m, row);
    }
}

void
qb_attention_plan_lent(const qb_attention *self, qb_attention_work *work, qb_arena *arena, const qb_limits *limits,
                       const qb_attention_lent *lent, int8_t *codes, float *values, float *local, qb_scratch *scratch)
{
    const int64_t m = limits->tokens;
    const int64_t keys = qb_attention_key_tokens(self, limits);
    const int64_t projected = self->is_cross ? keys : m;
    const size_t h = (size_t)self->query.out_features;
    /* Of the codes of one input; checked by the owner's take. */
    const size_t part = (size_t)(projected > m ? projected : m) * (size_t)self->query.in_features;
    *work = (qb_attention_work){.scratch = scratch,
                                .q_codes = lent->q_codes,
                                .k_codes = lent->k_codes,
                                .v_codes = lent->v_codes,
                                .probabilities = lent->probabilities};
    work->q = qb_arena_take(arena, m, h * sizeof *work->q);
    work->k = qb_arena_take(arena, keys, h * sizeof *work->k);
    work->v = qb_arena_take(arena, keys, h * sizeof *work->v);
    if (!self->is_cross && limits->past > 0) {
        work->new_k = qb_arena_take(arena, m, h * sizeof *work->new_k);
        work->new_v = qb_arena_take(arena, m, h * sizeof *work->new_v);
    }
    work->q_values = lent->q_values == NULL ? work->q : lent->q_values;
    work->k_values = lent->k_values == NULL ? work->k : lent->k_values;
    work->v_values = lent->v_values == NULL ? work->v : lent->v_values;
    if (limits->trains) {
        work->x = qb_arena_take(arena, m, (size_t)self->query.in_features * sizeof *work->x);
    }
    work->context = qb_arena_take(arena, m, h * sizeof *work->context);
    work->score_step = qb_arena_take(arena, qb_attention_key_length(self, limits), sizeof *work->score_step);
    work->context_step = qb_arena_take(arena, self->head_size, sizeof *work->context_step);
    /* Three inputs may be quantized differently before the three products run in one region. */
    qb_linear_plan(&self->query, &work->query, arena, codes, values, scratch);
    qb_linear_plan(&self->key, &work->key, arena, codes == NULL ? NULL : codes + part, values, scratch);
    qb_linear_plan(&self->value, &work->value, arena, codes == NULL ? NULL : codes + 2 * part, values, scratch);
    qb_residual_norm_plan(&self->output, &work->output, arena, codes, values, local, scratch);
}

void
qb_attention_plan(const qb_attention *self, qb_attention_work *work, qb_arena *arena, const qb_limits *limits,
                  int8_t *codes, float *values, float *local, qb_scratch *scratch)
{
    qb_attention_lent own;
    qb_attention_lent_plan(self, &own, arena, limits);
    qb_attention_plan_lent(self, work, arena, limits, &own, codes, values, local, scratch);
}
