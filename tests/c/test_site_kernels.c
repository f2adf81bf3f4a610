/* SPDX-License-Identifier: Apache-2.0
 *
 * What qb_model_site and qb_model_edge say is what runs: the device's kernels are replaced by ones that count what they
 * are given, and each of them must meet exactly the multiply-adds, or rows, of the sites that name it.  Products that
 * give codes are another kernel than those that give floats; of hidden states, the rows that are written are counted.
 */
#include "model_case.h"

enum { BATCH = 3, LENGTH = 7, ENCODER = 5, TOKENS = BATCH * LENGTH };

/* What the counting kernels hand on to, and what they counted; one thread. */
static qb_kernels real;
static int64_t counted[QB_KERNEL_COUNT];
static int64_t stored_rows; /* of LayerNorm, in the hidden states from here on */
static const float *hidden;

static void
count_product_f32(const float *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                  int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    counted[QB_KERNEL_INDEX_product_f32] += m * (n1 - n0) * k;
    real.product_f32(a, lda, m, packed, n0, n1, n, k, epilogue, c, ldc, scratch);
}

static void
count_product_qs8(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                  int64_t k, const qb_epilogue *epilogue, float *c, int64_t ldc, void *scratch)
{
    counted[QB_KERNEL_INDEX_product_qs8] += m * (n1 - n0) * k;
    real.product_qs8(a, lda, m, packed, n0, n1, n, k, epilogue, c, ldc, scratch);
}

static void
count_product_qs8_codes(const int8_t *a, int64_t lda, int64_t m, const void *packed, int64_t n0, int64_t n1, int64_t n,
                        int64_t k, const qb_epilogue *epilogue, const qb_quant_range *range, int8_t *c, int64_t ldc,
                        uint32_t *nonfinite, void *scratch)
{
    counted[QB_KERNEL_INDEX_product_qs8_codes] += m * (n1 - n0) * k;
    real.product_qs8_codes(a, lda, m, packed, n0, n1, n, k, epilogue, range, c, ldc, nonfinite, scratch);
}

static void
count_stored(const float *y, size_t rows)
{
    stored_rows += y >= hidden && y < hidden + TOKENS * HIDDEN ? (int64_t)rows : 0;
}

static void
count_rows(size_t kernel, const float *y, size_t rows)
{
    counted[kernel] += (int64_t)rows;
    count_stored(y, rows);
}

/* Of the embeddings; their rows are no site's. */
static void
count_layer_norm_f32(const float *x, size_t rows, size_t columns, const float *weight, const float *bias, float eps,
                     float *y)
{
    count_stored(y, rows);
    real.layer_norm_f32(x, rows, columns, weight, bias, eps, y);
}

static void
count_add_layer_norm_f32(const float *a, const float *b, size_t rows, size_t columns, const float *weight,
                         const float *bias, float eps, float *y)
{
    count_rows(QB_KERNEL_INDEX_add_layer_norm_f32, y, rows);
    real.add_layer_norm_f32(a, b, rows, columns, weight, bias, eps, y);
}

static void
count_add_layer_norm_qs8(const int8_t *a, float step_a, const int8_t *b, float step_b, size_t rows, size_t columns,
                         const float *weight, const float *bias, float eps, float *y)
{
    count_rows(QB_KERNEL_INDEX_add_layer_norm_qs8, y, rows);
    real.add_layer_norm_qs8(a, step_a, b, step_b, rows, columns, weight, bias, eps, y);
}

static int
ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text);
    const size_t m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Multiply-adds of a product, rows of an add. */
static int64_t
work_of(const qb_model *model, const char *site)
{
    const int is_cross = strstr(site, "crossattention") != NULL;
    if (ends_with(site, ".add")) {
        return TOKENS;
    }
    if (ends_with(site, ".scores") || ends_with(site, ".context")) {
        return TOKENS * (is_cross ? ENCODER : LENGTH) * HIDDEN;
    }
    char name[QB_NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.weight", site);
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        if (strcmp(info.name, name) == 0) {
            const int is_pooled = strstr(site, ".layer.") == NULL && qb_model_has_pooler(model);
            const int is_encoders = is_cross && (ends_with(site, ".key") || ends_with(site, ".value"));
            return info.shape[0] * info.shape[1] * BATCH * (is_pooled ? 1 : is_encoders ? ENCODER : LENGTH);
        }
    }
    CHECK(0); /* a site of a kind that this test does not know */
    return 0;
}

