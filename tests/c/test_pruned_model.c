/* SPDX-License-Identifier: Apache-2.0
 *
 * Models whose layers have lost heads: what is left is narrower, differs from layer to layer, and computes what the
 * whole model computes with those heads masked.
 */
#include "models/bert_config.h"

#include "model_case.h"

enum { DEPTH = 3, BATCH = 2, LENGTH = 17, TOKENS = BATCH * LENGTH, PAST = 6, D = HIDDEN / HEADS };

/* Heads that each layer keeps; the widest layer is neither the first nor the last. */
static const int64_t kept_count[DEPTH] = {1, 3, 2};
static const int64_t kept[DEPTH][3] = {{3, 0, 0}, {0, 2, 4}, {1, 2, 0}};

static qb_model *
make_whole(qb_device *device)
{
    qb_model_options options = model_options(QB_HEAD_NONE);
    options.num_layers = DEPTH;
    return model_make_of(device, &options);
}

static qb_model *
make_pruned(qb_device *device)
{
    qb_model_options options = model_options(QB_HEAD_NONE);
    options.num_layers = DEPTH;
    options.heads_of_layers = kept_count;
    return model_make_of(device, &options);
}

/* Rows (or columns) of `whole` that belong to kept heads, into the smaller parameter. */
static void
copy_heads(const qb_parameter_info *whole, int64_t layer, int by_column, float *data)
{
    const int64_t columns = whole->rank == 2 ? whole->shape[1] : 1;
    const int64_t width = kept_count[layer] * D;
    for (int64_t i = 0; i < whole->shape[0]; i++) {
        for (int64_t j = 0; j < columns; j++) {
            const int64_t at = by_column ? j : i;
            for (int64_t head = 0; head < kept_count[layer]; head++) {
                const int64_t offset = at - kept[layer][head] * D;
                if (offset >= 0 && offset < D) {
                    const int64_t to = head * D + offset;
                    data[by_column ? i * width + to : to * columns + j] = whole->data[i * columns + j];
                }
            }
        }
    }
}

/* The pruned model's parameters become those of the whole one. */
static void
take_parameters(qb_model *pruned, const qb_model *whole)
{
    for (int64_t i = 0; i < qb_model_parameter_count(whole); i++) {
        const qb_parameter_info info = qb_model_parameter(whole, i);
        const char *number = strstr(info.name, "layer.");
        const int64_t layer = number == NULL ? 0 : number[6] - '0';
        float *data = NULL;
        CHECK(strcmp(info.name, qb_model_parameter(pruned, i).name) == 0);
        CHECK(qb_model_parameter_write(pruned, i, &data, NULL) == QB_OK);
        if (strstr(info.name, "attention.self.") != NULL) {
            copy_heads(&info, layer, 0, data);
        }
        else if (strstr(info.name, "attention.output.dense.weight") != NULL) {
            copy_heads(&info, layer, 1, data);
        }
        else {
            const int64_t n = info.shape[0] * (info.rank == 2 ? info.shape[1] : 1);
            memcpy(data, info.data, (size_t)n * sizeof *data);
        }
    }
}

/* Static ranges, for weights too: a range that a row of attention.output.dense finds by itself changes with its
 * columns. */
static void
set_all_ranges(qb_model *model)
{
    model_set_ranges(model);
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        if (strstr(qb_model_quantizer_name(model, i), "_weight_quantizer") != NULL) {
            case_set_amax(qb_model_quantizer(model, i), 0.4f);
        }
    }
}

static void
test_shapes_follow_the_heads_that_are_left(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = make_pruned(device);
    for (int64_t layer = 0; layer < DEPTH; layer++) {
        const int64_t width = kept_count[layer] * D;
        const int64_t query = 5 + 16 * layer;
        CHECK(qb_model_heads(model, layer) == kept_count[layer]);
        for (int64_t i = query; i < query + 6; i++) { /* query, key, value */
            CHECK(qb_model_parameter(model, i).shape[0] == width);
        }
        CHECK(qb_model_parameter(model, query + 6).shape[0] == HIDDEN);
        CHECK(qb_model_parameter(model, query + 6).shape[1] == width);
    }
    CHECK(qb_model_heads(model, -1) == 0 && qb_model_heads(model, DEPTH) == 0);
    qb_model_release(model);
    model = model_make(device, QB_HEAD_NONE);
    CHECK(qb_model_heads(model, 1) == HEADS);
    qb_model_release(model);
    qb_device_close(device);
}

