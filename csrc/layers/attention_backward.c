/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.c read from the bottom.  Items are whole (sequence, head) pairs: sums over queries, which dk and dv are,
 * stay in one thread.
 */
#include <math.h>
#include <string.h>

#include "core/shape.h"
#include "layers/attention_item.h"
#include "quant/quantizer.h"

/* ---- plan ------------------------------------------------------------------------------------------------------- */

typedef struct item_buffers {
    float *softmax, *head_masked, *values, *dscores; /* (T, S) */
    float *transposed;                               /* (S, T) */
    void *packed;
    void *product; /* scratch of product_f32 */
} item_buffers;

static void
raise_to(size_t *most, size_t value)
{
    *most = value > *most ? value : *most;
}

static void
plan_item(const qb_kernels *kernels, int64_t head_size, int64_t rows, int64_t keys, qb_arena *arena,
          item_buffers *buffers)
{
    const struct {
        int64_t n, k;
    } products[] = {{head_size, rows}, {keys, head_size}, {head_size, keys}};
    size_t packed = 0;
    size_t scratch = 0;
    for (size_t i = 0; i < sizeof products / sizeof products[0]; i++) {
        int64_t panel;
        size_t bytes[2];
        kernels->pack_f32_size(products[i].n, products[i].k, &panel, &bytes[0], &bytes[1]);
        raise_to(&packed, bytes[0]);
        raise_to(&scratch, bytes[1]);
    }
    const size_t row = (size_t)keys * sizeof(float);
    buffers->softmax = qb_arena_take(arena, rows, row);
    buffers->head_masked = qb_arena_take(arena, rows, row);
    buffers->values = qb_arena_take(arena, rows, row);
    buffers->dscores = qb_arena_take(arena, rows, row);
    buffers->transposed = qb_arena_take(arena, rows, row);
    buffers->packed = qb_arena_take(arena, 1, packed);
    buffers->product = qb_arena_take(arena, 1, scratch);
}

void
qb_attention_gradient_plan(const qb_attention *self, qb_attention_gradient *gradient, qb_arena *arena,
                           const qb_limits *limits)
{
    const size_t row = (size_t)self->query.out_features * sizeof(float);
    const int64_t keys = qb_attention_key_tokens(self, limits);
    *gradient = (qb_attention_gradient){.dcontext = NULL};
    gradient->dcontext = qb_arena_take(arena, limits->tokens, row);
    gradient->dq = qb_arena_take(arena, limits->tokens, row);
    gradient->dk = qb_arena_take(arena, keys, row);
    gradient->dv = qb_arena_take(arena, keys, row);
    if (limits->keep_probabilities || self->positions != QB_POSITIONS_ABSOLUTE) {
        size_t of_token = 0;
        if (!qb_size_multiply((size_t)qb_attention_key_length(self, limits), (size_t)self->heads * sizeof(float),
                              &of_token)) {
            arena->failed = 1;
        }
        gradient->softmax = qb_arena_take(arena, limits->tokens, of_token);
        gradient->head_masked = qb_arena_take(arena, limits->tokens, of_token);
        gradient->dscores = qb_arena_take(arena, limits->tokens, of_token);
    }
}

void
qb_attention_gradient_sizes(const qb_attention *self, const qb_kernels *kernels, const qb_limits *limits,
                            qb_gradient_sizes *sizes)
{
    const int64_t keys = qb_attention_key_length(self, limits);
    const int64_t projected = self->is_cross ? qb_attention_key_tokens(self, limits) : limits->tokens;
    qb_arena arena = qb_arena_measuring();
    item_buffers buffers;
    (void)qb_arena_take(&arena, 1, qb_attention_item_bytes(kernels, self, keys));
    plan_item(kernels, self->head_size, limits->length, keys, &arena, &buffers);
    sizes->overflowed |= !qb_arena_ok(&arena);
    raise_to(&sizes->scratch, arena.used);
    qb_linear_gradient_sizes(&self->query, kernels, limits->tokens, sizes);
    qb_linear_gradient_sizes(&self->key, kernels, projected, sizes);
    qb_linear_gradient_sizes(&self->value, kernels, projected, sizes);
    qb_residual_norm_gradient_sizes(&self->output, kernels, limits->tokens, sizes);
}