static int
is_relative(const char *site)
{
    return ends_with(site, ".distance_embedding");
}

static int
gives_floats(const qb_model *model, uint32_t asked, const char *maker)
{
    int gives = 0;
    for (int64_t i = 0; i < qb_model_edge_count(model, asked); i++) {
        const qb_edge_info edge = qb_model_edge(model, i, asked);
        gives |= strcmp(edge.maker, maker) == 0 && *edge.refusal != '\0';
    }
    return gives;
}

/* What the model says of such a forward: by kernel, the work of its sites; and rows of hidden states as floats. */
static void
ask_model(const qb_model *model, uint32_t asked, int64_t said[QB_KERNEL_COUNT], int64_t *said_rows)
{
    for (int64_t i = 0; i < qb_model_site_count(model); i++) {
        const qb_site_info site = qb_model_site(model, i, asked);
        size_t kernel = 0;
        while (kernel < QB_KERNEL_COUNT && strcmp(qb_kernel_name(kernel), site.kernel) != 0) {
            kernel++;
        }
        CHECK(kernel < QB_KERNEL_COUNT && strcmp(site.variant, real.variant[kernel]) == 0);
        CHECK((*site.obstacle != '\0') == (strcmp(site.path, "dequantized") == 0));
        *said_rows += ends_with(site.name, ".add") && gives_floats(model, asked, site.name) ? TOKENS : 0;
        said[kernel] += is_relative(site.name) ? 0 : work_of(model, site.name);
    }
    *said_rows += gives_floats(model, asked, "embeddings") ? TOKENS : 0;
}

/* Everything that a forward can be asked for. */
typedef struct asked_outputs {
    float last[TOKENS * HIDDEN], states[LAYERS + 1][TOKENS * HIDDEN];
    float keys[4][LAYERS][BATCH * (LENGTH > ENCODER ? LENGTH : ENCODER) * HIDDEN];
    float *of_states[LAYERS + 1], *of_keys[4][LAYERS];
} asked_outputs;

static qb_forward_outputs
outputs_of(asked_outputs *room, uint32_t asked, int has_encoder)
{
    qb_forward_outputs outputs = {.struct_size = sizeof outputs, .last_hidden_state = room->last};
    for (int i = 0; i <= LAYERS; i++) {
        room->of_states[i] = room->states[i];
    }
    for (int i = 0; i < 4 * LAYERS; i++) {
        room->of_keys[i / LAYERS][i % LAYERS] = room->keys[i / LAYERS][i % LAYERS];
    }
    if ((asked & QB_ASKED_HIDDEN_STATES) != 0) {
        outputs.hidden_states = room->of_states;
    }
    if ((asked & QB_ASKED_KEYS) != 0) {
        outputs.keys = room->of_keys[0];
        outputs.values = room->of_keys[1];
        outputs.cross_keys = has_encoder ? room->of_keys[2] : NULL;
        outputs.cross_values = has_encoder ? room->of_keys[3] : NULL;
    }
    return outputs;
}

