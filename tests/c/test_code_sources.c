/* SPDX-License-Identifier: Apache-2.0
 *
 * Codes of several weights at once, from memory and from a function: the packed bytes of the floats that they were made
 * of, and that a call which fails leaves every weight as it was.
 */
#include "layer_case.h"

#include <time.h>

#include "layers/linear.h"

/* More codes than one piece of work has, of panels of every variant that end within it and beyond. */
enum { LAYERS = 3, OUT = 301, IN = 333, NARROW = 5 };

typedef struct source_case {
    qb_device *device;
    qb_linear layers[LAYERS];
    float *weights[LAYERS];
    int8_t *codes[LAYERS];
    qb_path paths[LAYERS];
    qb_codes_source sources[LAYERS];
    qb_linear_codes items[LAYERS];
    _Atomic int64_t rows_read;
    int64_t fails_at; /* a row that cannot be read; -1: none */
} source_case;

static int64_t
rows_of(int64_t layer)
{
    return layer == 2 ? NARROW : OUT;
}

/* The codes of layer 1. */
static int
read_rows(void *context, int64_t first, int64_t count, int8_t *codes)
{
    source_case *c = context;
    if (first <= c->fails_at && c->fails_at < first + count) {
        return -1;
    }
    memcpy(codes, c->codes[1] + first * IN, (size_t)(count * IN));
    atomic_fetch_add(&c->rows_read, count);
    return 0;
}

static source_case *
make_case(qb_device *device, int32_t bits)
{
    static const char *const names[LAYERS] = {"query", "key", "value"};
    source_case *c = case_memory(sizeof *c);
    c->device = device;
    c->fails_at = -1;
    atomic_init(&c->rows_read, 0);
    for (int64_t i = 0; i < LAYERS; i++) {
        qb_linear *layer = &c->layers[i];
        qb_linear_init(layer, IN, rows_of(i), 1);
        c->weights[i] = case_random(rows_of(i) * IN, 0.5f, 31 + (unsigned long long)i);
        c->codes[i] = case_memory((size_t)(rows_of(i) * IN));
        layer->weight.data = c->weights[i];
        layer->input_quantizer = case_quantizer(device, 8, 0);
        layer->weight_quantizer = case_quantizer(device, bits, 0);
        case_set_amax(layer->weight_quantizer, 0.4f);
        c->paths[i] = (qb_path){NULL, names[i]};
        const qb_run run = qb_device_run(device, NULL, NULL);
        CHECK(qb_linear_read_codes(layer, &run, c->codes[i]) == QB_OK);
        c->sources[i] = (qb_codes_source){.codes = c->codes[i]};
        c->items[i] = (qb_linear_codes){.layer = layer, .path = &c->paths[i], .source = &c->sources[i]};
    }
    c->sources[1] = (qb_codes_source){.read = read_rows, .context = c};
    return c;
}

/* From here on the layers have codes alone. */
static void
keep_codes(source_case *c)
{
    for (int64_t i = 0; i < LAYERS; i++) {
        c->layers[i].weight.data = NULL;
        c->layers[i].weight.storage = QB_STORAGE_CODES;
    }
}

static void
free_case(source_case *c)
{
    for (int64_t i = 0; i < LAYERS; i++) {
        qb_linear_clear(&c->layers[i], &c->device->heap);
        qb_quantizer_destroy(c->layers[i].input_quantizer);
        qb_quantizer_destroy(c->layers[i].weight_quantizer);
        free(c->weights[i]);
        free(c->codes[i]);
    }
    free(c);
}

static qb_status
write_all(source_case *c, qb_page_pool *pool, qb_error *error)
{
    qb_run run = qb_device_run(c->device, NULL, error);
    run.packs = pool;
    return qb_linear_write_codes(&run, c->items, LAYERS);
}

/* ---- facts ------------------------------------------------------------------------------------------------------- */

static void
test_all_weights_have_the_packed_bytes_of_their_floats(void)
{
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        qb_page_pool pool = {.region = NULL};
        source_case *floats = make_case(devices.at[d], 8);
        source_case *codes = make_case(devices.at[d], 8);
        const qb_run run = qb_device_run(devices.at[d], NULL, NULL);
        keep_codes(codes);
        CHECK(write_all(codes, &pool, NULL) == QB_OK);
        CHECK(atomic_load(&codes->rows_read) == OUT);
        for (int64_t i = 0; i < LAYERS; i++) {
            const int64_t n = rows_of(i);
            CHECK(qb_linear_prepare(&floats->layers[i], &run) == QB_OK);
            CHECK(qb_linear_prepare(&codes->layers[i], &run) == QB_OK);
            const size_t bytes = qb_product_sizes_of(run.kernels, QB_OPERANDS_QS8, n, IN).packed;
            CHECK(memcmp(floats->layers[i].pack.data, codes->layers[i].pack.data, bytes) == 0);
            CHECK(same_bits(floats->layers[i].pack.step, codes->layers[i].pack.step, n));
        }
        free_case(floats);
        free_case(codes);
        qb_page_pool_clear(&pool);
    }
    case_devices_close(&devices);
}

