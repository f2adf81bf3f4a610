/* SPDX-License-Identifier: Apache-2.0
 *
 * The gradients of what a session's last forward computed: head, pooler, blocks, embeddings, in this order.
 */
#include <string.h>

#include "models/session.h"

typedef struct backward_call {
    qb_forward_call forward; /* the last one, with its outputs taken away */
    qb_backward_inputs inputs;
    qb_backward_outputs outputs;
} backward_call;

static qb_status
check(const backward_call *call)
{
    const qb_session *session = call->forward.session;
    const qb_model *model = session->model;
    qb_error *error = call->forward.run->error;
    if (!session->options.trains) {
        return qb_fail(error, NULL, QB_ERR_STATE,
                       "the session was made without trains, expected one that keeps what "
                       "backward needs");
    }
    if (!session->has_forward) {
        return qb_fail(error, NULL, QB_ERR_STATE, "there is no forward whose gradients could be computed");
    }
    if (call->inputs.d_logits != NULL && !session->last_logits) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "d_logits was given, but forward was not asked for logits");
    }
    if (call->inputs.d_pooler_output != NULL && (!session->last_pooled || !model->bert.has_pooler)) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "d_pooler_output was given, but forward did not pool");
    }
    if (call->outputs.d_encoder_hidden_states != NULL && session->batch.memory == NULL) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "d_encoder_hidden_states was asked for, but forward projected no encoder states");
    }
    return QB_OK;
}

/* The gradients that come from outside, and through the head, into dhidden and dpooled. */
static qb_status
begin(const backward_call *call)
{
    qb_session *session = call->forward.session;
    const qb_model *model = session->model;
    const int64_t h = model->config.hidden_size;
    const int64_t sequences = session->batch.sequences.count;
    const size_t hidden_bytes = (size_t)(session->batch.sequences.tokens * h) * sizeof(float);
    const size_t pooled_bytes = (size_t)(sequences * h) * sizeof(float);
    if (call->inputs.d_last_hidden_state != NULL) {
        qb_batch_gather(&session->batch, call->inputs.d_last_hidden_state, h, session->dhidden);
    }
    else {
        memset(session->dhidden, 0, hidden_bytes);
    }
    memset(session->dpooled, 0, pooled_bytes);
    if (call->inputs.d_logits != NULL) {
        const qb_path head = {NULL, model->head->layer_name};
        const qb_run at_head = qb_run_enter(call->forward.run, &head);
        const qb_head_inputs inputs = qb_forward_call_head_inputs(&call->forward);
        QB_TRY(model->head->verbs->backward(&model->head_layers, &session->head, &session->bert.gradient, &at_head,
                                            &inputs, call->inputs.d_logits, session->dhidden, session->dpooled));
    }
    if (call->inputs.d_pooler_output != NULL) {
        call->forward.run->kernels->add_f32(session->dpooled, call->inputs.d_pooler_output, (size_t)(sequences * h),
                                            session->dpooled);
    }
    return QB_OK;
}

/* The gradient of a hidden state that comes from outside. */
static void
add_dhidden(void *context, int64_t index, float *dhidden)
{
    const backward_call *call = context;
    const qb_session *session = call->forward.session;
    const float *const *given = call->inputs.d_hidden_states;
    if (given != NULL && given[index] != NULL) {
        qb_batch_gather_accumulate(&session->batch, call->forward.run->kernels, given[index],
                                   session->model->config.hidden_size, dhidden);
    }
}

static qb_status
compute(backward_call *call)
{
    qb_session *session = call->forward.session;
    const qb_model *model = session->model;
    const int64_t h = model->config.hidden_size;
    const qb_path root = qb_model_root(model);
    const qb_run at_root = qb_run_enter(call->forward.run, &root);
    qb_bert_call bert;
    QB_TRY(begin(call));
    qb_forward_call_resolve(&call->forward, &bert);
    if (session->dmemory != NULL) {
        memset(session->dmemory, 0, (size_t)(session->batch.encoder.tokens * h) * sizeof(float));
    }
    const qb_bert_gradients gradients = {.dhidden = session->dhidden,
                                         .dpooled = session->last_pooled ? session->dpooled : NULL,
                                         .dmemory = session->dmemory,
                                         .on_dhidden = add_dhidden,
                                         .context = call};
    QB_TRY(qb_bert_backward(&model->bert, &session->bert, &at_root, &bert.inputs, &gradients));
    if (call->outputs.d_inputs_embeds != NULL) {
        qb_batch_scatter(&session->batch, session->dhidden, h, call->outputs.d_inputs_embeds);
    }
    if (call->outputs.d_encoder_hidden_states != NULL) {
        qb_batch_scatter_encoder_keys(&session->batch, session->dmemory, 1, h, call->outputs.d_encoder_hidden_states);
    }
    return QB_OK;
}

static qb_status
backward(backward_call *call)
{
    qb_session *session = call->forward.session;
    qb_model *model = session->model;
    qb_error *error = call->forward.run->error;
    QB_TRY(check(call));
    /* Gradients are added to the model's, so nobody else may. */
    QB_TRY(qb_guard_begin_backward(&model->guard, session->epoch, qb_session_packing(session), error));
    const qb_status status = compute(call);
    qb_guard_end_backward(&model->guard);
    return status;
}

qb_status
qb_session_backward(qb_session *session, const qb_interrupt *interrupt, const qb_backward_inputs *inputs,
                    const qb_backward_outputs *outputs, qb_error *error)
{
    const qb_run run = qb_session_run(session, interrupt, error);
    backward_call call = {.forward = {.session = session, .run = &run}};
    size_t given = inputs->struct_size;
    memcpy(&call.inputs, inputs, given < sizeof call.inputs ? given : sizeof call.inputs);
    if (outputs != NULL) {
        given = outputs->struct_size;
        memcpy(&call.outputs, outputs, given < sizeof call.outputs ? given : sizeof call.outputs);
    }
    if (atomic_exchange(&session->is_busy, 1) != 0) {
        return qb_fail(error, NULL, QB_ERR_STATE, "the session runs in another thread");
    }
    call.forward.inputs = session->last_inputs;
    const qb_status status = backward(&call);
    atomic_store(&session->is_busy, 0);
    return status;
}
