/* SPDX-License-Identifier: Apache-2.0
 *
 * Codes that travel give the bits of floats that travel.
 *
 * The witness is a session that trains: it saves every float that backward needs, so none of its edges is in codes.
 * Both sessions run one model, and answers are compared with memcmp, error sentences with strcmp.
 */
#include "layers/coded.h"

#include "decoder_case.h"

enum { BATCH = 3, LENGTH = 11, ENCODER = 13, TOKENS = BATCH * LENGTH };

typedef struct coded_case {
    qb_device *device;
    qb_model *model;
    qb_session *coded, *witness;
    qb_forward_inputs inputs;
    int64_t ids[TOKENS], mask[TOKENS], encoder_mask[BATCH * ENCODER];
    float head_mask[LAYERS * HEADS];
    float *encoder;
} coded_case;

typedef struct answer {
    qb_status status;
    qb_error error;
    float hidden[TOKENS * HIDDEN], pooled[BATCH * HIDDEN];
} answer;

typedef struct coded_setup {
    const char *positions;
    int is_decoder; /* causal, with an encoder to look at */
    qb_padding padding;
    int has_head_mask;
} coded_setup;

static qb_session *
make_session(qb_model *model, int is_decoder, int trains)
{
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = BATCH,
                                        .max_length = LENGTH,
                                        .keep_probabilities = 1,
                                        .max_encoder_length = is_decoder ? ENCODER : 0,
                                        .trains = trains};
    return session_make_of(model, &options);
}

/* A static range for every activation.  Each is narrow enough that some elements saturate; those of one tensor are
 * equal, as calibration makes them, and those of others differ. */
static void
set_ranges(qb_model *model)
{
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        const char *name = qb_model_quantizer_name(model, i);
        const int is_hidden = strstr(name, "self.query") != NULL || strstr(name, "self.key") != NULL ||
                              strstr(name, "self.value") != NULL || strstr(name, "residual") != NULL ||
                              strstr(name, "intermediate") != NULL;
        const float range = strstr(name, "matmul_a") != NULL ? 0.7f : is_hidden ? 2.1f : 1.6f + 0.01f * (float)i;
        if (strstr(name, "_weight_quantizer") == NULL) {
            case_set_amax(qb_model_quantizer(model, i), range);
        }
    }
}

static coded_case *
make_case(qb_device *device, const coded_setup *setup)
{
    coded_case *c = case_memory(sizeof *c);
    qb_model_options options = model_options(QB_HEAD_NONE);
    options.position_embedding_type = setup->positions;
    options.add_cross_attention = setup->is_decoder;
    c->device = device;
    c->model = model_make_of(device, &options);
    set_ranges(c->model);
    c->coded = make_session(c->model, setup->is_decoder, 0);
    c->witness = make_session(c->model, setup->is_decoder, 1);
    model_ids(c->ids, TOKENS, 31);
    for (int64_t i = 0; i < TOKENS; i++) { /* 11, 7 and 3 tokens */
        c->mask[i] = i % LENGTH < LENGTH - 4 * (i / LENGTH);
    }
    for (int64_t i = 0; i < BATCH * ENCODER; i++) {
        c->encoder_mask[i] = i % ENCODER < ENCODER - 5 * (i / ENCODER);
    }
    for (int64_t i = 0; i < LAYERS * HEADS; i++) {
        c->head_mask[i] = 0.25f * (float)(i % 5);
    }
    c->encoder = case_random(BATCH * ENCODER * HIDDEN, 1.0f, 32);
    c->inputs = model_inputs(BATCH, LENGTH, c->ids, c->mask);
    c->inputs.padding = setup->padding;
    c->inputs.head_mask = setup->has_head_mask ? c->head_mask : NULL;
    if (setup->is_decoder) {
        c->inputs.is_causal = 1;
        c->inputs.encoder_length = ENCODER;
        c->inputs.encoder_hidden_states = c->encoder;
        c->inputs.encoder_attention_mask = c->encoder_mask;
        c->inputs.encoder_attention_mask_rank = 2;
    }
    return c;
}

