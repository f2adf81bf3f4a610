/* SPDX-License-Identifier: Apache-2.0
 *
 * Fail the n-th allocation of every create call, for n = 1, 2, 3, ... until it succeeds: each failure is a status, and
 * gives back all that was taken.
 */
#include "core/bf16_check.h"

#include "model_case.h"

/* An allocator that refuses one allocation, and counts what it gave. */
typedef struct faulty {
    int64_t countdown; /* 0: never again */
    int64_t live;
    int refused;
} faulty;

static void *
faulty_allocate(void *context, size_t size, size_t alignment)
{
    faulty *f = context;
    if (f->countdown > 0 && --f->countdown == 0) {
        f->refused = 1;
        return NULL;
    }
    f->live++;
    return aligned_alloc(alignment, (size + alignment) / alignment * alignment);
}

static void
faulty_release(void *context, void *pointer, size_t size, size_t alignment)
{
    faulty *f = context;
    (void)size;
    (void)alignment;
    f->live--;
    free(pointer);
}

typedef struct world {
    faulty memory;
    qb_device *device;
    qb_model_options options; /* of the model */
    qb_model *model;
} world;

/* Everything that a decoder can have, with layers of different widths. */
static const int64_t decoder_heads[LAYERS] = {2, HEADS};

static qb_model_options
decoder_options(int is_tied)
{
    qb_model_options options = model_options(QB_HEAD_LANGUAGE_MODEL);
    options.position_embedding_type = "relative_key_query";
    options.add_cross_attention = 1;
    options.tie_word_embeddings = is_tied;
    options.heads_of_layers = decoder_heads;
    return options;
}

static qb_status
open_device(world *w, qb_device **device, qb_error *error)
{
    const qb_allocator allocator = {faulty_allocate, faulty_release, &w->memory};
    const qb_device_options options = {
        .struct_size = sizeof options, .isa = "ref", .num_threads = 1, .allocator = &allocator};
    return qb_device_open(&options, device, error);
}

/* One create call; undoes itself on success. */
typedef qb_status (*attempt)(world *w, qb_error *error);

static qb_status
attempt_device(world *w, qb_error *error)
{
    qb_device *device = NULL;
    const qb_status status = open_device(w, &device, error);
    qb_device_close(device);
    return status;
}

static qb_status
attempt_model(world *w, qb_error *error)
{
    qb_model *model = NULL;
    const qb_status status = qb_model_create(w->device, &w->options, &model, error);
    CHECK((model != NULL) == (status == QB_OK));
    qb_model_release(model);
    return status;
}

static qb_status
attempt_session(world *w, qb_error *error)
{
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = 2,
                                        .max_length = 9,
                                        .keep_probabilities = 1,
                                        .max_past = 7,
                                        .max_encoder_length = w->options.add_cross_attention ? 11 : 0};
    qb_session *session = NULL;
    const qb_status status = qb_session_create(w->model, &options, &session, error);
    CHECK((session != NULL) == (status == QB_OK));
    qb_session_destroy(session);
    return status;
}

/* Gradients, both directions' workspace, and the packed weights of bf16 products. */
static qb_status
attempt_bf16_session(world *w, qb_error *error)
{
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = 2,
                                        .max_length = 9,
                                        .keep_probabilities = 1,
                                        .trains = 1,
                                        .bf16_products = 1};
    qb_session *session = NULL;
    const qb_status status = qb_session_create(w->model, &options, &session, error);
    CHECK((session != NULL) == (status == QB_OK));
    qb_session_destroy(session);
    return status;
}

static qb_status
attempt_bf16_check(world *w, qb_error *error)
{
    return qb_bf16_check(&w->device->kernels, &w->device->kernels, &w->device->heap, error);
}

static qb_status
attempt_quantizer(world *w, qb_error *error)
{
    const qb_quantizer_options options = case_quantizer_options(8, 0);
    const float amax = 1.0f;
    qb_quantizer *quantizer = NULL;
    qb_status status = qb_quantizer_create(w->device, &options, &quantizer, error);
    CHECK((quantizer != NULL) == (status == QB_OK));
    if (status == QB_OK) {
        status = qb_quantizer_set_amax(quantizer, &amax, 0, NULL, error);
    }
    qb_quantizer_release(quantizer);
    return status;
}

