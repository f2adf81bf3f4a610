/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests of decoders share: a small model that decodes, with or without an encoder to look at, and its forward over
 * whole sequences or in chunks with the keys of the chunks before.
 */
#ifndef QB_TESTS_DECODER_CASE_H
#define QB_TESTS_DECODER_CASE_H

#include "model_case.h"

enum { D_BATCH = 3, D_LENGTH = 19, D_ENCODER = 23, D_HEAD_SIZE = HIDDEN / HEADS };

/* Which columns of the tokens are padding: none; some on the left; or the ends of prompts that are shorter than the
 * first chunk, before the tokens that continue them. */
typedef enum decoder_padding {
    PADDED_NOWHERE,
    PADDED_LEFT,
    PADDED_BETWEEN,
    PADDED_RIGHT,
    PADDINGS_COUNT
} decoder_padding;

enum { FIRST_CHUNK = 7 };

typedef struct decoder_setup {
    const char *positions;
    int has_encoder;
    int is_quantized; /* with static ranges; otherwise every quantizer is off */
    qb_padding padding;
    decoder_padding padded;
} decoder_setup;

typedef struct decoder_case {
    decoder_setup setup;
    qb_device *device;
    qb_model *model;
    qb_session *session;
    int64_t ids[D_BATCH * D_LENGTH], types[D_BATCH * D_LENGTH], mask[D_BATCH * D_LENGTH];
    int64_t encoder_mask[D_BATCH * D_ENCODER];
    float *encoder; /* (B, S, H) */
} decoder_case;

/* Everything that a forward over (B, T) hands out. */
typedef struct decoder_outputs {
    float hidden[D_BATCH * D_LENGTH * HIDDEN];
    float logits[D_BATCH * D_LENGTH * VOCABULARY];
    float attentions[LAYERS][D_BATCH * HEADS * D_LENGTH * D_LENGTH];
    float cross_attentions[LAYERS][D_BATCH * HEADS * D_LENGTH * D_ENCODER];
    float keys[LAYERS][D_BATCH * HEADS * D_LENGTH * D_HEAD_SIZE];
    float values[LAYERS][D_BATCH * HEADS * D_LENGTH * D_HEAD_SIZE];
} decoder_outputs;

static inline int
decoder_is_padding(decoder_padding padded, int64_t b, int64_t t)
{
    switch (padded) {
    case PADDED_LEFT:
        return t < 2 * b;
    case PADDED_BETWEEN:
        return t < FIRST_CHUNK && t >= FIRST_CHUNK - 2 * b;
    case PADDED_RIGHT:
        return t >= D_LENGTH - 6 * b;
    case PADDED_NOWHERE:
    case PADDINGS_COUNT:
        break;
    }
    return 0;
}

static inline decoder_case *
decoder_make(qb_device *device, const decoder_setup *setup)
{
    decoder_case *c = (decoder_case *)case_memory(sizeof *c);
    qb_model_options options = model_options(QB_HEAD_LANGUAGE_MODEL);
    c->setup = *setup;
    c->device = device;
    options.position_embedding_type = setup->positions;
    options.add_cross_attention = setup->has_encoder;
    options.tie_word_embeddings = 1;
    c->model = model_make_of(device, &options);
    if (setup->is_quantized) {
        model_set_ranges(c->model);
    }
    else {
        model_set_stages(c->model, QB_STAGE_DISABLED);
    }
    const qb_session_options limits = {.struct_size = sizeof limits,
                                       .max_sequences = D_BATCH,
                                       .max_length = D_LENGTH,
                                       .keep_probabilities = 1,
                                       .max_past = D_LENGTH,
                                       .max_encoder_length = setup->has_encoder ? D_ENCODER : 0};
    c->session = session_make_of(c->model, &limits);
    model_ids(c->ids, D_BATCH * D_LENGTH, 91);
    for (int64_t i = 0; i < D_BATCH * D_LENGTH; i++) {
        c->types[i] = i % D_LENGTH > 9;
        c->mask[i] = !decoder_is_padding(setup->padded, i / D_LENGTH, i % D_LENGTH);
    }
    for (int64_t i = 0; i < D_BATCH * D_ENCODER; i++) { /* 23, 12 and 1 tokens */
        c->encoder_mask[i] = i % D_ENCODER < D_ENCODER - 11 * (i / D_ENCODER);
    }
    c->encoder = case_random(D_BATCH * D_ENCODER * HIDDEN, 1.0f, 92);
    return c;
}

