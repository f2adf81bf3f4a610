/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests of attention share: one layer on one device with sequences, keys of earlier calls or an encoder's tokens
 * of any lengths, and forward calls in one line.
 *
 * Earlier keys and values lie in padded arrays whose columns that nobody looks at hold NaN, so reading one is seen.
 */
#ifndef QB_TESTS_ATTENTION_CASE_H
#define QB_TESTS_ATTENTION_CASE_H

#include "layer_case.h"
#include "layers/attention.h"
#include "layers/attention_item.h"
#include "layers/sequences.h"

enum { CASE_QUANTIZERS = 14, CASE_SEQUENCES = 4 };

/* Quantizers in visiting order. */
enum {
    SLOT_QUERY = 0,
    SLOT_KEY = 2,
    SLOT_VALUE = 4,
    SLOT_MATMUL_Q = 6,
    SLOT_MATMUL_K,
    SLOT_MATMUL_V,
    SLOT_MATMUL_A,
    SLOT_DENSE,
    SLOT_RESIDUAL = 13
};

/* Lengths are of each sequence.  Cross-attention looks at `memory` tokens, which are projected, or at earlier keys;
 * self-attention at earlier keys, if there are any, and then at its own tokens. */
typedef struct attention_setup {
    int64_t hidden, heads, head_size;
    int64_t count;
    int64_t rows[CASE_SEQUENCES];    /* T */
    int64_t earlier[CASE_SEQUENCES]; /* keys of an earlier call that are looked at, of earlier_width columns */
    int64_t earlier_width;
    int64_t memory[CASE_SEQUENCES];
    int is_cross, is_causal;
    qb_positions positions;
} attention_setup;

typedef struct attention_case {
    qb_device *device;
    attention_setup setup;
    int64_t width;      /* N D */
    int64_t tokens;     /* M */
    int64_t key_tokens; /* of all sequences */
    qb_attention layer;
    qb_attention_work work;
    case_plan plan;
    float *parameters, *next_parameter;
    int8_t *codes;
    float *values, *local;
    float *x;                             /* (M, H) */
    float *memory;                        /* (memory tokens, H) */
    float *earlier_keys, *earlier_values; /* (count, N, earlier_width, D) */
    int64_t offsets[CASE_SEQUENCES], key_offsets[CASE_SEQUENCES], key_lengths[CASE_SEQUENCES];
    int64_t *places, *key_places;
    qb_sequences sequences;
    qb_attention_keys keys;
    qb_attention_inputs inputs; /* of the next forward; tests may change it */
    qb_quantizer **slots[CASE_QUANTIZERS];
    int is_weight[CASE_QUANTIZERS];
    size_t slots_count;
} attention_case;

static inline int64_t
case_sum(const int64_t *x, int64_t n)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return sum;
}

static inline int64_t
case_largest(const int64_t *x, int64_t n)
{
    int64_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = x[i] > largest ? x[i] : largest;
    }
    return largest;
}

static inline qb_status
case_bind_parameter(void *context, const qb_path *path, qb_parameter *parameter)
{
    attention_case *c = (attention_case *)context;
    (void)path;
    parameter->data = c->next_parameter;
    c->next_parameter += parameter->shape[0] * (parameter->rank == 2 ? parameter->shape[1] : 1);
    return QB_OK;
}

static inline qb_status
case_bind_quantizer(void *context, const qb_path *path, qb_quantizer **slot, qb_quantizer_role role)
{
    attention_case *c = (attention_case *)context;
    (void)path;
    *slot = case_quantizer(c->device, 8, role == QB_ROLE_WEIGHT);
    c->is_weight[c->slots_count] = role == QB_ROLE_WEIGHT;
    c->slots[c->slots_count++] = slot;
    return QB_OK;
}

/* ---- sequences -------------------------------------------------------------------------------------------------- */

/* n columns of `width`, increasing from `first`, with gaps where n < width. */
static inline void
case_spread(int64_t *places, int64_t n, int64_t first, int64_t width)
{
    for (int64_t i = 0; i < n; i++) {
        places[i] = first + i * width / n;
    }
}

