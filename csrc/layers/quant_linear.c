/* SPDX-License-Identifier: Apache-2.0
 *
 * QuantLinear as a function: one linear layer that is packed, used once and given back.
 *
 *   y = Qx(x) Qw(W)' + b
 *
 * The arithmetic is that of a layer in a model (layers/site.h): codes where both quantizers allow it, otherwise the
 * float product of quantized values.  Unlike a layer's, the input may have any rank, and its quantizer any axes.
 *
 * Source: pytorch_quantization.nn.QuantLinear.
 */
#include <inttypes.h>

#include "core/arena.h"
#include "core/device.h"
#include "core/kernel_types.h"
#include "core/shape.h"
#include "layers/linear.h"
#include "quant/quantizer.h"

typedef struct linear_call {
    qb_quantizer *input_quantizer; /* or NULL */
    qb_quantizer *weight_quantizer;
    qb_tensor x, weight;
    int64_t rows;
    float *values; /* (rows, in) quantized x, then (out, in) quantized weight; NULL on the integer path */
    void *memory;  /* the product's workspace */
    qb_linear layer;
} linear_call;

static qb_status
check_shapes(const qb_run *run, qb_tensor x, qb_tensor weight, int64_t *rows)
{
    int64_t x_count = 0;
    int64_t weight_count = 0;
    char x_text[QB_SHAPE_TEXT_BYTES];
    char weight_text[QB_SHAPE_TEXT_BYTES];
    const int is_valid =
        x.rank >= 1 && x.rank <= QB_MAX_RANK && weight.rank == 2 && qb_shape_elements(x.rank, x.shape, &x_count) &&
        qb_shape_elements(2, weight.shape, &weight_count) && weight_count > 0 && x.shape[x.rank - 1] == weight.shape[1];
    if (!is_valid) {
        return qb_fail(run->error, run->path, QB_ERR_SHAPE, "x is %s and weight %s, expected (..., in) and (out, in)",
                       qb_shape_text(x.rank, x.shape, x_text, sizeof x_text),
                       qb_shape_text(weight.rank, weight.shape, weight_text, sizeof weight_text));
    }
    *rows = x_count / weight.shape[1];
    return QB_OK;
}

/* ---- the two quantizers as one ---------------------------------------------------------------------------------- */

/* Quantizers of one model are locked by locking one of them. */
static int
share_a_lock(const linear_call *call)
{
    const qb_quantizer *a = call->input_quantizer;
    const qb_quantizer *b = call->weight_quantizer;
    return a == b || (a != NULL && b != NULL && a->owner.context != NULL && a->owner.context == b->owner.context);
}

static void
unlock(const linear_call *call, int input, int weight)
{
    if (weight && call->weight_quantizer != NULL && !share_a_lock(call)) {
        qb_quantizer_end_write(call->weight_quantizer);
    }
    if (input && call->input_quantizer != NULL) {
        qb_quantizer_end_write(call->input_quantizer);
    }
}

static qb_status
lock(const linear_call *call, qb_error *error)
{
    if (call->input_quantizer != NULL) {
        QB_TRY(qb_quantizer_begin_write(call->input_quantizer, error));
    }
    if (call->weight_quantizer != NULL && !share_a_lock(call)) {
        const qb_status status = qb_quantizer_begin_write(call->weight_quantizer, error);
        if (status != QB_OK) {
            unlock(call, 1, 0);
            return status;
        }
    }
    return QB_OK;
}

static qb_status
observe(qb_quantizer *quantizer, const qb_run *run, const char *name, qb_tensor tensor)
{
    const qb_path path = {run->path, name};
    const qb_run inner = qb_run_enter(run, &path);
    if (quantizer == NULL) {
        return QB_OK;
    }
    QB_TRY(qb_quantizer_begin(quantizer, &inner));
    return qb_quantizer_collect(quantizer, &inner, tensor.data, tensor.rank, tensor.shape);
}

/* ---- the product ------------------------------------------------------------------------------------------------ */

static qb_status
fail_memory(const qb_run *run, const linear_call *call)
{
    return qb_fail(run->error, run->path, QB_ERR_NOMEM,
                   "no memory for a linear layer of %" PRId64 " inputs on %" PRId64 " rows", call->weight.shape[1],
                   call->rows);
}

/* What a quantizer makes of a tensor, in `buffer` unless it is the tensor itself. */
static qb_status
values_of(const qb_quantizer *quantizer, const qb_run *run, const char *name, qb_tensor tensor, float *buffer,
          const float **values)
{
    const qb_path path = {run->path, name};
    const qb_run inner = qb_run_enter(run, &path);
    *values = tensor.data;
    if (quantizer == NULL || qb_quantizer_is_identity(quantizer)) {
        return QB_OK;
    }
    *values = buffer;
    return qb_quantizer_apply(quantizer, &inner, tensor.data, tensor.rank, tensor.shape, buffer, NULL);
}