/* One forward that is asked for these, with a head if there is one. */
static void
check_forward_asked(qb_model *model, uint32_t asked)
{
    static asked_outputs room;
    static float states[BATCH * ENCODER * HIDDEN];
    static float logits[TOKENS * LABELS];
    static float pooled[BATCH * HIDDEN];
    int64_t ids[TOKENS];
    int64_t shape[3];
    const int has_encoder = model->config.has_cross_attention;
    const int has_relative = model->config.positions != QB_POSITIONS_ABSOLUTE;
    int64_t said[QB_KERNEL_COUNT] = {0};
    int64_t said_rows = 0;
    ask_model(model, asked, said, &said_rows);
    model_ids(ids, TOKENS, 5);
    qb_forward_inputs inputs = model_inputs(BATCH, LENGTH, ids, NULL);
    inputs.encoder_length = has_encoder ? ENCODER : 0;
    inputs.encoder_hidden_states = has_encoder ? states : NULL;
    qb_forward_outputs outputs = outputs_of(&room, asked, has_encoder);
    outputs.pooler_output = qb_model_has_pooler(model) ? pooled : NULL;
    outputs.logits = qb_model_logits_shape(model, BATCH, LENGTH, shape) == 0 ? NULL : logits;
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = BATCH,
                                        .max_length = LENGTH,
                                        .keep_probabilities = 1,
                                        .max_encoder_length = inputs.encoder_length};
    qb_session *session = session_make_of(model, &options);
    hidden = session->bert.hidden;
    memset(counted, 0, sizeof counted);
    stored_rows = 0;
    CHECK(qb_session_forward(session, NULL, &inputs, &outputs, NULL) == QB_OK);
    for (size_t i = 0; i < QB_KERNEL_COUNT; i++) {
        /* Products with relative positions are made of the distances that there are, and no more. */
        CHECK(has_relative && i == QB_KERNEL_INDEX_product_f32 ? counted[i] > said[i] : counted[i] == said[i]);
    }
    CHECK(stored_rows == said_rows);
    qb_session_destroy(session);
}

static void
check_forward(qb_model *model)
{
    check_forward_asked(model, 0);
}

/* A change of one quantizer, and back. */
typedef void (*change)(qb_quantizer *quantizer, int is_undone, qb_observer *observer);

/* The change is made to one quantizer after the other. */
static void
check_each(qb_model *model, change make)
{
    qb_observer *observer = case_max_observer(model->device);
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        make(qb_model_quantizer(model, i), 0, observer);
        check_forward(model);
        make(qb_model_quantizer(model, i), 1, observer);
    }
    qb_observer_release(observer);
}

static void
switch_off(qb_quantizer *quantizer, int is_undone, qb_observer *observer)
{
    (void)observer;
    CHECK(qb_quantizer_set_stages(quantizer, is_undone ? QB_STAGE_QUANT : QB_STAGE_DISABLED) == QB_OK);
}

static void
widen(qb_quantizer *quantizer, int is_undone, qb_observer *observer)
{
    qb_quantizer_options options = qb_quantizer_get_options(quantizer);
    (void)observer;
    options.num_bits = is_undone ? 8 : 9;
    CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
}

/* Weights have no range that could be taken away. */
static void
make_dynamic(qb_quantizer *quantizer, int is_undone, qb_observer *observer)
{
    (void)observer;
    if (qb_quantizer_get_options(quantizer).axis_count < 0) {
        CHECK(qb_quantizer_set_amax(quantizer, NULL, 0, NULL, NULL) == QB_OK);
        if (is_undone) {
            case_set_amax(quantizer, 1.0f);
        }
    }
}

static void
collect(qb_quantizer *quantizer, int is_undone, qb_observer *observer)
{
    const uint32_t stages = is_undone ? QB_STAGE_QUANT : QB_STAGE_QUANT | QB_STAGE_CALIB;
    if (qb_quantizer_get_options(quantizer).axis_count < 0) {
        CHECK(qb_observer_reset(observer) == QB_OK);
        CHECK(qb_quantizer_set_observer(quantizer, is_undone ? NULL : observer) == QB_OK);
        CHECK(qb_quantizer_set_stages(quantizer, stages) == QB_OK);
    }
}

/* A device whose kernels count. */
static qb_device *
counting_device(void)
{
    qb_device *device = case_device(NULL, 1);
    real = device->kernels;
    device->kernels.product_f32 = count_product_f32;
    device->kernels.product_qs8 = count_product_qs8;
    device->kernels.product_qs8_codes = count_product_qs8_codes;
    device->kernels.add_layer_norm_f32 = count_add_layer_norm_f32;
    device->kernels.add_layer_norm_qs8 = count_add_layer_norm_qs8;
    device->kernels.layer_norm_f32 = count_layer_norm_f32;
    return device;
}

