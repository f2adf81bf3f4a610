/* SPDX-License-Identifier: Apache-2.0
 *
 * Order: init, visit, prepare, forward.  Its memory is in attention_plan.c, the products of one (sequence, head) in
 * attention_item.c.
 */
#include "layers/attention.h"

#include <math.h>

#include "layers/attention_item.h"
#include "quant/quantizer.h"

void
qb_attention_init(qb_attention *self, const qb_attention_shape *shape, float eps)
{
    const int64_t width = shape->heads * shape->head_size;
    *self = (qb_attention){.heads = shape->heads,
                           .head_size = shape->head_size,
                           .positions = shape->positions,
                           .is_cross = shape->is_cross};
    qb_linear_init(&self->query, shape->hidden, width, 1);
    qb_linear_init(&self->key, shape->hidden, width, 1);
    qb_linear_init(&self->value, shape->hidden, width, 1);
    if (shape->positions != QB_POSITIONS_ABSOLUTE) {
        qb_linear_init(&self->distance, shape->head_size, 2 * shape->max_positions - 1, 0);
        self->distance.has_bias = 0;
    }
    qb_residual_norm_init(&self->output, width, shape->hidden, eps);
}

void
qb_attention_clear(qb_attention *self, qb_heap *heap)
{
    qb_linear_clear(&self->query, heap);
    qb_linear_clear(&self->key, heap);
    qb_linear_clear(&self->value, heap);
    qb_linear_clear(&self->distance, heap);
    qb_residual_norm_clear(&self->output, heap);
}

static qb_site
scores_site(const qb_attention *self)
{
    return (qb_site){.a = &self->matmul_q, .b = &self->matmul_k};
}

static qb_site
context_site(const qb_attention *self)
{
    return (qb_site){.a = &self->matmul_a, .b = &self->matmul_v};
}

qb_status
qb_attention_visit(qb_attention *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path in = {path, "self"};
    const qb_path query = {&in, "query"};
    const qb_path key = {&in, "key"};
    const qb_path value = {&in, "value"};
    const qb_path output = {path, "output"};
    const qb_site scores = scores_site(self);
    const qb_site context = context_site(self);
    QB_TRY(qb_linear_visit(&self->query, visitor, &query));
    QB_TRY(qb_linear_visit(&self->key, visitor, &key));
    QB_TRY(qb_linear_visit(&self->value, visitor, &value));
    if (self->positions != QB_POSITIONS_ABSOLUTE) {
        const qb_path distance = {&in, "distance_embedding"};
        QB_TRY(qb_linear_visit_weight(&self->distance, visitor, &distance));
    }
    QB_TRY(qb_visit_site(visitor, &in, "scores", &scores));
    QB_TRY(qb_visit_site(visitor, &in, "context", &context));
    QB_TRY(qb_visit_quantizer(visitor, &in, "matmul_q_input_quantizer", &self->matmul_q, QB_ROLE_INPUT));
    QB_TRY(qb_visit_quantizer(visitor, &in, "matmul_k_input_quantizer", &self->matmul_k, QB_ROLE_INPUT));
    QB_TRY(qb_visit_quantizer(visitor, &in, "matmul_v_input_quantizer", &self->matmul_v, QB_ROLE_INPUT));
    QB_TRY(qb_visit_quantizer(visitor, &in, "matmul_a_input_quantizer", &self->matmul_a, QB_ROLE_INPUT));
    return qb_residual_norm_visit(&self->output, visitor, &output);
}

/* ---- prepare ---------------------------------------------------------------------------------------------------- */

static qb_status
check(const qb_quantizer *quantizer, const qb_run *run, const char *name)
{
    const qb_path path = {run->path, name};
    const char *refusal = qb_site_refusal(quantizer, 0);
    return refusal == NULL ? QB_OK : qb_fail(run->error, &path, QB_ERR_UNSUPPORTED, "%s", refusal);
}

typedef qb_status (*linear_verb)(qb_linear *layer, const qb_run *run);

static qb_status
for_each_projection(qb_attention *self, const qb_run *run, linear_verb verb)
{
    const struct {
        qb_linear *layer;
        const char *name;
    } parts[] = {{&self->query, "query"}, {&self->key, "key"}, {&self->value, "value"}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const qb_path path = {run->path, parts[i].name};
        const qb_run inner = qb_run_enter(run, &path);
        QB_TRY(verb(parts[i].layer, &inner));
    }
    return QB_OK;
}