static inline void
decoder_free(decoder_case *c)
{
    qb_session_destroy(c->session);
    qb_model_release(c->model);
    free(c->encoder);
    free(c);
}

static inline decoder_outputs *
decoder_outputs_make(void)
{
    decoder_outputs *made = (decoder_outputs *)case_memory(sizeof *made);
    memset(made, 0xff, sizeof *made); /* NaN where nothing is written */
    return made;
}

/* Columns `from` .. `to` of (B, D_LENGTH), as (B, to - from). */
static inline void
decoder_slice(const int64_t *x, int64_t from, int64_t to, int64_t *y)
{
    for (int64_t b = 0; b < D_BATCH; b++) {
        memcpy(y + b * (to - from), x + b * D_LENGTH + from, (size_t)(to - from) * sizeof *y);
    }
}

/* Inputs of the tokens `from` .. `to`; ids, types and mask are (B, ...) buffers for them. */
static inline qb_forward_inputs
decoder_inputs(const decoder_case *c, int64_t from, int64_t to, int64_t *ids, int64_t *types, int64_t *mask)
{
    decoder_slice(c->ids, from, to, ids);
    decoder_slice(c->types, from, to, types);
    decoder_slice(c->mask, 0, to, mask);
    qb_forward_inputs inputs = model_inputs(D_BATCH, to - from, ids, c->setup.padded == PADDED_NOWHERE ? NULL : mask);
    inputs.token_type_ids = types;
    inputs.padding = c->setup.padding;
    inputs.is_causal = 1;
    inputs.past_length = from;
    if (c->setup.has_encoder) {
        inputs.encoder_length = D_ENCODER;
        inputs.encoder_attention_mask = c->encoder_mask;
        inputs.encoder_attention_mask_rank = 2;
        inputs.encoder_hidden_states = c->encoder;
    }
    return inputs;
}

/* Arrays (L) of arrays of one size. */
typedef struct layer_arrays {
    float *at[LAYERS];
} layer_arrays;

static inline layer_arrays
layer_arrays_make(int64_t n)
{
    layer_arrays made;
    for (int64_t i = 0; i < LAYERS; i++) {
        made.at[i] = (float *)case_memory((size_t)n * sizeof(float));
        memset(made.at[i], 0xff, (size_t)n * sizeof(float));
    }
    return made;
}

static inline void
layer_arrays_free(layer_arrays *arrays)
{
    for (int64_t i = 0; i < LAYERS; i++) {
        free(arrays->at[i]);
        arrays->at[i] = NULL;
    }
}

/* Put rows of a chunk (B, heads, to - from, columns) where they belong in (B, heads, D_LENGTH, all_columns). */
static inline void
decoder_place(const float *x, int64_t heads, int64_t from, int64_t to, int64_t columns, int64_t all_columns, float *y)
{
    for (int64_t pair = 0; pair < D_BATCH * heads; pair++) {
        for (int64_t t = from; t < to; t++) {
            float *row = y + (pair * D_LENGTH + t) * all_columns;
            memset(row, 0, (size_t)all_columns * sizeof *row); /* keys that are not there yet */
            memcpy(row, x + (pair * (to - from) + t - from) * columns, (size_t)columns * sizeof *row);
        }
    }
}

/* Forward over all tokens in chunks of these sizes, each with the keys of those before; the encoder's keys of the first
 * chunk serve all. */
