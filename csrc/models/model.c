/* SPDX-License-Identifier: Apache-2.0 */
#include "models/model.h"

#include <inttypes.h>
#include <string.h>

#include "core/shape.h"

qb_path
qb_model_root(const qb_model *model)
{
    return (qb_path){NULL, model->head == NULL ? "" : "bert"};
}

qb_status
qb_model_visit(qb_model *model, const qb_visitor *visitor)
{
    const qb_path root = qb_model_root(model);
    QB_TRY(qb_bert_visit(&model->bert, visitor, &root));
    if (model->head == NULL) {
        return QB_OK;
    }
    const qb_path head = {NULL, model->head->layer_name};
    return model->head->verbs->visit(&model->head_layers, visitor, &head);
}

/* ---- creation: names and sizes, then memory, then pointers ------------------------------------------------------ */

typedef struct census {
    qb_model *model;
    const qb_model_options *options;
    qb_error *error;
    qb_arena block;    /* measuring, then bound */
    qb_linear *linear; /* announced last */
    int64_t parameters, quantizers, sites, storages;
} census;

/* How the options want a parameter to be stored, or NULL. */
static const qb_parameter_storage *
storage_of(const census *c, const char *name)
{
    for (int64_t i = 0; i < c->options->storages_count; i++) {
        if (strcmp(c->options->storages[i].name, name) == 0) {
            return &c->options->storages[i];
        }
    }
    return NULL;
}

static qb_status
note_linear(void *context, const qb_path *path, struct qb_linear *linear)
{
    census *c = context;
    (void)path;
    c->linear = linear;
    return QB_OK;
}

/* Of the parameter that is announced. */
static qb_status
check_storage(const census *c, const qb_parameter *parameter, const qb_parameter_storage *storage)
{
    switch (storage->storage) {
    case QB_STORAGE_CODES:
        if (c->linear == NULL || &c->linear->weight != parameter) {
            return qb_fail(c->error, NULL, QB_ERR_VALUE,
                           "storages: %s is not the weight of a linear layer with quantizers, so it cannot be kept as "
                           "codes",
                           storage->name);
        }
        return QB_OK;
    case QB_STORAGE_LENT:
        if (storage->lent == NULL) {
            return qb_fail(c->error, NULL, QB_ERR_VALUE, "storages: %s has no floats to lend", storage->name);
        }
        return QB_OK;
    case QB_STORAGE_FLOATS:
        break;
    }
    return qb_fail(c->error, NULL, QB_ERR_VALUE, "storages: %s has the storage %d, expected codes or lent floats",
                   storage->name, (int)storage->storage);
}

static qb_status
count_parameter(void *context, const qb_path *path, qb_parameter *parameter)
{
    census *c = context;
    int64_t elements = 0;
    QB_TRY(qb_names_append(&c->model->parameter_names, path, c->error));
    const char *name = c->model->parameter_names.text[c->model->parameter_names.count - 1];
    const qb_parameter_storage *storage = storage_of(c, name);
    if (!qb_shape_elements(parameter->rank, parameter->shape, &elements)) {
        c->block.failed = 1;
    }
    if (storage == NULL) {
        (void)qb_arena_take(&c->block, elements, sizeof(float));
        return QB_OK;
    }
    c->storages++;
    return check_storage(c, parameter, storage);
}

static qb_status
count_quantizer(void *context, const qb_path *path, qb_quantizer **slot, qb_quantizer_role role)
{
    census *c = context;
    (void)slot;
    (void)role;
    return qb_names_append(&c->model->quantizer_names, path, c->error);
}

static qb_status
count_site(void *context, const qb_path *path, const qb_site *site)
{
    census *c = context;
    (void)site;
    return qb_names_append(&c->model->site_names, path, c->error);
}