qb_status
qb_attention_prepare(qb_attention *self, const qb_run *run)
{
    const qb_path in = {run->path, "self"};
    const qb_path output = {run->path, "output"};
    const qb_run at_self = qb_run_enter(run, &in);
    const qb_run at_output = qb_run_enter(run, &output);
    QB_TRY(for_each_projection(self, &at_self, qb_linear_prepare));
    if (self->positions != QB_POSITIONS_ABSOLUTE) {
        const qb_path distance = {&in, "distance_embedding"};
        qb_run at_distance = qb_run_enter(&at_self, &distance);
        at_distance.uses_bf16 = 0; /* a product of attention, all of which are float32 */
        QB_TRY(qb_linear_prepare(&self->distance, &at_distance));
    }
    QB_TRY(check(self->matmul_q, &at_self, "matmul_q_input_quantizer"));
    QB_TRY(check(self->matmul_k, &at_self, "matmul_k_input_quantizer"));
    QB_TRY(check(self->matmul_v, &at_self, "matmul_v_input_quantizer"));
    QB_TRY(check(self->matmul_a, &at_self, "matmul_a_input_quantizer"));
    return qb_residual_norm_prepare(&self->output, &at_output);
}

qb_status
qb_attention_observe_weights(qb_attention *self, const qb_run *run)
{
    const qb_path in = {run->path, "self"};
    const qb_path dense = {run->path, "output.dense"};
    const qb_run at_self = qb_run_enter(run, &in);
    const qb_run at_dense = qb_run_enter(run, &dense);
    QB_TRY(for_each_projection(self, &at_self, qb_linear_observe_weight));
    return qb_linear_observe_weight(&self->output.dense, &at_dense);
}

