/* SPDX-License-Identifier: Apache-2.0
 *
 * What a caller can get wrong about a forward call: each is refused by name, and the session goes on.
 */
#include "model_case.h"

enum { BATCH = 4, LENGTH = 31, TOKENS = BATCH * LENGTH, PAST = 9, ENCODER = 11, KEYS = LENGTH + PAST };

/* A call that is right, to be spoiled in one way at a time. */
typedef struct refusal_case {
    qb_device *device;
    qb_model *model;
    qb_session *session;
    int64_t ids[TOKENS], types[TOKENS], positions[TOKENS];
    int64_t mask[BATCH * LENGTH * KEYS], encoder_mask[BATCH * LENGTH * ENCODER];
    float floats[BATCH * HIDDEN * (ENCODER + KEYS) * LENGTH]; /* whatever is read and written */
    float *rooms[LAYERS + 1];
    const float *arrays[LAYERS];
    qb_forward_inputs inputs;
    qb_forward_outputs outputs;
} refusal_case;

static refusal_case *
refusal_make_of(const qb_model_options *options)
{
    refusal_case *c = case_memory(sizeof *c);
    c->device = case_device("ref", 1);
    c->model = model_make_of(c->device, options);
    model_set_stages(c->model, QB_STAGE_DISABLED);
    const qb_session_options limits = {.struct_size = sizeof limits,
                                       .max_sequences = BATCH,
                                       .max_length = LENGTH,
                                       .max_past = PAST + 1,
                                       .max_encoder_length = options->add_cross_attention ? POSITIONS + 1 : 0};
    c->session = session_make_of(c->model, &limits);
    model_ids(c->ids, TOKENS, 85);
    for (int64_t i = 0; i < TOKENS; i++) {
        c->positions[i] = i % LENGTH;
    }
    for (int64_t i = 0; i < BATCH * LENGTH * KEYS; i++) {
        c->mask[i] = 1;
    }
    for (int64_t i = 0; i < BATCH * LENGTH * ENCODER; i++) {
        c->encoder_mask[i] = 1;
    }
    for (int64_t i = 0; i <= LAYERS; i++) {
        c->rooms[i] = c->floats;
    }
    for (int64_t i = 0; i < LAYERS; i++) {
        c->arrays[i] = c->floats;
    }
    c->inputs = model_inputs(BATCH, LENGTH, c->ids, c->mask);
    c->inputs.token_type_ids = c->types;
    c->inputs.position_ids = c->positions;
    c->outputs = (qb_forward_outputs){.struct_size = sizeof c->outputs, .last_hidden_state = c->floats};
    return c;
}

static refusal_case *
refusal_make(qb_head head)
{
    const qb_model_options options = model_options(head);
    return refusal_make_of(&options);
}

/* With a past of PAST columns and ENCODER encoder tokens. */
static refusal_case *
refusal_make_decoder(const char *positions)
{
    qb_model_options options = model_options(QB_HEAD_LANGUAGE_MODEL);
    options.add_cross_attention = 1;
    options.position_embedding_type = positions;
    refusal_case *c = refusal_make_of(&options);
    c->inputs.is_causal = 1;
    c->inputs.past_length = PAST;
    c->inputs.past_keys = c->arrays;
    c->inputs.past_values = c->arrays;
    c->inputs.encoder_length = ENCODER;
    c->inputs.encoder_hidden_states = c->floats;
    c->inputs.encoder_attention_mask = c->encoder_mask;
    c->inputs.encoder_attention_mask_rank = 2;
    return c;
}

static void
refusal_free(refusal_case *c)
{
    CHECK(qb_session_forward(c->session, NULL, &c->inputs, &c->outputs, NULL) == QB_OK); /* nothing is broken */
    qb_session_destroy(c->session);
    qb_model_release(c->model);
    qb_device_close(c->device);
    free(c);
}

static void
refuses(refusal_case *c, qb_status status, const char *part)
{
    qb_error error = {.status = QB_OK};
    CHECK(qb_session_forward(c->session, NULL, &c->inputs, &c->outputs, &error) == status);
    CHECK(error.status == status);
    CHECK_CONTAINS(error.message, part);
    if (strstr(error.message, part) == NULL) {
        (void)fprintf(stderr, "%s\n", error.message);
    }
}

/* ---- elements and shapes ---------------------------------------------------------------------------------------- */