/* ---- items ------------------------------------------------------------------------------------------------------ */

typedef struct gradient_job {
    const qb_attention_job *forward;
    const qb_attention_gradient *whole; /* whose tensors of probabilities are used; NULL: they live in scratch */
    const float *q, *k, *v;             /* values */
    const float *dcontext;
    float *dq, *dk, *dv;
    const float *head_mask; /* (N) or NULL */
    qb_quant_range range;   /* of the probabilities, where they live in scratch */
    float amax;
    int quantizes;
    int recomputes, goes_through_context, goes_through_scores; /* which parts this region runs */
} gradient_job;

typedef struct item {
    int64_t sequence, head;
    int64_t rows, keys;
    int64_t at, key_at; /* of its first row and first column in (M, N D) and (keys, N D) */
    item_buffers buffers;
} item;

/* c (m, n) = a (m, k) b, b's element (depth i, column j) at b[i * depth_stride + j * column_stride]. */
typedef struct small_product {
    const float *a;
    int64_t lda, m;
    const float *b;
    int64_t column_stride, depth_stride;
    int64_t n, k;
    float *c;
    int64_t ldc;
} small_product;

static void
multiply(const qb_kernels *kernels, const item_buffers *buffers, const small_product *p)
{
    const qb_epilogue epilogue = {.divisor = 1.0f};
    kernels->pack_f32(p->b, p->column_stride, p->depth_stride, 0, p->n, p->n, p->k, buffers->packed);
    kernels->product_f32(p->a, p->lda, p->m, buffers->packed, 0, p->n, p->n, p->k, &epilogue, p->c, p->ldc,
                         buffers->product);
}

/* dv = values' dc;  dp = dc v' */
static void
context_backward(const gradient_job *job, const item *it)
{
    const qb_kernels *kernels = job->forward->kernels;
    const int64_t d = job->forward->layer->head_size;
    const int64_t h = job->forward->layer->heads * d;
    const item_buffers *buffers = &it->buffers;
    const float *dc = job->dcontext + it->at;
    kernels->transpose_f32(buffers->values, (size_t)it->rows, (size_t)it->keys, (size_t)it->keys, buffers->transposed,
                           (size_t)it->rows);
    const small_product of_values = {.a = buffers->transposed,
                                     .lda = it->rows,
                                     .m = it->keys,
                                     .b = dc,
                                     .column_stride = 1,
                                     .depth_stride = h,
                                     .n = d,
                                     .k = it->rows,
                                     .c = job->dv + it->key_at,
                                     .ldc = h};
    const small_product of_probabilities = {.a = dc,
                                            .lda = h,
                                            .m = it->rows,
                                            .b = job->v + it->key_at,
                                            .column_stride = h,
                                            .depth_stride = 1,
                                            .n = it->keys,
                                            .k = d,
                                            .c = buffers->dscores,
                                            .ldc = it->keys};
    multiply(kernels, buffers, &of_values);
    multiply(kernels, buffers, &of_probabilities);
}

/* Dropout of the item's probabilities or of their gradient, in place. */
static void
drop(const gradient_job *job, const item *it, float *x)
{
    const qb_attention_job *forward = job->forward;
    if (forward->dropout != NULL) {
        qb_dropout_probabilities(forward->kernels, forward->dropout, it->sequence, forward->layer->heads, it->head, 0,
                                 it->rows, it->keys, x, x);
    }
}