int
qb_attention_keeps_probabilities(const qb_attention *self)
{
    const qb_quantizer *a = self->matmul_a;
    if (qb_quantizer_wants_collect(a)) {
        return 1;
    }
    return !qb_quantizer_is_identity(a) && (qb_quantizer_is_dynamic(a) || qb_quantizer_integer_reason(a) != NULL);
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* One forward, resolved: what is asked, what is looked at. */
typedef struct attention_call {
    const float *x; /* (rows, H) */
    int64_t rows;
    const float *memory; /* (projected, H) */
    int64_t projected;
    float *new_k, *new_v; /* (projected, N D) */
} attention_call;

/* What a call needs floats for, besides the scores and the context. */
typedef struct float_needs {
    int saves;       /* backward will be asked for */
    int has_earlier; /* keys and values of earlier calls */
    int hands_out;   /* new keys and values */
} float_needs;

/* Who needs q, k or v as floats, besides the scores or the context. */
static const char *
onlooker_of(const qb_attention *self, const qb_linear *layer, const float_needs *needs)
{
    if (needs->saves) {
        return "backward needs the floats";
    }
    if (layer != &self->value && self->positions != QB_POSITIONS_ABSOLUTE) {
        return "relative positions are products of the floats";
    }
    if (layer == &self->query) {
        return NULL;
    }
    if (needs->has_earlier) {
        return "keys and values of earlier calls, which are floats, join it";
    }
    return needs->hands_out ? "keys and values are handed out" : NULL;
}

/* Of q, k or v. */
static qb_edge
projected_edge(const qb_attention *self, const qb_linear *layer, const float_needs *needs)
{
    const int is_value = layer == &self->value;
    const qb_quantizer *of_keys = layer == &self->query ? self->matmul_q : self->matmul_k;
    return (qb_edge){.maker = qb_linear_site(layer),
                     .reader = is_value ? context_site(self) : scores_site(self),
                     .quantizer = is_value ? self->matmul_v : of_keys,
                     .onlooker = onlooker_of(self, layer, needs)};
}

/* Of p, which the items quantize block by block, or at once if its range must be known before. */
static qb_edge
probabilities_edge(const qb_attention *self)
{
    return (qb_edge){.maker = scores_site(self),
                     .reader = context_site(self),
                     .quantizer = self->matmul_a,
                     .onlooker = "softmax, which comes between, reads floats"};
}

static qb_edge
context_edge(const qb_attention *self, const char *onlooker)
{
    qb_edge edge = qb_linear_edge(&self->output.dense);
    edge.maker = context_site(self);
    edge.onlooker = onlooker;
    return edge;
}

#define READERS_MAX 4

/* Who reads x; returns how many.  Readers of one range share the first one's codes: those of the add stay until then.
 */
static int32_t
readers_of(const qb_attention *self, qb_edge edges[READERS_MAX])
{
    edges[0] = qb_residual_norm_edge(&self->output);
    edges[1] = qb_linear_edge(&self->query);
    if (self->is_cross) {
        return 2;
    }
    edges[2] = qb_linear_edge(&self->key);
    edges[3] = qb_linear_edge(&self->value);
    return 4;
}

void
qb_attention_visit_edges(const qb_attention *self, const qb_edge_visitor *visitor, const qb_edge *from)
{
    const float_needs needs = {.hands_out = (visitor->asked & QB_ASKED_KEYS) != 0};
    const qb_edge states = {.origin = "encoder_hidden_states"};
    qb_edge readers[READERS_MAX];
    const int32_t count = readers_of(self, readers);
    for (int32_t i = 0; i < count; i++) {
        qb_edge_tell(visitor, from, &readers[i]);
    }
    const qb_linear *const projections[] = {&self->query, &self->key, &self->value};
    for (size_t i = 0; i < sizeof projections / sizeof projections[0]; i++) {
        const qb_edge made = projected_edge(self, projections[i], &needs);
        if (self->is_cross && i > 0) {
            qb_edge read = qb_linear_edge(projections[i]);
            read.onlooker = "the states of an encoder are given as floats";
            qb_edge_tell(visitor, &states, &read);
        }
        visitor->edge(visitor->context, &made);
    }
    const qb_edge probabilities = probabilities_edge(self);
    const qb_edge context = context_edge(self, NULL);
    visitor->edge(visitor->context, &probabilities);
    visitor->edge(visitor->context, &context);
    qb_residual_norm_visit_edges(&self->output, visitor);
}

/* One of q, k and v, and who reads it. */
typedef struct projection {
    const qb_linear *layer;
    const qb_linear_work *work;
    const char *name;
    const float *x;
    qb_coded *of_x; /* what there is of x */
    int64_t rows;
    float *y;
    int8_t *codes;   /* room for y's codes */
    qb_coded *given; /* what there is of y afterwards */
} projection;

static qb_status
begin_projection(const qb_attention *self, const projection *of, const qb_run *run, const float_needs *needs,
                 qb_linear_call *call)
{
    const qb_edge edge = projected_edge(self, of->layer, needs);
    qb_quant_range range;
    QB_TRY(qb_linear_begin(of->layer, of->work, run, of->x, of->of_x, of->rows, QB_ACTIVATION_NONE, of->y, call));
    if (qb_edge_refusal(&edge, &range) == NULL) {
        qb_linear_give_codes(call, &range, of->codes);
    }
    return QB_OK;
}

/* q, k and v, or their codes; *given says which.  One region for all three, unless an input has to be dequantized:
 * those go one by one, because they share the buffer of the values. */
static qb_status
project(const qb_attention *self, const qb_attention_work *work, const qb_run *run, const qb_attention_inputs *inputs,
        const attention_call *at, qb_attention_operands *given)
{
    const float_needs needs = {.saves = work->x != NULL,
                               .has_earlier = inputs->keys->earlier_width > 0,
                               .hands_out = inputs->key_reader != NULL};
    qb_coded of_x = inputs->x == NULL ? (qb_coded){.count = 0} : *inputs->x;
    qb_coded of_memory = {.count = 0};
    qb_coded *of_keys = at->memory == at->x ? &of_x : &of_memory;
    const projection parts[QB_LINEAR_CALLS_MAX] = {
        {&self->query, &work->query, "query", at->x, &of_x, at->rows, work->q, work->q_codes, &given->q},
        {&self->key, &work->key, "key", at->memory, of_keys, at->projected, at->new_k, work->k_codes, &given->k},
        {&self->value, &work->value, "value", at->memory, of_keys, at->projected, at->new_v, work->v_codes, &given->v},
    };
    qb_linear_call calls[QB_LINEAR_CALLS_MAX];
    qb_coded *given_by[QB_LINEAR_CALLS_MAX];
    int32_t ready = 0;
    *given = (qb_attention_operands){.q = {.count = 0}};
    for (int32_t i = 0; i < QB_LINEAR_CALLS_MAX && parts[i].rows > 0; i++) {
        const qb_path path = {run->path, parts[i].name};
        const qb_run inner = qb_run_enter(run, &path);
        QB_TRY(begin_projection(self, &parts[i], &inner, &needs, &calls[ready]));
        if (calls[ready].arithmetic == QB_ARITHMETIC_DEQUANTIZED) {
            QB_TRY(qb_linear_finish(&inner, &calls[ready], 1, work->scratch));
        }
        else {
            given_by[ready++] = parts[i].given;
        }
    }
    QB_TRY(ready == 0 ? QB_OK : qb_linear_finish(run, calls, ready, work->scratch));
    for (int32_t i = 0; i < ready; i++) {
        *given_by[i] = qb_linear_given(&calls[i]);
    }
    return QB_OK;
}

static qb_status
show(qb_quantizer *quantizer, const qb_run *run, const char *name, const float *x, int64_t tokens, int64_t features)
{
    const qb_path path = {run->path, name};
    const qb_run inner = qb_run_enter(run, &path);
    return qb_site_observe(&quantizer, 1, &inner, x, tokens, features);
}

/* One operand of a product that is made before the items run. */
typedef struct operand {
    const char *name; /* of its quantizer */
    const qb_quantizer *quantizer;
    const float *x;        /* (rows, N D) */
    const qb_coded *given; /* what there is of x */
    int64_t rows;
    float *buffer; /* for its values; may be x */
    int8_t *codes;
} operand;

/* Either *values (x, or the buffer with quantized values), or *step and, unless the codes are there, a coding that is
 * still to be made. */
static qb_status
prepare_operand(const operand *of, const qb_run *at, qb_arithmetic arithmetic, int64_t features, qb_coding *codings,
                int32_t *count, const float **values, float *step)
{
    *values = of->x;
    if (arithmetic != QB_ARITHMETIC_INTEGER) {
        return qb_site_values(of->quantizer, at, of->x, of->rows, features, of->buffer, values);
    }
    qb_quant_range range;
    QB_TRY(qb_site_range(of->quantizer, at, of->x, of->rows, features, &range));
    *step = qb_quant_range_step(&range);
    if (qb_coded_find(of->given, &range) == NULL) {
        codings[(*count)++] =
            (qb_coding){.path = at->path, .x = of->x, .codes = of->codes, .count = of->rows * features, .range = range};
    }
    return QB_OK;
}

static void
fill(float *x, int64_t n, float value)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = value;
    }
}