static void
test_every_wrong_element_is_named_with_row_column_and_value(void)
{
    refusal_case *c = refusal_make(QB_HEAD_QUESTION_ANSWERING);
    c->ids[LENGTH + 3] = VOCABULARY;
    refuses(c, QB_ERR_INDEX, "input_ids[1, 3] is 37, expected 0 .. 36");
    c->ids[LENGTH + 3] = -1;
    refuses(c, QB_ERR_INDEX, "input_ids[1, 3] is -1");
    c->ids[LENGTH + 3] = 0;
    c->types[2] = 2;
    refuses(c, QB_ERR_INDEX, "token_type_ids[0, 2] is 2, expected 0 .. 1");
    c->types[2] = 0;
    c->positions[30] = POSITIONS;
    refuses(c, QB_ERR_INDEX, "position_ids[0, 30] is 40");
    c->positions[30] = 0;
    c->mask[2 * LENGTH] = 2;
    refuses(c, QB_ERR_VALUE, "attention_mask[2, 0] is 2, expected 0 or 1");
    c->mask[2 * LENGTH] = 1;
    memset(c->mask + LENGTH, 0, LENGTH * sizeof *c->mask);
    refuses(c, QB_ERR_VALUE, "attention_mask[1] is all zero: the sequence has nothing to compute");
    c->inputs.padding = QB_PADDING_COMPUTE;
    refusal_free(c);
}

static void
test_every_wrong_shape_or_combination_is_named(void)
{
    refusal_case *c = refusal_make(QB_HEAD_QUESTION_ANSWERING);
    c->inputs.batch = 5;
    refuses(c, QB_ERR_SHAPE, "batch is 5, expected 1 .. max_sequences 4");
    c->inputs.batch = 0;
    refuses(c, QB_ERR_SHAPE, "batch is 0");
    c->inputs.batch = 1;
    c->inputs.length = 32;
    refuses(c, QB_ERR_SHAPE, "length is 32, expected 1 .. max_length 31");
    c->inputs.length = POSITIONS + 1;
    refuses(c, QB_ERR_SHAPE, "length is 41 tokens, more than the model's 40 positions");
    c->inputs.length = LENGTH;
    c->inputs.inputs_embeds = c->floats;
    refuses(c, QB_ERR_VALUE, "both input_ids and inputs_embeds");
    c->inputs.inputs_embeds = NULL;
    c->inputs.input_ids = NULL;
    refuses(c, QB_ERR_VALUE, "neither input_ids nor inputs_embeds");
    c->inputs.input_ids = c->ids;
    c->inputs.attention_mask_rank = 3;
    refuses(c, QB_ERR_VALUE, "rank 3");
    c->inputs.attention_mask_rank = 4;
    refuses(c, QB_ERR_VALUE, "rank 4");
    c->inputs.attention_mask_rank = 2;
    c->inputs.padding = (qb_padding)2;
    refuses(c, QB_ERR_VALUE, "padding is 2, expected a value of qb_padding");
    c->inputs.padding = QB_PADDING_SKIP;
    refusal_free(c);
}

static void
test_a_pooled_position_must_be_computed(void)
{
    refusal_case *c = refusal_make(QB_HEAD_SEQUENCE_CLASSIFICATION);
    c->outputs.logits = c->floats;
    c->mask[LENGTH] = 0;
    refuses(c, QB_ERR_VALUE, "attention_mask[1, 0] is 0");
    c->inputs.padding = QB_PADDING_COMPUTE;
    refusal_free(c);
}

/* ---- keys of earlier calls -------------------------------------------------------------------------------------- */

static void
test_a_past_beyond_the_limits_or_without_keys_is_refused(void)
{
    refusal_case *c = refusal_make_decoder("absolute");
    c->inputs.past_length = -1;
    refuses(c, QB_ERR_SHAPE, "past_length is -1, expected 0 .. max_past 10");
    c->inputs.past_length = PAST + 2;
    refuses(c, QB_ERR_SHAPE, "past_length is 11, expected 0 .. max_past 10");
    c->inputs.past_length = PAST;
    c->inputs.past_keys = NULL;
    refuses(c, QB_ERR_VALUE, "past_keys and past_values are not there for every layer, but past_length is 9");
    c->inputs.past_keys = c->arrays;
    c->inputs.past_values = NULL;
    refuses(c, QB_ERR_VALUE, "past_keys and past_values are not there for every layer");
    c->inputs.past_values = c->arrays;
    c->arrays[LAYERS - 1] = NULL;
    refuses(c, QB_ERR_VALUE, "past_keys and past_values are not there for every layer");
    c->arrays[LAYERS - 1] = c->floats;
    refusal_free(c);
}