static qb_status
bind_parameter(void *context, const qb_path *path, qb_parameter *parameter)
{
    census *c = context;
    int64_t elements = 0;
    (void)path;
    (void)qb_shape_elements(parameter->rank, parameter->shape, &elements);
    const qb_parameter_storage *storage = storage_of(c, c->model->parameter_names.text[c->parameters]);
    parameter->storage = storage == NULL ? QB_STORAGE_FLOATS : storage->storage;
    switch (parameter->storage) {
    case QB_STORAGE_FLOATS:
        parameter->data = qb_arena_take(&c->block, elements, sizeof(float));
        break;
    case QB_STORAGE_LENT:
        parameter->data = (float *)(uintptr_t)storage->lent; /* which nobody writes through */
        break;
    case QB_STORAGE_CODES:
        break;
    }
    parameter->revision = 1;
    c->model->linears[c->parameters] = c->linear != NULL && &c->linear->weight == parameter ? c->linear : NULL;
    c->model->parameters[c->parameters++] = parameter;
    return QB_OK;
}

static void
owner_retain(void *context)
{
    (void)qb_model_retain(context);
}

static void
owner_release(void *context)
{
    qb_model_release(context);
}

static qb_status
owner_begin_write(void *context, qb_error *error)
{
    qb_model *model = context;
    return qb_guard_begin_write(&model->guard, error);
}

static void
owner_end_write(void *context)
{
    qb_model *model = context;
    qb_guard_end_write(&model->guard);
}

static qb_status
bind_quantizer(void *context, const qb_path *path, qb_quantizer **slot, qb_quantizer_role role)
{
    census *c = context;
    qb_model *model = c->model;
    const qb_quantizer_owner owner = {.context = model,
                                      .retain = owner_retain,
                                      .release = owner_release,
                                      .begin_write = owner_begin_write,
                                      .end_write = owner_end_write};
    const qb_quantizer_options *options =
        role == QB_ROLE_WEIGHT ? &model->config.weight_quantizer : &model->config.input_quantizer;
    (void)path;
    QB_TRY(qb_quantizer_create(model->device, options, slot, c->error));
    qb_quantizer_set_owner(*slot, &owner);
    model->quantizers[c->quantizers++] = *slot;
    return QB_OK;
}

static qb_status
bind_site(void *context, const qb_path *path, const qb_site *site)
{
    census *c = context;
    (void)path;
    c->model->sites[c->sites++] = *site;
    return QB_OK;
}

static void *
take_table(census *c, int64_t count, size_t element_size)
{
    size_t bytes = 0;
    return qb_size_multiply((size_t)count, element_size, &bytes) ? qb_heap_allocate_zero(&c->model->device->heap, bytes)
                                                                 : NULL;
}

/* Every storage was a parameter's. */
static qb_status
check_storages(const census *c)
{
    for (int64_t i = 0; c->storages != c->options->storages_count && i < c->options->storages_count; i++) {
        const char *name = c->options->storages[i].name;
        if (qb_names_find(&c->model->parameter_names, name) < 0) {
            return qb_fail(c->error, NULL, QB_ERR_VALUE, "storages: the model has no parameter %s", name);
        }
    }
    return c->storages == c->options->storages_count
               ? QB_OK
               : qb_fail(c->error, NULL, QB_ERR_VALUE, "storages: a parameter is named twice");
}

static qb_status
create_contents(qb_model *model, const qb_model_options *options, qb_error *error)
{
    qb_heap *heap = &model->device->heap;
    census c = {.model = model, .options = options, .error = error, .block = qb_arena_measuring()};
    const qb_visitor counting = {.context = &c,
                                 .parameter = count_parameter,
                                 .quantizer = count_quantizer,
                                 .site = count_site,
                                 .linear = note_linear};
    const qb_visitor binding = {.context = &c,
                                .parameter = bind_parameter,
                                .quantizer = bind_quantizer,
                                .site = bind_site,
                                .linear = note_linear};
    QB_TRY(qb_model_visit(model, &counting));
    QB_TRY(check_storages(&c));
    const size_t bytes = c.block.used;
    if (!qb_arena_ok(&c.block)) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "the parameters do not fit the address space");
    }
    model->block = qb_heap_allocate_zero(heap, bytes);
    model->block_bytes = bytes;
    model->parameters = take_table(&c, model->parameter_names.count, sizeof *model->parameters);
    model->linears = take_table(&c, model->parameter_names.count, sizeof *model->linears);
    model->quantizers = take_table(&c, model->quantizer_names.count, sizeof *model->quantizers);
    model->sites = take_table(&c, model->site_names.count, sizeof *model->sites);
    model->is_float = c.storages == 0;
    if (model->block == NULL || model->parameters == NULL || model->linears == NULL || model->quantizers == NULL ||
        model->sites == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for %zu bytes of parameters and their tables", bytes);
    }
    c.block = qb_arena_bind(model->block, bytes);
    return qb_model_visit(model, &binding);
}