static void
plan(const linear_call *call, qb_linear_work *work, qb_scratch *scratch, qb_arena *arena, const qb_run *run)
{
    const size_t bytes = qb_linear_scratch_bytes(&call->layer, run->kernels);
    int8_t *codes = NULL;
    if (call->layer.is_quantized) {
        codes = qb_arena_take(arena, call->rows * call->layer.in_features, sizeof *codes);
    }
    qb_scratch_plan(scratch, arena, qb_queue_threads(run->queue), bytes);
    qb_linear_plan(&call->layer, work, arena, codes, NULL, scratch);
}

static qb_status
multiply(linear_call *call, const qb_run *run, const float *x, float *y)
{
    qb_linear_work work;
    qb_scratch scratch;
    qb_linear_call product;
    qb_arena arena = qb_arena_measuring();
    QB_TRY(qb_linear_prepare(&call->layer, run));
    plan(call, &work, &scratch, &arena, run);
    const size_t bytes = arena.used;
    call->memory = qb_arena_ok(&arena) ? qb_heap_allocate(run->heap, bytes) : NULL;
    if (call->memory == NULL) {
        return fail_memory(run, call);
    }
    arena = qb_arena_bind(call->memory, bytes);
    plan(call, &work, &scratch, &arena, run);
    if (!qb_arena_ok(&arena)) { /* the thread count was raised in between */
        return qb_fail(run->error, run->path, QB_ERR_STATE, "the number of threads changed during the call");
    }
    qb_scratch_reset(&scratch);
    QB_TRY(qb_linear_begin(&call->layer, &work, run, x, NULL, call->rows, QB_ACTIVATION_NONE, y, &product));
    const qb_status status = qb_linear_finish(run, &product, 1, &scratch);
    return status == QB_OK ? QB_OK : qb_fail(run->error, run->path, status, "the product was not finished");
}

static qb_status
compute(linear_call *call, const qb_run *run, const float *bias, float *y)
{
    const int64_t n = call->weight.shape[0];
    const int64_t k = call->weight.shape[1];
    const int is_integer = call->input_quantizer != NULL && call->weight_quantizer != NULL && k <= QB_DEPTH_MAX &&
                           qb_quantizer_integer_reason(call->input_quantizer) == NULL &&
                           qb_quantizer_weight_reason(call->weight_quantizer) == NULL;
    const float *x = call->x.data;
    const float *weight = call->weight.data;
    qb_linear_init(&call->layer, k, n, is_integer);
    if (is_integer) {
        call->layer.input_quantizer = call->input_quantizer;
        call->layer.weight_quantizer = call->weight_quantizer;
    }
    else {
        size_t bytes = 0;
        if (qb_size_multiply((size_t)(call->rows + n), (size_t)k * sizeof *call->values, &bytes)) {
            call->values = qb_heap_allocate(run->heap, bytes);
        }
        if (call->values == NULL) {
            return fail_memory(run, call);
        }
        QB_TRY(values_of(call->input_quantizer, run, "_input_quantizer", call->x, call->values, &x));
        QB_TRY(values_of(call->weight_quantizer, run, "_weight_quantizer", call->weight, call->values + call->rows * k,
                         &weight));
    }
    call->layer.weight.data = (float *)weight; /* read only: nobody writes a parameter through a layer */
    call->layer.bias.data = (float *)bias;
    return multiply(call, run, x, y);
}

qb_status
qb_quant_linear(qb_device *device, qb_quantizer *input_quantizer, qb_quantizer *weight_quantizer, qb_tensor x,
                qb_tensor weight, const float *bias, float *y, qb_error *error)
{
    const qb_run run = qb_device_run(device, NULL, error);
    linear_call call = {
        .input_quantizer = input_quantizer, .weight_quantizer = weight_quantizer, .x = x, .weight = weight};
    QB_TRY(check_shapes(&run, x, weight, &call.rows));
    if (call.rows == 0) {
        return QB_OK;
    }
    QB_TRY(lock(&call, error));
    qb_status status = observe(input_quantizer, &run, "_input_quantizer", x);
    if (status == QB_OK) {
        status = observe(weight_quantizer, &run, "_weight_quantizer", weight);
    }
    if (status == QB_OK) {
        status = compute(&call, &run, bias, y);
    }
    void (*const end)(qb_quantizer *) = status == QB_OK ? qb_quantizer_commit : qb_quantizer_rollback;
    if (input_quantizer != NULL) {
        end(input_quantizer);
    }
    if (weight_quantizer != NULL) {
        end(weight_quantizer);
    }
    unlock(&call, 1, 1);
    qb_linear_clear(&call.layer, run.heap);
    qb_heap_release(run.heap, call.values);
    qb_heap_release(run.heap, call.memory);
    return status;
}