static void
test_places_beyond_the_positions_are_refused_where_they_are_counted(void)
{
    refusal_case *c = refusal_make_decoder("absolute");
    c->inputs.past_length = PAST + 1;
    CHECK(qb_session_forward(c->session, NULL, &c->inputs, &c->outputs, NULL) == QB_OK); /* positions are given */
    c->inputs.position_ids = NULL;
    refuses(c, QB_ERR_SHAPE, "past_length 10 and length 31 are more than the model's 40 positions");
    c->inputs.past_length = PAST;
    refusal_free(c);

    c = refusal_make_decoder("relative_key");
    c->inputs.past_length = PAST + 1;
    refuses(c, QB_ERR_SHAPE, "past_length 10 and length 31 are more than the model's 40 positions");
    c->inputs.past_length = PAST;
    c->inputs.encoder_length = POSITIONS + 1;
    refuses(c, QB_ERR_SHAPE, "encoder_length is 41, more than the 40 positions that distances are known for");
    c->inputs.encoder_length = ENCODER;
    refusal_free(c);
}

static void
test_masks_of_the_past_are_checked_and_new_tokens_must_remain(void)
{
    refusal_case *c = refusal_make_decoder("absolute");
    c->mask[KEYS + 2] = 7;
    refuses(c, QB_ERR_VALUE, "attention_mask[1, 2] is 7, expected 0 or 1");
    c->mask[KEYS + 2] = 1;
    memset(c->mask + KEYS + PAST, 0, LENGTH * sizeof *c->mask); /* the past alone is left of sequence 1 */
    refuses(c, QB_ERR_VALUE, "attention_mask[1] is all zero for the new tokens: the sequence has nothing to compute");
    c->mask[KEYS + PAST] = 1;
    memset(c->mask + 2 * KEYS, 0, PAST * sizeof *c->mask); /* no past is left of sequence 2, which is allowed */
    refusal_free(c);
}

/* ---- encoder ---------------------------------------------------------------------------------------------------- */

static void
test_an_encoder_that_cannot_be_looked_at_is_refused(void)
{
    refusal_case *c = refusal_make(QB_HEAD_LANGUAGE_MODEL);
    c->inputs.encoder_length = ENCODER;
    c->inputs.encoder_hidden_states = c->floats;
    refuses(c, QB_ERR_VALUE, "encoder_length is 11, but the model was made without cross-attention");
    c->inputs.encoder_length = 0;
    c->inputs.encoder_hidden_states = NULL;
    refusal_free(c);

    c = refusal_make_decoder("absolute");
    c->inputs.encoder_length = POSITIONS + 2;
    refuses(c, QB_ERR_SHAPE, "encoder_length is 42, expected 0 .. max_encoder_length 41");
    c->inputs.encoder_length = -1;
    refuses(c, QB_ERR_SHAPE, "encoder_length is -1, expected 0 .. max_encoder_length 41");
    c->inputs.encoder_length = 0;
    refuses(c, QB_ERR_VALUE, "encoder_hidden_states, but encoder_length is 0");
    c->inputs.encoder_hidden_states = NULL;
    refuses(c, QB_ERR_VALUE, "encoder_attention_mask, but encoder_length is 0");
    c->inputs.encoder_length = ENCODER;
    refuses(c, QB_ERR_VALUE, "neither encoder_hidden_states nor cross_keys were given, but encoder_length is 11");
    c->inputs.cross_keys = c->arrays;
    refuses(c, QB_ERR_VALUE, "one of cross_keys and cross_values was given, expected both or none");
    c->inputs.cross_values = c->arrays;
    c->arrays[0] = NULL;
    c->inputs.past_length = 0;
    c->inputs.attention_mask = NULL;
    refuses(c, QB_ERR_VALUE, "cross_keys and cross_values are not there for every layer");
    c->arrays[0] = c->floats;
    refusal_free(c);
}