static void
free_case(coded_case *c)
{
    qb_session_destroy(c->coded);
    qb_session_destroy(c->witness);
    qb_model_release(c->model);
    free(c->encoder);
    free(c);
}

static void
ask(const coded_case *c, qb_session *session, answer *a)
{
    memset(a, 0, sizeof *a);
    const qb_forward_outputs outputs = {
        .struct_size = sizeof outputs, .last_hidden_state = a->hidden, .pooler_output = a->pooled};
    a->status = qb_session_forward(session, NULL, &c->inputs, &outputs, &a->error);
}

/* 1 if both sessions say the same; `what` is written otherwise. */
static int
agree(const coded_case *c, const char *what)
{
    static answer coded;
    static answer witness;
    ask(c, c->coded, &coded);
    ask(c, c->witness, &witness);
    int same = coded.status == witness.status;
    if (same && coded.status == QB_OK) {
        same = same_bits(coded.hidden, witness.hidden, TOKENS * HIDDEN) &&
               same_bits(coded.pooled, witness.pooled, BATCH * HIDDEN);
    }
    else {
        same = same && strcmp(coded.error.message, witness.error.message) == 0;
    }
    if (!same) {
        (void)fprintf(stderr, "%s: %d \"%s\", expected %d \"%s\"\n", what, (int)coded.status, coded.error.message,
                      (int)witness.status, witness.error.message);
    }
    return same;
}

/* ---- every reader and maker in turn ----------------------------------------------------------------------------- */

typedef enum change { OFF, DYNAMIC, WIDE, COLLECTS, OTHER_RANGE, ENDLESS, UNSIGNED, CHANGES_COUNT } change;

static void
apply(qb_quantizer *quantizer, change how, qb_observer *observer)
{
    qb_quantizer_options options = qb_quantizer_get_options(quantizer);
    switch (how) {
    case OFF:
        CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_DISABLED) == QB_OK);
        break;
    case DYNAMIC:
        CHECK(qb_quantizer_set_amax(quantizer, NULL, 0, NULL, NULL) == QB_OK);
        break;
    case WIDE:
        options.num_bits = 12;
        CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
        break;
    case COLLECTS:
        CHECK(qb_quantizer_set_observer(quantizer, observer) == QB_OK);
        CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_QUANT | QB_STAGE_CALIB) == QB_OK);
        break;
    case OTHER_RANGE:
        case_set_amax(quantizer, 0.83f);
        break;
    case ENDLESS: /* finite itself, but not what it is scaled to */
        options.scale_amax = 4.0f;
        CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
        case_set_amax(quantizer, 2e38f);
        break;
    case UNSIGNED:
        options.is_unsigned = 1;
        options.num_bits = 7;
        CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
        break;
    case CHANGES_COUNT:
        break;
    }
}

/* As set_ranges left it. */
static void
restore(qb_quantizer *quantizer, const qb_quantizer_options *options, float range)
{
    CHECK(qb_quantizer_set_options(quantizer, options, NULL) == QB_OK);
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_QUANT) == QB_OK);
    CHECK(qb_quantizer_set_observer(quantizer, NULL) == QB_OK);
    case_set_amax(quantizer, range);
}

static void
change_in_turn(qb_device *device, const coded_setup *setup)
{
    coded_case *c = make_case(device, setup);
    qb_observer *observer = case_max_observer(device);
    CHECK(agree(c, "unchanged"));
    for (int64_t i = 0; i < qb_model_quantizer_count(c->model); i++) {
        qb_quantizer *quantizer = qb_model_quantizer(c->model, i);
        const char *name = qb_model_quantizer_name(c->model, i);
        const int is_weight = strstr(name, "_weight_quantizer") != NULL;
        const qb_quantizer_options options = qb_quantizer_get_options(quantizer);
        const float *range = NULL;
        if (is_weight) { /* makers: off, and therefore no integer products */
            CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_DISABLED) == QB_OK);
            CHECK(agree(c, name));
            CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_QUANT) == QB_OK);
            continue;
        }
        int32_t rank = 0;
        const int64_t *shape = NULL;
        qb_quantizer_amax(quantizer, &range, &rank, &shape);
        const float before = range[0];
        for (int how = 0; how < CHANGES_COUNT; how++) {
            apply(quantizer, (change)how, observer);
            CHECK(agree(c, name));
            restore(quantizer, &options, before);
        }
    }
    CHECK(agree(c, "restored"));
    qb_observer_release(observer);
    free_case(c);
}

