/* SPDX-License-Identifier: Apache-2.0
 *
 * Optimizers over the parameter block: adamw_f32 and sgd_f32 (core/kernel_list.inc) on chunks of it.
 *
 * Moments lie in blocks of the parameters' layout.  Every scalar is computed in float64 and rounded once, as PyTorch
 * does it.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "models/model.h"

/* Elements that one chunk steps: 64 KB of each of four arrays. */
#define GRAIN 16384

struct qb_optimizer {
    qb_model *model; /* retained */
    qb_optimizer_kind kind;
    float *first, *second; /* blocks of the model's layout; second is AdamW's alone */
    int64_t *steps;        /* (parameters) */
};

qb_status
qb_optimizer_create(qb_model *model, qb_optimizer_kind kind, qb_optimizer **optimizer, qb_error *error)
{
    if (kind != QB_OPTIMIZER_ADAMW && kind != QB_OPTIMIZER_SGD) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "kind is %d, expected QB_OPTIMIZER_ADAMW or QB_OPTIMIZER_SGD",
                       (int)kind);
    }
    QB_TRY(qb_model_require_floats(model, "an optimizer", error));
    qb_heap *heap = &model->device->heap;
    qb_optimizer *made = qb_heap_allocate_zero(heap, sizeof *made);
    if (made == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for an optimizer");
    }
    made->model = qb_model_retain(model);
    made->kind = kind;
    made->first = qb_heap_allocate_zero(heap, model->block_bytes);
    made->second = kind == QB_OPTIMIZER_ADAMW ? qb_heap_allocate_zero(heap, model->block_bytes) : NULL;
    made->steps = qb_heap_allocate_zero(heap, (size_t)model->parameter_names.count * sizeof *made->steps);
    if (made->first == NULL || made->steps == NULL || (kind == QB_OPTIMIZER_ADAMW && made->second == NULL)) {
        qb_optimizer_destroy(made);
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for the moments of %zu bytes of parameters",
                       model->block_bytes);
    }
    *optimizer = made;
    return QB_OK;
}

void
qb_optimizer_destroy(qb_optimizer *optimizer)
{
    if (optimizer == NULL) {
        return;
    }
    qb_model *model = optimizer->model;
    qb_heap *heap = &model->device->heap;
    qb_heap_release(heap, optimizer->first);
    qb_heap_release(heap, optimizer->second);
    qb_heap_release(heap, optimizer->steps);
    qb_heap_release(heap, optimizer);
    qb_model_release(model);
}

/* ---- the step --------------------------------------------------------------------------------------------------- */

typedef struct step_job {
    const qb_kernels *kernels;
    qb_optimizer_kind kind;
    float *parameter;
    const float *gradient;
    float *first, *second;
    qb_adamw adamw;
    qb_sgd sgd;
} step_job;

static void
step_range(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const step_job *job = argument;
    const size_t n = (size_t)(end - begin);
    (void)worker;
    if (job->kind == QB_OPTIMIZER_ADAMW) {
        job->kernels->adamw_f32(job->parameter + begin, job->gradient + begin, job->first + begin, job->second + begin,
                                n, &job->adamw);
    }
    else {
        job->kernels->sgd_f32(job->parameter + begin, job->gradient + begin, job->first + begin, n, &job->sgd);
    }
}

static int64_t
elements_of(const qb_parameter *parameter)
{
    return parameter->shape[0] * (parameter->rank == 2 ? parameter->shape[1] : 1);
}

/* The scalars of step number `t`, t = 1, 2, ... */
static void
set_scalars(const qb_optimizer_settings *s, int64_t t, step_job *job)
{
    const double number = (double)t;
    job->adamw = (qb_adamw){
        .decay = (float)(1.0 - s->learning_rate * s->weight_decay),
        .first_weight = (float)(1.0 - s->beta1),
        .second_decay = (float)s->beta2,
        .second_weight = (float)(1.0 - s->beta2),
        .correction = (float)sqrt(1.0 - pow(s->beta2, number)),
        .eps = (float)s->eps,
        .step_size = (float)(s->learning_rate / (1.0 - pow(s->beta1, number))),
    };
    job->sgd = (qb_sgd){
        .learning_rate = (float)s->learning_rate,
        .weight_decay = (float)s->weight_decay,
        .momentum = (float)s->momentum,
        .is_nesterov = s->is_nesterov != 0,
        .is_first = t == 1,
    };
}