static void
test_every_wrong_element_of_an_encoder_mask_is_named(void)
{
    refusal_case *c = refusal_make_decoder("absolute");
    c->encoder_mask[ENCODER + 4] = -1;
    refuses(c, QB_ERR_VALUE, "encoder_attention_mask[1, 4] is -1, expected 0 or 1");
    c->encoder_mask[ENCODER + 4] = 1;
    memset(c->encoder_mask + 2 * ENCODER, 0, ENCODER * sizeof *c->encoder_mask);
    refuses(c, QB_ERR_VALUE, "encoder_attention_mask[2] is all zero: the sequence has nothing to look at");
    c->inputs.encoder_attention_mask_rank = 1;
    refuses(c, QB_ERR_VALUE, "encoder_attention_mask has rank 1, expected 2 or 3");
    c->inputs.encoder_attention_mask_rank = 3;
    refuses(c, QB_ERR_VALUE, "encoder_attention_mask has rank 3, which needs padding that is computed, not skipped");
    c->inputs.padding = QB_PADDING_COMPUTE;
    c->encoder_mask[(LENGTH + 2) * ENCODER + 5] = 3;
    refuses(c, QB_ERR_VALUE, "encoder_attention_mask[1, 2, 5] is 3, expected 0 or 1");
    c->encoder_mask[(LENGTH + 2) * ENCODER + 5] = 1;
    c->inputs.attention_mask_rank = 3;
    c->mask[(3 * LENGTH + 30) * KEYS + KEYS - 1] = 9;
    refuses(c, QB_ERR_VALUE, "attention_mask[3, 30, 39] is 9, expected 0 or 1");
    c->mask[(3 * LENGTH + 30) * KEYS + KEYS - 1] = 0;
    refusal_free(c);
}

/* ---- outputs ---------------------------------------------------------------------------------------------------- */

static void
test_outputs_that_the_model_or_the_call_lacks_are_refused(void)
{
    refusal_case *c = refusal_make(QB_HEAD_QUESTION_ANSWERING);
    c->outputs.pooler_output = c->floats;
    refuses(c, QB_ERR_VALUE, "pooler_output was asked for, but the model has no pooler");
    c->outputs.pooler_output = NULL;
    c->outputs.cross_attentions = c->rooms;
    refuses(c, QB_ERR_VALUE, "cross_attentions were asked for, but there is no encoder to look at");
    c->outputs.cross_attentions = NULL;
    c->outputs.cross_keys = c->rooms;
    c->outputs.cross_values = c->rooms;
    refuses(c, QB_ERR_VALUE, "cross_keys were asked for, but no encoder states are projected");
    c->outputs.cross_keys = NULL;
    refuses(c, QB_ERR_VALUE, "keys were asked for without values, or values without keys");
    c->outputs.cross_values = NULL;
    c->outputs.values = c->rooms;
    refuses(c, QB_ERR_VALUE, "keys were asked for without values, or values without keys");
    c->outputs.values = NULL;
    c->outputs.attentions = c->rooms;
    refuses(c, QB_ERR_STATE, "attentions were asked for, but the session was made without keep_probabilities");
    c->outputs.attentions = NULL;
    CHECK(qb_quantizer_set_stages(qb_model_quantizer(c->model, 9), QB_STAGE_QUANT) == QB_OK);
    refuses(c, QB_ERR_STATE, "matmul_a_input_quantizer");
    CHECK(qb_quantizer_set_stages(qb_model_quantizer(c->model, 9), QB_STAGE_DISABLED) == QB_OK);
    refusal_free(c);

    c = refusal_make(QB_HEAD_NONE);
    c->outputs.logits = c->floats;
    refuses(c, QB_ERR_VALUE, "logits were asked for, but the model has no head");
    c->outputs.logits = NULL;
    refusal_free(c);

    c = refusal_make_decoder("absolute");
    c->outputs.cross_attentions = c->rooms;
    refuses(c, QB_ERR_STATE, "attentions were asked for, but the session was made without keep_probabilities");
    c->outputs.cross_attentions = NULL;
    c->inputs.cross_keys = c->arrays;
    c->inputs.cross_values = c->arrays;
    c->outputs.cross_keys = c->rooms;
    c->outputs.cross_values = c->rooms;
    refuses(c, QB_ERR_VALUE, "cross_keys were asked for, but no encoder states are projected");
    c->inputs.cross_keys = NULL;
    c->inputs.cross_values = NULL;
    refusal_free(c);
}

static void
test_an_array_of_outputs_with_a_gap_is_refused(void)
{
    refusal_case *c = refusal_make_decoder("absolute");
    c->outputs.hidden_states = c->rooms;
    c->rooms[LAYERS] = NULL;
    refuses(c, QB_ERR_VALUE, "hidden_states[2] is NULL, expected memory for each of 3");
    c->outputs.hidden_states = NULL;
    c->outputs.keys = c->rooms;
    c->outputs.values = c->rooms;
    c->rooms[0] = NULL;
    refuses(c, QB_ERR_VALUE, "keys[0] is NULL, expected memory for each of 2");
    c->rooms[0] = c->floats;
    refusal_free(c);
}

