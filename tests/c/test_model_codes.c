/* SPDX-License-Identifier: Apache-2.0
 *
 * Models that keep weights as codes, and that read floats which are lent: the bits of the model they came from, what is
 * refused, and that memory is given back.
 */
#include "model_case.h"

enum { BATCH = 2, LENGTH = 7, CODED = LAYERS * 6 };

/* The weights of a model's quantized linear layers, as storages. */
static int64_t
coded_weights(const qb_model *model, qb_parameter_storage *storages)
{
    int64_t count = 0;
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const char *name = qb_model_parameter(model, i).name;
        if (strstr(name, "encoder.") != NULL && strstr(name, "LayerNorm") == NULL && strstr(name, ".weight") != NULL) {
            storages[count++] = (qb_parameter_storage){.name = name, .storage = QB_STORAGE_CODES};
        }
    }
    return count;
}

static int
is_weight_quantizer(const char *name)
{
    return strstr(name, "_weight_quantizer") != NULL;
}

/* Static ranges everywhere, also of weights, which are one number a row. */
static void
set_all_ranges(qb_model *model)
{
    model_set_ranges(model);
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        if (is_weight_quantizer(qb_model_quantizer_name(model, i))) {
            case_set_amax(qb_model_quantizer(model, i), 0.375f);
        }
    }
}

static int64_t
elements_of(const qb_parameter_info *info)
{
    return info->shape[0] * (info->rank == 2 ? info->shape[1] : 1);
}

static qb_status
write_codes(qb_model *model, int64_t index, const int8_t *codes, qb_error *error)
{
    const qb_codes_source source = {.index = index, .codes = codes};
    return qb_model_write_codes(model, &source, 1, NULL, error);
}

/* What release_lent is told to count. */
static void
count_release(void *context)
{
    int *calls = context;
    (*calls)++;
}

/* A model like `source` that keeps the weights of its linear layers as codes, and is lent the table of words; sealed if
 * `is_sealed`. */
static qb_model *
frozen_of(qb_model *source, qb_head head, int *released, int is_sealed)
{
    qb_parameter_storage storages[CODED + 1];
    qb_model_options options = model_options(head);
    const int64_t coded = coded_weights(source, storages);
    CHECK(coded == CODED);
    const qb_parameter_info words = qb_model_parameter(source, 0);
    CHECK_CONTAINS(words.name, "word_embeddings");
    storages[coded] = (qb_parameter_storage){.name = words.name, .storage = QB_STORAGE_LENT, .lent = words.data};
    options.storages = storages;
    options.storages_count = coded + 1;
    options.release_lent = count_release;
    options.lent_context = released;
    qb_model *model = NULL;
    qb_error error;
    if (qb_model_create(qb_model_device(source), &options, &model, &error) != QB_OK) {
        (void)fprintf(stderr, "%s\n", error.message);
        CHECK(0);
    }
    set_all_ranges(model);
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const qb_parameter_info from = qb_model_parameter(source, i);
        const qb_parameter_info to = qb_model_parameter(model, i);
        float *data = NULL;
        CHECK(strcmp(from.name, to.name) == 0);
        if (to.storage == QB_STORAGE_FLOATS) {
            CHECK(qb_model_parameter_write(model, i, &data, NULL) == QB_OK);
            memcpy(data, from.data, (size_t)elements_of(&from) * sizeof *data);
        }
        else if (to.storage == QB_STORAGE_CODES) {
            int8_t *codes = case_memory((size_t)elements_of(&from));
            CHECK(qb_model_read_codes(source, i, codes, NULL, NULL) == QB_OK);
            CHECK(write_codes(model, i, codes, NULL) == QB_OK);
            free(codes);
        }
    }
    CHECK(!is_sealed || qb_model_seal(model, NULL) == QB_OK);
    return model;
}

static void
answer(qb_model *model, float *logits)
{
    int64_t ids[BATCH * LENGTH];
    model_ids(ids, BATCH * LENGTH, 3);
    const qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, NULL);
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = logits};
    qb_session *session = session_make(model, BATCH, LENGTH, 0);
    qb_error error;
    if (qb_session_forward(session, NULL, &inputs, &outputs, &error) != QB_OK) {
        (void)fprintf(stderr, "%s\n", error.message);
        CHECK(0);
    }
    qb_session_destroy(session);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void
