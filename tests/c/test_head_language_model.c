/* SPDX-License-Identifier: Apache-2.0
 *
 * The head of masked and causal language models.  Scoring only some tokens: test_logits_positions.c.
 */
#include "models/heads.h"

#include "model_case.h"

enum { BATCH = 9, LENGTH = 31, TOKENS = BATCH * LENGTH }; /* more than two blocks of 128 rows */

static qb_model *
make(qb_device *device, int is_tied)
{
    qb_model_options options = model_options(QB_HEAD_LANGUAGE_MODEL);
    options.tie_word_embeddings = is_tied;
    return model_make_of(device, &options);
}

/* Index of a parameter, or -1. */
static int64_t
find(const qb_model *model, const char *name)
{
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        if (strcmp(qb_model_parameter(model, i).name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static float *
write_to(qb_model *model, const char *name)
{
    float *data = NULL;
    CHECK(qb_model_parameter_write(model, find(model, name), &data, NULL) == QB_OK);
    return data;
}

static const float *
data_of(const qb_model *model, const char *name)
{
    return qb_model_parameter(model, find(model, name)).data;
}

/* ---- names and memory ------------------------------------------------------------------------------------------- */

static void
test_a_tied_table_has_no_name_of_its_own_and_the_bias_is_the_heads(void)
{
    static const char *const expected[] = {"cls.predictions.bias",
                                           "cls.predictions.transform.dense.weight",
                                           "cls.predictions.transform.dense.bias",
                                           "cls.predictions.transform.LayerNorm.weight",
                                           "cls.predictions.transform.LayerNorm.bias",
                                           "cls.predictions.decoder.weight"};
    qb_device *device = case_device("ref", 1);
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        qb_model *model = make(device, is_tied);
        const int64_t count = (int64_t)COUNT(expected) - is_tied;
        const int64_t first = qb_model_parameter_count(model) - count;
        CHECK(strcmp(qb_model_parameter(model, first - 1).name, "bert.encoder.layer.1.output.LayerNorm.bias") == 0);
        for (int64_t i = 0; i < count; i++) {
            CHECK(strcmp(qb_model_parameter(model, first + i).name, expected[i]) == 0);
        }
        CHECK(qb_model_parameter(model, first).shape[0] == VOCABULARY);
        CHECK(find(model, "cls.predictions.decoder.bias") == -1);
        qb_model_release(model);
    }
    qb_device_close(device);
}

static void
test_a_tied_table_takes_no_memory(void)
{
    uint64_t bytes[2];
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        qb_device *device = case_device("ref", 1);
        const uint64_t before = qb_device_memory_statistics(device).live_bytes;
        qb_model *model = make(device, is_tied);
        bytes[is_tied] = qb_device_memory_statistics(device).live_bytes - before;
        qb_model_release(model);
        CHECK(qb_device_memory_statistics(device).live_bytes == before);
        qb_device_close(device);
    }
    CHECK(bytes[0] >= bytes[1] + VOCABULARY * HIDDEN * sizeof(float));
}

static void
test_the_table_is_a_float_site_and_no_quantizer_is_added(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = make(device, 1);
    const int64_t sites = qb_model_site_count(model);
    CHECK(strcmp(qb_model_site(model, sites - 2, 0).name, "cls.predictions.transform.dense") == 0);
    CHECK(strcmp(qb_model_site(model, sites - 1, 0).name, "cls.predictions.decoder") == 0);
    CHECK(strcmp(qb_model_site(model, sites - 1, 0).path, "float") == 0);
    CHECK(qb_model_quantizer_count(model) == LAYERS * 20);
    qb_model_release(model);
    qb_device_close(device);
}

/* ---- logits ----------------------------------------------------------------------------------------------------- */

/* Of hidden states (rows, H): chains, and the reference's activation and LayerNorm, which are bit-defined. */
static void
naive_logits(const qb_model *model, int is_tied, const qb_kernels *reference, const float *x, int64_t rows, float *y)
{
    const float *dense = data_of(model, "cls.predictions.transform.dense.weight");
    const float *dense_bias = data_of(model, "cls.predictions.transform.dense.bias");
    const float *bias = data_of(model, "cls.predictions.bias");
    const float *table =
        data_of(model, is_tied ? "bert.embeddings.word_embeddings.weight" : "cls.predictions.decoder.weight");
    for (int64_t i = 0; i < rows; i++) {
        float t[HIDDEN];
        for (int64_t j = 0; j < HIDDEN; j++) {
            t[j] = 0.0f;
            for (int64_t f = 0; f < HIDDEN; f++) {
                t[j] = fmaf(x[i * HIDDEN + f], dense[j * HIDDEN + f], t[j]);
            }
            t[j] += dense_bias[j];
        }
        reference->activation_f32(QB_ACTIVATION_GELU, t, HIDDEN, t);
        reference->layer_norm_f32(t, 1, HIDDEN, data_of(model, "cls.predictions.transform.LayerNorm.weight"),
                                  data_of(model, "cls.predictions.transform.LayerNorm.bias"), 1e-12f, t);
        for (int64_t v = 0; v < VOCABULARY; v++) {
            float chain = 0.0f;
            for (int64_t f = 0; f < HIDDEN; f++) {
                chain = fmaf(t[f], table[v * HIDDEN + f], chain);
            }
            y[i * VOCABULARY + v] = chain + bias[v];
        }
    }
}

/* Padding nowhere, on the right, on the left, and in places of which some leave a block of rows without a gap. */
static int
is_padding(int kind, int64_t b, int64_t t)
{
    switch (kind) {
    case 1:
        return t >= LENGTH - 3 * b;
    case 2:
        return t < 3 * b;
    case 3:
        return b == 7 && t % 5 == 2;
    default:
        return 0;
    }
}

static void
test_logits_are_naive_to_the_bit_and_zero_at_padding_on_every_device(void)
{
    case_devices devices = case_devices_open();
    int64_t ids[TOKENS];
    int64_t mask[TOKENS];
    float *hidden = case_memory(TOKENS * HIDDEN * sizeof *hidden);
    float *logits = case_memory(TOKENS * VOCABULARY * sizeof *logits);
    float *expected = case_memory(TOKENS * VOCABULARY * sizeof *expected);
    model_ids(ids, TOKENS, 94);
    for (size_t i = 0; i < devices.count * 2; i++) {
        const int is_tied = i % 2 == 0;
        qb_model *model = make(devices.at[i / 2], is_tied);
        model_set_ranges(model);
        qb_session *session = session_make(model, BATCH, LENGTH, 0);
        for (int kind = 0; kind < 4; kind++) {
            for (int64_t j = 0; j < TOKENS; j++) {
                mask[j] = !is_padding(kind, j / LENGTH, j % LENGTH);
            }
            const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, kind == 0 ? NULL : mask);
            const qb_forward_outputs outputs = {
                .struct_size = sizeof outputs, .last_hidden_state = hidden, .logits = logits};
            memset(logits, 0xff, TOKENS * VOCABULARY * sizeof *logits);
            CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
            naive_logits(model, is_tied, &devices.at[0]->kernels, hidden, TOKENS, expected);
            for (int64_t j = 0; j < TOKENS; j++) {
                const float *got = logits + j * VOCABULARY;
                CHECK(mask[j] ? same_bits(got, expected + j * VOCABULARY, VOCABULARY) : all_zero(got, VOCABULARY));
            }
        }
        qb_session_destroy(session);
        qb_model_release(model);
    }
    free(hidden);
    free(logits);
    free(expected);
    case_devices_close(&devices);
}

