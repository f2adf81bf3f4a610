/* SPDX-License-Identifier: Apache-2.0
 *
 * Heads: what they are called, which shape their logits have, and what they compute.  The language model's has tests of
 * its own (test_head_language_model.c).
 */
#include "models/heads.h"

#include "model_case.h"

enum { BATCH = 3, LENGTH = 17, TOKENS = BATCH * LENGTH, CLASSES = 7 };

/* ---- names and shapes ------------------------------------------------------------------------------------------- */

typedef struct named {
    const char *name;
    int64_t rows, columns; /* 0 columns: rank 1 */
} named;

/* The last parameters of the model are these. */
static void
check_last(const qb_model *model, const named *expected, int64_t count)
{
    const int64_t first = qb_model_parameter_count(model) - count;
    for (int64_t i = 0; i < count; i++) {
        const qb_parameter_info info = qb_model_parameter(model, first + i);
        CHECK(strcmp(info.name, expected[i].name) == 0);
        CHECK(info.rank == (expected[i].columns == 0 ? 1 : 2));
        CHECK(info.shape[0] == expected[i].rows);
        CHECK(expected[i].columns == 0 || info.shape[1] == expected[i].columns);
    }
}

static void
test_heads_have_the_original_names_and_shapes_and_the_pooler_that_they_need(void)
{
    static const struct {
        qb_head head;
        int has_pooler;
        int32_t rank;
        int64_t shape[3];
        named last[2];
    } expected[] = {
        {QB_HEAD_NONE, 1, 0, {0, 0, 0}, {{"pooler.dense.weight", HIDDEN, HIDDEN}, {"pooler.dense.bias", HIDDEN, 0}}},
        {QB_HEAD_QUESTION_ANSWERING,
         0,
         3,
         {BATCH, LENGTH, CLASSES},
         {{"qa_outputs.weight", CLASSES, HIDDEN}, {"qa_outputs.bias", CLASSES, 0}}},
        {QB_HEAD_SEQUENCE_CLASSIFICATION,
         1,
         2,
         {BATCH, CLASSES, 0},
         {{"classifier.weight", CLASSES, HIDDEN}, {"classifier.bias", CLASSES, 0}}},
        {QB_HEAD_TOKEN_CLASSIFICATION,
         0,
         3,
         {BATCH, LENGTH, CLASSES},
         {{"classifier.weight", CLASSES, HIDDEN}, {"classifier.bias", CLASSES, 0}}},
        {QB_HEAD_NEXT_SENTENCE,
         1,
         2,
         {BATCH, 2, 0},
         {{"cls.seq_relationship.weight", 2, HIDDEN}, {"cls.seq_relationship.bias", 2, 0}}},
        {QB_HEAD_LANGUAGE_MODEL,
         0,
         3,
         {BATCH, LENGTH, VOCABULARY},
         {{"cls.predictions.transform.LayerNorm.weight", HIDDEN, 0},
          {"cls.predictions.transform.LayerNorm.bias", HIDDEN, 0}}},
    };
    qb_device *device = case_device("ref", 1);
    for (size_t i = 0; i < COUNT(expected); i++) {
        qb_model_options options = model_options(expected[i].head);
        options.num_labels = CLASSES;
        options.tie_word_embeddings = 1;
        qb_model *model = model_make_of(device, &options);
        int64_t shape[3] = {0, 0, 0};
        CHECK(qb_model_has_pooler(model) == expected[i].has_pooler);
        CHECK(qb_model_logits_shape(model, BATCH, LENGTH, shape) == expected[i].rank);
        CHECK(expected[i].rank == 0 || (shape[0] == expected[i].shape[0] && shape[1] == expected[i].shape[1]));
        CHECK(expected[i].rank != 3 || shape[2] == expected[i].shape[2]);
        check_last(model, expected[i].last, 2);
        qb_model_release(model);
    }
    qb_device_close(device);
}

