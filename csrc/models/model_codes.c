/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights of a model as codes: in, out, and the seal under which their quantizers stay as they are.
 */
#include <inttypes.h>

#include "models/model.h"

qb_status
qb_model_require_floats(const qb_model *model, const char *what, qb_error *error)
{
    for (int64_t i = 0; !model->is_float && i < model->parameter_names.count; i++) {
        const qb_storage storage = model->parameters[i]->storage;
        if (storage != QB_STORAGE_FLOATS) {
            return qb_fail(error, NULL, QB_ERR_STATE, "%s: is %s, but %s needs the floats of all parameters",
                           model->parameter_names.text[i], storage == QB_STORAGE_CODES ? "kept as codes" : "lent",
                           what);
        }
    }
    return QB_OK;
}

/* The layer of a weight, and a path that spells its name. */
static qb_status
find_linear(const qb_model *model, int64_t index, qb_linear **linear, qb_error *error)
{
    const int64_t count = model->parameter_names.count;
    if (index < 0 || index >= count) {
        return qb_fail(error, NULL, QB_ERR_INDEX, "parameter index is %" PRId64 ", expected 0 .. %" PRId64, index,
                       count - 1);
    }
    *linear = model->linears[index];
    return *linear != NULL ? QB_OK
                           : qb_fail(error, NULL, QB_ERR_STATE,
                                     "%s: is no weight of a linear layer with quantizers, so it has no codes",
                                     model->parameter_names.text[index]);
}

#define SUFFIX ".weight"

/* A layer's name: that of its weight without the last part; as a path. */
typedef struct layer_path {
    char name[QB_NAME_BYTES];
    qb_path path;
} layer_path;

static void
name_layer(const qb_model *model, int64_t index, layer_path *layer)
{
    const char *name = model->parameter_names.text[index];
    size_t length = 0;
    while (name[length] != '\0') {
        layer->name[length] = name[length];
        length++;
    }
    layer->name[length - (sizeof SUFFIX - 1)] = '\0';
    layer->path = (qb_path){NULL, layer->name};
}

/* A run in a layer. */
static qb_run
enter_layer(const qb_model *model, int64_t index, const qb_interrupt *interrupt, qb_error *error, layer_path *layer)
{
    name_layer(model, index, layer);
    const qb_run run = qb_device_run(model->device, interrupt, error);
    return qb_run_enter(&run, &layer->path);
}

static int
is_named_before(const qb_codes_source *sources, int64_t i)
{
    for (int64_t j = 0; j < i; j++) {
        if (sources[j].index == sources[i].index) {
            return 1;
        }
    }
    return 0;
}

static qb_status
find_items(const qb_model *model, const qb_codes_source *sources, int64_t count, layer_path *layers,
           qb_linear_codes *items, qb_error *error)
{
    for (int64_t i = 0; i < count; i++) {
        const int64_t index = sources[i].index;
        QB_TRY(find_linear(model, index, &items[i].layer, error));
        if (model->is_sealed) {
            return qb_fail(error, NULL, QB_ERR_STATE, "%s: the model is sealed, its codes can no longer be written",
                           model->parameter_names.text[index]);
        }
        if (is_named_before(sources, i)) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "%s: its codes are given twice",
                           model->parameter_names.text[index]);
        }
        name_layer(model, index, &layers[i]);
        items[i].path = &layers[i].path;
        items[i].source = &sources[i];
    }
    return QB_OK;
}

static qb_status
write_items(qb_model *model, const qb_codes_source *sources, int64_t count, layer_path *layers, qb_linear_codes *items,
            const qb_run *run)
{
    QB_TRY(find_items(model, sources, count, layers, items, run->error));
    QB_TRY(qb_guard_begin_write(&model->guard, run->error));
    const qb_status status = qb_linear_write_codes(run, items, count);
    qb_guard_end_write(&model->guard);
    return status;
}