static void
check_head(qb_head head)
{
    qb_device *device = counting_device();
    qb_model *model = model_make(device, head);
    check_forward(model); /* dynamic ranges */
    model_set_ranges(model);
    check_forward(model);
    check_each(model, switch_off);
    check_each(model, widen);
    check_each(model, make_dynamic);
    check_each(model, collect);
    check_forward_asked(model, QB_ASKED_KEYS);
    check_forward_asked(model, QB_ASKED_HIDDEN_STATES);
    model_set_stages(model, QB_STAGE_DISABLED);
    check_forward(model);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_kernels_run_where_the_sites_of_tokens_say(void)
{
    check_head(QB_HEAD_QUESTION_ANSWERING);
}

static void
test_kernels_run_where_the_sites_of_pooled_outputs_say(void)
{
    check_head(QB_HEAD_SEQUENCE_CLASSIFICATION);
}

/* Attending to an encoder, and with relative positions, which need q and k as floats. */
static void
test_kernels_run_where_the_sites_of_decoders_say(void)
{
    static const char *const positions[] = {"absolute", "relative_key", "relative_key_query"};
    qb_device *device = counting_device();
    for (size_t i = 0; i < COUNT(positions); i++) {
        qb_model_options options = model_options(QB_HEAD_NONE);
        options.position_embedding_type = positions[i];
        options.add_cross_attention = 1;
        qb_model *model = model_make_of(device, &options);
        check_forward(model);
        model_set_ranges(model);
        for (uint32_t asked = 0; asked <= (QB_ASKED_KEYS | QB_ASKED_HIDDEN_STATES); asked++) {
            check_forward_asked(model, asked);
        }
        check_each(model, i == 0 ? switch_off : make_dynamic);
        qb_model_release(model);
    }
    qb_device_close(device);
}

/* Every activation has one tensor, which one site makes, and another reads. */
static void
test_every_quantizer_of_an_activation_has_one_edge(void)
{
    qb_model_options options = model_options(QB_HEAD_NONE);
    options.add_cross_attention = 1;
    qb_device *device = case_device(NULL, 1);
    qb_model *model = model_make_of(device, &options);
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        const char *name = qb_model_quantizer_name(model, i);
        int64_t found = 0;
        for (int64_t e = 0; e < qb_model_edge_count(model, 0); e++) {
            const qb_edge_info edge = qb_model_edge(model, e, 0);
            if (strcmp(edge.quantizer, name) == 0) {
                CHECK(*edge.maker != '\0' && *edge.reader != '\0' && strcmp(edge.maker, edge.reader) != 0);
                CHECK(*edge.refusal != '\0'); /* ranges are dynamic */
                found++;
            }
        }
        CHECK(found == (strstr(name, "_weight_quantizer") == NULL));
    }
    CHECK(qb_model_edge(model, qb_model_edge_count(model, 0), 0).maker == NULL);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_the_obstacle_is_the_quantizer_that_does_not_fit(void)
{
    qb_device *device = case_device(NULL, 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    for (int64_t i = 0; i < qb_model_quantizer_count(model); i++) {
        widen(qb_model_quantizer(model, i), 0, NULL);
        int64_t found = 0;
        for (int64_t j = 0; j < qb_model_site_count(model); j++) {
            const qb_site_info site = qb_model_site(model, j, 0);
            if (*site.obstacle != '\0') {
                CHECK(strcmp(site.obstacle, qb_model_quantizer_name(model, i)) == 0);
                found++;
            }
        }
        CHECK(found == 1);
        widen(qb_model_quantizer(model, i), 1, NULL);
    }
    qb_model_release(model);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_kernels_run_where_the_sites_of_tokens_say);
    RUN(test_kernels_run_where_the_sites_of_pooled_outputs_say);
    RUN(test_kernels_run_where_the_sites_of_decoders_say);
    RUN(test_every_quantizer_of_an_activation_has_one_edge);
    RUN(test_the_obstacle_is_the_quantizer_that_does_not_fit);
    return check_report();
}
