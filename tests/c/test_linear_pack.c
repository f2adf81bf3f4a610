/* SPDX-License-Identifier: Apache-2.0
 *
 * Packing a weight again: in the memory that it had, where the form is the same, with the bytes of a first time.
 */
#include "layer_case.h"

#include "layers/linear.h"

enum { OUT = 37, IN = 70 };

typedef struct pack_case {
    qb_device *device;
    qb_linear layer;
    float *weight;
} pack_case;

static const qb_path layer_path = {NULL, "encoder.query"};

static pack_case *
make_case(qb_device *device, unsigned long long seed)
{
    pack_case *c = case_memory(sizeof *c);
    c->device = device;
    qb_linear_init(&c->layer, IN, OUT, 1);
    c->weight = case_random((int64_t)OUT * IN, 0.5f, seed);
    c->layer.weight.data = c->weight;
    c->layer.input_quantizer = case_quantizer(device, 8, 0);
    c->layer.weight_quantizer = case_quantizer(device, 8, 1);
    return c;
}

static void
free_case(pack_case *c)
{
    qb_linear_clear(&c->layer, &c->device->heap);
    qb_quantizer_destroy(c->layer.input_quantizer);
    qb_quantizer_destroy(c->layer.weight_quantizer);
    free(c->weight);
    free(c);
}

static qb_status
prepare(pack_case *c, qb_error *error)
{
    const qb_run run = qb_device_run(c->device, NULL, error);
    const qb_run inner = qb_run_enter(&run, &layer_path);
    return qb_linear_prepare(&c->layer, &inner);
}

/* Other numbers, as after a step of training. */
static void
change_weight(pack_case *c, unsigned long long seed)
{
    float *numbers = case_random((int64_t)OUT * IN, 0.5f, seed);
    memcpy(c->weight, numbers, OUT * IN * sizeof *numbers);
    free(numbers);
    c->layer.weight.revision++;
}

static void
set_stages(pack_case *c, uint32_t stages)
{
    CHECK(qb_quantizer_set_stages(c->layer.input_quantizer, stages) == QB_OK);
    CHECK(qb_quantizer_set_stages(c->layer.weight_quantizer, stages) == QB_OK);
}

/* The pack is what a layer has that was never packed before. */
static void
check_as_first(const pack_case *c, unsigned long long seed, uint32_t stages)
{
    pack_case *first = make_case(c->device, seed);
    set_stages(first, stages);
    CHECK(prepare(first, NULL) == QB_OK);
    const qb_operands operands = c->layer.pack.form == QB_WEIGHT_QS8 ? QB_OPERANDS_QS8 : QB_OPERANDS_F32;
    CHECK(c->layer.pack.form == first->layer.pack.form);
    CHECK(memcmp(c->layer.pack.data, first->layer.pack.data,
                 qb_product_sizes_of(&c->device->kernels, operands, OUT, IN).packed) == 0);
    CHECK((c->layer.pack.step == NULL) == (first->layer.pack.step == NULL));
    CHECK(c->layer.pack.step == NULL || same_bits(c->layer.pack.step, first->layer.pack.step, OUT));
    free_case(first);
}

/* ---- facts ------------------------------------------------------------------------------------------------------- */

static void
test_a_changed_weight_is_packed_where_it_was(void)
{
    static const uint32_t stages[] = {QB_STAGE_QUANT, QB_STAGE_DISABLED};
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        for (size_t s = 0; s < COUNT(stages); s++) {
            pack_case *c = make_case(devices.at[d], 11);
            set_stages(c, stages[s]);
            CHECK(prepare(c, NULL) == QB_OK);
            const void *data = c->layer.pack.data;
            const float *step = c->layer.pack.step;
            for (unsigned long long seed = 12; seed < 15; seed++) {
                change_weight(c, seed);
                CHECK(prepare(c, NULL) == QB_OK);
                CHECK(c->layer.pack.data == data && c->layer.pack.step == step);
                check_as_first(c, seed, stages[s]);
            }
            free_case(c);
        }
    }
    case_devices_close(&devices);
}

static void
test_another_form_gives_the_memory_back(void)
{
    static const uint32_t stages[] = {QB_STAGE_QUANT, QB_STAGE_DISABLED, QB_STAGE_QUANT, QB_STAGE_DISABLED};
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        pack_case *c = make_case(devices.at[d], 11);
        const uint64_t blocks = qb_device_memory_statistics(c->device).live_blocks;
        for (size_t s = 0; s < COUNT(stages); s++) {
            set_stages(c, stages[s]);
            CHECK(prepare(c, NULL) == QB_OK);
            check_as_first(c, 11, stages[s]);
            const uint64_t of_pack = c->layer.pack.step == NULL ? 1 : 2;
            CHECK(qb_device_memory_statistics(c->device).live_blocks == blocks + of_pack);
        }
        free_case(c);
    }
    case_devices_close(&devices);
}

static void
test_after_a_failure_there_is_no_pack_and_the_next_is_whole(void)
{
    case_devices devices = case_devices_open();
    for (size_t d = 0; d < devices.count; d++) {
        pack_case *c = make_case(devices.at[d], 11);
        qb_error error;
        const uint64_t blocks = qb_device_memory_statistics(c->device).live_blocks;
        CHECK(prepare(c, NULL) == QB_OK);
        c->weight[6 * IN + 2] = NAN;
        c->layer.weight.revision++;
        CHECK(prepare(c, &error) == QB_ERR_VALUE);
        CHECK_CONTAINS(error.message, "encoder.query._weight_quantizer");
        CHECK(c->layer.pack.form == QB_WEIGHT_NONE && c->layer.pack.data == NULL && c->layer.pack.step == NULL);
        CHECK(qb_device_memory_statistics(c->device).live_blocks == blocks);
        change_weight(c, 12);
        CHECK(prepare(c, NULL) == QB_OK);
        check_as_first(c, 12, QB_STAGE_QUANT);
        free_case(c);
    }
    case_devices_close(&devices);
}

int
main(void)
{
    RUN(test_a_changed_weight_is_packed_where_it_was);
    RUN(test_another_form_gives_the_memory_back);
    RUN(test_after_a_failure_there_is_no_pack_and_the_next_is_whole);
    return check_report();
}