static void
test_every_quantizer_may_break_off_its_edges(void)
{
    const coded_setup encoder = {.padding = QB_PADDING_SKIP};
    const coded_setup decoder = {.is_decoder = 1, .padding = QB_PADDING_SKIP};
    qb_device *one = case_device("ref", 1);
    qb_device *several = case_device(NULL, 2);
    change_in_turn(several, &encoder);
    change_in_turn(one, &decoder);
    qb_device_close(one);
    qb_device_close(several);
}

static void
test_codes_and_floats_agree_on_every_device_and_in_every_kind_of_model(void)
{
    static const char *const positions[] = {"absolute", "relative_key", "relative_key_query"};
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        for (int i = (int)(d % 3); i < 24; i += 3) { /* a third of the models, another one for another thread count */
            const coded_setup setup = {.positions = positions[i / 8],
                                       .is_decoder = i & 1,
                                       .padding = i & 2 ? QB_PADDING_COMPUTE : QB_PADDING_SKIP,
                                       .has_head_mask = (i & 4) != 0};
            coded_case *c = make_case(devices.at[d], &setup);
            CHECK(agree(c, devices.at[d]->kernels.isa));
            free_case(c);
        }
    }
    case_devices_close(&devices);
}

/* Readers of a tensor with ranges of their own: each gets codes of its own. */
static void
test_readers_with_different_ranges_get_their_own_codes(void)
{
    const coded_setup setup = {.padding = QB_PADDING_SKIP};
    qb_device *device = case_device(NULL, 2);
    coded_case *c = make_case(device, &setup);
    for (int64_t i = 0; i < qb_model_quantizer_count(c->model); i++) {
        if (strstr(qb_model_quantizer_name(c->model, i), "_weight_quantizer") == NULL) {
            case_set_amax(qb_model_quantizer(c->model, i), 1.1f + 0.02f * (float)i);
        }
    }
    CHECK(agree(c, "different ranges"));
    free_case(c);
    qb_device_close(device);
}

/* A residual add that is not given codes makes its own, though query's of the same range were there once: the dense
 * layer's input has taken their place. */
static void
test_codes_of_other_readers_are_not_borrowed(void)
{
    const coded_setup setup = {.is_decoder = 1, .padding = QB_PADDING_SKIP};
    qb_device *device = case_device(NULL, 2);
    coded_case *c = make_case(device, &setup);
    qb_observer *observer = case_max_observer(device);
    for (int64_t i = 0; i < qb_model_quantizer_count(c->model); i++) {
        const char *name = qb_model_quantizer_name(c->model, i);
        if (strstr(name, "output.dense._input") != NULL) {
            apply(qb_model_quantizer(c->model, i), DYNAMIC, NULL);
        }
        else if (strstr(name, "residual") != NULL) {
            apply(qb_model_quantizer(c->model, i), COLLECTS, observer);
        }
    }
    CHECK(agree(c, "residuals collect"));
    free_case(c);
    qb_observer_release(observer);
    qb_device_close(device);
}

/* ---- onlookers -------------------------------------------------------------------------------------------------- */