/* ds from dp, in place;  dq = ds k;  dk = ds' q */
static void
scores_backward(const gradient_job *job, const item *it)
{
    const qb_kernels *kernels = job->forward->kernels;
    const int64_t d = job->forward->layer->head_size;
    const int64_t h = job->forward->layer->heads * d;
    const item_buffers *buffers = &it->buffers;
    const size_t n = (size_t)(it->rows * it->keys);
    if (job->head_mask != NULL) {
        kernels->scale_f32(buffers->dscores, job->head_mask[it->head], n, buffers->dscores);
    }
    drop(job, it, buffers->dscores);
    kernels->softmax_grad_f32(buffers->softmax, buffers->dscores, (size_t)it->rows, (size_t)it->keys, (size_t)it->keys,
                              1.0f / sqrtf((float)d));
    kernels->transpose_f32(buffers->dscores, (size_t)it->rows, (size_t)it->keys, (size_t)it->keys, buffers->transposed,
                           (size_t)it->rows);
    const small_product of_queries = {.a = buffers->dscores,
                                      .lda = it->keys,
                                      .m = it->rows,
                                      .b = job->k + it->key_at,
                                      .column_stride = 1,
                                      .depth_stride = h,
                                      .n = d,
                                      .k = it->keys,
                                      .c = job->dq + it->at,
                                      .ldc = h};
    const small_product of_keys = {.a = buffers->transposed,
                                   .lda = it->rows,
                                   .m = it->keys,
                                   .b = job->q + it->at,
                                   .column_stride = 1,
                                   .depth_stride = h,
                                   .n = d,
                                   .k = it->rows,
                                   .c = job->dk + it->key_at,
                                   .ldc = h};
    multiply(kernels, buffers, &of_queries);
    multiply(kernels, buffers, &of_keys);
}

/* The softmax and what it became before its quantizer; the values too, where they live in scratch.  What stays the same
 * there is one buffer. */
static void
recompute(const gradient_job *job, item *it, qb_arena arena)
{
    const qb_kernels *kernels = job->forward->kernels;
    const size_t n = (size_t)(it->rows * it->keys);
    qb_attention_item_probabilities(job->forward, it->sequence, it->head, arena, it->buffers.softmax);
    if (job->whole == NULL && job->forward->dropout == NULL && job->head_mask == NULL) {
        it->buffers.head_masked = it->buffers.softmax;
    }
    else {
        memcpy(it->buffers.head_masked, it->buffers.softmax, n * sizeof(float));
    }
    drop(job, it, it->buffers.head_masked);
    if (job->head_mask != NULL) {
        kernels->scale_f32(it->buffers.head_masked, job->head_mask[it->head], n, it->buffers.head_masked);
    }
    if (job->whole == NULL) {
        if (job->quantizes) {
            kernels->fake_quant_f32(it->buffers.head_masked, n, &job->range, it->buffers.values);
        }
        else {
            it->buffers.values = it->buffers.head_masked;
        }
    }
}

/* Elements of the sequences before one. */
static int64_t
elements_before(const qb_attention_job *job, int64_t sequence)
{
    int64_t count = 0;
    for (int64_t i = 0; i < sequence; i++) {
        count += job->layer->heads * job->sequences->lengths[i] * job->keys->lengths[i];
    }
    return count;
}

static void
items_backward(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const gradient_job *job = argument;
    const qb_attention_job *forward = job->forward;
    const int64_t heads = forward->layer->heads;
    const int64_t d = forward->layer->head_size;
    const int32_t slot = qb_scratch_claim(forward->scratch, worker);
    for (int64_t i = begin; i < end; i++) {
        const int64_t sequence = i / heads;
        const int64_t head = i % heads;
        item it = {.sequence = sequence,
                   .head = head,
                   .rows = forward->sequences->lengths[sequence],
                   .keys = forward->keys->lengths[sequence]};
        const int64_t n = it.rows * it.keys;
        it.at = forward->sequences->offsets[sequence] * heads * d + head * d;
        it.key_at = forward->keys->offsets[sequence] * heads * d + head * d;
        qb_arena arena = qb_scratch_arena(forward->scratch, slot);
        const qb_arena whole_slot = arena;
        (void)qb_arena_take(&arena, 1, qb_attention_item_bytes(forward->kernels, forward->layer, it.keys));
        plan_item(forward->kernels, d, it.rows, it.keys, &arena, &it.buffers);
        if (job->whole != NULL) {
            const int64_t at = elements_before(forward, sequence) + head * n;
            it.buffers.softmax = job->whole->softmax + at;
            it.buffers.head_masked = job->whole->head_masked + at;
            if (job->goes_through_context) { /* the values are there; dp takes their place */
                memcpy(it.buffers.values, job->whole->dscores + at, (size_t)n * sizeof(float));
            }
            it.buffers.dscores = job->whole->dscores + at;
        }
        if (job->recomputes) {
            recompute(job, &it, whole_slot);
        }
        if (job->goes_through_context) {
            context_backward(job, &it);
        }
        if (job->goes_through_scores) {
            if (job->whole == NULL && job->quantizes) {
                forward->kernels->fake_quant_grad_f32(it.buffers.head_masked, it.buffers.dscores, (size_t)n, job->amax,
                                                      it.buffers.dscores);
            }
            scores_backward(job, &it);
        }
    }
    qb_scratch_release(forward->scratch, slot);
}

