/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/linear.h"

#include "quant/quantizer.h"

void
qb_linear_init(qb_linear *self, int64_t in_features, int64_t out_features, int is_quantized)
{
    *self = (qb_linear){
        .in_features = in_features,
        .out_features = out_features,
        .weight = {.rank = 2, .shape = {out_features, in_features}},
        .bias = {.rank = 1, .shape = {out_features}},
        .has_bias = 1,
        .is_quantized = is_quantized,
    };
}

qb_site
qb_linear_site(const qb_linear *self)
{
    return (qb_site){.a = &self->input_quantizer, .b = &self->weight_quantizer, .b_is_weight = 1};
}

qb_status
qb_linear_visit_weight(qb_linear *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_site site = qb_linear_site(self);
    QB_TRY(qb_visit_site(visitor, path, "", &site));
    if (self->is_quantized && self->weight.tied_to == NULL) {
        QB_TRY(qb_visit_linear(visitor, path, self));
    }
    return qb_visit_parameter(visitor, path, "weight", &self->weight);
}

qb_status
qb_linear_visit(qb_linear *self, const qb_visitor *visitor, const qb_path *path)
{
    QB_TRY(qb_linear_visit_weight(self, visitor, path));
    if (self->has_bias) {
        QB_TRY(qb_visit_parameter(visitor, path, "bias", &self->bias));
    }
    if (self->is_quantized) {
        QB_TRY(qb_visit_quantizer(visitor, path, "_input_quantizer", &self->input_quantizer, QB_ROLE_INPUT));
        QB_TRY(qb_visit_quantizer(visitor, path, "_weight_quantizer", &self->weight_quantizer, QB_ROLE_WEIGHT));
    }
    return QB_OK;
}

size_t
qb_linear_scratch_bytes(const qb_linear *self, const qb_kernels *kernels)
{
    return qb_product_scratch_bytes(kernels, self->out_features, self->in_features);
}