/* Own tokens stand after the earlier columns; sequences shorter than the longest have gaps. */
static inline void
case_make_sequences(attention_case *c)
{
    const attention_setup *s = &c->setup;
    const int64_t own_width = case_largest(s->rows, s->count);
    const int64_t memory_width = case_largest(s->memory, s->count);
    int64_t at = 0;
    int64_t key_at = 0;
    for (int64_t i = 0; i < s->count; i++) {
        const int64_t own = s->is_cross ? 0 : s->rows[i];
        c->offsets[i] = at;
        c->key_offsets[i] = key_at;
        c->key_lengths[i] = s->earlier[i] + s->memory[i] + own;
        case_spread(c->places + at, s->rows[i], s->is_cross ? 0 : s->earlier_width, own_width);
        case_spread(c->key_places + key_at, s->earlier[i], 0, s->earlier_width);
        case_spread(c->key_places + key_at, s->memory[i], 0, memory_width);
        memcpy(c->key_places + key_at + s->earlier[i], c->places + at, (size_t)own * sizeof *c->places);
        at += s->rows[i];
        key_at += c->key_lengths[i];
    }
    c->sequences = (qb_sequences){.count = s->count,
                                  .tokens = c->tokens,
                                  .max_length = own_width,
                                  .offsets = c->offsets,
                                  .lengths = c->setup.rows,
                                  .places = c->places};
    c->keys.sequences = (qb_sequences){.count = s->count,
                                       .tokens = c->key_tokens,
                                       .max_length = case_largest(c->key_lengths, s->count),
                                       .offsets = c->key_offsets,
                                       .lengths = c->key_lengths,
                                       .places = c->key_places};
}

/* (count, N, width, D): NaN where no key of the case stands. */
static inline float *
case_make_earlier(const attention_case *c, unsigned long long seed)
{
    const attention_setup *s = &c->setup;
    const int64_t d = s->head_size;
    const int64_t count = s->count * s->heads * s->earlier_width * d;
    float *random = case_random(count, 2.0f, seed);
    float *made = (float *)case_memory((size_t)count * sizeof *made);
    for (int64_t i = 0; i < count; i++) {
        made[i] = NAN;
    }
    for (int64_t pair = 0; pair < s->count * s->heads; pair++) {
        const int64_t sequence = pair / s->heads;
        for (int64_t j = 0; j < s->earlier[sequence]; j++) {
            const int64_t column = c->key_places[c->key_offsets[sequence] + j];
            const int64_t from = (pair * s->earlier_width + column) * d;
            memcpy(made + from, random + from, (size_t)d * sizeof *made);
        }
    }
    free(random);
    return made;
}

/* ---- the layer -------------------------------------------------------------------------------------------------- */

static inline qb_limits
case_limits(const attention_case *c)
{
    const attention_setup *s = &c->setup;
    return (qb_limits){
        .sequences = s->count,
        .tokens = c->tokens,
        .length = c->sequences.max_length,
        .past = s->is_cross ? 0 : s->earlier_width,
        .encoder_length = s->is_cross ? c->keys.sequences.max_length : 0,
        .keep_probabilities = 1,
    };
}

static inline void
case_plan_attention(attention_case *c)
{
    const attention_setup *s = &c->setup;
    const qb_limits limits = case_limits(c);
    const int64_t encoder = s->count * limits.encoder_length;
    const int64_t rows = c->tokens > encoder ? c->tokens : encoder;
    c->codes = (int8_t *)case_aligned((size_t)(3 * rows * s->hidden));
    c->values = (float *)case_aligned((size_t)(rows * s->hidden) * sizeof(float));
    c->local = (float *)case_aligned((size_t)(c->tokens * s->hidden) * sizeof(float));
    case_plan_scratch(&c->plan, c->device, qb_attention_scratch_bytes(&c->layer, &c->device->kernels, &limits));
    qb_arena arena = qb_arena_measuring();
    qb_attention_plan(&c->layer, &c->work, &arena, &limits, c->codes, c->values, c->local, &c->plan.scratch);
    c->plan.arena_block = case_aligned(arena.used);
    arena = qb_arena_bind(c->plan.arena_block, arena.used);
    qb_attention_plan(&c->layer, &c->work, &arena, &limits, c->codes, c->values, c->local, &c->plan.scratch);
    CHECK(qb_arena_ok(&arena));
}