test_a_frozen_model_has_the_bits_of_its_source_on_every_device(void)
{
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        int released = 0;
        float expected[BATCH * LENGTH * LABELS];
        float logits[BATCH * LENGTH * LABELS];
        qb_model *source = model_make(devices.at[d], QB_HEAD_QUESTION_ANSWERING);
        set_all_ranges(source);
        answer(source, expected);
        qb_model *model = frozen_of(source, QB_HEAD_QUESTION_ANSWERING, &released, 1);
        answer(model, logits);
        CHECK(same_bits(logits, expected, BATCH * LENGTH * LABELS));
        CHECK(released == 0);
        qb_model_release(model);
        CHECK(released == 1);
        qb_model_release(source);
    }
    case_devices_close(&devices);
}

/* The head of a language model multiplies with the table of words, which is lent. */
static void
test_a_tied_head_reads_a_lent_table(void)
{
    qb_device *device = case_device(NULL, 2);
    int released = 0;
    float *expected = case_memory(sizeof(float) * BATCH * LENGTH * VOCABULARY);
    float *logits = case_memory(sizeof(float) * BATCH * LENGTH * VOCABULARY);
    qb_model *source = model_make(device, QB_HEAD_LANGUAGE_MODEL);
    set_all_ranges(source);
    answer(source, expected);
    qb_model *model = frozen_of(source, QB_HEAD_LANGUAGE_MODEL, &released, 1);
    answer(model, logits);
    CHECK(same_bits(logits, expected, BATCH * LENGTH * VOCABULARY));
    qb_model_release(model);
    qb_model_release(source);
    free(expected);
    free(logits);
    qb_device_close(device);
}

static void
test_floats_of_codes_take_no_memory(void)
{
    qb_device *device = case_device(NULL, 1);
    int released = 0;
    qb_model *source = model_make(device, QB_HEAD_NONE);
    set_all_ranges(source);
    qb_model *model = frozen_of(source, QB_HEAD_NONE, &released, 1);
    size_t kept = 0;
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        const int is_float = info.storage == QB_STORAGE_FLOATS;
        CHECK(info.bytes == (is_float ? (size_t)elements_of(&info) * sizeof(float) : 0));
        CHECK((info.data == NULL) == (info.storage == QB_STORAGE_CODES));
        CHECK((info.packed_bytes > 0) == (info.storage == QB_STORAGE_CODES));
        kept += (info.bytes + 63) / 64 * 64;
    }
    CHECK(model->block_bytes == kept);
    CHECK(model->block_bytes < source->block_bytes / 2);
    qb_model_release(model);
    qb_model_release(source);
    qb_device_close(device);
}

static void
test_quantizers_of_a_sealed_weight_stay_as_they_are(void)
{
    qb_device *device = case_device(NULL, 1);
    int released = 0;
    qb_model *source = model_make(device, QB_HEAD_NONE);
    set_all_ranges(source);
    qb_model *model = frozen_of(source, QB_HEAD_NONE, &released, 1);
    const float amax = 1.0f;
    int64_t frozen = 0;
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        qb_quantizer *quantizer = qb_model_quantizer(model, i);
        const qb_quantizer_options options = qb_quantizer_get_options(quantizer);
        const char *name = qb_model_quantizer_name(model, i);
        qb_error error = {.status = QB_OK};
        const qb_status status = qb_quantizer_set_amax(quantizer, &amax, 0, NULL, &error);
        if (qb_quantizer_frozen_name(quantizer) == NULL) {
            CHECK(status == QB_OK);
            continue;
        }
        frozen++;
        CHECK(strcmp(qb_quantizer_frozen_name(quantizer), name) == 0);
        CHECK(status == QB_ERR_STATE);
        CHECK_CONTAINS(error.message, name);
        CHECK_CONTAINS(error.message, "load the checkpoint again");
        CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_DISABLED) == QB_ERR_STATE);
        CHECK(qb_quantizer_set_options(quantizer, &options, &error) == QB_ERR_STATE);
        CHECK(qb_quantizer_set_clip(quantizer, -1.0f, 1.0f, &error) == QB_ERR_STATE);
        CHECK(qb_quantizer_set_pre_quant_scale(quantizer, &amax, 0, NULL, &error) == QB_ERR_STATE);
        CHECK(qb_quantizer_set_observer(quantizer, NULL) == QB_ERR_STATE);
    }
    CHECK(frozen == 2 * (int64_t)CODED);
    CHECK(qb_model_seal(model, NULL) == QB_ERR_STATE);
    qb_model_release(model);
    qb_model_release(source);
    qb_device_close(device);
}