static void
destroy(qb_model *model)
{
    qb_device *device = model->device;
    qb_heap *heap = &device->heap;
    for (int64_t i = 0; model->quantizers != NULL && i < model->quantizer_names.count; i++) {
        qb_quantizer_destroy(model->quantizers[i]);
    }
    qb_bert_clear(&model->bert, heap);
    qb_head_layers_clear(&model->head_layers, heap);
    qb_page_pool_clear(&model->packs);
    qb_heap_release(heap, model->block);
    qb_heap_release(heap, model->gradients);
    qb_heap_release(heap, model->parameters);
    qb_heap_release(heap, model->linears);
    qb_heap_release(heap, model->quantizers);
    qb_heap_release(heap, model->sites);
    qb_names_clear(&model->parameter_names);
    qb_names_clear(&model->quantizer_names);
    qb_names_clear(&model->site_names);
    if (model->has_guard) {
        qb_guard_destroy(&model->guard);
    }
    if (model->release_lent != NULL) {
        model->release_lent(model->lent_context);
    }
    qb_heap_release(heap, model);
    qb_device_close(device);
}

static qb_status
create_layers(qb_model *model, const qb_model_options *options, qb_error *error)
{
    const qb_bert_config *config = &model->config;
    QB_TRY(qb_guard_init(&model->guard, error));
    model->has_guard = 1;
    QB_TRY(qb_bert_init(&model->bert, config, &model->device->heap, error));
    if (model->head != NULL) {
        model->head->verbs->init(&model->head_layers, config, qb_head_classes(model->head, config),
                                 &model->bert.embeddings.word);
    }
    return create_contents(model, options, error);
}

qb_status
qb_model_create(qb_device *device, const qb_model_options *options, qb_model **model, qb_error *error)
{
    qb_bert_config config;
    qb_model_options known = {.struct_size = 0};
    const size_t given = options->struct_size;
    memcpy(&known, options, given < sizeof known ? given : sizeof known);
    QB_TRY(qb_bert_config_init(&config, options, error));
    qb_model *made = qb_heap_allocate_zero(&device->heap, sizeof *made);
    if (made == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for a model");
    }
    atomic_init(&made->references, 1);
    atomic_init(&made->packs.is_busy, 0);
    made->device = qb_device_retain(device);
    made->config = config;
    made->head = qb_head_find(config.head);
    qb_names_init(&made->parameter_names, &device->heap);
    qb_names_init(&made->quantizer_names, &device->heap);
    qb_names_init(&made->site_names, &device->heap);
    const qb_status status = create_layers(made, &known, error);
    made->config.heads_of_layers = NULL; /* the caller's; the layers know their heads now */
    if (status != QB_OK) {
        destroy(made);
        return status;
    }
    made->release_lent = known.release_lent;
    made->lent_context = known.lent_context;
    *model = made;
    return QB_OK;
}

qb_model *
qb_model_retain(qb_model *model)
{
    if (model != NULL) {
        atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
    }
    return model;
}

void
qb_model_release(qb_model *model)
{
    if (model != NULL && atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) == 1) {
        destroy(model);
    }
}

qb_device *
qb_model_device(const qb_model *model)
{
    return model->device;
}

int
qb_model_has_pooler(const qb_model *model)
{
    return model->bert.has_pooler;
}

int64_t
qb_model_heads(const qb_model *model, int64_t layer)
{
    return layer < 0 || layer >= model->bert.num_blocks ? 0 : model->bert.blocks[layer].attention.heads;
}

int64_t
qb_model_dropout_count(const qb_model *model)
{
    return qb_dropout_nodes_count(model->config.num_layers);
}

int32_t
qb_model_logits_shape(const qb_model *model, int64_t batch, int64_t length, int64_t shape[3])
{
    if (model->head == NULL) {
        return 0;
    }
    const int64_t classes = qb_head_classes(model->head, &model->config);
    shape[0] = batch;
    shape[1] = model->head->is_pooled ? classes : length;
    shape[2] = classes;
    return model->head->is_pooled ? 2 : 3;
}