/* ---- relative positions ----------------------------------------------------------------------------------------- */

typedef struct relative_job {
    const qb_attention_job *forward;
    const float *dscores; /* whole */
    float *dq, *dk;       /* added to */
    float *ddistance;     /* (2 P - 1, D), added to */
} relative_job;

static void
add_product(const float *x, float factor, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] += factor * x[i];
    }
}

/* dq and dk of one (sequence, head). */
static void
relative_items_backward(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const relative_job *job = argument;
    const qb_attention *layer = job->forward->layer;
    const int64_t d = layer->head_size;
    const int64_t h = layer->heads * d;
    const int64_t half = layer->distance.out_features / 2; /* P - 1 */
    const float *table = layer->distance.weight.data;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const int64_t sequence = i / layer->heads;
        const int64_t head = i % layer->heads;
        const int64_t rows = job->forward->sequences->lengths[sequence];
        const int64_t keys = job->forward->keys->lengths[sequence];
        const int64_t *q_places = job->forward->sequences->places + job->forward->sequences->offsets[sequence];
        const int64_t *k_places = job->forward->keys->places + job->forward->keys->offsets[sequence];
        const float *ds = job->dscores + elements_before(job->forward, sequence) + head * rows * keys;
        float *dq = job->dq + job->forward->sequences->offsets[sequence] * h + head * d;
        float *dk = job->dk + job->forward->keys->offsets[sequence] * h + head * d;
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t c = 0; c < keys; c++) {
                const float *e = table + (q_places[r] - k_places[c] + half) * d;
                add_product(e, ds[r * keys + c], d, dq + r * h);
                if (layer->positions == QB_POSITIONS_RELATIVE_KEY_QUERY) {
                    add_product(e, ds[r * keys + c], d, dk + c * h);
                }
            }
        }
    }
}

/* Rows of dE: every pair at one distance is the same thread's, in the order of sequences, heads and queries. */
static void
distances_backward(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const relative_job *job = argument;
    const qb_attention *layer = job->forward->layer;
    const int64_t d = layer->head_size;
    const int64_t h = layer->heads * d;
    const int64_t half = layer->distance.out_features / 2;
    (void)worker;
    for (int64_t sequence = 0; sequence < job->forward->sequences->count; sequence++) {
        const int64_t rows = job->forward->sequences->lengths[sequence];
        const int64_t keys = job->forward->keys->lengths[sequence];
        const int64_t *q_places = job->forward->sequences->places + job->forward->sequences->offsets[sequence];
        const int64_t *k_places = job->forward->keys->places + job->forward->keys->offsets[sequence];
        for (int64_t head = 0; head < layer->heads; head++) {
            const float *ds = job->dscores + elements_before(job->forward, sequence) + head * rows * keys;
            const float *q = job->forward->unquantized_q + job->forward->sequences->offsets[sequence] * h + head * d;
            const float *k = job->forward->unquantized_k + job->forward->keys->offsets[sequence] * h + head * d;
            for (int64_t r = 0; r < rows; r++) {
                for (int64_t c = 0; c < keys; c++) {
                    const int64_t distance = q_places[r] - k_places[c] + half;
                    if (distance < begin || distance >= end) {
                        continue;
                    }
                    add_product(q + r * h, ds[r * keys + c], d, job->ddistance + distance * d);
                    if (layer->positions == QB_POSITIONS_RELATIVE_KEY_QUERY) {
                        add_product(k + c * h, ds[r * keys + c], d, job->ddistance + distance * d);
                    }
                }
            }
        }
    }
}