/* ---- a table that changes --------------------------------------------------------------------------------------- */

/* Whether the columns of logits that differ are `column` alone (all that differ: 1), or none (0). */
static int
changed_columns(const float *a, const float *b, int64_t rows, int64_t column)
{
    int is_changed = 0;
    for (int64_t i = 0; i < rows * VOCABULARY; i++) {
        const int differs = memcmp(&a[i], &b[i], sizeof *a) != 0;
        CHECK(!differs || i % VOCABULARY == column);
        is_changed |= differs;
    }
    return is_changed;
}

static void
test_writing_the_words_remakes_a_tied_table_and_leaves_another_alone(void)
{
    enum { UNUSED = VOCABULARY - 1 }; /* a word that the text does not have */
    qb_device *device = case_device(NULL, 2);
    int64_t ids[LENGTH];
    float before[LENGTH * VOCABULARY];
    float after[LENGTH * VOCABULARY];
    for (int64_t i = 0; i < LENGTH; i++) {
        ids[i] = i % UNUSED;
    }
    const qb_forward_inputs inputs = model_inputs(1, LENGTH, ids, NULL);
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        qb_model *model = make(device, is_tied);
        model_set_ranges(model);
        qb_session *session = session_make(model, 1, LENGTH, 0);
        qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = before};
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        write_to(model, "bert.embeddings.word_embeddings.weight")[UNUSED * HIDDEN + 3] += 1.0f;
        outputs.logits = after;
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        CHECK(changed_columns(before, after, LENGTH, UNUSED) == is_tied);
        if (!is_tied) {
            write_to(model, "cls.predictions.decoder.weight")[5 * HIDDEN] += 1.0f;
            outputs.logits = before;
            CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
            CHECK(changed_columns(before, after, LENGTH, 5) == 1);
        }
        qb_session_destroy(session);
        qb_model_release(model);
    }
    qb_device_close(device);
}