static void
test_nothing_is_written_to_a_frozen_model_or_trained(void)
{
    qb_device *device = case_device(NULL, 1);
    int released = 0;
    qb_model *source = model_make(device, QB_HEAD_NONE);
    set_all_ranges(source);
    qb_model *model = frozen_of(source, QB_HEAD_NONE, &released, 1);
    qb_error error;
    float *data = NULL;
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        const qb_status status = qb_model_parameter_write(model, i, &data, &error);
        CHECK(status == (info.storage == QB_STORAGE_FLOATS ? QB_OK : QB_ERR_STATE));
        if (status != QB_OK) {
            CHECK_CONTAINS(error.message, info.name);
        }
        if (info.storage == QB_STORAGE_CODES) {
            int8_t *codes = case_memory((size_t)elements_of(&info));
            CHECK(write_codes(model, i, codes, &error) == QB_ERR_STATE);
            CHECK_CONTAINS(error.message, "sealed");
            free(codes);
        }
        CHECK(qb_model_gradient(model, i) == NULL);
    }
    const qb_session_options options = {
        .struct_size = sizeof options, .max_sequences = 1, .max_length = 3, .trains = 1};
    qb_session *session = NULL;
    CHECK(qb_session_create(model, &options, &session, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "a session that trains needs the floats");
    qb_optimizer *optimizer = NULL;
    CHECK(qb_optimizer_create(model, QB_OPTIMIZER_SGD, &optimizer, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "an optimizer needs the floats");
    qb_model_release(model);
    qb_model_release(source);
    qb_device_close(device);
}

static void
test_a_forward_needs_every_code_and_a_seal_too(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *source = model_make(device, QB_HEAD_NONE);
    qb_parameter_storage storages[CODED + 1];
    qb_model_options options = model_options(QB_HEAD_NONE);
    options.storages = storages;
    options.storages_count = coded_weights(source, storages);
    qb_model *model = NULL;
    qb_error error;
    CHECK(qb_model_create(device, &options, &model, &error) == QB_OK);
    set_all_ranges(model);
    qb_session *session = session_make(model, 1, 3, 0); /* which leaves a model alone that cannot be packed yet */
    int64_t ids[3] = {1, 2, 3};
    float hidden[3 * HIDDEN];
    const qb_forward_inputs inputs = model_inputs(1, 3, ids, NULL);
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .last_hidden_state = hidden};
    CHECK(qb_session_forward(session, NULL, &inputs, &outputs, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "encoder.layer.0.attention.self.query.weight: is kept as codes, which have not");
    CHECK(qb_model_seal(model, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "encoder.layer.0.attention.self.query.weight: is kept as codes, which have not");
    qb_session_destroy(session);
    qb_model_release(model);
    qb_model_release(source);
    qb_device_close(device);
}

/* Before the seal a quantizer may change, and then neither forward nor seal trusts the codes. */
static void
test_a_change_before_the_seal_is_noticed(void)
{
    qb_device *device = case_device(NULL, 1);
    int released = 0;
    qb_model *source = model_make(device, QB_HEAD_NONE);
    set_all_ranges(source);
    qb_model *model = frozen_of(source, QB_HEAD_NONE, &released, 0);
    qb_error error;
    set_all_ranges(model);
    CHECK(qb_model_seal(model, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "its quantizer has changed");
    CHECK(qb_quantizer_set_stages(qb_model_quantizer(model, 0), QB_STAGE_DISABLED) == QB_OK);
    CHECK(qb_model_seal(model, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "only one of the two operands is quantized");
    qb_model_release(model);
    qb_model_release(source);
    qb_device_close(device);
}

static void
check_storage_refused(const qb_parameter_storage *storages, int64_t count, const char *part)
{
    qb_device *device = case_device("ref", 1);
    int released = 0;
    qb_model_options options = model_options(QB_HEAD_QUESTION_ANSWERING);
    options.storages = storages;
    options.storages_count = count;
    options.release_lent = count_release;
    options.lent_context = &released;
    qb_model *model = NULL;
    qb_error error = {.status = QB_OK};
    const uint64_t blocks = qb_device_memory_statistics(device).live_blocks;
    CHECK(qb_model_create(device, &options, &model, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, part);
    CHECK(released == 0);
    CHECK(qb_device_memory_statistics(device).live_blocks == blocks);
    qb_device_close(device);
}

static void
test_a_wrong_storage_is_named(void)
{
    static const char query[] = "bert.encoder.layer.0.attention.self.query.weight";
    const qb_parameter_storage bias = {"bert.encoder.layer.0.attention.self.query.bias", QB_STORAGE_CODES, NULL};
    const qb_parameter_storage head = {"qa_outputs.weight", QB_STORAGE_CODES, NULL};
    const qb_parameter_storage words = {"bert.embeddings.word_embeddings.weight", QB_STORAGE_CODES, NULL};
    const qb_parameter_storage missing = {"bert.encoder.layer.9.attention.self.query.weight", QB_STORAGE_CODES, NULL};
    const qb_parameter_storage nothing = {query, QB_STORAGE_LENT, NULL};
    const qb_parameter_storage floats = {query, QB_STORAGE_FLOATS, NULL};
    const qb_parameter_storage twice[] = {{query, QB_STORAGE_CODES, NULL}, {query, QB_STORAGE_CODES, NULL}};
    check_storage_refused(&bias, 1, "query.bias is not the weight of a linear layer with quantizers");
    check_storage_refused(&head, 1, "qa_outputs.weight is not the weight");
    check_storage_refused(&words, 1, "word_embeddings.weight is not the weight");
    check_storage_refused(&missing, 1, "the model has no parameter bert.encoder.layer.9");
    check_storage_refused(&nothing, 1, "has no floats to lend");
    check_storage_refused(&floats, 1, "has the storage 0");
    check_storage_refused(twice, 2, "named twice");
}

static void
test_weights_without_codes_are_refused_by_name(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    int8_t codes[VOCABULARY * HIDDEN] = {0};
    float values[VOCABULARY * HIDDEN];
    qb_error error;
    CHECK(qb_model_read_codes(model, 0, codes, NULL, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "word_embeddings.weight: is no weight of a linear layer with quantizers");
    CHECK(qb_model_read_codes(model, -1, codes, NULL, &error) == QB_ERR_INDEX);
    CHECK(qb_model_read_codes(model, qb_model_parameter_count(model), codes, NULL, &error) == QB_ERR_INDEX);
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        if (strstr(qb_model_parameter(model, i).name, "layer.0.attention.self.query.weight") != NULL) {
            CHECK(write_codes(model, i, codes, &error) == QB_ERR_STATE);
            CHECK_CONTAINS(error.message, "query.weight: is kept as floats");
            CHECK(qb_model_values_of_codes(model, i, codes, values, NULL, &error) == QB_ERR_STATE);
            CHECK_CONTAINS(error.message, "query._weight_quantizer: has no amax");
        }
    }
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_a_list_of_codes_is_checked_as_one(void)
{
    qb_device *device = case_device(NULL, 2);
    qb_model *source = model_make(device, QB_HEAD_NONE);
    qb_parameter_storage storages[CODED + 1];
    qb_model_options options = model_options(QB_HEAD_NONE);
    options.storages = storages;
    options.storages_count = coded_weights(source, storages);
    qb_model *model = NULL;
    qb_error error;
    const int8_t codes[INTERMEDIATE * HIDDEN] = {0};
    qb_codes_source sources[CODED + 1] = {{.index = 0}};
    int64_t count = 0;
    CHECK(qb_model_create(device, &options, &model, &error) == QB_OK);
    set_all_ranges(model);
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        if (qb_model_parameter(model, i).storage == QB_STORAGE_CODES) {
            sources[count++] = (qb_codes_source){.index = i, .codes = codes};
        }
    }
    CHECK(count == CODED);
    CHECK(qb_model_write_codes(model, NULL, 0, NULL, &error) == QB_OK);
    sources[count] = sources[0];
    CHECK(qb_model_write_codes(model, sources, count + 1, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "query.weight: its codes are given twice");
    sources[count].index = -1;
    CHECK(qb_model_write_codes(model, sources, count + 1, NULL, &error) == QB_ERR_INDEX);
    CHECK(qb_model_write_codes(model, sources, -1, NULL, &error) == QB_ERR_VALUE);
    CHECK(qb_model_write_codes(model, sources, INT64_MAX, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "count is");
    CHECK(qb_model_seal(model, &error) == QB_ERR_STATE); /* none of them was written */
    CHECK_CONTAINS(error.message, "query.weight: is kept as codes, which have not");
    CHECK(qb_model_write_codes(model, sources, count, NULL, &error) == QB_OK);
    CHECK(qb_model_seal(model, &error) == QB_OK);
    qb_model_release(model);
    qb_model_release(source);
    qb_device_close(device);
}

static void
test_codes_are_not_read_while_their_quantizer_may_change(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *source = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    int released = 0;
    set_all_ranges(source);
    qb_model *sealed = frozen_of(source, QB_HEAD_QUESTION_ANSWERING, &released, 1);
    qb_error error;
    for (int64_t i = 0; i < qb_model_parameter_count(sealed); i++) {
        const qb_parameter_info info = qb_model_parameter(sealed, i);
        if (info.storage == QB_STORAGE_CODES) {
            int8_t *codes = case_memory((size_t)elements_of(&info));
            CHECK(qb_model_begin_change(source, NULL) == QB_OK);
            CHECK(qb_model_read_codes(source, i, codes, NULL, &error) == QB_ERR_STATE);
            CHECK_CONTAINS(error.message, "the model is being changed");
            qb_model_end_change(source);
            CHECK(qb_model_read_codes(source, i, codes, NULL, NULL) == QB_OK);
            CHECK(qb_model_begin_change(source, NULL) == QB_OK); /* reading has ended */
            qb_model_end_change(source);
            CHECK(qb_model_begin_change(sealed, NULL) == QB_OK);
            CHECK(qb_model_read_codes(sealed, i, codes, NULL, NULL) == QB_OK);
            qb_model_end_change(sealed);
            free(codes);
        }
    }
    qb_model_release(sealed);
    qb_model_release(source);
    qb_device_close(device);
}

static void
test_the_epoch_counts_changes(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    uint64_t before = 0;
    uint64_t after = 0;
    qb_error error;
    float *data = NULL;
    CHECK(qb_model_epoch(model, &before, NULL) == QB_OK);
    CHECK(qb_model_epoch(model, &after, NULL) == QB_OK);
    CHECK(after == before);
    CHECK(qb_model_parameter_write(model, 0, &data, NULL) == QB_OK);
    CHECK(qb_model_epoch(model, &after, NULL) == QB_OK);
    CHECK(after != before);
    CHECK(qb_model_begin_change(model, NULL) == QB_OK);
    CHECK(qb_model_epoch(model, &after, &error) == QB_ERR_STATE);
    qb_model_end_change(model);
    qb_model_release(model);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_a_frozen_model_has_the_bits_of_its_source_on_every_device);
    RUN(test_a_tied_head_reads_a_lent_table);
    RUN(test_floats_of_codes_take_no_memory);
    RUN(test_quantizers_of_a_sealed_weight_stay_as_they_are);
    RUN(test_nothing_is_written_to_a_frozen_model_or_trained);
    RUN(test_a_forward_needs_every_code_and_a_seal_too);
    RUN(test_a_change_before_the_seal_is_noticed);
    RUN(test_a_wrong_storage_is_named);
    RUN(test_weights_without_codes_are_refused_by_name);
    RUN(test_a_list_of_codes_is_checked_as_one);
    RUN(test_codes_are_not_read_while_their_quantizer_may_change);
    RUN(test_the_epoch_counts_changes);
    return check_report();
}