/* Hidden states (B, T, H) of the last tokens, computed after the first ones' keys. */
static void
run_cached(qb_model *model, const int64_t *ids, const float *head_mask, float *hidden, float *attentions)
{
    const qb_session_options limits = {.struct_size = sizeof limits,
                                       .max_sequences = BATCH,
                                       .max_length = LENGTH,
                                       .keep_probabilities = 1,
                                       .max_past = PAST};
    qb_session *session = session_make_of(model, &limits);
    int64_t first[BATCH * PAST];
    int64_t rest[TOKENS];
    int64_t first_mask[BATCH * PAST];
    int64_t mask[TOKENS];
    float *keys[DEPTH];
    float *values[DEPTH];
    float *attentions_of[DEPTH];
    for (int64_t i = 0; i < DEPTH; i++) {
        const int64_t n = BATCH * qb_model_heads(model, i) * PAST * D;
        keys[i] = case_memory((size_t)n * sizeof(float));
        values[i] = case_memory((size_t)n * sizeof(float));
        attentions_of[i] = attentions + i * BATCH * HEADS * (LENGTH - PAST) * LENGTH;
    }
    for (int64_t b = 0; b < BATCH; b++) {
        memcpy(first + b * PAST, ids + b * LENGTH, PAST * sizeof *ids);
        memcpy(rest + b * (LENGTH - PAST), ids + b * LENGTH + PAST, (LENGTH - PAST) * sizeof *ids);
    }
    for (int64_t i = 0; i < TOKENS; i++) { /* of different lengths */
        mask[i] = i < LENGTH || i % LENGTH > 1;
    }
    for (int64_t i = 0; i < BATCH * PAST; i++) {
        first_mask[i] = mask[i / PAST * LENGTH + i % PAST];
    }
    qb_forward_inputs inputs = model_inputs(BATCH, PAST, first, first_mask);
    inputs.is_causal = 1;
    inputs.head_mask = head_mask;
    const qb_forward_outputs cache = {.struct_size = sizeof cache, .keys = keys, .values = values};
    CHECK(qb_session_forward(session, NULL, &inputs, &cache, NULL) == QB_OK);
    inputs.input_ids = rest;
    inputs.attention_mask = mask;
    inputs.length = LENGTH - PAST;
    inputs.past_length = PAST;
    inputs.past_keys = (const float *const *)keys;
    inputs.past_values = (const float *const *)values;
    const qb_forward_outputs outputs = {
        .struct_size = sizeof outputs, .last_hidden_state = hidden, .attentions = attentions_of};
    CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
    for (int64_t i = 0; i < DEPTH; i++) {
        free(keys[i]);
        free(values[i]);
    }
    qb_session_destroy(session);
}

/* Attentions (B, N, T, S) of the heads that are left are those of the whole model's heads. */
static void
check_attentions(const float *pruned, const float *whole)
{
    const int64_t n = (LENGTH - PAST) * LENGTH;
    for (int64_t layer = 0; layer < DEPTH; layer++) {
        for (int64_t i = 0; i < BATCH * kept_count[layer]; i++) {
            const int64_t head = i / kept_count[layer] * HEADS + kept[layer][i % kept_count[layer]];
            CHECK(
                same_bits(pruned + layer * BATCH * HEADS * n + i * n, whole + layer * BATCH * HEADS * n + head * n, n));
        }
    }
}