/* ---- preparing -------------------------------------------------------------------------------------------------- */

qb_status
qb_model_prepare(qb_model *model, const qb_run *run)
{
    const qb_path root = qb_model_root(model);
    qb_run at_root = qb_run_enter(run, &root);
    at_root.packs = &model->packs;
    QB_TRY(qb_bert_prepare(&model->bert, &at_root));
    if (model->head == NULL) {
        return QB_OK;
    }
    const qb_path head = {NULL, model->head->layer_name};
    const qb_run at_head = qb_run_enter(&at_root, &head);
    return model->head->verbs->prepare(&model->head_layers, &at_head);
}

int
qb_model_collects(const qb_model *model)
{
    for (int64_t i = 0; i < model->quantizer_names.count; i++) {
        if (qb_quantizer_wants_collect(model->quantizers[i])) {
            return 1;
        }
    }
    return 0;
}

int
qb_model_needs_probabilities(const qb_model *model)
{
    return qb_bert_keeps_probabilities(&model->bert);
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

int64_t
qb_model_parameter_count(const qb_model *model)
{
    return model->parameter_names.count;
}

qb_parameter_info
qb_model_parameter(const qb_model *model, int64_t index)
{
    qb_parameter_info info = {.name = NULL};
    if (index < 0 || index >= model->parameter_names.count) {
        return info;
    }
    const qb_parameter *parameter = model->parameters[index];
    info.name = model->parameter_names.text[index];
    info.rank = parameter->rank;
    for (int32_t i = 0; i < parameter->rank; i++) {
        info.shape[i] = parameter->shape[i];
    }
    int64_t elements = 0;
    (void)qb_shape_elements(parameter->rank, parameter->shape, &elements);
    info.data = parameter->data;
    info.storage = parameter->storage;
    info.codes_reason = model->linears[index] == NULL ? "it is no weight of a linear layer with quantizers"
                                                      : qb_linear_codes_reason(model->linears[index]);
    info.bytes = parameter->storage == QB_STORAGE_FLOATS ? (size_t)elements * sizeof(float) : 0;
    info.packed_bytes =
        model->linears[index] == NULL ? 0 : qb_linear_packed_bytes(model->linears[index], &model->device->kernels);
    return info;
}

qb_status
qb_model_begin_change(qb_model *model, qb_error *error)
{
    return qb_guard_begin_write(&model->guard, error);
}

void
qb_model_end_change(qb_model *model)
{
    qb_guard_end_write(&model->guard);
}

qb_status
qb_model_parameter_write(qb_model *model, int64_t index, float **data, qb_error *error)
{
    if (index < 0 || index >= model->parameter_names.count) {
        return qb_fail(error, NULL, QB_ERR_INDEX, "parameter index is %lld, expected 0 .. %lld", (long long)index,
                       (long long)model->parameter_names.count - 1);
    }
    if (model->parameters[index]->storage != QB_STORAGE_FLOATS) {
        return qb_fail(error, NULL, QB_ERR_STATE, "%s: cannot be written, because %s",
                       model->parameter_names.text[index],
                       model->parameters[index]->storage == QB_STORAGE_CODES
                           ? "the model is frozen and keeps its codes alone; load the checkpoint again"
                           : "the model is frozen and reads it from a file; load the checkpoint again");
    }
    QB_TRY(qb_guard_begin_write(&model->guard, error));
    model->parameters[index]->revision++;
    *data = model->parameters[index]->data;
    int64_t elements = 0;
    (void)qb_shape_elements(model->parameters[index]->rank, model->parameters[index]->shape, &elements);
    qb_heap_fill(&model->device->heap, model->block, (size_t)((char *)*data - (char *)model->block),
                 (size_t)elements * sizeof **data);
    qb_guard_end_write(&model->guard);
    return QB_OK;
}

int64_t
qb_model_quantizer_count(const qb_model *model)
{
    return model->quantizer_names.count;
}

const char *
qb_model_quantizer_name(const qb_model *model, int64_t index)
{
    return index < 0 || index >= model->quantizer_names.count ? NULL : model->quantizer_names.text[index];
}

qb_quantizer *
qb_model_quantizer(qb_model *model, int64_t index)
{
    return index < 0 || index >= model->quantizer_names.count ? NULL : model->quantizers[index];
}