/* Quantize q, k and v, and set the job's operands and steps.  *v_step is the step of v's codes. */
static qb_status
prepare_products(const qb_attention *self, const qb_attention_work *work, const qb_run *run, int64_t rows,
                 const qb_attention_operands *given, qb_attention_job *job, float *v_step)
{
    const int64_t h = self->query.out_features;
    const int64_t keys = job->keys->tokens;
    const operand operands[] = {
        {"matmul_q_input_quantizer", self->matmul_q, work->q, &given->q, rows, work->q_values, work->q_codes},
        {"matmul_k_input_quantizer", self->matmul_k, work->k, &given->k, keys, work->k_values, work->k_codes},
        {"matmul_v_input_quantizer", self->matmul_v, work->v, &given->v, keys, work->v_values, work->v_codes},
    };
    const qb_arithmetic arithmetic[] = {job->scores_arithmetic, job->scores_arithmetic, job->context_arithmetic};
    const float **const values[] = {&job->q, &job->k, &job->v};
    const qb_path paths[] = {
        {run->path, operands[0].name}, {run->path, operands[1].name}, {run->path, operands[2].name}};
    qb_coding codings[QB_CODINGS_MAX];
    float steps[] = {0.0f, 0.0f, 0.0f};
    int32_t count = 0;
    for (size_t i = 0; i < sizeof operands / sizeof operands[0]; i++) {
        const qb_run at = qb_run_enter(run, &paths[i]);
        QB_TRY(prepare_operand(&operands[i], &at, arithmetic[i], h, codings, &count, values[i], &steps[i]));
    }
    if (count > 0) {
        QB_TRY(qb_site_encode(run, codings, count, h));
    }
    if (job->scores_arithmetic == QB_ARITHMETIC_INTEGER) {
        fill(work->score_step, job->keys->max_length, steps[0] * steps[1]);
        job->scores.step = work->score_step;
    }
    *v_step = steps[2];
    return QB_OK;
}

