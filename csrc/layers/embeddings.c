/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/embeddings.h"

/* Rows that one chunk adds up, normalizes and quantizes, in the first two cache levels. */
#define CHUNK_ROWS 16

void
qb_embeddings_init(qb_embeddings *self, int64_t vocabulary, int64_t positions, int64_t types, int64_t features,
                   float eps)
{
    *self = (qb_embeddings){
        .features = features,
        .padding_token = -1,
        .adds_positions = 1,
        .word = {.rank = 2, .shape = {vocabulary, features}},
        .position = {.rank = 2, .shape = {positions, features}},
        .token_type = {.rank = 2, .shape = {types, features}},
    };
    qb_layer_norm_init(&self->norm, features, eps);
}

qb_status
qb_embeddings_visit(qb_embeddings *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path norm = {path, "LayerNorm"};
    QB_TRY(qb_visit_parameter(visitor, path, "word_embeddings.weight", &self->word));
    QB_TRY(qb_visit_parameter(visitor, path, "position_embeddings.weight", &self->position));
    QB_TRY(qb_visit_parameter(visitor, path, "token_type_embeddings.weight", &self->token_type));
    return qb_layer_norm_visit(&self->norm, visitor, &norm);
}

size_t
qb_embeddings_scratch_bytes(const qb_embeddings *self)
{
    return CHUNK_ROWS * (size_t)self->features * sizeof(float);
}

typedef struct embed_job {
    const qb_embeddings *self;
    const qb_kernels *kernels;
    const qb_embeddings_input *input;
    qb_scratch *scratch;
    float *y;
    const qb_coded *wanted;    /* of y */
    _Atomic int64_t nonfinite; /* of wanted */
} embed_job;

/* y (end - begin, H): the sums of tokens begin .. end - 1. */
static void
add_vectors(const embed_job *job, int64_t begin, int64_t end, float *y)
{
    const qb_embeddings *self = job->self;
    const qb_embeddings_input *in = job->input;
    const int64_t h = self->features;
    for (int64_t i = begin; i < end; i++, y += h) {
        const float *word = in->vectors != NULL ? in->vectors + in->rows[i] * h : self->word.data + in->ids[i] * h;
        job->kernels->add_f32(word, self->token_type.data + in->types[i] * h, (size_t)h, y);
        if (self->adds_positions) {
            job->kernels->add_f32(y, self->position.data + in->positions[i] * h, (size_t)h, y);
        }
    }
}

static void
embed_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    embed_job *job = argument;
    const qb_embeddings *self = job->self;
    const int64_t h = self->features;
    const int32_t slot = qb_scratch_claim(job->scratch, worker);
    float *scratch = (float *)qb_scratch_arena(job->scratch, slot).base;
    for (int64_t row = begin; row < end; row += CHUNK_ROWS) {
        const int64_t rows = end - row < CHUNK_ROWS ? end - row : CHUNK_ROWS;
        float *y = job->wanted->lacks_floats ? scratch : job->y + row * h;
        add_vectors(job, row, row + rows, y);
        job->kernels->layer_norm_f32(y, (size_t)rows, (size_t)h, self->norm.weight.data, self->norm.bias.data,
                                     self->norm.eps, y);
        if (job->input->dropout != NULL) {
            qb_dropout_rows(job->kernels, job->input->dropout, h, row, row + rows, job->y, job->y);
        }
        qb_coded_make(job->wanted, job->kernels, y, row * h, rows * h, &job->nonfinite);
    }
    qb_scratch_release(job->scratch, slot);
}

qb_status
qb_embeddings_forward(const qb_embeddings *self, const qb_run *run, const qb_embeddings_input *input,
                      qb_scratch *scratch, float *y, qb_coded *wanted)
{
    qb_coded floats = {.count = 0};
    qb_coded *made = wanted == NULL ? &floats : wanted;
    embed_job job = {.self = self, .kernels = run->kernels, .input = input, .scratch = scratch, .y = y, .wanted = made};
    atomic_init(&job.nonfinite, 0);
    if (input->dropout != NULL) { /* it finds rows in y */
        made->lacks_floats = 0;
    }
    QB_TRY(qb_run_parallel(run, input->tokens, CHUNK_ROWS, embed_rows, &job));
    made->nonfinite = atomic_load_explicit(&job.nonfinite, memory_order_relaxed);
    return QB_OK;
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* Columns that one chunk adds to the tables. */
#define COLUMNS 64

void
qb_embeddings_gradient_sizes(const qb_embeddings *self, int64_t tokens, qb_gradient_sizes *sizes)
{
    qb_layer_norm_gradient_sizes(&self->norm, tokens, sizes);
}

static void
add_rows(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const embed_job *job = argument;
    (void)worker;
    add_vectors(job, begin, end, job->y + begin * job->self->features);
}

/* A row of a table may be many tokens': all of them are added by the thread that has these columns, in their order. */
static void
add_to_tables(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const embed_job *job = argument;
    const qb_embeddings *self = job->self;
    const qb_embeddings_input *in = job->input;
    const int64_t h = self->features;
    const int64_t first = begin * COLUMNS;
    const size_t n = (size_t)((end * COLUMNS < h ? end * COLUMNS : h) - first);
    const struct {
        float *table;
        const int64_t *rows;
        int64_t left_out;
    } tables[] = {{in->vectors == NULL ? self->word.gradient : NULL, in->ids, self->padding_token},
                  {self->token_type.gradient, in->types, -1},
                  {self->adds_positions ? self->position.gradient : NULL, in->positions, -1}};
    (void)worker;
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++) {
        for (int64_t i = 0; tables[t].table != NULL && i < in->tokens; i++) {
            if (tables[t].rows[i] != tables[t].left_out) {
                float *row = tables[t].table + tables[t].rows[i] * h + first;
                job->kernels->add_f32(row, job->y + i * h + first, n, row);
            }
        }
    }
}

qb_status
qb_embeddings_backward(const qb_embeddings *self, const qb_gradient_work *work, const qb_run *run,
                       const qb_embeddings_input *input, float *dy)
{
    embed_job job = {.self = self, .kernels = run->kernels, .input = input, .y = work->sums};
    QB_TRY(qb_dropout_apply(run, input->dropout, dy, input->tokens, self->features, dy));
    QB_TRY(qb_run_parallel(run, input->tokens, CHUNK_ROWS, add_rows, &job));
    QB_TRY(qb_layer_norm_backward(&self->norm, work, run, work->sums, input->tokens, dy, work->dsums));
    job.y = work->dsums;
    QB_TRY(qb_run_parallel(run, (self->features + COLUMNS - 1) / COLUMNS, 1, add_to_tables, &job));
    return qb_gradient_copy(run, work->dsums, input->tokens * self->features, dy);
}
