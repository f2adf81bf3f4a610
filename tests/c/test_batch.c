/* SPDX-License-Identifier: Apache-2.0 */
#include "models/batch.h"

#include "model_case.h"

enum { BATCH = 4, LENGTH = 31, TOKENS = BATCH * LENGTH };

/* ---- errors ----------------------------------------------------------------------------------------------------- */

typedef struct refusal_case {
    qb_device *device;
    qb_model *model;
    qb_session *session;
    int64_t ids[TOKENS], mask[TOKENS], types[TOKENS], positions[TOKENS];
    qb_forward_inputs inputs;
    qb_forward_outputs outputs;
    float logits[TOKENS * LABELS];
} refusal_case;

static refusal_case *
refusal_make(qb_head head)
{
    refusal_case *c = case_memory(sizeof *c);
    c->device = case_device("ref", 1);
    c->model = model_make(c->device, head);
    model_set_stages(c->model, QB_STAGE_DISABLED);
    c->session = session_make(c->model, BATCH, LENGTH, 0);
    model_ids(c->ids, TOKENS, 85);
    for (int64_t i = 0; i < TOKENS; i++) {
        c->mask[i] = 1;
        c->positions[i] = i % LENGTH;
    }
    c->inputs = model_inputs(BATCH, LENGTH, c->ids, c->mask);
    c->inputs.token_type_ids = c->types;
    c->inputs.position_ids = c->positions;
    c->outputs = (qb_forward_outputs){.struct_size = sizeof c->outputs, .logits = c->logits};
    return c;
}

static void
refusal_free(refusal_case *c)
{
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
    refuses(c, QB_ERR_VALUE, "attention_mask[1] is all zero");
    c->inputs.padding = QB_PADDING_COMPUTE;
    CHECK(qb_session_forward(c->session, NULL, &c->inputs, &c->outputs, NULL) == QB_OK);
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
    c->inputs.inputs_embeds = c->logits;
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
    c->outputs.pooler_output = c->logits;
    refuses(c, QB_ERR_VALUE, "no pooler");
    c->outputs.pooler_output = NULL;
    float *const attentions[LAYERS] = {c->logits};
    c->outputs.attentions = attentions;
    refuses(c, QB_ERR_STATE, "keep_probabilities");
    c->outputs.attentions = NULL;
    CHECK(qb_quantizer_set_stages(qb_model_quantizer(c->model, 9), QB_STAGE_QUANT) == QB_OK);
    refuses(c, QB_ERR_STATE, "matmul_a_input_quantizer");
    refusal_free(c);
}

static void
test_a_pooled_position_must_be_computed(void)
{
    refusal_case *c = refusal_make(QB_HEAD_SEQUENCE_CLASSIFICATION);
    c->mask[LENGTH] = 0;
    refuses(c, QB_ERR_VALUE, "attention_mask[1, 0] is 0");
    c->inputs.padding = QB_PADDING_COMPUTE;
    CHECK(qb_session_forward(c->session, NULL, &c->inputs, &c->outputs, NULL) == QB_OK);
    refusal_free(c);
}

/* ---- there and back --------------------------------------------------------------------------------------------- */

static void
test_tokens_go_back_to_their_places_and_the_rest_is_zero(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    const qb_session_options limits = {.max_sequences = 2, .max_length = 3, .max_tokens = 6};
    const int64_t ids[6] = {5, 6, 7, 8, 9, 10};
    const int64_t mask[6] = {0, 1, 1, 1, 0, 0};
    const qb_forward_inputs inputs = model_inputs(2, 3, ids, mask);
    const float rows[6] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}; /* two features of three tokens */
    const float expected[12] = {0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0};
    const float pairs[5] = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f}; /* one head: (2, 2), then (1, 1) */
    const float expected_pairs[18] = {0, 0, 0, 0, 0.1f, 0.2f, 0, 0.3f, 0.4f, 0.5f};
    float y[18];
    const qb_limits planned = {.sequences = 2, .tokens = 6, .length = 3};
    qb_batch batch;
    qb_arena arena = qb_arena_measuring();
    qb_batch_plan(&batch, &arena, &planned, HIDDEN);
    void *block = case_aligned(arena.used);
    arena = qb_arena_bind(block, arena.used);
    qb_batch_plan(&batch, &arena, &planned, HIDDEN);
    CHECK(qb_batch_fill(&batch, &model->config, &limits, &inputs, NULL) == QB_OK);
    CHECK(batch.sequences.tokens == 3 && batch.sequences.max_length == 2 && batch.keys.mask == NULL);
    CHECK(batch.ids[0] == 6 && batch.ids[1] == 7 && batch.ids[2] == 8);
    CHECK(batch.positions[0] == 1 && batch.positions[1] == 2 && batch.positions[2] == 0);
    memset(y, 0xff, sizeof y);
    qb_batch_scatter(&batch, rows, 2, y);
    CHECK(same_bits(y, expected, 12));
    memset(y, 0xff, sizeof y);
    qb_batch_scatter_pairs(&batch, &batch.keys, 3, pairs, 1, y);
    CHECK(same_bits(y, expected_pairs, 18));
    free(block);
    qb_model_release(model);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_every_wrong_element_is_named_with_row_column_and_value);
    RUN(test_every_wrong_shape_or_combination_is_named);
    RUN(test_a_pooled_position_must_be_computed);
    RUN(test_tokens_go_back_to_their_places_and_the_rest_is_zero);
    return check_report();
}