void
qb_linear_plan(const qb_linear *self, qb_linear_work *work, qb_arena *arena, int8_t *codes, float *values,
               qb_scratch *scratch)
{
    *work = (qb_linear_work){.codes = codes, .values = values, .scratch = scratch};
    if (self->is_quantized) {
        work->step = qb_arena_take(arena, self->out_features, sizeof *work->step);
    }
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

static qb_status
begin_integer(const qb_linear_work *work, const qb_run *run, const float *x, qb_coded *coded, qb_linear_call *call)
{
    const qb_linear *self = call->layer;
    const int64_t k = self->in_features;
    const qb_path path = {run->path, "_input_quantizer"};
    const qb_run site = qb_run_enter(run, &path);
    qb_quant_range range;
    QB_TRY(qb_site_range(self->input_quantizer, &site, x, call->product.rows, k, &range));
    call->product.a = coded == NULL ? NULL : qb_coded_find(coded, &range);
    if (call->product.a != NULL) {
        QB_TRY(qb_coded_check(coded, &site, k));
    }
    else {
        const qb_coding coding = {
            .path = &path, .x = x, .codes = work->codes, .count = call->product.rows * k, .range = range};
        QB_TRY(qb_site_encode(run, &coding, 1, k));
        call->product.a = work->codes;
        if (coded != NULL) {
            qb_coded_add(coded, &range, work->codes);
        }
    }
    const float step = qb_quant_range_step(&range);
    run->kernels->scale_f32(self->pack.step, step, (size_t)self->out_features, work->step);
    call->product.epilogue.step = work->step;
    return QB_OK;
}

qb_status
qb_linear_begin(const qb_linear *self, const qb_linear_work *work, const qb_run *run, const float *x, qb_coded *coded,
                int64_t rows, qb_activation activation, float *y, qb_linear_call *call)
{
    const qb_site site = qb_linear_site(self);
    *call = (qb_linear_call){
        .layer = self,
        .arithmetic = qb_site_arithmetic(&site, NULL),
        .product = {.a = x,
                    .packed = self->pack.data,
                    .operands = qb_product_float_operands(run),
                    .lda = self->in_features,
                    .rows = rows,
                    .n = self->out_features,
                    .k = self->in_features,
                    .epilogue = {.step = NULL,
                                 .bias = self->has_bias ? self->bias.data : NULL,
                                 .divisor = 1.0f,
                                 .activation = activation},
                    .y = y},
    };
    if (call->arithmetic == QB_ARITHMETIC_INTEGER) {
        call->product.operands = QB_OPERANDS_QS8;
        return begin_integer(work, run, x, coded, call);
    }
    if (run->uses_bf16) {
        call->product.packed = self->bf16_pack.data;
    }
    if (call->arithmetic == QB_ARITHMETIC_DEQUANTIZED) {
        const qb_path path = {run->path, "_input_quantizer"};
        const qb_run inner = qb_run_enter(run, &path);
        const float *values;
        QB_TRY(qb_site_values(self->input_quantizer, &inner, x, rows, self->in_features, work->values, &values));
        call->product.a = values;
    }
    return QB_OK;
}

qb_edge
qb_linear_edge(const qb_linear *self)
{
    return (qb_edge){.reader = qb_linear_site(self), .quantizer = self->input_quantizer};
}

void
qb_linear_give_codes(qb_linear_call *call, const qb_quant_range *range, int8_t *codes)
{
    call->product.codes = codes;
    call->product.range = *range;
}

qb_status
qb_linear_finish(const qb_run *run, qb_linear_call *calls, int32_t calls_count, qb_scratch *scratch)
{
    qb_product products[QB_LINEAR_CALLS_MAX];
    for (int32_t i = 0; i < calls_count; i++) {
        products[i] = calls[i].product;
    }
    QB_TRY(qb_product_run(run, products, calls_count, scratch));
    for (int32_t i = 0; i < calls_count; i++) {
        if (products[i].is_nonfinite) {
            calls[i].product.codes = NULL;
            products[i].codes = NULL;
            QB_TRY(qb_product_run(run, &products[i], 1, scratch));
        }
    }
    return QB_OK;
}

qb_coded
qb_linear_given(const qb_linear_call *call)
{
    qb_coded given = {.lacks_floats = call->product.codes != NULL};
    if (given.lacks_floats) {
        qb_coded_add(&given, &call->product.range, call->product.codes);
    }
    return given;
}

qb_status
qb_linear_forward(const qb_linear *self, const qb_linear_work *work, const qb_run *run, const float *x, int64_t rows,
                  qb_activation activation, float *y)
{
    const qb_path path = {run->path, "_input_quantizer"};
    const qb_run site = qb_run_enter(run, &path);
    QB_TRY(qb_site_observe(&self->input_quantizer, 1, &site, x, rows, self->in_features));
    qb_linear_call call;
    QB_TRY(qb_linear_begin(self, work, run, x, NULL, rows, activation, y, &call));
    return qb_linear_finish(run, &call, 1, work->scratch);
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* Rows of the weight that are handled at a time where nothing has to be quantized: the table of a language model has
 * tens of thousands. */
#define WEIGHT_ROWS 4096

static int64_t
weight_rows_at_a_time(const qb_linear *self)
{
    const int64_t n = self->out_features;
    return self->is_quantized || n < WEIGHT_ROWS ? n : WEIGHT_ROWS;
}

void
qb_linear_gradient_sizes(const qb_linear *self, const qb_kernels *kernels, int64_t rows, qb_gradient_sizes *sizes)
{
    const int64_t k = self->in_features;
    const int64_t n = weight_rows_at_a_time(self);
    const int64_t depths[] = {rows, n};
    qb_gradient_need(&sizes->values, (size_t)rows, (size_t)k, &sizes->overflowed);
    qb_gradient_need(&sizes->transposed, (size_t)n, (size_t)qb_gradient_stride(rows), &sizes->overflowed);
    qb_gradient_need(&sizes->matrix, (size_t)n, (size_t)k, &sizes->overflowed);
    for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        const qb_product_sizes f32 = qb_product_sizes_of(kernels, QB_OPERANDS_F32, k, depths[i]);
        const qb_product_sizes bf16 = qb_product_sizes_of(kernels, QB_OPERANDS_BF16, k, depths[i]);
        qb_gradient_need(&sizes->packed, f32.packed, 1, &sizes->overflowed);
        qb_gradient_need(&sizes->packed, bf16.packed, 1, &sizes->overflowed);
        qb_gradient_need(&sizes->scratch, f32.scratch, 1, &sizes->overflowed);
        qb_gradient_need(&sizes->scratch, bf16.scratch, 1, &sizes->overflowed);
    }
}

/* y (rows, K) = a (rows, depth) b, b (depth, K) packed. */
static qb_status
multiply(const qb_linear *self, const qb_gradient_work *work, const qb_run *run, const float *a, int64_t lda,
         int64_t rows, int64_t depth, float *y)
{
    qb_product product = {.a = a,
                          .packed = work->packed,
                          .operands = qb_product_float_operands(run),
                          .lda = lda,
                          .rows = rows,
                          .n = self->in_features,
                          .k = depth,
                          .epilogue = {.divisor = 1.0f},
                          .y = y};
    return qb_product_run(run, &product, 1, work->scratch);
}

/* db and dW. */
static qb_status
parameters_backward(const qb_linear *self, const qb_gradient_work *work, const qb_run *run, const float *x,
                    int64_t rows, const float *dy)
{
    const int64_t n = self->out_features;
    const int64_t k = self->in_features;
    const qb_parameter *weight = qb_parameter_source(&self->weight);
    const qb_path input = {run->path, "_input_quantizer"};
    const qb_path quantizer = {run->path, "_weight_quantizer"};
    const qb_run at_input = qb_run_enter(run, &input);
    const qb_run at_weight = qb_run_enter(run, &quantizer);
    if (self->has_bias && self->bias.gradient != NULL) {
        QB_TRY(qb_gradient_sum_rows(run, dy, rows, n, self->bias.gradient));
    }
    if (weight->gradient == NULL) {
        return QB_OK;
    }
    const float *values;
    QB_TRY(qb_site_values(self->input_quantizer, &at_input, x, rows, k, work->values, &values));
    QB_TRY(qb_product_pack(run, values, 1, k, k, rows, work->packed));
    const int64_t step = weight_rows_at_a_time(self);
    for (int64_t first = 0; first < n; first += step) {
        const int64_t part = n - first < step ? n - first : step;
        QB_TRY(qb_gradient_transpose(run, dy, rows, n, first, part, work->transposed));
        QB_TRY(multiply(self, work, run, work->transposed, qb_gradient_stride(rows), part, rows, work->matrix));
        const int64_t shape[2] = {part, k};
        QB_TRY(qb_quantizer_backward(self->weight_quantizer, &at_weight, weight->data + first * k, 2, shape,
                                     work->matrix));
        QB_TRY(qb_gradient_add(run, work->matrix, part * k, weight->gradient + first * k));
    }
    return QB_OK;
}

/* dx, written or added to.  Parts of the weight after the first are added; so is the sum, where that is wanted. */
static qb_status
input_backward(const qb_linear *self, const qb_gradient_work *work, const qb_run *run, const float *x, int64_t rows,
               const float *dy, float *dx, int accumulates)
{
    const int64_t n = self->out_features;
    const int64_t k = self->in_features;
    const qb_parameter *weight = qb_parameter_source(&self->weight);
    const qb_path input = {run->path, "_input_quantizer"};
    const qb_path quantizer = {run->path, "_weight_quantizer"};
    const qb_run at_input = qb_run_enter(run, &input);
    const qb_run at_weight = qb_run_enter(run, &quantizer);
    const int64_t step = weight_rows_at_a_time(self);
    const int64_t shape[2] = {n, k};
    const float *values = weight->data;
    if (self->weight_quantizer != NULL && !qb_quantizer_is_identity(self->weight_quantizer)) {
        QB_TRY(qb_quantizer_apply(self->weight_quantizer, &at_weight, weight->data, 2, shape, work->matrix, NULL));
        values = work->matrix;
    }
    for (int64_t first = 0; first < n; first += step) {
        const int64_t part = n - first < step ? n - first : step;
        float *y = accumulates || first > 0 ? work->values : dx;
        QB_TRY(qb_product_pack(run, values + first * k, 1, k, k, part, work->packed));
        QB_TRY(multiply(self, work, run, dy + first, n, rows, part, y));
        QB_TRY(qb_site_backward(self->input_quantizer, &at_input, x, rows, k, y));
        if (y != dx) {
            QB_TRY(qb_gradient_add(run, y, rows * k, dx));
        }
    }
    return QB_OK;
}

qb_status
qb_linear_backward(const qb_linear *self, const qb_gradient_work *work, const qb_run *run, const float *x, int64_t rows,
                   const float *dy, float *dx)
{
    QB_TRY(parameters_backward(self, work, run, x, rows, dy));
    return dx == NULL ? QB_OK : input_backward(self, work, run, x, rows, dy, dx, 0);
}

qb_status
qb_linear_backward_accumulate(const qb_linear *self, const qb_gradient_work *work, const qb_run *run, const float *x,
                              int64_t rows, const float *dy, float *dx)
{
    QB_TRY(parameters_backward(self, work, run, x, rows, dy));
    return input_backward(self, work, run, x, rows, dy, dx, 1);
}