/* A change of the table that nobody is told of shows whether it was packed again. */
static void
test_a_change_elsewhere_leaves_the_packed_table_as_it_is(void)
{
    enum { UNUSED = VOCABULARY - 1 };
    static const char *const tables[] = {"cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"};
    qb_device *device = case_device(NULL, 1);
    const int64_t ids[3] = {1, 2, 3};
    float before[3 * VOCABULARY];
    float after[3 * VOCABULARY];
    const qb_forward_inputs inputs = model_inputs(1, 3, ids, NULL);
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        qb_model *model = make(device, is_tied);
        model_set_stages(model, QB_STAGE_DISABLED);
        float *table = write_to(model, tables[is_tied]);
        qb_session *session = session_make(model, 1, 3, 0);
        qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = before};
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        table[UNUSED * HIDDEN + 3] += 1.0f;
        (void)write_to(model, "cls.predictions.transform.dense.weight");
        outputs.logits = after;
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        CHECK(memcmp(before, after, sizeof before) == 0);
        (void)write_to(model, tables[is_tied]);
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        CHECK(changed_columns(before, after, 3, UNUSED) == 1);
        qb_session_destroy(session);
        qb_model_release(model);
    }
    qb_device_close(device);
}

static void
test_tied_and_untied_models_with_equal_tables_agree(void)
{
    qb_device *device = case_device(NULL, 2);
    int64_t ids[LENGTH];
    float tied[LENGTH * VOCABULARY];
    float untied[LENGTH * VOCABULARY];
    model_ids(ids, LENGTH, 95);
    const qb_forward_inputs inputs = model_inputs(1, LENGTH, ids, NULL);
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        qb_model *model = make(device, is_tied);
        model_set_ranges(model);
        if (!is_tied) {
            memcpy(write_to(model, "cls.predictions.decoder.weight"),
                   data_of(model, "bert.embeddings.word_embeddings.weight"), VOCABULARY * HIDDEN * sizeof(float));
        }
        qb_session *session = session_make(model, 1, LENGTH, 0);
        const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = is_tied ? tied : untied};
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        qb_session_destroy(session);
        qb_model_release(model);
    }
    CHECK(same_bits(tied, untied, LENGTH * VOCABULARY));
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_a_tied_table_has_no_name_of_its_own_and_the_bias_is_the_heads);
    RUN(test_a_tied_table_takes_no_memory);
    RUN(test_the_table_is_a_float_site_and_no_quantizer_is_added);
    RUN(test_logits_are_naive_to_the_bit_and_zero_at_padding_on_every_device);
    RUN(test_writing_the_words_remakes_a_tied_table_and_leaves_another_alone);
    RUN(test_a_change_elsewhere_leaves_the_packed_table_as_it_is);
    RUN(test_tied_and_untied_models_with_equal_tables_agree);
    return check_report();
}
