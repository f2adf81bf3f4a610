/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/feed_forward.h"

/* Elements that one chunk of an elementwise region takes. */
#define GRAIN 16384

void
qb_feed_forward_init(qb_feed_forward *self, int64_t hidden, int64_t intermediate, qb_activation activation, float eps)
{
    *self = (qb_feed_forward){.activation = activation};
    qb_linear_init(&self->intermediate, hidden, intermediate, 1);
    qb_residual_norm_init(&self->output, intermediate, hidden, eps);
}

void
qb_feed_forward_clear(qb_feed_forward *self, qb_heap *heap)
{
    qb_linear_clear(&self->intermediate, heap);
    qb_residual_norm_clear(&self->output, heap);
}

qb_status
qb_feed_forward_visit(qb_feed_forward *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_path intermediate = {path, "intermediate.dense"};
    const qb_path output = {path, "output"};
    QB_TRY(qb_linear_visit(&self->intermediate, visitor, &intermediate));
    return qb_residual_norm_visit(&self->output, visitor, &output);
}

size_t
qb_feed_forward_scratch_bytes(const qb_feed_forward *self, const qb_kernels *kernels)
{
    const size_t intermediate = qb_linear_scratch_bytes(&self->intermediate, kernels);
    const size_t output = qb_residual_norm_scratch_bytes(&self->output, kernels);
    return intermediate > output ? intermediate : output;
}

void
qb_feed_forward_plan(const qb_feed_forward *self, qb_feed_forward_work *work, qb_arena *arena, int8_t *codes,
                     float *values, float *local, float *g, qb_scratch *scratch)
{
    *work = (qb_feed_forward_work){.g = g};
    qb_linear_plan(&self->intermediate, &work->intermediate, arena, codes, values, scratch);
    /* g becomes codes or values, never both, so they share the wide one. */
    qb_residual_norm_plan(&self->output, &work->output, arena, (int8_t *)values, values, local, scratch);
}

qb_status
qb_feed_forward_prepare(qb_feed_forward *self, const qb_run *run)
{
    const qb_path intermediate = {run->path, "intermediate.dense"};
    const qb_path output = {run->path, "output"};
    const qb_run at_intermediate = qb_run_enter(run, &intermediate);
    const qb_run at_output = qb_run_enter(run, &output);
    QB_TRY(qb_linear_prepare(&self->intermediate, &at_intermediate));
    return qb_residual_norm_prepare(&self->output, &at_output);
}

qb_status
qb_feed_forward_observe_weights(qb_feed_forward *self, const qb_run *run)
{
    const qb_path intermediate = {run->path, "intermediate.dense"};
    const qb_path output = {run->path, "output.dense"};
    const qb_run at_intermediate = qb_run_enter(run, &intermediate);
    const qb_run at_output = qb_run_enter(run, &output);
    QB_TRY(qb_linear_observe_weight(&self->intermediate, &at_intermediate));
    return qb_linear_observe_weight(&self->output.dense, &at_output);
}

typedef struct activation_job {
    const qb_kernels *kernels;
    qb_activation activation;
    const float *x;
    float *y; /* or dy and dx */
} activation_job;

static void
activate_range(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const activation_job *job = argument;
    (void)worker;
    job->kernels->activation_f32(job->activation, job->x + begin, (size_t)(end - begin), job->y + begin);
}

/* g (rows, I) = activation(pre), with the bits that the product's epilogue gives. */
static qb_status
activate(const qb_feed_forward *self, const qb_run *run, const float *pre, int64_t rows, float *g)
{
    activation_job job = {.kernels = run->kernels, .activation = self->activation, .x = pre, .y = g};
    return qb_run_parallel(run, rows * self->intermediate.out_features, GRAIN, activate_range, &job);
}

static qb_edge
intermediate_edge(const qb_feed_forward *self, const char *onlooker)
{
    qb_edge edge = qb_linear_edge(&self->output.dense);
    edge.maker = qb_linear_site(&self->intermediate);
    edge.onlooker = onlooker;
    return edge;
}

/* g, or its codes; *given says which. */
static qb_status
make_intermediate(const qb_feed_forward *self, const qb_feed_forward_work *work, const qb_run *run, int64_t rows,
                  const float *x, qb_coded *of_x, qb_coded *given)
{
    const int saves = work->x != NULL;
    const qb_edge edge = intermediate_edge(self, saves ? "backward needs the floats" : NULL);
    qb_quant_range range;
    qb_linear_call call;
    QB_TRY(qb_linear_begin(&self->intermediate, &work->intermediate, run, x, of_x, rows,
                           saves ? QB_ACTIVATION_NONE : self->activation, saves ? work->pre : work->g, &call));
    if (qb_edge_refusal(&edge, &range) == NULL) {
        qb_linear_give_codes(&call, &range, (int8_t *)work->g);
    }
    QB_TRY(qb_linear_finish(run, &call, 1, work->intermediate.scratch));
    *given = qb_linear_given(&call);
    return saves ? activate(self, run, work->pre, rows, work->g) : QB_OK;
}