qb_status
qb_model_write_codes(qb_model *model, const qb_codes_source *sources, int64_t count, const qb_interrupt *interrupt,
                     qb_error *error)
{
    qb_heap *heap = &model->device->heap;
    if (count < 0 || count > model->parameter_names.count) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "count is %" PRId64 ", expected 0 .. %" PRId64 " weights", count,
                       model->parameter_names.count);
    }
    qb_run run = qb_device_run(model->device, interrupt, error);
    run.packs = &model->packs;
    layer_path *layers = qb_heap_allocate_zero(heap, (size_t)count * sizeof *layers);
    qb_linear_codes *items = qb_heap_allocate_zero(heap, (size_t)count * sizeof *items);
    const qb_status status =
        layers != NULL && items != NULL
            ? write_items(model, sources, count, layers, items, &run)
            : qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for the names of %" PRId64 " weights", count);
    qb_heap_release(heap, items);
    qb_heap_release(heap, layers);
    return status;
}

qb_status
qb_model_read_codes(qb_model *model, int64_t index, int8_t *codes, const qb_interrupt *interrupt, qb_error *error)
{
    qb_linear *linear = NULL;
    layer_path layer;
    QB_TRY(find_linear(model, index, &linear, error));
    const qb_run run = enter_layer(model, index, interrupt, error, &layer);
    if (model->is_sealed && model->parameters[index]->storage == QB_STORAGE_CODES) { /* which nobody can change */
        return qb_linear_read_codes(linear, &run, codes);
    }
    QB_TRY(qb_guard_begin_read(&model->guard, error));
    const qb_status status = qb_linear_read_codes(linear, &run, codes);
    qb_guard_end_forward(&model->guard);
    return status;
}

qb_status
qb_model_values_of_codes(const qb_model *model, int64_t index, const int8_t *codes, float *values,
                         const qb_interrupt *interrupt, qb_error *error)
{
    qb_linear *linear = NULL;
    layer_path layer;
    QB_TRY(find_linear(model, index, &linear, error));
    const qb_run run = enter_layer(model, index, interrupt, error, &layer);
    return qb_linear_values_of_codes(linear, &run, codes, values);
}

static qb_status
check_sealable(const qb_model *model, qb_error *error)
{
    for (int64_t i = 0; i < model->parameter_names.count; i++) {
        const qb_linear *linear = model->linears[i];
        if (model->parameters[i]->storage != QB_STORAGE_CODES) {
            continue;
        }
        if (linear->pack.form != QB_WEIGHT_QS8) {
            return qb_fail(error, NULL, QB_ERR_STATE, "%s: is kept as codes, which have not been written yet",
                           model->parameter_names.text[i]);
        }
        const char *reason = qb_linear_codes_reason(linear);
        if (reason != NULL) {
            return qb_fail(error, NULL, QB_ERR_STATE, "%s: is not multiplied as codes: %s",
                           model->parameter_names.text[i], reason);
        }
        if (linear->pack.quantizer_revision != linear->weight_quantizer->revision) {
            return qb_fail(error, NULL, QB_ERR_STATE, "%s: its quantizer has changed since its codes were written",
                           model->parameter_names.text[i]);
        }
    }
    return QB_OK;
}

qb_status
qb_model_seal(qb_model *model, qb_error *error)
{
    if (model->is_sealed) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the model is sealed already");
    }
    QB_TRY(qb_guard_begin_write(&model->guard, error));
    const qb_status status = check_sealable(model, error);
    for (int64_t i = 0; status == QB_OK && i < model->parameter_names.count; i++) {
        const qb_linear *linear = model->linears[i];
        if (model->parameters[i]->storage != QB_STORAGE_CODES) {
            continue;
        }
        for (int64_t j = 0; j < model->quantizer_names.count; j++) {
            qb_quantizer *quantizer = model->quantizers[j];
            if (quantizer == linear->input_quantizer || quantizer == linear->weight_quantizer) {
                quantizer->frozen = model->quantizer_names.text[j];
            }
        }
    }
    model->is_sealed = status == QB_OK;
    qb_guard_end_write(&model->guard);
    return status;
}

qb_status
qb_model_epoch(qb_model *model, uint64_t *epoch, qb_error *error)
{
    return qb_guard_epoch(&model->guard, epoch, error);
}