/* A device's outputs are the same whether anybody looks on, and what is looked at is the witness's. */
static void
test_whoever_looks_on_sees_the_floats(void)
{
    const coded_setup setup = {.is_decoder = 1, .padding = QB_PADDING_SKIP};
    qb_device *device = case_device(NULL, 3);
    coded_case *c = make_case(device, &setup);
    enum { PAIRS = BATCH * HEADS * LENGTH, KEYS = BATCH * HEADS * LENGTH * D_HEAD_SIZE };
    layer_arrays hidden[2];
    layer_arrays attentions[2];
    layer_arrays keys[2];
    layer_arrays values[2];
    float *first[2];
    float last[2][TOKENS * HIDDEN];
    for (int i = 0; i < 2; i++) {
        hidden[i] = layer_arrays_make(TOKENS * HIDDEN);
        attentions[i] = layer_arrays_make(PAIRS * LENGTH);
        keys[i] = layer_arrays_make(KEYS);
        values[i] = layer_arrays_make(KEYS);
        first[i] = case_memory(TOKENS * HIDDEN * sizeof(float));
        float *states[LAYERS + 1] = {first[i], hidden[i].at[0], hidden[i].at[1]};
        const qb_forward_outputs outputs = {.struct_size = sizeof outputs,
                                            .last_hidden_state = last[i],
                                            .hidden_states = states,
                                            .attentions = attentions[i].at,
                                            .keys = keys[i].at,
                                            .values = values[i].at};
        CHECK(qb_session_forward(i == 0 ? c->coded : c->witness, NULL, &c->inputs, &outputs, NULL) == QB_OK);
    }
    CHECK(same_bits(first[0], first[1], TOKENS * HIDDEN));
    CHECK(same_bits(last[0], last[1], TOKENS * HIDDEN));
    for (int layer = 0; layer < LAYERS; layer++) {
        CHECK(same_bits(hidden[0].at[layer], hidden[1].at[layer], TOKENS * HIDDEN));
        CHECK(same_bits(attentions[0].at[layer], attentions[1].at[layer], PAIRS * LENGTH));
        CHECK(same_bits(keys[0].at[layer], keys[1].at[layer], KEYS));
        CHECK(same_bits(values[0].at[layer], values[1].at[layer], KEYS));
    }
    static answer alone;
    ask(c, c->coded, &alone);
    CHECK(alone.status == QB_OK && same_bits(alone.hidden, last[0], TOKENS * HIDDEN));
    for (int i = 0; i < 2; i++) {
        layer_arrays_free(&hidden[i]);
        layer_arrays_free(&attentions[i]);
        layer_arrays_free(&keys[i]);
        layer_arrays_free(&values[i]);
        free(first[i]);
    }
    free_case(c);
    qb_device_close(device);
}

/* Tokens 6 .. 10 with the keys of those before, whether new keys are handed out or not, and all tokens at once. */
static void
test_keys_of_earlier_calls_meet_floats(void)
{
    enum { PAST = 6, REST = LENGTH - PAST, KEYS = BATCH * HEADS * LENGTH * D_HEAD_SIZE };
    const coded_setup setup = {.padding = QB_PADDING_SKIP};
    qb_device *device = case_device(NULL, 2);
    coded_case *c = make_case(device, &setup);
    const qb_session_options options = {
        .struct_size = sizeof options, .max_sequences = BATCH, .max_length = LENGTH, .max_past = LENGTH};
    qb_session *session = session_make_of(c->model, &options);
    int64_t ids[2][TOKENS];
    layer_arrays keys = layer_arrays_make(KEYS);
    layer_arrays values = layer_arrays_make(KEYS);
    layer_arrays more_keys = layer_arrays_make(KEYS);
    layer_arrays more_values = layer_arrays_make(KEYS);
    static float whole[TOKENS * HIDDEN];
    static float rest[2][BATCH * REST * HIDDEN];
    for (int64_t b = 0; b < BATCH; b++) {
        memcpy(ids[0] + b * PAST, c->ids + b * LENGTH, PAST * sizeof *ids[0]);
        memcpy(ids[1] + b * REST, c->ids + b * LENGTH + PAST, REST * sizeof *ids[0]);
    }
    qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, c->ids, NULL);
    inputs.is_causal = 1;
    qb_forward_outputs outputs = {.struct_size = sizeof outputs, .last_hidden_state = whole};
    CHECK(qb_session_forward(c->witness, NULL, &inputs, &outputs, NULL) == QB_OK);
    inputs.length = PAST;
    inputs.input_ids = ids[0];
    const qb_forward_outputs first = {.struct_size = sizeof first, .keys = keys.at, .values = values.at};
    CHECK(qb_session_forward(session, NULL, &inputs, &first, NULL) == QB_OK);
    inputs.length = REST;
    inputs.input_ids = ids[1];
    inputs.past_length = PAST;
    inputs.past_keys = (const float *const *)keys.at;
    inputs.past_values = (const float *const *)values.at;
    for (int i = 0; i < 2; i++) {
        outputs.last_hidden_state = rest[i];
        outputs.keys = i == 0 ? NULL : more_keys.at;
        outputs.values = i == 0 ? NULL : more_values.at;
        CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
        for (int64_t b = 0; b < BATCH; b++) {
            CHECK(same_bits(rest[i] + b * REST * HIDDEN, whole + (b * LENGTH + PAST) * HIDDEN, REST * HIDDEN));
        }
    }
    layer_arrays_free(&keys);
    layer_arrays_free(&values);
    layer_arrays_free(&more_keys);
    layer_arrays_free(&more_values);
    qb_session_destroy(session);
    free_case(c);
    qb_device_close(device);
}