/* The range of the probabilities, once it can be known: `probabilities` is NULL before they are. */
static qb_status
prepare_probabilities(const qb_attention *self, const qb_attention_work *work, const qb_run *run,
                      const float *probabilities, int64_t elements, float v_step, qb_attention_job *job)
{
    if (qb_quantizer_is_identity(self->matmul_a)) {
        return QB_OK;
    }
    const qb_path path = {run->path, "matmul_a_input_quantizer"};
    const qb_run at = qb_run_enter(run, &path);
    if (qb_quantizer_integer_reason(self->matmul_a) != NULL) {
        const float *values; /* kept, and nobody reads them after this */
        return qb_site_values(self->matmul_a, &at, probabilities, 1, elements, work->probabilities, &values);
    }
    QB_TRY(qb_site_range(self->matmul_a, &at, probabilities, 1, elements, &job->probability_range));
    job->quantizes_probabilities = 1;
    if (job->context_arithmetic == QB_ARITHMETIC_INTEGER) {
        fill(work->context_step, self->head_size, qb_quant_range_step(&job->probability_range) * v_step);
        job->context.step = work->context_step;
    }
    return QB_OK;
}

static qb_status
run_items(qb_attention_job *job, const qb_run *run)
{
    atomic_init(&job->failed, 0);
    atomic_init(&job->is_context_nonfinite, 0);
    QB_TRY(qb_run_parallel(run, qb_attention_item_count(job), 1, qb_attention_compute_items, job));
    if (atomic_load_explicit(&job->failed, memory_order_relaxed)) {
        const qb_path path = {run->path, "matmul_a_input_quantizer"};
        return qb_fail(run->error, &path, QB_ERR_VALUE, "found a NaN or infinity, expected finite numbers to quantize");
    }
    return QB_OK;
}

/* The items that make the context, or its codes; *given says which.  Where the context is not finite it is made after
 * all, so that whoever reads it says where. */
static qb_status
run_context_items(const qb_attention *self, const qb_attention_work *work, const qb_run *run, qb_attention_job *job,
                  qb_coded *given)
{
    const qb_edge edge = context_edge(self, work->x == NULL ? NULL : "backward needs the floats");
    *given = (qb_coded){.count = 0};
    job->computes_context = 1;
    if (qb_edge_refusal(&edge, &job->context_range) != NULL) {
        return run_items(job, run);
    }
    job->context_codes = (int8_t *)work->context;
    QB_TRY(run_items(job, run));
    if (atomic_load_explicit(&job->is_context_nonfinite, memory_order_relaxed)) {
        job->context_codes = NULL;
        return run_items(job, run);
    }
    given->lacks_floats = 1;
    qb_coded_add(given, &job->context_range, job->context_codes);
    return QB_OK;
}

qb_status
qb_attention_prepare_job(const qb_attention *self, const qb_attention_work *work, const qb_run *run,
                         const qb_attention_inputs *inputs, const qb_attention_operands *operands,
                         qb_attention_job *job, float *v_step)
{
    const qb_site scores = scores_site(self);
    const qb_site context = context_site(self);
    const qb_sequences *sequences = inputs->sequences;
    const int is_relative = self->positions != QB_POSITIONS_ABSOLUTE;
    *job = (qb_attention_job){
        .kernels = run->kernels,
        .scratch = work->scratch,
        .layer = self,
        .sequences = sequences,
        .keys = &inputs->keys->sequences,
        .is_causal = inputs->is_causal,
        .row_splits = qb_attention_row_splits(sequences, self->heads, qb_queue_threads(run->queue)),
        .scores_arithmetic = qb_site_arithmetic(&scores, NULL),
        .context_arithmetic = qb_site_arithmetic(&context, NULL),
        .unquantized_q = work->q,
        .unquantized_k = work->k,
        .q_codes = work->q_codes,
        .k_codes = work->k_codes,
        .v_codes = work->v_codes,
        /* Relative terms join before the division. */
        .scores = {.divisor = is_relative ? 1.0f : sqrtf((float)self->head_size)},
        .context = {.divisor = 1.0f},
        .dropout = inputs->dropout,
        .head_mask = inputs->head_mask,
        .context_rows = work->context,
    };
    return prepare_products(self, work, run, sequences->tokens, operands, job, v_step);
}