static inline attention_case *
attention_make(qb_device *device, const attention_setup *setup)
{
    attention_case *c = (attention_case *)case_memory(sizeof *c);
    c->device = device;
    c->setup = *setup;
    const attention_setup *s = &c->setup;
    const int64_t memory = case_sum(s->memory, s->count);
    c->width = s->heads * s->head_size;
    c->tokens = case_sum(s->rows, s->count);
    c->key_tokens = memory + case_sum(s->earlier, s->count) + (s->is_cross ? 0 : c->tokens);
    c->places = (int64_t *)case_memory((size_t)c->tokens * sizeof *c->places);
    c->key_places = (int64_t *)case_memory((size_t)c->key_tokens * sizeof *c->key_places);
    case_make_sequences(c);
    /* The fewest positions that the case can do with, and the table of distances misses the tiles. */
    const int64_t own_width = case_largest(s->rows, s->count) + (s->is_cross ? 0 : s->earlier_width);
    const int64_t memory_width = case_largest(s->memory, s->count);
    const int64_t key_width = memory_width > s->earlier_width ? memory_width : s->earlier_width;
    const qb_attention_shape shape = {.hidden = s->hidden,
                                      .heads = s->heads,
                                      .head_size = s->head_size,
                                      .positions = s->positions,
                                      .max_positions = own_width > key_width ? own_width : key_width,
                                      .is_cross = s->is_cross};
    const int64_t parameters =
        4 * c->width * s->hidden + 3 * c->width + 3 * s->hidden + (2 * shape.max_positions - 1) * s->head_size;
    c->parameters = case_random(parameters, 0.3f, 21);
    c->next_parameter = c->parameters;
    qb_attention_init(&c->layer, &shape, 1e-5f);
    const qb_visitor visitor = {.context = c, .parameter = case_bind_parameter, .quantizer = case_bind_quantizer};
    CHECK(qb_attention_visit(&c->layer, &visitor, NULL) == QB_OK);
    CHECK(c->next_parameter <= c->parameters + parameters);
    c->x = case_random(c->tokens * s->hidden, 1.0f, 22);
    c->memory = case_random(memory * s->hidden, 1.0f, 23);
    c->earlier_keys = case_make_earlier(c, 24);
    c->earlier_values = case_make_earlier(c, 25);
    c->keys.memory = s->is_cross ? c->memory : NULL;
    c->keys.projected = s->is_cross ? memory : c->tokens;
    c->keys.earlier_width = s->earlier_width;
    c->keys.earlier_keys = c->earlier_keys;
    c->keys.earlier_values = c->earlier_values;
    c->inputs =
        (qb_attention_inputs){.sequences = &c->sequences, .keys = &c->keys, .is_causal = s->is_causal, .layer = 3};
    case_plan_attention(c);
    return c;
}

static inline void
attention_free(attention_case *c)
{
    for (size_t i = 0; i < c->slots_count; i++) {
        qb_quantizer_destroy(*c->slots[i]);
    }
    qb_attention_clear(&c->layer, &c->device->heap);
    case_plan_free(&c->plan);
    free(c->parameters);
    free(c->codes);
    free(c->values);
    free(c->local);
    free(c->x);
    free(c->memory);
    free(c->earlier_keys);
    free(c->earlier_values);
    free(c->places);
    free(c->key_places);
    free(c);
}

/* Memory for an output (M, H), to be freed. */
static inline float *
attention_output(const attention_case *c)
{
    return (float *)case_memory((size_t)(c->tokens * c->setup.hidden) * sizeof(float));
}