/* ---- what travels ------------------------------------------------------------------------------------------------ */

/* Kernels that count what they are asked for, around those of a device. */
static struct {
    qb_kernels real;
    _Atomic int64_t quantized;   /* floats that became codes */
    _Atomic int64_t probable;    /* probabilities that were codes at once */
    _Atomic int64_t products;    /* floats that integer products gave */
    _Atomic int64_t coded;       /* codes that they gave */
    _Atomic int64_t stored_rows; /* rows that LayerNorm wrote to the hidden states */
    _Atomic int64_t added_rows;  /* rows of embeddings that were added up there */
    const float *hidden, *hidden_end;
} counts;

static void
count_quantize(const float *x, size_t n, const qb_quant_range *range, int8_t *codes, uint32_t *nonfinite)
{
    counts.quantized += (int64_t)n;
    counts.real.quantize_qs8(x, n, range, codes, nonfinite);
}

static void
count_softmax(float *scores, size_t rows, size_t columns, size_t stride, const float *mask, const qb_quant_range *range,
              int8_t *codes, uint32_t *nonfinite)
{
    counts.probable += (int64_t)(rows * columns);
    counts.real.softmax_qs8(scores, rows, columns, stride, mask, range, codes, nonfinite);
}

static void
count_product(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n, int64_t k,
              const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    counts.products += m * (n1 - n0);
    counts.real.product_qs8(a, lda, m, packed, n0, n1, n, k, epilogue, c, ldc, scratch);
}

static void
count_codes(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n, int64_t k,
            const qb_epilogue *epilogue, const qb_quant_range *range, int8_t *c, int64_t ldc, uint32_t *nonfinite,
            void *scratch)
{
    counts.coded += m * (n1 - n0);
    counts.real.product_qs8_codes(a, lda, m, packed, n0, n1, n, k, epilogue, range, c, ldc, nonfinite, scratch);
}

static int
is_hidden(const float *y)
{
    return y >= counts.hidden && y < counts.hidden_end;
}

static void
count_rows(const int8_t *a, float step_a, const int8_t *b, float step_b, size_t rows, size_t columns,
           const float *weight, const float *bias, float eps, float *y)
{
    counts.stored_rows += is_hidden(y) ? (int64_t)rows : 0;
    counts.real.add_layer_norm_qs8(a, step_a, b, step_b, rows, columns, weight, bias, eps, y);
}

static void
count_sums(const float *a, const float *b, size_t n, float *y)
{
    counts.added_rows += is_hidden(y);
    counts.real.add_f32(a, b, n, y);
}

static void
count_norms(const float *x, size_t rows, size_t columns, const float *weight, const float *bias, float eps, float *y)
{
    counts.stored_rows += is_hidden(y) ? (int64_t)rows : 0;
    counts.real.layer_norm_f32(x, rows, columns, weight, bias, eps, y);
}

