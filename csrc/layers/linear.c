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

static qb_site
site_of(const qb_linear *self)
{
    return (qb_site){.a = &self->input_quantizer, .b = &self->weight_quantizer, .b_is_weight = 1};
}

qb_status
qb_linear_visit_weight(qb_linear *self, const qb_visitor *visitor, const qb_path *path)
{
    const qb_site site = site_of(self);
    QB_TRY(qb_visit_site(visitor, path, "", &site));
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
    int64_t panel;
    size_t packed;
    size_t scratch_f32;
    size_t scratch_qs8;
    kernels->pack_f32_size(self->out_features, self->in_features, &panel, &packed, &scratch_f32);
    kernels->pack_qs8_size(self->out_features, self->in_features, &panel, &packed, &scratch_qs8);
    return scratch_f32 > scratch_qs8 ? scratch_f32 : scratch_qs8;
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

/* How a product is cut.  Code kernels widen the rows of a once per tile and the panels of the weight once per block of
 * rows, so tiles are wide and tall; there are a few per thread, and a multiple of the threads, so that all end
 * together; a thread streams its own columns of the weight; and a poll for interrupts comes every few milliseconds. */
#define TILES_PER_THREAD 4
#define TILE_PRODUCTS ((int64_t)1 << 28)
#define TILE_COLUMNS_MIN 128
#define TILE_ROWS_MIN 64
#define TILE_ROWS_MAX 512

static int64_t
divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t
at_most(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* `group` products run in the same region. */
static void
set_tiling(qb_linear_call *call, const qb_run *run, int32_t group)
{
    const int64_t k = call->layer->in_features;
    const int64_t n = call->layer->out_features;
    const int64_t threads = qb_queue_threads(run->queue);
    const int is_integer = call->arithmetic == QB_ARITHMETIC_INTEGER;
    int64_t panel;
    size_t packed;
    size_t scratch;
    (is_integer ? run->kernels->pack_qs8_size : run->kernels->pack_f32_size)(n, k, &panel, &packed, &scratch);
    const int64_t panels = divide_up(n, panel);
    const int64_t for_balance = threads == 1 ? 1 : divide_up(TILES_PER_THREAD * threads, group);
    const int64_t for_polls = divide_up(call->rows * n, TILE_PRODUCTS / k);
    const int64_t wanted = divide_up(for_balance > for_polls ? for_balance : for_polls, threads) * threads;
    const int64_t most_columns = divide_up(n, TILE_COLUMNS_MIN);
    const int64_t most_rows = divide_up(call->rows, TILE_ROWS_MIN);
    int64_t rows = divide_up(call->rows, TILE_ROWS_MAX);
    int64_t columns = at_most(divide_up(wanted, rows), most_columns);
    if (columns * rows < wanted) {
        rows = at_most(divide_up(wanted, columns), most_rows);
    }
    if (columns * rows * group < threads) { /* few rows and many threads: narrow tiles are better than idle threads */
        columns = at_most(divide_up(threads, rows * group), panels);
    }
    call->tile_columns = panel * divide_up(panels, columns);
    call->column_tiles = divide_up(n, call->tile_columns);
    call->tile_rows = divide_up(call->rows, rows);
    call->row_tiles = divide_up(call->rows, call->tile_rows);
}

static qb_status
begin_integer(const qb_linear_work *work, const qb_run *run, const qb_linear_call *shared, qb_linear_call *call)
{
    const qb_linear *self = call->layer;
    const int64_t k = self->in_features;
    const qb_path path = {run->path, "_input_quantizer"};
    const qb_run site = qb_run_enter(run, &path);
    QB_TRY(qb_site_range(self->input_quantizer, &site, call->x, call->rows, k, &call->range));
    const int is_shared = shared != NULL && shared->arithmetic == QB_ARITHMETIC_INTEGER && shared->x == call->x &&
                          shared->range.scale == call->range.scale && shared->range.lower == call->range.lower &&
                          shared->range.upper == call->range.upper;
    if (is_shared) {
        call->a = shared->a;
    }
    else {
        const qb_coding coding = {
            .path = &path, .x = call->x, .codes = work->codes, .count = call->rows * k, .range = call->range};
        QB_TRY(qb_site_encode(run, &coding, 1, k));
        call->a = work->codes;
    }
    const float step = qb_quant_range_step(&call->range);
    run->kernels->scale_f32(self->pack.step, step, (size_t)self->out_features, work->step);
    call->epilogue.step = work->step;
    return QB_OK;
}

qb_status
qb_linear_begin(const qb_linear *self, const qb_linear_work *work, const qb_run *run, const float *x, int64_t rows,
                qb_activation activation, float *y, const qb_linear_call *shared, qb_linear_call *call)
{
    const qb_site site = site_of(self);
    *call = (qb_linear_call){
        .layer = self,
        .arithmetic = qb_site_arithmetic(&site, NULL),
        .x = x,
        .a = x,
        .epilogue = {.step = NULL,
                     .bias = self->has_bias ? self->bias.data : NULL,
                     .divisor = 1.0f,
                     .activation = activation},
        .rows = rows,
        .y = y,
    };
    if (call->arithmetic == QB_ARITHMETIC_INTEGER) {
        QB_TRY(begin_integer(work, run, shared, call));
    }
    else if (call->arithmetic == QB_ARITHMETIC_DEQUANTIZED) {
        const qb_path path = {run->path, "_input_quantizer"};
        const qb_run inner = qb_run_enter(run, &path);
        const float *values;
        QB_TRY(qb_site_values(self->input_quantizer, &inner, x, rows, self->in_features, work->values, &values));
        call->a = values;
    }
    return QB_OK;
}

typedef struct product_job {
    const qb_kernels *kernels;
    const qb_linear_call *calls;
    qb_scratch *scratch;
} product_job;

static void
compute_tile(const qb_kernels *kernels, const qb_linear_call *call, int64_t tile, void *scratch)
{
    const int64_t k = call->layer->in_features;
    const int64_t n = call->layer->out_features;
    const int64_t row = tile / call->column_tiles * call->tile_rows;
    const int64_t rows = call->rows - row < call->tile_rows ? call->rows - row : call->tile_rows;
    const int64_t n0 = tile % call->column_tiles * call->tile_columns;
    const int64_t n1 = n - n0 < call->tile_columns ? n : n0 + call->tile_columns;
    const void *packed = call->layer->pack.data;
    float *y = call->y + row * n;
    if (call->arithmetic == QB_ARITHMETIC_INTEGER) {
        const int8_t *a = (const int8_t *)call->a + row * k;
        kernels->product_qs8(a, k, rows, packed, n0, n1, n, k, &call->epilogue, y, n, scratch);
    }
    else {
        const float *a = (const float *)call->a + row * k;
        kernels->product_f32(a, k, rows, packed, n0, n1, n, k, &call->epilogue, y, n, scratch);
    }
}

static void
compute_tiles(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const product_job *job = argument;
    const int32_t slot = qb_scratch_claim(job->scratch, worker);
    void *scratch = qb_scratch_arena(job->scratch, slot).base;
    for (int64_t i = begin; i < end; i++) {
        const qb_linear_call *call = job->calls;
        int64_t tile = i;
        while (tile >= call->row_tiles * call->column_tiles) {
            tile -= call->row_tiles * call->column_tiles;
            call++;
        }
        compute_tile(job->kernels, call, tile, scratch);
    }
    qb_scratch_release(job->scratch, slot);
}

qb_status
qb_linear_finish(const qb_run *run, qb_linear_call *calls, int32_t calls_count, qb_scratch *scratch)
{
    product_job job = {.kernels = run->kernels, .calls = calls, .scratch = scratch};
    int64_t tiles = 0;
    for (int32_t i = 0; i < calls_count; i++) {
        set_tiling(&calls[i], run, calls_count);
        tiles += calls[i].row_tiles * calls[i].column_tiles;
    }
    return qb_run_parallel(run, tiles, 1, compute_tiles, &job);
}

qb_status
qb_linear_forward(const qb_linear *self, const qb_linear_work *work, const qb_run *run, const float *x, int64_t rows,
                  qb_activation activation, float *y)
{
    const qb_path path = {run->path, "_input_quantizer"};
    const qb_run site = qb_run_enter(run, &path);
    QB_TRY(qb_site_observe(&self->input_quantizer, 1, &site, x, rows, self->in_features));
    qb_linear_call call;
    QB_TRY(qb_linear_begin(self, work, run, x, rows, activation, y, NULL, &call));
    return qb_linear_finish(run, &call, 1, work->scratch);
}
