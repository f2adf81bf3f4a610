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

/* A run whose path is the layer's name: that of its weight without the last part. */
typedef struct layer_run {
    char name[QB_NAME_BYTES];
    qb_path path;
    qb_run run;
} layer_run;

static void
enter_layer(const qb_model *model, int64_t index, const qb_interrupt *interrupt, qb_error *error, layer_run *entered)
{
    const char *name = model->parameter_names.text[index];
    size_t length = 0;
    while (name[length] != '\0') {
        entered->name[length] = name[length];
        length++;
    }
    entered->name[length - (sizeof SUFFIX - 1)] = '\0';
    entered->path = (qb_path){NULL, entered->name};
    entered->run = qb_device_run(model->device, interrupt, error);
    entered->run.path = &entered->path;
}

qb_status
qb_model_write_codes(qb_model *model, int64_t index, const int8_t *codes, const qb_interrupt *interrupt,
                     qb_error *error)
{
    qb_linear *linear = NULL;
    layer_run layer;
    QB_TRY(find_linear(model, index, &linear, error));
    if (model->is_sealed) {
        return qb_fail(error, NULL, QB_ERR_STATE, "%s: the model is sealed, its codes can no longer be written",
                       model->parameter_names.text[index]);
    }
    enter_layer(model, index, interrupt, error, &layer);
    QB_TRY(qb_guard_begin_write(&model->guard, error));
    const qb_status status = qb_linear_write_codes(linear, &layer.run, codes);
    qb_guard_end_write(&model->guard);
    return status;
}

qb_status
qb_model_read_codes(qb_model *model, int64_t index, int8_t *codes, const qb_interrupt *interrupt, qb_error *error)
{
    qb_linear *linear = NULL;
    layer_run layer;
    QB_TRY(find_linear(model, index, &linear, error));
    enter_layer(model, index, interrupt, error, &layer);
    if (model->is_sealed && model->parameters[index]->storage == QB_STORAGE_CODES) { /* which nobody can change */
        return qb_linear_read_codes(linear, &layer.run, codes);
    }
    QB_TRY(qb_guard_begin_read(&model->guard, error));
    const qb_status status = qb_linear_read_codes(linear, &layer.run, codes);
    qb_guard_end_forward(&model->guard);
    return status;
}

qb_status
qb_model_values_of_codes(const qb_model *model, int64_t index, const int8_t *codes, float *values,
                         const qb_interrupt *interrupt, qb_error *error)
{
    qb_linear *linear = NULL;
    layer_run layer;
    QB_TRY(find_linear(model, index, &linear, error));
    enter_layer(model, index, interrupt, error, &layer);
    return qb_linear_values_of_codes(linear, &layer.run, codes, values);
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