static void
test_between_integer_sites_only_codes_travel(void)
{
    const coded_setup setup = {.padding = QB_PADDING_SKIP};
    qb_device *device = case_device(NULL, 2);
    coded_case *c = make_case(device, &setup);
    CHECK(agree(c, "before")); /* and weights are packed */
    counts.real = device->kernels;
    counts.hidden = c->coded->bert.hidden;
    counts.hidden_end = counts.hidden + TOKENS * HIDDEN;
    device->kernels.quantize_qs8 = count_quantize;
    device->kernels.softmax_qs8 = count_softmax;
    device->kernels.product_qs8 = count_product;
    device->kernels.product_qs8_codes = count_codes;
    device->kernels.add_layer_norm_qs8 = count_rows;
    device->kernels.layer_norm_f32 = count_norms;
    device->kernels.add_f32 = count_sums;
    static answer made;
    ask(c, c->coded, &made);
    device->kernels = counts.real;
    const int64_t m = 11 + 7 + 3;
    const int64_t pairs = 11 * 11 + 7 * 7 + 3 * 3;
    /* The embeddings and all LayerNorms but the last, whose readers have one range. */
    CHECK(counts.quantized == m * HIDDEN * (2 * LAYERS));
    CHECK(counts.probable == pairs * HEADS * LAYERS);
    CHECK(counts.products == pairs * HEADS * LAYERS); /* the scores */
    CHECK(counts.coded == m * LAYERS * (6 * HIDDEN + INTERMEDIATE));
    CHECK(counts.stored_rows == m); /* the last */
    CHECK(counts.added_rows == 0);
    free_case(c);
    qb_device_close(device);
}

/* ---- sentences -------------------------------------------------------------------------------------------------- */

/* What is not finite comes in by an embedding, a bias or LayerNorm's parameters, which are floats.  Every such
 * parameter in turn, at an element that is looked at. */
static void
test_a_nan_gets_the_same_sentence(void)
{
    static const float bad[] = {NAN, INFINITY};
    const coded_setup setups[] = {{.padding = QB_PADDING_SKIP}, {.is_decoder = 1, .padding = QB_PADDING_COMPUTE}};
    qb_device *device = case_device(NULL, 2);
    for (size_t s = 0; s < COUNT(setups); s++) {
        coded_case *c = make_case(device, &setups[s]);
        int64_t refused = 0;
        for (int64_t i = 0; i < qb_model_parameter_count(c->model); i++) {
            const qb_parameter_info info = qb_model_parameter(c->model, i);
            const int is_embedding = strstr(info.name, "_embeddings.") != NULL;
            if ((info.rank != 1 && !is_embedding) || strstr(info.name, "pooler") != NULL) {
                continue;
            }
            const int64_t row = strstr(info.name, "word_") != NULL ? c->ids[0] : 0;
            const int64_t at = (is_embedding ? row * HIDDEN : 0) + 7;
            for (size_t b = 0; b < COUNT(bad); b++) {
                float *data = NULL;
                CHECK(qb_model_parameter_write(c->model, i, &data, NULL) == QB_OK);
                const float before = data[at];
                data[at] = bad[b];
                static answer coded;
                ask(c, c->coded, &coded);
                refused += coded.status == QB_ERR_VALUE;
                CHECK(agree(c, info.name));
                CHECK(qb_model_parameter_write(c->model, i, &data, NULL) == QB_OK);
                data[at] = before;
            }
        }
        /* All but the last LayerNorm's two, whose output no quantizer looks at. */
        CHECK(refused == 2 * (3 + (s == 0 ? 2 + LAYERS * 10 - 2 : 2 + LAYERS * 16 - 2)));
        CHECK(agree(c, "restored"));
        free_case(c);
    }
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_every_quantizer_may_break_off_its_edges);
    RUN(test_codes_and_floats_agree_on_every_device_and_in_every_kind_of_model);
    RUN(test_readers_with_different_ranges_get_their_own_codes);
    RUN(test_codes_of_other_readers_are_not_borrowed);
    RUN(test_whoever_looks_on_sees_the_floats);
    RUN(test_keys_of_earlier_calls_meet_floats);
    RUN(test_between_integer_sites_only_codes_travel);
    RUN(test_a_nan_gets_the_same_sentence);
    return check_report();
}