static void
test_a_pruned_model_has_the_bits_of_the_whole_with_those_heads_masked_on_every_device(void)
{
    enum { ROWS = BATCH * (LENGTH - PAST), PAIRS = DEPTH * ROWS * HEADS * LENGTH };
    case_devices devices = case_devices_open();
    int64_t ids[TOKENS];
    float head_mask[DEPTH * HEADS] = {0.0f};
    float expected[ROWS * HIDDEN];
    float hidden[ROWS * HIDDEN];
    float whole_attentions[PAIRS];
    float attentions[PAIRS];
    model_ids(ids, TOKENS, 96);
    for (int64_t i = 0; i < DEPTH; i++) {
        for (int64_t j = 0; j < kept_count[i]; j++) {
            head_mask[i * HEADS + kept[i][j]] = 1.0f;
        }
    }
    for (size_t d = 0; d < devices.count * 2; d++) {
        qb_model *whole = make_whole(devices.at[d / 2]);
        qb_model *pruned = make_pruned(devices.at[d / 2]);
        take_parameters(pruned, whole);
        if (d % 2 == 0) {
            model_set_stages(whole, QB_STAGE_DISABLED);
            model_set_stages(pruned, QB_STAGE_DISABLED);
        }
        else {
            set_all_ranges(whole);
            set_all_ranges(pruned);
        }
        run_cached(whole, ids, head_mask, expected, whole_attentions);
        run_cached(pruned, ids, NULL, hidden, attentions);
        CHECK(same_bits(hidden, expected, ROWS * HIDDEN));
        check_attentions(attentions, whole_attentions);
        qb_model_release(whole);
        qb_model_release(pruned);
    }
    case_devices_close(&devices);
}

/* Factors lie one layer after the other, of as many heads as each has. */
static void
test_a_head_mask_has_a_factor_for_each_head_that_is_left(void)
{
    enum { PAIRS = DEPTH * BATCH * HEADS * (LENGTH - PAST) * LENGTH };
    qb_device *device = case_device(NULL, 2);
    const float head_mask[6] = {0.5f, 1.0f, 0.0f, 2.0f, 3.0f, 0.25f};
    int64_t ids[TOKENS];
    float hidden[BATCH * (LENGTH - PAST) * HIDDEN];
    float plain[PAIRS];
    float masked[PAIRS];
    model_ids(ids, TOKENS, 97);
    qb_model *model = make_pruned(device);
    model_set_stages(model, QB_STAGE_DISABLED);
    run_cached(model, ids, NULL, hidden, plain);
    run_cached(model, ids, head_mask, hidden, masked);
    const int64_t n = (LENGTH - PAST) * LENGTH;
    for (int64_t i = 0; i < n; i++) { /* layer 0 is halved; of later ones, whose inputs differ, the sums of rows show */
        CHECK(masked[i] == 0.5f * plain[i]);
    }
    for (int64_t layer = 1, factor = 1; layer < DEPTH; layer++) {
        for (int64_t head = 0; head < kept_count[layer]; head++, factor++) {
            const float *last = masked + (layer * BATCH * HEADS + head) * n + n - LENGTH;
            float sum = 0.0f;
            for (int64_t j = 0; j < LENGTH; j++) {
                sum += last[j];
            }
            CHECK(fabsf(sum - head_mask[factor]) <= 1e-5f);
        }
    }
    qb_model_release(model);
    qb_device_close(device);
}

static void
check_refused(const int64_t *heads, const char *part)
{
    qb_device *device = case_device("ref", 1);
    qb_model_options options = model_options(QB_HEAD_NONE);
    qb_model *model = NULL;
    qb_error error = {.status = QB_OK};
    options.heads_of_layers = heads;
    CHECK(qb_model_create(device, &options, &model, &error) == QB_ERR_VALUE && model == NULL);
    CHECK_CONTAINS(error.message, part);
    qb_device_close(device);
}

static void
test_every_layer_keeps_one_head_at_least_and_gains_none(void)
{
    check_refused((const int64_t[LAYERS]){5, 0}, "heads_of_layers[1] is 0, expected 1 .. num_heads 5");
    check_refused((const int64_t[LAYERS]){6, 5}, "heads_of_layers[0] is 6, expected 1 .. num_heads 5");
    check_refused((const int64_t[LAYERS]){-1, 5}, "heads_of_layers[0] is -1");
}

int
main(void)
{
    RUN(test_shapes_follow_the_heads_that_are_left);
    RUN(test_a_pruned_model_has_the_bits_of_the_whole_with_those_heads_masked_on_every_device);
    RUN(test_a_head_mask_has_a_factor_for_each_head_that_is_left);
    RUN(test_every_layer_keeps_one_head_at_least_and_gains_none);
    return check_report();
}