static qb_status
attempt_observers(world *w, qb_error *error)
{
    const float x[4] = {1.0f, -2.0f, 0.5f, 3.0f};
    const int64_t shape[1] = {4};
    qb_status status = QB_OK;
    for (int kind = QB_OBSERVER_MAX; status == QB_OK && kind <= QB_OBSERVER_HISTOGRAM; kind++) {
        const qb_observer_options options = {.struct_size = sizeof options,
                                             .kind = (qb_observer_kind)kind,
                                             .axis_count = -1,
                                             .num_bins = 16,
                                             .track_amax = kind == QB_OBSERVER_MAX};
        qb_observer *observer = NULL;
        status = qb_observer_create(w->device, &options, &observer, error);
        CHECK((observer != NULL) == (status == QB_OK));
        if (status == QB_OK) {
            status = qb_observer_collect(observer, NULL, x, 1, shape, error);
        }
        qb_observer_release(observer);
    }
    return status;
}

/* A histogram that grows, and an empty one that takes it in. */
static qb_status
attempt_growth(world *w, qb_error *error)
{
    const float small[4] = {1.0f, -2.0f, 0.5f, 2.0f};
    const float large[4] = {9.0f, -20.0f, 0.5f, 3.0f};
    const int64_t shape[1] = {4};
    const qb_observer_options options = {
        .struct_size = sizeof options, .kind = QB_OBSERVER_HISTOGRAM, .axis_count = -1, .num_bins = 16};
    qb_observer *grown = NULL;
    qb_observer *other = NULL;
    qb_status status = qb_observer_create(w->device, &options, &grown, error);
    if (status == QB_OK) {
        status = qb_observer_create(w->device, &options, &other, error);
    }
    if (status == QB_OK) {
        status = qb_observer_collect(grown, NULL, small, 1, shape, error);
    }
    if (status == QB_OK) {
        status = qb_observer_collect(grown, NULL, large, 1, shape, error);
    }
    if (status == QB_OK) {
        status = qb_observer_merge(other, grown, error);
    }
    qb_observer_release(grown);
    qb_observer_release(other);
    return status;
}

/* First allocations of a forward after a change: the packed weights; of a tied table too. */
static qb_status
attempt_forward_after_change(world *w, qb_error *error)
{
    const qb_session_options options = {.struct_size = sizeof options,
                                        .max_sequences = 1,
                                        .max_length = 4,
                                        .keep_probabilities = 1,
                                        .max_past = 2,
                                        .max_encoder_length = w->options.add_cross_attention ? 3 : 0};
    const int64_t ids[4] = {1, 2, 3, 4};
    const float zeros[3 * HIDDEN] = {0.0f};
    const float *const past[LAYERS] = {zeros, zeros};
    qb_forward_inputs inputs = model_inputs(1, 4, ids, NULL);
    float logits[4 * VOCABULARY];
    const qb_forward_outputs outputs = {.struct_size = sizeof outputs, .logits = logits};
    qb_session *session = NULL;
    qb_status status = qb_session_create(w->model, &options, &session, error);
    inputs.past_length = 2;
    inputs.past_keys = past;
    inputs.past_values = past;
    if (w->options.add_cross_attention) {
        inputs.encoder_length = 3;
        inputs.encoder_hidden_states = zeros;
    }
    for (int64_t i = 0; status == QB_OK && i < qb_model_parameter_count(w->model); i += 5) { /* words, query, ... */
        float *weight = NULL;
        CHECK(qb_model_parameter_write(w->model, i, &weight, NULL) == QB_OK);
        status = qb_session_forward(session, NULL, &inputs, &outputs, error);
    }
    qb_session_destroy(session);
    return status;
}