/* Scores, probabilities and context from q, k and v; *given says what there is of the context. */
static qb_status
attend(const qb_attention *self, const qb_attention_work *work, const qb_run *run, const qb_attention_inputs *inputs,
       const qb_attention_operands *operands, qb_coded *given)
{
    const qb_sequences *sequences = inputs->sequences;
    const int keeps = inputs->reader != NULL || qb_attention_keeps_probabilities(self);
    qb_attention_job job;
    float v_step = 0.0f;
    QB_TRY(qb_attention_prepare_job(self, work, run, inputs, operands, &job, &v_step));
    job.probabilities = keeps ? work->probabilities : NULL;
    job.computes_scores = 1;
    if (!keeps) {
        QB_TRY(prepare_probabilities(self, work, run, NULL, 0, v_step, &job));
        return run_context_items(self, work, run, &job, given);
    }
    const int64_t elements = qb_attention_probability_count(sequences, job.keys, self->heads);
    QB_TRY(run_items(&job, run));
    if (inputs->reader != NULL) {
        inputs->reader(inputs->reader_context, inputs->layer, work->probabilities);
    }
    QB_TRY(show(self->matmul_a, run, "matmul_a_input_quantizer", work->probabilities, 1, elements));
    QB_TRY(prepare_probabilities(self, work, run, work->probabilities, elements, v_step, &job));
    job.computes_scores = 0;
    return run_context_items(self, work, run, &job, given);
}

/* Show x and z to the quantizers that look at them. */
static qb_status
observe_inputs(const qb_attention *self, const qb_run *run, const attention_call *call)
{
    const int64_t h = self->query.in_features;
    qb_quantizer *const of_x[] = {self->query.input_quantizer, self->output.residual, self->key.input_quantizer,
                                  self->value.input_quantizer};
    if (!self->is_cross) {
        return qb_site_observe(of_x, 4, run, call->x, call->rows, h);
    }
    QB_TRY(qb_site_observe(of_x, 2, run, call->x, call->rows, h));
    return call->projected == 0 ? QB_OK : qb_site_observe(of_x + 2, 2, run, call->memory, call->projected, h);
}

void
qb_attention_want(const qb_attention *self, const qb_attention_work *work, qb_coded *x)
{
    if (work->x != NULL) { /* it will be saved */
        x->lacks_floats = 0;
        return;
    }
    int8_t *const rooms[READERS_MAX] = {work->output.residual, work->query.codes, work->key.codes, work->value.codes};
    qb_edge readers[READERS_MAX];
    const int32_t count = readers_of(self, readers);
    for (int32_t i = 0; i < count; i++) {
        qb_coded_want(x, &readers[i], rooms[i]);
    }
}

qb_status
qb_attention_forward(const qb_attention *self, const qb_attention_work *work, const qb_run *run,
                     const qb_attention_inputs *inputs, float *y)
{
    const int64_t rows = inputs->sequences->tokens;
    const int64_t features = self->query.out_features;
    const qb_path in = {run->path, "self"};
    const qb_path output = {run->path, "output"};
    const qb_run at_self = qb_run_enter(run, &in);
    const qb_run at_output = qb_run_enter(run, &output);
    const qb_attention_keys *keys = inputs->keys;
    const int has_earlier = keys->earlier_width > 0;
    const attention_call call = {
        .x = y,
        .rows = rows,
        .memory = keys->memory == NULL ? y : keys->memory,
        .projected = keys->projected,
        .new_k = has_earlier && work->new_k != NULL ? work->new_k : work->k,
        .new_v = has_earlier && work->new_v != NULL ? work->new_v : work->v,
    };
    const int64_t key_rows = keys->sequences.tokens;
    if (work->x != NULL) {
        QB_TRY(qb_gradient_copy(run, y, rows * self->query.in_features, work->x));
    }
    QB_TRY(observe_inputs(self, &at_self, &call));
    qb_attention_operands operands;
    QB_TRY(project(self, work, &at_self, inputs, &call, &operands));
    if (inputs->key_reader != NULL && call.projected > 0) {
        inputs->key_reader(inputs->reader_context, inputs->layer, call.new_k, call.new_v);
    }
    if (has_earlier) {
        QB_TRY(qb_attention_join_keys(self, work, &at_self, inputs->sequences, keys));
    }
    QB_TRY(show(self->matmul_q, &at_self, "matmul_q_input_quantizer", work->q, rows, features));
    QB_TRY(show(self->matmul_k, &at_self, "matmul_k_input_quantizer", work->k, key_rows, features));
    QB_TRY(show(self->matmul_v, &at_self, "matmul_v_input_quantizer", work->v, key_rows, features));
    qb_coded of_context;
    QB_TRY(attend(self, work, &at_self, inputs, &operands, &of_context));
    const qb_residual_norm_inputs of_output = {
        .dropout = inputs->output_dropout, .x = &of_context, .r = inputs->x, .y = inputs->y};
    return qb_residual_norm_forward(&self->output, &work->output, &at_output, &of_output, work->context, rows, y);
}