static qb_status
relative_backward(const gradient_job *job, const qb_run *run)
{
    const qb_attention *layer = job->forward->layer;
    const int64_t distances = layer->distance.out_features;
    relative_job relative = {.forward = job->forward,
                             .dscores = job->whole->dscores,
                             .dq = job->dq,
                             .dk = job->dk,
                             .ddistance = layer->distance.weight.gradient};
    QB_TRY(qb_run_parallel(run, job->forward->sequences->count * layer->heads, 1, relative_items_backward, &relative));
    if (relative.ddistance == NULL) {
        return QB_OK;
    }
    const int64_t threads = qb_queue_threads(run->queue);
    return qb_run_parallel(run, distances, (distances + threads - 1) / threads, distances_backward, &relative);
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

/* ds of every item, and the gradients of q, k and v before their quantizers. */
static qb_status
products_backward(const qb_attention *self, const qb_run *run, gradient_job *job)
{
    const int64_t items = job->forward->sequences->count * self->heads;
    const qb_path path = {run->path, "matmul_a_input_quantizer"};
    const qb_run at = qb_run_enter(run, &path);
    job->recomputes = job->goes_through_context = job->goes_through_scores = 1;
    if (job->whole == NULL) {
        return qb_run_parallel(run, items, 1, items_backward, job);
    }
    const int64_t elements = qb_attention_probability_count(job->forward->sequences, job->forward->keys, self->heads);
    float *dscores = job->whole->dscores;
    const float *values;
    job->goes_through_context = job->goes_through_scores = 0;
    QB_TRY(qb_run_parallel(run, items, 1, items_backward, job));
    QB_TRY(qb_site_values(self->matmul_a, &at, job->whole->head_masked, 1, elements, dscores, &values));
    if (values != dscores) {
        QB_TRY(qb_gradient_copy(run, values, elements, dscores));
    }
    job->recomputes = 0;
    job->goes_through_context = 1;
    QB_TRY(qb_run_parallel(run, items, 1, items_backward, job));
    QB_TRY(qb_site_backward(self->matmul_a, &at, job->whole->head_masked, 1, elements, dscores));
    job->goes_through_context = 0;
    job->goes_through_scores = 1;
    return qb_run_parallel(run, items, 1, items_backward, job);
}

/* The range of the probabilities, where one number says it. */
static qb_status
fill_range(const qb_attention *self, const qb_run *run, gradient_job *job)
{
    if (job->whole != NULL || qb_quantizer_is_identity(self->matmul_a)) {
        return QB_OK;
    }
    const qb_path path = {run->path, "matmul_a_input_quantizer"};
    const qb_run at = qb_run_enter(run, &path);
    if (self->matmul_a->options.scale_amax != 0.0f) {
        return qb_fail(run->error, &path, QB_ERR_UNSUPPORTED,
                       "scale_amax has no gradient here, expected a range that is used as it is");
    }
    job->quantizes = 1;
    job->amax = self->matmul_a->amax.data[0];
    return qb_site_range(self->matmul_a, &at, NULL, 1, 1, &job->range);
}

static qb_status
attend_backward(const qb_attention *self, const qb_attention_work *work, const qb_attention_gradient *gradient,
                const qb_run *run, const qb_attention_inputs *inputs)
{
    const int64_t features = self->query.out_features;
    const int64_t rows = inputs->sequences->tokens;
    const int64_t keys = inputs->keys->sequences.tokens;
    const int is_relative = self->positions != QB_POSITIONS_ABSOLUTE;
    const int needs_whole = is_relative || qb_attention_keeps_probabilities(self);
    if (needs_whole && gradient->softmax == NULL) {
        return qb_fail(run->error, run->path, QB_ERR_STATE,
                       "the probabilities of the whole layer are needed, but the session was made without "
                       "keep_probabilities");
    }
    const qb_attention_operands floats = {.q = {.count = 0}};
    qb_attention_job forward;
    float v_step = 0.0f;
    QB_TRY(qb_attention_prepare_job(self, work, run, inputs, &floats, &forward, &v_step));
    const struct {
        const char *name;
        qb_quantizer *quantizer;
        const float *x;
        int64_t rows;
        float *buffer;
        float *gradient;
    } of[] = {
        {"matmul_q_input_quantizer", self->matmul_q, work->q, rows, work->q_values, gradient->dq},
        {"matmul_k_input_quantizer", self->matmul_k, work->k, keys, work->k_values, gradient->dk},
        {"matmul_v_input_quantizer", self->matmul_v, work->v, keys, work->v_values, gradient->dv},
    };
    const float *values[3];
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        const qb_path path = {run->path, of[i].name};
        const qb_run at = qb_run_enter(run, &path);
        QB_TRY(qb_site_values(of[i].quantizer, &at, of[i].x, of[i].rows, features, of[i].buffer, &values[i]));
    }
    gradient_job job = {.forward = &forward,
                        .whole = needs_whole ? gradient : NULL,
                        .q = values[0],
                        .k = values[1],
                        .v = values[2],
                        .dcontext = gradient->dcontext,
                        .dq = gradient->dq,
                        .dk = gradient->dk,
                        .dv = gradient->dv,
                        .head_mask = inputs->head_mask};
    QB_TRY(fill_range(self, run, &job));
    QB_TRY(products_backward(self, run, &job));
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        const qb_path path = {run->path, of[i].name};
        const qb_run at = qb_run_enter(run, &path);
        QB_TRY(qb_site_backward(of[i].quantizer, &at, of[i].x, of[i].rows, features, of[i].gradient));
    }
    return is_relative ? relative_backward(&job, run) : QB_OK;
}