/* A model that keeps one weight as codes: made, written to twice, sealed and read. */
static qb_status
attempt_codes(world *w, qb_error *error)
{
    static const qb_parameter_storage storage = {.name = "bert.encoder.layer.1.output.dense.weight",
                                                 .storage = QB_STORAGE_CODES};
    qb_model_options options = w->options;
    options.storages = &storage;
    options.storages_count = 1;
    int8_t codes[HIDDEN * INTERMEDIATE] = {1};
    int8_t again[HIDDEN * INTERMEDIATE] = {0};
    qb_model *model = NULL;
    qb_status status = qb_model_create(w->device, &options, &model, error);
    int64_t index = 0;
    for (int64_t i = 0; status == QB_OK && i < qb_model_parameter_count(model); i++) {
        index = strcmp(qb_model_parameter(model, i).name, storage.name) == 0 ? i : index;
    }
    const float amax = 1.0f;
    for (int64_t i = 0; status == QB_OK && i < qb_model_quantizer_count(model); i++) {
        if (strstr(qb_model_quantizer_name(model, i), "layer.1.output.dense._weight_quantizer") != NULL) {
            status = qb_quantizer_set_amax(qb_model_quantizer(model, i), &amax, 0, NULL, error);
        }
    }
    for (int i = 0; status == QB_OK && i < 2; i++) {
        const qb_codes_source source = {.index = index, .codes = codes};
        status = qb_model_write_codes(model, &source, 1, NULL, error);
    }
    if (status == QB_OK) {
        CHECK(qb_model_seal(model, NULL) == QB_OK);
        status = qb_model_read_codes(model, index, again, NULL, error);
        CHECK(memcmp(again, codes, sizeof again) == 0);
    }
    qb_model_release(model);
    return status;
}

static void
fail_every_allocation_of(attempt call, int needs_world, int keeps_packs, const qb_model_options *options)
{
    world w = {.options = *options};
    int64_t n = 0;
    qb_status status = QB_ERR_NOMEM;
    while (status != QB_OK && n < 1000) {
        qb_error error = {.status = QB_OK};
        n++;
        w.memory = (faulty){.countdown = 0};
        if (needs_world) {
            CHECK(open_device(&w, &w.device, NULL) == QB_OK);
            w.model = model_make_of(w.device, options);
        }
        const int64_t live = w.memory.live;
        w.memory.countdown = n;
        status = call(&w, &error);
        CHECK(status == (w.memory.refused ? QB_ERR_NOMEM : QB_OK));
        CHECK(status == QB_OK || (error.status == QB_ERR_NOMEM && error.message[0] != '\0'));
        w.memory.countdown = 0;
        CHECK(keeps_packs ? w.memory.live >= live : w.memory.live == live);
        if (needs_world) {
            CHECK(status == QB_OK || call(&w, NULL) == QB_OK); /* nothing is broken for the next time */
            qb_model_release(w.model);
            qb_device_close(w.device);
        }
        CHECK(w.memory.live == 0);
    }
    CHECK(status == QB_OK && n > 1);
}

static void
fail_every_allocation(attempt call, int needs_world, int keeps_packs)
{
    const qb_model_options options = model_options(QB_HEAD_SEQUENCE_CLASSIFICATION);
    fail_every_allocation_of(call, needs_world, keeps_packs, &options);
}

static void
test_device(void)
{
    fail_every_allocation(attempt_device, 0, 0);
}

static void
test_model(void)
{
    fail_every_allocation(attempt_model, 1, 0);
}

static void
test_session(void)
{
    fail_every_allocation(attempt_session, 1, 1);
}

static void
test_bf16_products(void)
{
    fail_every_allocation(attempt_bf16_check, 1, 0);
    fail_every_allocation(attempt_bf16_session, 1, 1);
}

static void
test_codes(void)
{
    fail_every_allocation(attempt_codes, 1, 0);
}

static void
test_quantizer(void)
{
    fail_every_allocation(attempt_quantizer, 1, 0);
}

static void
test_observers(void)
{
    fail_every_allocation(attempt_observers, 1, 0);
}

static void
test_growth_and_merge(void)
{
    fail_every_allocation(attempt_growth, 1, 0);
}

static void
test_forward_after_a_change(void)
{
    fail_every_allocation(attempt_forward_after_change, 1, 1);
}

static void
test_decoder(void)
{
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        const qb_model_options options = decoder_options(is_tied);
        fail_every_allocation_of(attempt_model, 1, 0, &options);
        fail_every_allocation_of(attempt_session, 1, 1, &options);
        fail_every_allocation_of(attempt_forward_after_change, 1, 1, &options);
    }
}

int
main(void)
{
    RUN(test_device);
    RUN(test_model);
    RUN(test_session);
    RUN(test_bf16_products);
    RUN(test_codes);
    RUN(test_quantizer);
    RUN(test_observers);
    RUN(test_growth_and_merge);
    RUN(test_forward_after_a_change);
    RUN(test_decoder);
    return check_report();
}