/* Output in y (M, H), owned by the caller. */
static inline qb_status
attention_run(attention_case *c, float *y, qb_error *error)
{
    const qb_path path = {NULL, "encoder.layer.0.attention"};
    const qb_run run = qb_device_run(c->device, NULL, error);
    const qb_run inner = qb_run_enter(&run, &path);
    memcpy(y, c->x, (size_t)(c->tokens * c->setup.hidden) * sizeof *y);
    QB_TRY(qb_attention_prepare(&c->layer, &inner));
    return qb_attention_forward(&c->layer, &c->work, &inner, &c->inputs, y);
}

static inline void
attention_read_probabilities(void *context, int64_t layer, const float *probabilities)
{
    CHECK(layer == 3);
    *(const float **)context = probabilities;
}

/* *kept becomes the layer's probabilities, per sequence (N, T, S), with the next forward. */
static inline void
attention_keep(attention_case *c, const float **kept)
{
    c->inputs.reader = attention_read_probabilities;
    c->inputs.reader_context = (void *)kept;
}

/* A maximum observer for every quantizer, which only collects. */
static inline void
attention_observe(attention_case *c, qb_observer **observers)
{
    for (size_t i = 0; i < c->slots_count; i++) {
        observers[i] = case_max_observer(c->device);
        CHECK(qb_quantizer_set_observer(*c->slots[i], observers[i]) == QB_OK);
        CHECK(qb_quantizer_set_stages(*c->slots[i], QB_STAGE_CALIB) == QB_OK);
    }
}

static inline void
attention_release(const attention_case *c, qb_observer **observers)
{
    for (size_t i = 0; i < c->slots_count; i++) {
        qb_observer_release(observers[i]);
    }
}

/* What the quantizers of a layer may be set to: each way through the two products. */
typedef enum attention_mode {
    MODE_FLOAT,
    MODE_STATIC,  /* codes with fixed ranges */
    MODE_DYNAMIC, /* codes with each call's ranges, of the probabilities too */
    MODE_Q_ONLY,  /* scores of q's values and k itself */
    MODE_WIDE,    /* q, k and v in 16 bits: values */
    MODE_A_ONLY,  /* context of the probabilities' values and v itself */
    MODE_WIDE_A,  /* integer scores, probabilities in 16 bits */
    MODE_COARSE,  /* codes of 2 bits: what comes from before the quantizers shows */
    MODES_COUNT
} attention_mode;

static inline void
attention_set_mode(attention_case *c, attention_mode mode)
{
    static const int32_t bits[MODES_COUNT][4] = {
        [MODE_STATIC] = {8, 8, 8, 8}, [MODE_Q_ONLY] = {8, 0, 0, 0},  [MODE_WIDE] = {16, 16, 16, 8},
        [MODE_A_ONLY] = {0, 0, 0, 8}, [MODE_WIDE_A] = {8, 8, 8, 16}, [MODE_COARSE] = {2, 2, 2, 2},
    };
    static const float amaxes[4] = {1.6f, 1.7f, 1.5f, 0.9f};
    qb_quantizer *const products[4] = {c->layer.matmul_q, c->layer.matmul_k, c->layer.matmul_v, c->layer.matmul_a};
    if (mode == MODE_DYNAMIC) {
        return;
    }
    for (size_t i = 0; i < c->slots_count; i++) {
        if (mode != MODE_STATIC) {
            CHECK(qb_quantizer_set_stages(*c->slots[i], QB_STAGE_DISABLED) == QB_OK);
        }
        else if (!c->is_weight[i]) {
            case_set_amax(*c->slots[i], 1.9f);
        }
    }
    for (size_t i = 0; i < COUNT(products); i++) {
        if (bits[mode][i] > 0) {
            const qb_quantizer_options options = case_quantizer_options(bits[mode][i], 0);
            CHECK(qb_quantizer_set_options(products[i], &options, NULL) == QB_OK);
            CHECK(qb_quantizer_set_stages(products[i], QB_STAGE_QUANT) == QB_OK);
            case_set_amax(products[i], amaxes[i]);
        }
    }
}

#endif