static void
test_next_sentence_has_two_classes_whatever_the_labels(void)
{
    qb_device *device = case_device("ref", 1);
    for (int64_t labels = 1; labels < 4; labels++) {
        qb_model_options options = model_options(QB_HEAD_NEXT_SENTENCE);
        options.num_labels = labels;
        qb_model *model = model_make_of(device, &options);
        int64_t shape[3] = {0, 0, 0};
        CHECK(qb_model_logits_shape(model, BATCH, LENGTH, shape) == 2 && shape[1] == 2);
        qb_model_release(model);
    }
    qb_device_close(device);
}

/* ---- logits ----------------------------------------------------------------------------------------------------- */

/* rows of x W' + b, a chain for each; W and b are the model's last two parameters. */
static void
naive_head(const qb_model *model, const float *x, int64_t rows, int64_t classes, float *y)
{
    const int64_t count = qb_model_parameter_count(model);
    const float *weight = qb_model_parameter(model, count - 2).data;
    const float *bias = qb_model_parameter(model, count - 1).data;
    for (int64_t i = 0; i < rows * classes; i++) {
        float chain = 0.0f;
        for (int64_t f = 0; f < HIDDEN; f++) {
            chain = fmaf(x[i / classes * HIDDEN + f], weight[i % classes * HIDDEN + f], chain);
        }
        y[i] = chain + bias[i % classes];
    }
}

static void
test_logits_are_one_chain_each_over_tokens_or_pooled_rows_on_every_device(void)
{
    static const qb_head heads[] = {QB_HEAD_QUESTION_ANSWERING, QB_HEAD_TOKEN_CLASSIFICATION,
                                    QB_HEAD_SEQUENCE_CLASSIFICATION, QB_HEAD_NEXT_SENTENCE};
    case_devices devices = case_devices_open();
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    model_ids(ids, TOKENS, 93);
    for (int64_t i = 0; i < TOKENS; i++) {
        mask[i] = i % LENGTH < LENGTH - 7 * (i / LENGTH);
    }
    for (size_t i = 0; i < COUNT(heads) * devices.count; i++) {
        const qb_head head = heads[i / devices.count];
        const int is_pooled = qb_head_find(head)->is_pooled;
        const int64_t classes = head == QB_HEAD_NEXT_SENTENCE ? 2 : CLASSES;
        const int64_t rows = is_pooled ? BATCH : TOKENS;
        qb_model_options options = model_options(head);
        options.num_labels = CLASSES;
        qb_model *model = model_make_of(devices.at[i % devices.count], &options);
        model_set_ranges(model);
        qb_session *session = session_make(model, BATCH, LENGTH, 0);
        const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, mask);
        float hidden[TOKENS * HIDDEN];
        float pooled[BATCH * HIDDEN];
        float logits[TOKENS * CLASSES];
        float expected[TOKENS * CLASSES];
        const qb_forward_outputs outputs = {.struct_size = sizeof outputs,
                                            .last_hidden_state = hidden,
                                            .pooler_output = is_pooled ? pooled : NULL,
                                            .logits = logits};
        memset(logits, 0xff, sizeof logits);
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        naive_head(model, is_pooled ? pooled : hidden, rows, classes, expected);
        for (int64_t row = 0; row < rows; row++) {
            const float *got = logits + row * classes;
            CHECK(is_pooled || mask[row] ? same_bits(got, expected + row * classes, classes) : all_zero(got, classes));
        }
        qb_session_destroy(session);
        qb_model_release(model);
    }
    case_devices_close(&devices);
}

int
main(void)
{
    RUN(test_heads_have_the_original_names_and_shapes_and_the_pooler_that_they_need);
    RUN(test_next_sentence_has_two_classes_whatever_the_labels);
    RUN(test_logits_are_one_chain_each_over_tokens_or_pooled_rows_on_every_device);
    return check_report();
}