qb_status
qb_attention_backward(const qb_attention *self, const qb_attention_work *work, const qb_attention_gradient *gradient,
                      const qb_gradient_work *shared, const qb_run *run, const qb_attention_inputs *inputs, float *y,
                      float *dmemory)
{
    const int64_t rows = inputs->sequences->tokens;
    const qb_path in = {run->path, "self"};
    const qb_path output = {run->path, "output"};
    const qb_run at_self = qb_run_enter(run, &in);
    const qb_run at_output = qb_run_enter(run, &output);
    const qb_attention_keys *keys = inputs->keys;
    const float *memory = keys->memory == NULL ? work->x : keys->memory;
    float *dz = self->is_cross ? dmemory : y;
    QB_TRY(qb_residual_norm_backward(&self->output, &work->output, shared, &at_output, inputs->output_dropout,
                                     work->context, work->x, rows, y, gradient->dcontext, y));
    QB_TRY(attend_backward(self, work, gradient, &at_self, inputs));
    const struct {
        const qb_linear *layer;
        const char *name;
        const float *x;
        int64_t rows;
        const float *dy;
        float *dx;
    } parts[] = {{&self->query, "query", work->x, rows, gradient->dq, y},
                 {&self->key, "key", memory, keys->projected, gradient->dk, dz},
                 {&self->value, "value", memory, keys->projected, gradient->dv, dz}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const qb_path path = {&in, parts[i].name};
        const qb_run inner = qb_run_enter(run, &path);
        if (parts[i].dx == NULL) {
            QB_TRY(qb_linear_backward(parts[i].layer, shared, &inner, parts[i].x, parts[i].rows, parts[i].dy, NULL));
        }
        else {
            QB_TRY(qb_linear_backward_accumulate(parts[i].layer, shared, &inner, parts[i].x, parts[i].rows, parts[i].dy,
                                                 parts[i].dx));
        }
    }
    return QB_OK;
}
