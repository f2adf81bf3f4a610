/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/product.h"

#include <stdatomic.h>

qb_operands
qb_product_float_operands(const qb_run *run)
{
    return run->uses_bf16 ? QB_OPERANDS_BF16 : QB_OPERANDS_F32;
}

qb_product_sizes
qb_product_sizes_of(const qb_kernels *kernels, qb_operands operands, int64_t n, int64_t k)
{
    qb_product_sizes sizes = {.panel = 1};
    switch (operands) {
    case QB_OPERANDS_F32:
        kernels->pack_f32_size(n, k, &sizes.panel, &sizes.packed, &sizes.scratch);
        break;
    case QB_OPERANDS_BF16:
        kernels->pack_bf16_size(n, k, &sizes.panel, &sizes.packed, &sizes.scratch);
        break;
    case QB_OPERANDS_QS8:
        kernels->pack_qs8_size(n, k, &sizes.panel, &sizes.packed, &sizes.scratch);
        break;
    }
    return sizes;
}

size_t
qb_product_scratch_bytes(const qb_kernels *kernels, int64_t n, int64_t k)
{
    static const qb_operands all[] = {QB_OPERANDS_F32, QB_OPERANDS_BF16, QB_OPERANDS_QS8};
    size_t most = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const size_t bytes = qb_product_sizes_of(kernels, all[i], n, k).scratch;
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* How a product is cut.  Code kernels pack or sum the rows of a once per tile, and those without integer instructions
 * widen the panels of the weight once per block of rows, so tiles are wide and tall; there are a few per thread, and a
 * multiple of the threads, so that all end together; a thread streams its own columns of the weight; and a poll for
 * interrupts comes every few milliseconds. */
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
set_tiling(qb_product *product, const qb_run *run, int32_t group)
{
    const int64_t k = product->k;
    const int64_t n = product->n;
    const int64_t threads = qb_queue_threads(run->queue);
    const int64_t panel = qb_product_sizes_of(run->kernels, product->operands, n, k).panel;
    const int64_t panels = divide_up(n, panel);
    const int64_t for_balance = threads == 1 ? 1 : divide_up(TILES_PER_THREAD * threads, group);
    const int64_t for_polls = divide_up(product->rows * n, TILE_PRODUCTS / k);
    const int64_t wanted = divide_up(for_balance > for_polls ? for_balance : for_polls, threads) * threads;
    const int64_t most_columns = divide_up(n, TILE_COLUMNS_MIN);
    const int64_t most_rows = divide_up(product->rows, TILE_ROWS_MIN);
    int64_t rows = divide_up(product->rows, TILE_ROWS_MAX);
    int64_t columns = at_most(divide_up(wanted, rows), most_columns);
    if (columns > threads) { /* three tiles keep two threads busy for as long as four do */
        columns = columns / threads * threads;
    }
    if (columns * rows < wanted) {
        rows = at_most(divide_up(wanted, columns), most_rows);
    }
    if (columns * rows * group < threads) { /* few rows and many threads: narrow tiles are better than idle threads */
        columns = at_most(divide_up(threads, rows * group), panels);
    }
    product->tile_columns = panel * divide_up(panels, columns);
    product->column_tiles = divide_up(n, product->tile_columns);
    product->tile_rows = divide_up(product->rows, rows);
    product->row_tiles = divide_up(product->rows, product->tile_rows);
}

typedef struct product_job {
    const qb_kernels *kernels;
    const qb_product *products;
    qb_scratch *scratch;
    _Atomic uint32_t nonfinite; /* bit i: product i was to give codes and holds a NaN or infinity */
} product_job;

/* *nonfinite becomes 1 if the tile gives codes and holds a NaN or infinity. */
static void
compute_tile(const qb_kernels *kernels, const qb_product *product, int64_t tile, void *scratch, uint32_t *nonfinite)
{
    const int64_t k = product->k;
    const int64_t n = product->n;
    const int64_t row = tile / product->column_tiles * product->tile_rows;
    const int64_t rows = product->rows - row < product->tile_rows ? product->rows - row : product->tile_rows;
    const int64_t n0 = tile % product->column_tiles * product->tile_columns;
    const int64_t n1 = n - n0 < product->tile_columns ? n : n0 + product->tile_columns;
    const void *packed = product->packed;
    float *y = product->y + row * n;
    if (product->operands == QB_OPERANDS_QS8) {
        const int8_t *a = (const int8_t *)product->a + row * product->lda;
        if (product->codes != NULL) {
            kernels->product_qs8_codes(a, product->lda, rows, packed, n0, n1, n, k, &product->epilogue, &product->range,
                                       product->codes + row * n, n, nonfinite, scratch);
            return;
        }
        kernels->product_qs8(a, product->lda, rows, packed, n0, n1, n, k, &product->epilogue, y, n, scratch);
        return;
    }
    const float *a = (const float *)product->a + row * product->lda;
    (product->operands == QB_OPERANDS_BF16 ? kernels->product_bf16 : kernels->product_f32)(
        a, product->lda, rows, packed, n0, n1, n, k, &product->epilogue, y, n, scratch);
}

static void
compute_tiles(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    product_job *job = argument;
    const int32_t slot = qb_scratch_claim(job->scratch, worker);
    void *scratch = qb_scratch_arena(job->scratch, slot).base;
    for (int64_t i = begin; i < end; i++) {
        const qb_product *product = job->products;
        uint32_t nonfinite = 0;
        int64_t tile = i;
        while (tile >= product->row_tiles * product->column_tiles) {
            tile -= product->row_tiles * product->column_tiles;
            product++;
        }
        compute_tile(job->kernels, product, tile, scratch, &nonfinite);
        if (nonfinite != 0) {
            atomic_fetch_or_explicit(&job->nonfinite, 1u << (product - job->products), memory_order_relaxed);
        }
    }
    qb_scratch_release(job->scratch, slot);
}

qb_status
qb_product_run(const qb_run *run, qb_product *products, int32_t count, qb_scratch *scratch)
{
    product_job job = {.kernels = run->kernels, .products = products, .scratch = scratch};
    int64_t tiles = 0;
    for (int32_t i = 0; i < count; i++) {
        set_tiling(&products[i], run, count);
        tiles += products[i].row_tiles * products[i].column_tiles;
    }
    atomic_init(&job.nonfinite, 0);
    QB_TRY(qb_run_parallel(run, tiles, 1, compute_tiles, &job));
    const uint32_t nonfinite = atomic_load_explicit(&job.nonfinite, memory_order_relaxed);
    for (int32_t i = 0; i < count; i++) {
        products[i].is_nonfinite = (int)(nonfinite >> i & 1u);
    }
    return QB_OK;
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

typedef struct pack_job {
    const qb_kernels *kernels;
    qb_operands operands;
    const float *b;
    int64_t column_stride, depth_stride;
    int64_t n, k, panel;
    void *packed;
} pack_job;

static void
pack_panels(void *argument, int64_t begin, int64_t end, int32_t worker)
{
    const pack_job *job = argument;
    const int64_t last = end * job->panel < job->n ? end * job->panel : job->n;
    (void)worker;
    (job->operands == QB_OPERANDS_BF16 ? job->kernels->pack_bf16 : job->kernels->pack_f32)(
        job->b, job->column_stride, job->depth_stride, begin * job->panel, last, job->n, job->k, job->packed);
}

qb_status
qb_product_pack(const qb_run *run, const float *b, int64_t column_stride, int64_t depth_stride, int64_t n, int64_t k,
                void *packed)
{
    const qb_operands operands = qb_product_float_operands(run);
    pack_job job = {.kernels = run->kernels,
                    .operands = operands,
                    .b = b,
                    .column_stride = column_stride,
                    .depth_stride = depth_stride,
                    .n = n,
                    .k = k,
                    .panel = qb_product_sizes_of(run->kernels, operands, n, k).panel,
                    .packed = packed};
    return qb_run_parallel(run, (n + job.panel - 1) / job.panel, 1, pack_panels, &job);
}