static inline void
decoder_run(const decoder_case *c, const int64_t *chunks, decoder_outputs *out)
{
    enum { KEYS = D_BATCH * HEADS * D_HEAD_SIZE };
    int64_t ids[D_BATCH * D_LENGTH];
    int64_t types[D_BATCH * D_LENGTH];
    int64_t mask[D_BATCH * D_LENGTH];
    layer_arrays past_keys = {{NULL}};
    layer_arrays past_values = {{NULL}};
    layer_arrays cross_keys = layer_arrays_make(KEYS * D_ENCODER);
    layer_arrays cross_values = layer_arrays_make(KEYS * D_ENCODER);
    for (int64_t from = 0, to = 0; from < D_LENGTH; from = to) {
        to = from + *chunks++;
        const int64_t n = to - from;
        qb_forward_inputs inputs = decoder_inputs(c, from, to, ids, types, mask);
        inputs.past_keys = (const float *const *)past_keys.at;
        inputs.past_values = (const float *const *)past_values.at;
        float *hidden = (float *)case_memory((size_t)(D_BATCH * n * HIDDEN) * sizeof(float));
        float *logits = (float *)case_memory((size_t)(D_BATCH * n * VOCABULARY) * sizeof(float));
        layer_arrays keys = layer_arrays_make(KEYS * to);
        layer_arrays values = layer_arrays_make(KEYS * to);
        layer_arrays attentions = layer_arrays_make(D_BATCH * HEADS * n * to);
        layer_arrays cross_attentions = layer_arrays_make(D_BATCH * HEADS * n * D_ENCODER);
        qb_forward_outputs outputs = {.struct_size = sizeof outputs,
                                      .last_hidden_state = hidden,
                                      .logits = logits,
                                      .attentions = attentions.at,
                                      .keys = keys.at,
                                      .values = values.at};
        if (c->setup.has_encoder) {
            outputs.cross_attentions = cross_attentions.at;
        }
        if (c->setup.has_encoder && from == 0) {
            outputs.cross_keys = cross_keys.at;
            outputs.cross_values = cross_values.at;
        }
        else if (c->setup.has_encoder) {
            inputs.encoder_hidden_states = NULL;
            inputs.cross_keys = (const float *const *)cross_keys.at;
            inputs.cross_values = (const float *const *)cross_values.at;
        }
        qb_error error = {.message = ""};
        CHECK(qb_session_forward(c->session, NULL, &inputs, &outputs, &error) == QB_OK);
        if (error.message[0] != '\0') {
            (void)fprintf(stderr, "%s\n", error.message);
        }
        decoder_place(hidden, 1, from, to, HIDDEN, HIDDEN, out->hidden);
        decoder_place(logits, 1, from, to, VOCABULARY, VOCABULARY, out->logits);
        for (int64_t i = 0; i < LAYERS; i++) {
            decoder_place(attentions.at[i], HEADS, from, to, to, D_LENGTH, out->attentions[i]);
            decoder_place(cross_attentions.at[i], HEADS, from, to, D_ENCODER, D_ENCODER, out->cross_attentions[i]);
            decoder_place(keys.at[i], HEADS, 0, to, D_HEAD_SIZE, D_HEAD_SIZE, out->keys[i]);
            decoder_place(values.at[i], HEADS, 0, to, D_HEAD_SIZE, D_HEAD_SIZE, out->values[i]);
        }
        layer_arrays_free(&past_keys);
        layer_arrays_free(&past_values);
        layer_arrays_free(&attentions);
        layer_arrays_free(&cross_attentions);
        past_keys = keys;
        past_values = values;
        free(hidden);
        free(logits);
    }
    layer_arrays_free(&past_keys);
    layer_arrays_free(&past_values);
    layer_arrays_free(&cross_keys);
    layer_arrays_free(&cross_values);
}

#endif