static void
test_factors_for_heads_that_cross_attention_has_and_self_attention_lost_are_refused(void)
{
    const int64_t heads[LAYERS] = {HEADS, 3};
    const float factors[HEADS + 3] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
    qb_model_options options = model_options(QB_HEAD_NONE);
    options.add_cross_attention = 1;
    options.heads_of_layers = heads;
    refusal_case *c = refusal_make_of(&options);
    c->inputs.head_mask = factors;
    CHECK(qb_session_forward(c->session, NULL, &c->inputs, &c->outputs, NULL) == QB_OK); /* without an encoder */
    c->inputs.encoder_length = ENCODER;
    c->inputs.encoder_hidden_states = c->floats;
    refuses(c, QB_ERR_VALUE, "head_mask was given with encoder states, but heads of layer 1 are pruned");
    c->inputs.head_mask = NULL;
    refusal_free(c);
}

/* ---- limits of a session ---------------------------------------------------------------------------------------- */

static void
refuses_limits(qb_model *model, qb_session_options options, qb_status status, const char *part)
{
    qb_session *session = NULL;
    qb_error error = {.message = ""};
    options.struct_size = sizeof options;
    CHECK(qb_session_create(model, &options, &session, &error) == status && session == NULL);
    CHECK_CONTAINS(error.message, part);
    if (strstr(error.message, part) == NULL) {
        (void)fprintf(stderr, "%s\n", error.message);
    }
}

static void
test_limits_of_keys_are_those_of_an_exact_sum_of_codes(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model_options options = model_options(QB_HEAD_LANGUAGE_MODEL);
    options.add_cross_attention = 1;
    qb_model *model = model_make_of(device, &options);
    const qb_session_options right = {.max_sequences = 2, .max_length = POSITIONS};
    qb_session_options o = right;
    o.max_past = -1;
    refuses_limits(model, o, QB_ERR_VALUE, "max_past is -1, expected 0 .. 131031");
    o.max_past = QB_DEPTH_MAX - POSITIONS + 1;
    refuses_limits(model, o, QB_ERR_VALUE, "max_past is 131032, expected 0 .. 131031");
    o.max_past = INT64_MAX;
    refuses_limits(model, o, QB_ERR_VALUE, "max_past is 9223372036854775807, expected 0 .. 131031");
    o = right;
    o.max_encoder_length = QB_DEPTH_MAX + 1;
    refuses_limits(model, o, QB_ERR_VALUE, "max_encoder_length is 131072, expected 0 .. 131071");
    o.max_encoder_length = INT64_MIN;
    refuses_limits(model, o, QB_ERR_VALUE, "max_encoder_length is -9223372036854775808, expected 0 .. 131071");
    o.max_encoder_length = QB_DEPTH_MAX;
    o.max_past = QB_DEPTH_MAX - POSITIONS;
    o.max_sequences = INT64_MAX / (2 * QB_DEPTH_MAX) + 1;
    refuses_limits(model, o, QB_ERR_VALUE, "max_sequences is");
    o.max_sequences = INT64_MAX / (2 * QB_DEPTH_MAX) / 2;
    refuses_limits(model, o, QB_ERR_NOMEM, "workspace");
    o.keep_probabilities = 1;
    refuses_limits(model, o, QB_ERR_NOMEM, "workspace");
    qb_model_release(model);

    model = model_make(device, QB_HEAD_LANGUAGE_MODEL);
    o = right;
    o.max_encoder_length = 1;
    refuses_limits(model, o, QB_ERR_VALUE, "max_encoder_length is 1, but the model was made without cross-attention");
    qb_model_release(model);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_every_wrong_element_is_named_with_row_column_and_value);
    RUN(test_every_wrong_shape_or_combination_is_named);
    RUN(test_a_pooled_position_must_be_computed);
    RUN(test_a_past_beyond_the_limits_or_without_keys_is_refused);
    RUN(test_places_beyond_the_positions_are_refused_where_they_are_counted);
    RUN(test_masks_of_the_past_are_checked_and_new_tokens_must_remain);
    RUN(test_an_encoder_that_cannot_be_looked_at_is_refused);
    RUN(test_every_wrong_element_of_an_encoder_mask_is_named);
    RUN(test_outputs_that_the_model_or_the_call_lacks_are_refused);
    RUN(test_an_array_of_outputs_with_a_gap_is_refused);
    RUN(test_factors_for_heads_that_cross_attention_has_and_self_attention_lost_are_refused);
    RUN(test_limits_of_keys_are_those_of_an_exact_sum_of_codes);
    return check_report();
}