static void
check_as_before(source_case *c, const void *const packed[LAYERS], uint64_t blocks)
{
    for (int64_t i = 0; i < LAYERS; i++) {
        CHECK(c->layers[i].pack.data == packed[i] && c->layers[i].pack.form == QB_WEIGHT_QS8);
    }
    CHECK(qb_device_memory_statistics(c->device).live_blocks == blocks);
}

static void
test_what_cannot_be_read_is_named_and_changes_nothing(void)
{
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        source_case *c = make_case(devices.at[d], 8);
        qb_error error;
        keep_codes(c);
        CHECK(write_all(c, NULL, NULL) == QB_OK);
        const uint64_t blocks = qb_device_memory_statistics(c->device).live_blocks;
        const void *const packed[LAYERS] = {c->layers[0].pack.data, c->layers[1].pack.data, c->layers[2].pack.data};
        for (int64_t row = 0; row < OUT; row += 60) {
            c->fails_at = row;
            CHECK(write_all(c, NULL, &error) == QB_ERR_BACKEND);
            CHECK_CONTAINS(error.message, "key.weight: its codes cannot be read");
            check_as_before(c, packed, blocks);
        }
        free_case(c);
    }
    case_devices_close(&devices);
}

static void
test_a_code_that_is_read_and_not_allowed_is_named_and_changes_nothing(void)
{
    qb_device *device = case_device(NULL, 2);
    source_case *c = make_case(device, 4);
    qb_error error;
    keep_codes(c);
    CHECK(write_all(c, NULL, NULL) == QB_OK);
    const uint64_t blocks = qb_device_memory_statistics(device).live_blocks;
    const void *const packed[LAYERS] = {c->layers[0].pack.data, c->layers[1].pack.data, c->layers[2].pack.data};
    c->codes[1][(OUT - 1) * IN + IN - 1] = 8;
    CHECK(write_all(c, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "key.weight: element (300, 332) is 8, expected codes of -8 .. 7");
    check_as_before(c, packed, blocks);
    c->codes[1][(OUT - 1) * IN + IN - 1] = 0;
    c->codes[2][3] = -9;
    CHECK(write_all(c, NULL, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "value.weight: element (0, 3) is -9, expected codes of -8 .. 7");
    check_as_before(c, packed, blocks);
    free_case(c);
    qb_device_close(device);
}

static double
seconds_now(void)
{
    struct timespec now;
    (void)timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int
stop(void *context)
{
    (void)context;
    return 1;
}

/* Longer than an interrupt waits. */
static int
read_slowly(void *context, int64_t first, int64_t count, int8_t *codes)
{
    const double start = seconds_now();
    while (seconds_now() - start < 0.03) {
    }
    return read_rows(context, first, count, codes);
}

static void
test_an_interrupted_call_changes_nothing(void)
{
    qb_device *device = case_device(NULL, 1);
    source_case *c = make_case(device, 8);
    qb_error error;
    const qb_interrupt interrupt = {stop, NULL};
    keep_codes(c);
    CHECK(write_all(c, NULL, NULL) == QB_OK);
    const uint64_t blocks = qb_device_memory_statistics(device).live_blocks;
    const void *const packed[LAYERS] = {c->layers[0].pack.data, c->layers[1].pack.data, c->layers[2].pack.data};
    c->sources[1].read = read_slowly;
    const qb_run run = qb_device_run(device, &interrupt, &error);
    CHECK(qb_linear_write_codes(&run, c->items, LAYERS) == QB_ERR_INTERRUPTED);
    check_as_before(c, packed, blocks);
    free_case(c);
    qb_device_close(device);
}

static void
test_no_weights_are_nothing_to_do(void)
{
    qb_device *device = case_device(NULL, 2);
    const qb_run run = qb_device_run(device, NULL, NULL);
    CHECK(qb_linear_write_codes(&run, NULL, 0) == QB_OK);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_all_weights_have_the_packed_bytes_of_their_floats);
    RUN(test_what_cannot_be_read_is_named_and_changes_nothing);
    RUN(test_a_code_that_is_read_and_not_allowed_is_named_and_changes_nothing);
    RUN(test_an_interrupted_call_changes_nothing);
    RUN(test_no_weights_are_nothing_to_do);
    return check_report();
}