static qb_status
check_number(const char *name, double value, double most, qb_error *error)
{
    if (value >= 0.0 && value < most) {
        return QB_OK;
    }
    return most == (double)INFINITY
               ? qb_fail(error, NULL, QB_ERR_VALUE, "%s is %g, expected a finite number, 0 or more", name, value)
               : qb_fail(error, NULL, QB_ERR_VALUE, "%s is %g, expected 0 or more and less than %g", name, value, most);
}

static qb_status
check_settings(const qb_optimizer *optimizer, const qb_optimizer_settings *s, qb_error *error)
{
    const double any = (double)INFINITY;
    QB_TRY(check_number("learning_rate", s->learning_rate, any, error));
    QB_TRY(check_number("weight_decay", s->weight_decay, any, error));
    if (optimizer->kind == QB_OPTIMIZER_ADAMW) {
        QB_TRY(check_number("beta1", s->beta1, 1.0, error));
        QB_TRY(check_number("beta2", s->beta2, 1.0, error));
        return check_number("eps", s->eps, any, error);
    }
    QB_TRY(check_number("momentum", s->momentum, any, error));
    if (s->is_nesterov && s->momentum == 0.0) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "is_nesterov is 1 without momentum");
    }
    return QB_OK;
}

static qb_status
check_index(const qb_optimizer *optimizer, int64_t index, qb_error *error)
{
    const int64_t count = optimizer->model->parameter_names.count;
    return index >= 0 && index < count
               ? QB_OK
               : qb_fail(error, NULL, QB_ERR_INDEX, "parameter index is %" PRId64 ", expected 0 .. %" PRId64, index,
                         count - 1);
}

qb_status
qb_optimizer_step(qb_optimizer *optimizer, const int64_t *indices, int64_t count, const qb_optimizer_settings *settings,
                  qb_error *error)
{
    qb_model *model = optimizer->model;
    const qb_run run = qb_device_run(model->device, NULL, error);
    qb_optimizer_settings known = {.struct_size = 0};
    const size_t given = settings->struct_size;
    memcpy(&known, settings, given < sizeof known ? given : sizeof known);
    QB_TRY(check_settings(optimizer, &known, error));
    for (int64_t i = 0; i < count; i++) {
        QB_TRY(check_index(optimizer, indices[i], error));
    }
    QB_TRY(qb_guard_begin_write(&model->guard, error));
    for (int64_t i = 0; i < count; i++) {
        qb_parameter *parameter = model->parameters[indices[i]];
        const int64_t at = parameter->data - (const float *)model->block;
        if (parameter->gradient == NULL) {
            continue;
        }
        step_job job = {.kernels = run.kernels,
                        .kind = optimizer->kind,
                        .parameter = parameter->data,
                        .gradient = parameter->gradient,
                        .first = optimizer->first + at,
                        .second = optimizer->second == NULL ? NULL : optimizer->second + at};
        set_scalars(&known, ++optimizer->steps[indices[i]], &job);
        parameter->revision++;
        /* Without an interrupt: half a step would be worse than a late answer. */
        (void)qb_run_parallel(&run, elements_of(parameter), GRAIN, step_range, &job);
    }
    qb_guard_end_write(&model->guard);
    return QB_OK;
}

/* ---- state ------------------------------------------------------------------------------------------------------ */

qb_status
qb_optimizer_state(qb_optimizer *optimizer, int64_t index, float **first, float **second, int64_t *steps,
                   qb_error *error)
{
    QB_TRY(check_index(optimizer, index, error));
    const int64_t at = optimizer->model->parameters[index]->data - (const float *)optimizer->model->block;
    *first = optimizer->first + at;
    *second = optimizer->second == NULL ? NULL : optimizer->second + at;
    *steps = optimizer->steps[index];
    return QB_OK;
}

qb_status
qb_optimizer_set_steps(qb_optimizer *optimizer, int64_t index, int64_t steps, qb_error *error)
{
    QB_TRY(check_index(optimizer, index, error));
    if (steps < 0) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "steps is %" PRId64 ", expected 0 or more", steps);
    }
    optimizer->steps[index] = steps;
    return QB_OK;
}
