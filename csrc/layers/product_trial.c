/* SPDX-License-Identifier: Apache-2.0
 *
 * Timing one shape of product, for whoever wants to know what share of the machine it reaches (qb_device_peak).
 *
 * It is the product of a linear layer, cut over the threads in the same way, with a bias and, of codes, a step for each
 * column and codes as its result, as between the sites of a model.  Weights take turns: one alone would stay in a
 * cache, which those of a model do not.  They lie on large pages, as a model's.
 */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "core/device.h"
#include "core/shape.h"
#include "layers/product.h"

#define MOST_ROWS 65536
#define MOST_WEIGHTS 1024
#define MOST_REPEATS 1000000

typedef struct trial {
    qb_product product;
    qb_scratch scratch;
    void *b;      /* (n, k) unpacked */
    void *a;      /* (rows, k) */
    char *packed; /* (weights, packed_bytes), apart from the rest */
    float *step;  /* (n) */
    float *bias;  /* (n) */
    size_t packed_bytes;
    int64_t panel;
} trial;

static double
seconds_now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static qb_status
check(const char *name, int64_t value, int64_t most, qb_error *error)
{
    if (value >= 1 && value <= most) {
        return QB_OK;
    }
    return qb_fail(error, NULL, QB_ERR_VALUE, "%s is %" PRId64 ", expected 1 .. %" PRId64, name, value, most);
}

static void
plan(trial *t, const qb_product_trial *wanted, const qb_run *run, qb_arena *arena)
{
    const size_t element = wanted->is_integer ? sizeof(int8_t) : sizeof(float);
    const qb_operands operands = wanted->is_integer ? QB_OPERANDS_QS8 : QB_OPERANDS_F32;
    const qb_product_sizes sizes = qb_product_sizes_of(run->kernels, operands, wanted->n, wanted->k);
    t->panel = sizes.panel;
    t->packed_bytes = (sizes.packed + 63) / 64 * 64;
    t->a = qb_arena_take(arena, wanted->rows * wanted->k, element);
    t->b = qb_arena_take(arena, wanted->n * wanted->k, element);
    t->step = qb_arena_take(arena, wanted->n, sizeof *t->step);
    t->bias = qb_arena_take(arena, wanted->n, sizeof *t->bias);
    t->product = (qb_product){.a = t->a,
                              .operands = operands,
                              .lda = wanted->k,
                              .rows = wanted->rows,
                              .n = wanted->n,
                              .k = wanted->k,
                              .epilogue = {.step = wanted->is_integer ? t->step : NULL,
                                           .bias = t->bias,
                                           .divisor = 1.0f,
                                           .activation = QB_ACTIVATION_NONE},
                              .y = qb_arena_take(arena, wanted->rows * wanted->n, element)};
    if (wanted->is_integer) {
        t->product.codes = (int8_t *)t->product.y;
        t->product.range = (qb_quant_range){.scale = 1.0f / 16.0f, .lower = -127.0f, .upper = 127.0f};
    }
    qb_scratch_plan(&t->scratch, arena, qb_queue_threads(run->queue), sizes.scratch);
}

/* Numbers without a pattern, since zeros are cheaper on some machines. */
static void
fill(void *data, int64_t count, int is_integer)
{
    uint32_t state = 12345;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        const int32_t code = (int32_t)(state >> 24) - 128;
        if (is_integer) {
            ((int8_t *)data)[i] = (int8_t)code;
        }
        else {
            ((float *)data)[i] = (float)code * (1.0f / 128.0f);
        }
    }
}

static void
prepare(trial *t, const qb_product_trial *wanted, const qb_run *run)
{
    const qb_product *p = &t->product;
    fill(t->a, p->rows * p->k, wanted->is_integer);
    fill(t->b, p->n * p->k, wanted->is_integer);
    for (int64_t i = 0; i < p->n; i++) {
        t->step[i] = 1.0f / 128.0f;
        t->bias[i] = 0.5f;
    }
    if (wanted->is_integer) {
        run->kernels->pack_qs8(t->b, p->k, 1, 0, p->n, p->n, p->k, t->packed);
    }
    else {
        run->kernels->pack_f32(t->b, p->k, 1, 0, p->n, p->n, p->k, t->packed);
    }
    for (int64_t i = 1; i < wanted->weights; i++) {
        memcpy(t->packed + (size_t)i * t->packed_bytes, t->packed, t->packed_bytes);
    }
    qb_scratch_reset(&t->scratch);
}

static qb_status
run_trial(trial *t, const qb_product_trial *wanted, const qb_run *run, double *seconds)
{
    for (int64_t i = -1; i < wanted->repeats; i++) {
        const double start = seconds_now();
        t->product.packed = t->packed + (size_t)((i + 1) % wanted->weights) * t->packed_bytes;
        QB_TRY(qb_product_run(run, &t->product, 1, &t->scratch));
        if (i >= 0) {
            seconds[i] = seconds_now() - start;
        }
    }
    return QB_OK;
}

qb_status
qb_device_time_product(qb_device *device, const qb_product_trial *given, const qb_interrupt *interrupt, double *seconds,
                       qb_error *error)
{
    qb_product_trial wanted = {.struct_size = 0};
    memcpy(&wanted, given, given->struct_size < sizeof wanted ? given->struct_size : sizeof wanted);
    QB_TRY(check("rows", wanted.rows, MOST_ROWS, error));
    QB_TRY(check("n", wanted.n, MOST_ROWS, error));
    QB_TRY(check("k", wanted.k, MOST_ROWS, error));
    QB_TRY(check("weights", wanted.weights, MOST_WEIGHTS, error));
    QB_TRY(check("repeats", wanted.repeats, MOST_REPEATS, error));
    const qb_run run = qb_device_run(device, interrupt, error);
    trial t = {.b = NULL};
    qb_arena arena = qb_arena_measuring();
    plan(&t, &wanted, &run, &arena);
    const size_t bytes = arena.used;
    qb_page_pool packs = {.region = NULL};
    size_t packed_bytes = 0;
    const int is_possible =
        qb_arena_ok(&arena) && qb_size_multiply((size_t)wanted.weights, t.packed_bytes, &packed_bytes);
    void *memory = is_possible ? qb_heap_allocate(run.heap, bytes) : NULL;
    t.packed = memory == NULL ? NULL : qb_heap_allocate_pooled(run.heap, &packs, packed_bytes);
    if (t.packed == NULL) {
        qb_heap_release(run.heap, memory);
        return qb_fail(error, NULL, QB_ERR_NOMEM,
                       "no memory for products of (%" PRId64 ", %" PRId64 ") and %" PRId64 " weights of (%" PRId64
                       ", %" PRId64 ")",
                       wanted.rows, wanted.k, wanted.weights, wanted.n, wanted.k);
    }
    arena = qb_arena_bind(memory, bytes);
    plan(&t, &wanted, &run, &arena);
    qb_status status = QB_OK;
    if (qb_arena_ok(&arena)) {
        prepare(&t, &wanted, &run);
        status = run_trial(&t, &wanted, &run, seconds);
    }
    else { /* the thread count was raised in between */
        status = qb_fail(error, NULL, QB_ERR_STATE, "the number of threads changed during the call");
    }
    qb_heap_release(run.heap, t.packed);
    qb_page_pool_clear(&packs);
    qb_heap_release(run.heap, memory);
    return status;
}