#define READERS 2

/* Who reads x.  Readers of one range share the first one's codes: those of the add stay until then. */
static void
readers_of(const qb_feed_forward *self, qb_edge edges[READERS])
{
    edges[0] = qb_residual_norm_edge(&self->output);
    edges[1] = qb_linear_edge(&self->intermediate);
}

void
qb_feed_forward_visit_edges(const qb_feed_forward *self, const qb_edge_visitor *visitor, const qb_edge *from)
{
    qb_edge readers[READERS];
    const qb_edge made = intermediate_edge(self, NULL);
    readers_of(self, readers);
    for (size_t i = 0; i < READERS; i++) {
        qb_edge_tell(visitor, from, &readers[i]);
    }
    visitor->edge(visitor->context, &made);
    qb_residual_norm_visit_edges(&self->output, visitor);
}

void
qb_feed_forward_want(const qb_feed_forward *self, const qb_feed_forward_work *work, qb_coded *x)
{
    int8_t *const rooms[READERS] = {work->output.residual, work->intermediate.codes};
    qb_edge readers[READERS];
    if (work->x != NULL) { /* it will be saved */
        x->lacks_floats = 0;
        return;
    }
    readers_of(self, readers);
    for (size_t i = 0; i < READERS; i++) {
        qb_coded_want(x, &readers[i], rooms[i]);
    }
}

qb_status
qb_feed_forward_forward(const qb_feed_forward *self, const qb_feed_forward_work *work, const qb_run *run,
                        const qb_feed_forward_inputs *inputs, int64_t rows, float *y)
{
    const qb_path intermediate = {run->path, "intermediate.dense"};
    const qb_path input = {&intermediate, "_input_quantizer"};
    const qb_path output = {run->path, "output"};
    const qb_run at_intermediate = qb_run_enter(run, &intermediate);
    const qb_run at_input = qb_run_enter(run, &input);
    const qb_run at_output = qb_run_enter(run, &output);
    qb_quantizer *const of_x[] = {self->intermediate.input_quantizer, self->output.residual};
    qb_coded coded = inputs->x == NULL ? (qb_coded){.count = 0} : *inputs->x;
    qb_coded of_g;
    QB_TRY(qb_site_observe(of_x, 2, &at_input, y, rows, self->intermediate.in_features));
    if (work->x != NULL) {
        QB_TRY(qb_gradient_copy(run, y, rows * self->intermediate.in_features, work->x));
    }
    QB_TRY(make_intermediate(self, work, &at_intermediate, rows, y, &coded, &of_g));
    const qb_residual_norm_inputs of_output = {.dropout = inputs->dropout, .x = &of_g, .r = inputs->x, .y = inputs->y};
    return qb_residual_norm_forward(&self->output, &work->output, &at_output, &of_output, work->g, rows, y);
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

void
qb_feed_forward_gradient_plan(const qb_feed_forward *self, qb_feed_forward_gradient *gradient, qb_arena *arena,
                              int64_t max_tokens)
{
    const size_t row = (size_t)self->intermediate.out_features * sizeof *gradient->g;
    gradient->g = qb_arena_take(arena, max_tokens, row);
    gradient->dg = qb_arena_take(arena, max_tokens, row);
}

void
qb_feed_forward_gradient_sizes(const qb_feed_forward *self, const qb_kernels *kernels, int64_t rows,
                               qb_gradient_sizes *sizes)
{
    qb_linear_gradient_sizes(&self->intermediate, kernels, rows, sizes);
    qb_residual_norm_gradient_sizes(&self->output, kernels, rows, sizes);
}

static void
activation_backward(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const activation_job *job = argument;
    (void)worker;
    job->kernels->activation_grad_f32(job->activation, job->x + begin, job->y + begin, (size_t)(end - begin),
                                      job->y + begin);
}

qb_status
qb_feed_forward_backward(const qb_feed_forward *self, const qb_feed_forward_work *work,
                         const qb_feed_forward_gradient *gradient, const qb_gradient_work *shared, const qb_run *run,
                         const qb_dropout_node *dropout, int64_t rows, float *y)
{
    const qb_path intermediate = {run->path, "intermediate.dense"};
    const qb_path output = {run->path, "output"};
    const qb_run at_intermediate = qb_run_enter(run, &intermediate);
    const qb_run at_output = qb_run_enter(run, &output);
    activation_job job = {.kernels = run->kernels, .activation = self->activation, .x = work->pre, .y = gradient->dg};
    QB_TRY(activate(self, run, work->pre, rows, gradient->g));
    QB_TRY(qb_residual_norm_backward(&self->output, &work->output, shared, &at_output, dropout, gradient->g, work->x,
                                     rows, y, gradient->dg, y));
    QB_TRY(qb_run_parallel(run, rows * self->intermediate.out_features, GRAIN, activation_backward, &job));
    return qb_linear_backward_accumulate(&self->intermediate, shared, &at_intermediate, work->x, rows, gradient->dg, y);
}
