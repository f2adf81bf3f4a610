/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/attention.h"

#include <float.h>

#include "layer_case.h"
#include "layers/attention_item.h"
#include "layers/sequences.h"

enum { QUANTIZERS = 14 };

/* A whole attention layer on one device, with sequences of these lengths. */
typedef struct attention_case {
    qb_device *device;
    qb_attention layer;
    qb_attention_work work;
    case_plan plan;
    float *parameters;
    int8_t *codes;
    float *values, *local;
    int64_t hidden, tokens;
    int64_t offsets[8];
    qb_sequences sequences;
    qb_quantizer **slots[QUANTIZERS];
    size_t slots_count;
    float *next_parameter;
} attention_case;

static qb_status
bind_parameter(void *context, const qb_path *path, qb_parameter *parameter)
{
    attention_case *c = context;
    (void)path;
    parameter->data = c->next_parameter;
    c->next_parameter += parameter->shape[0] * (parameter->rank == 2 ? parameter->shape[1] : 1);
    return QB_OK;
}

static qb_status
bind_quantizer(void *context, const qb_path *path, qb_quantizer **slot, qb_quantizer_role role)
{
    attention_case *c = context;
    (void)path;
    *slot = case_quantizer(c->device, 8, role == QB_ROLE_WEIGHT);
    c->slots[c->slots_count++] = slot;
    return QB_OK;
}

static attention_case *
make_case(qb_device *device, int64_t hidden, int64_t heads, const int64_t *lengths, int64_t count)
{
    attention_case *c = case_memory(sizeof *c);
    c->device = device;
    c->hidden = hidden;
    c->parameters = case_random(4 * hidden * hidden + 6 * hidden, 0.3f, 21);
    c->next_parameter = c->parameters;
    const qb_attention_shape shape = {.hidden = hidden, .heads = heads, .head_size = hidden / heads};
    qb_attention_init(&c->layer, &shape, 1e-5f);
    const qb_visitor visitor = {.context = c, .parameter = bind_parameter, .quantizer = bind_quantizer};
    CHECK(qb_attention_visit(&c->layer, &visitor, NULL) == QB_OK);
    c->sequences = (qb_sequences){.count = count, .offsets = c->offsets, .lengths = lengths};
    for (int64_t i = 0; i < count; i++) {
        c->offsets[i] = c->tokens;
        c->tokens += lengths[i];
        c->sequences.max_length = lengths[i] > c->sequences.max_length ? lengths[i] : c->sequences.max_length;
    }
    c->sequences.tokens = c->tokens;
    c->codes = case_aligned((size_t)(3 * c->tokens * hidden));
    c->values = case_aligned((size_t)(c->tokens * hidden) * sizeof(float));
    c->local = case_aligned((size_t)(c->tokens * hidden) * sizeof(float));
    const qb_limits limits = {
        .sequences = count, .tokens = c->tokens, .length = c->sequences.max_length, .keep_probabilities = 1};
    case_plan_scratch(&c->plan, device, qb_attention_scratch_bytes(&c->layer, &device->kernels, &limits));
    qb_arena arena = qb_arena_measuring();
    qb_attention_plan(&c->layer, &c->work, &arena, &limits, c->codes, c->values, c->local, &c->plan.scratch);
    c->plan.arena_block = case_aligned(arena.used);
    arena = qb_arena_bind(c->plan.arena_block, arena.used);
    qb_attention_plan(&c->layer, &c->work, &arena, &limits, c->codes, c->values, c->local, &c->plan.scratch);
    CHECK(qb_arena_ok(&arena));
    return c;
}

static void
free_case(attention_case *c)
{
    for (size_t i = 0; i < c->slots_count; i++) {
        qb_quantizer_destroy(*c->slots[i]);
    }
    qb_attention_clear(&c->layer, &c->device->heap);
    case_plan_free(&c->plan);
    free(c->parameters);
    free(c->codes);
    free(c->values);
    free(c->local);
    free(c);
}

static void
switch_all(attention_case *c, uint32_t stages)
{
    for (size_t i = 0; i < c->slots_count; i++) {
        CHECK(qb_quantizer_set_stages(*c->slots[i], stages) == QB_OK);
    }
}

static void
read_probabilities(void *context, const float *probabilities)
{
    *(const float **)context = probabilities;
}

/* Output in *y (owned by the caller); a reader is given if `kept`, and *kept gets what it was given. */
static qb_status
run_forward(attention_case *c, const float *x, const float *head_mask, const float **kept, float *y, qb_error *error)
{
    const qb_path path = {NULL, "encoder.layer.0.attention"};
    const qb_run run = qb_device_run(c->device, NULL, error);
    const qb_run inner = qb_run_enter(&run, &path);
    const qb_attention_inputs inputs = {.sequences = &c->sequences,
                                        .head_mask = head_mask,
                                        .reader = kept == NULL ? NULL : read_probabilities,
                                        .reader_context = (void *)kept};
    memcpy(y, x, (size_t)(c->tokens * c->hidden) * sizeof *y);
    QB_TRY(qb_attention_prepare(&c->layer, &inner));
    return qb_attention_forward(&c->layer, &c->work, &inner, &inputs, y);
}

/* Hidden size, heads, then up to four lengths: tiles missed on every side, and one sequence of several row blocks. */
static const struct {
    int64_t hidden, heads, count, lengths[4];
} shapes[] = {
    {48, 3, 4, {1, 2, 17, 31}}, {30, 5, 2, {31, 17}}, {14, 2, 1, {1}}, {64, 1, 1, {200}}, {48, 3, 3, {2, 100, 85}}};

/* ---- tests ------------------------------------------------------------------------------------------------------ */

static void
exact_context(const attention_case *c, int64_t sequence, int64_t head, int64_t row, double *context)
{
    const int64_t h = c->hidden;
    const int64_t d = c->layer.head_size;
    const int64_t s = c->sequences.lengths[sequence];
    const int64_t at = c->offsets[sequence] * h + head * d;
    double *p = case_memory((size_t)s * sizeof *p);
    double largest = -HUGE_VAL;
    double sum = 0.0;
    for (int64_t j = 0; j < s; j++) {
        for (int64_t i = 0; i < d; i++) {
            p[j] += (double)c->work.q[at + row * h + i] * (double)c->work.k[at + j * h + i];
        }
        p[j] /= sqrt((double)d);
        largest = p[j] > largest ? p[j] : largest;
    }
    for (int64_t j = 0; j < s; j++) {
        p[j] = exp(p[j] - largest);
        sum += p[j];
    }
    for (int64_t i = 0; i < d; i++) {
        context[i] = 0.0;
        for (int64_t j = 0; j < s; j++) {
            context[i] += p[j] / sum * (double)c->work.v[at + j * h + i];
        }
    }
    free(p);
}

static void
test_float_attention_is_the_definition(void)
{
    qb_device *device = case_device(NULL, 2);
    for (size_t t = 0; t < COUNT(shapes); t++) {
        attention_case *c = make_case(device, shapes[t].hidden, shapes[t].heads, shapes[t].lengths, shapes[t].count);
        float *x = case_random(c->tokens * c->hidden, 1.0f, 22);
        float *y = case_memory((size_t)(c->tokens * c->hidden) * sizeof *y);
        double context[64];
        switch_all(c, QB_STAGE_DISABLED);
        CHECK(run_forward(c, x, NULL, NULL, y, NULL) == QB_OK);
        for (int64_t i = 0; i < shapes[t].count; i++) {
            for (int64_t head = 0; head < shapes[t].heads; head++) {
                for (int64_t row = 0; row < c->sequences.lengths[i]; row++) {
                    exact_context(c, i, head, row, context);
                    const float *got = c->work.context + (c->offsets[i] + row) * c->hidden + head * c->layer.head_size;
                    for (int64_t f = 0; f < c->layer.head_size; f++) {
                        /* Scores of magnitude <= 40 here are off by <= 66 * 2^-24 * 40, so exp is by 2e-4 of its
                         * value at worst, and so is a mean of values with magnitude <= 5. */
                        CHECK(fabs((double)got[f] - context[f]) <= 1e-3);
                    }
                }
            }
        }
        free(x);
        free(y);
        free_case(c);
    }
    qb_device_close(device);
}

/* The layer's own q, k and v, coded and multiplied naively; softmax is the reference kernel's, which is bit-defined. */
static void
naive_context(const attention_case *c, const qb_kernels *reference, int64_t sequence, int64_t head, float amax_a,
              float *context)
{
    const int64_t h = c->hidden, d = c->layer.head_size, s = c->sequences.lengths[sequence];
    const int64_t at = c->offsets[sequence] * h + head * d;
    const float scale_q = naive_scale(naive_amax(c->work.q, c->tokens * h), 8);
    const float scale_k = naive_scale(naive_amax(c->work.k, c->tokens * h), 8);
    const float scale_v = naive_scale(naive_amax(c->work.v, c->tokens * h), 8);
    const float scale_a = naive_scale(amax_a, 8);
    const float score_step = (1.0f / scale_q) * (1.0f / scale_k);
    const float context_step = (1.0f / scale_a) * (1.0f / scale_v);
    float *p = case_memory((size_t)s * sizeof *p);
    for (int64_t row = 0; row < s; row++) {
        for (int64_t j = 0; j < s; j++) {
            int32_t acc = 0;
            for (int64_t i = 0; i < d; i++) {
                acc += naive_code(c->work.q[at + row * h + i], scale_q, 8) *
                       naive_code(c->work.k[at + j * h + i], scale_k, 8);
            }
            p[j] = fmaf((float)acc, score_step, 0.0f) / sqrtf((float)d);
        }
        reference->softmax_f32(p, 1, (size_t)s, (size_t)s, NULL);
        for (int64_t i = 0; i < d; i++) {
            int32_t acc = 0;
            for (int64_t j = 0; j < s; j++) {
                acc += naive_code(p[j], scale_a, 8) * naive_code(c->work.v[at + j * h + i], scale_v, 8);
            }
            context[row * d + i] = fmaf((float)acc, context_step, 0.0f);
        }
    }
    free(p);
}

static void
test_integer_attention_is_the_naive_integer_products(void)
{
    qb_device *device = case_device(NULL, 2);
    qb_device *reference = case_device("ref", 1);
    for (size_t t = 0; t < COUNT(shapes); t++) {
        attention_case *c = make_case(device, shapes[t].hidden, shapes[t].heads, shapes[t].lengths, shapes[t].count);
        const int64_t d = c->layer.head_size;
        float *x = case_random(c->tokens * c->hidden, 1.0f, 23);
        float *y = case_memory((size_t)(c->tokens * c->hidden) * sizeof *y);
        float *expected = case_memory((size_t)(c->sequences.max_length * d) * sizeof *expected);
        case_set_amax(c->layer.matmul_a, 0.75f);
        CHECK(!qb_attention_keeps_probabilities(&c->layer));
        CHECK(run_forward(c, x, NULL, NULL, y, NULL) == QB_OK);
        for (int64_t i = 0; i < shapes[t].count; i++) {
            for (int64_t head = 0; head < shapes[t].heads; head++) {
                naive_context(c, &reference->kernels, i, head, 0.75f, expected);
                for (int64_t row = 0; row < c->sequences.lengths[i]; row++) {
                    CHECK(same_bits(c->work.context + (c->offsets[i] + row) * c->hidden + head * d, expected + row * d,
                                    d));
                }
            }
        }
        free(x);
        free(y);
        free(expected);
        free_case(c);
    }
    qb_device_close(device);
    qb_device_close(reference);
}

/* What the fourteen quantizers of a layer may be set to. */
static void
set_mode(attention_case *c, int mode)
{
    case_set_amax(c->layer.matmul_a, 0.9f);
    switch (mode) {
    case 0: /* float */
        switch_all(c, QB_STAGE_DISABLED);
        break;
    case 1: /* integer */
        break;
    case 2: /* only the probabilities are quantized: values, and a float product */
        switch_all(c, QB_STAGE_DISABLED);
        CHECK(qb_quantizer_set_stages(c->layer.matmul_a, QB_STAGE_QUANT) == QB_OK);
        break;
    default: { /* integer scores, probabilities in 16 bits */
        const qb_quantizer_options wide = case_quantizer_options(16, 0);
        CHECK(qb_quantizer_set_options(c->layer.matmul_a, &wide, NULL) == QB_OK);
        break;
    }
    }
}

static void
test_fused_and_kept_probabilities_give_equal_bits_on_every_device(void)
{
    case_devices devices = case_devices_open();
    for (size_t t = 0; t < COUNT(shapes); t++) {
        for (int mode = 0; mode < 4; mode++) {
            const int64_t elements = shapes[t].hidden * (shapes[t].lengths[0] + shapes[t].lengths[1] +
                                                         shapes[t].lengths[2] + shapes[t].lengths[3]);
            float *x = case_random(elements, 1.0f, 24);
            float *expected = case_memory((size_t)elements * sizeof *expected);
            float *y = case_memory((size_t)elements * sizeof *y);
            const float head_mask[5] = {1.0f, 0.5f, 0.0f, 2.0f, 1.0f};
            for (size_t d = 0; d < devices.count; d++) {
                attention_case *c =
                    make_case(devices.at[d], shapes[t].hidden, shapes[t].heads, shapes[t].lengths, shapes[t].count);
                const float *kept = NULL;
                set_mode(c, mode);
                CHECK(run_forward(c, x, head_mask, NULL, d == 0 ? expected : y, NULL) == QB_OK);
                CHECK(d == 0 || same_bits(y, expected, elements));
                CHECK(run_forward(c, x, head_mask, &kept, y, NULL) == QB_OK);
                CHECK(kept != NULL && same_bits(y, expected, elements));
                free_case(c);
            }
            free(x);
            free(y);
            free(expected);
        }
    }
    case_devices_close(&devices);
}

static void
test_batch_mates_change_nothing(void)
{
    qb_device *device = case_device(NULL, 3);
    const int64_t together[] = {17, 31, 2};
    const int64_t alone[] = {31};
    const int64_t h = 48;
    for (int mode = 0; mode < 2; mode++) {
        float *x = case_random(50 * h, 1.0f, 25);
        float *all = case_memory((size_t)(50 * h) * sizeof *all);
        float *one = case_memory((size_t)(31 * h) * sizeof *one);
        attention_case *a = make_case(device, h, 3, together, 3);
        attention_case *b = make_case(device, h, 3, alone, 1);
        for (size_t i = 0; i < a->slots_count; i++) { /* dynamic ranges do depend on the batch */
            case_set_amax(*a->slots[i], 2.0f);
            case_set_amax(*b->slots[i], 2.0f);
        }
        set_mode(a, mode);
        set_mode(b, mode);
        CHECK(run_forward(a, x, NULL, NULL, all, NULL) == QB_OK);
        CHECK(run_forward(b, x + 17 * h, NULL, NULL, one, NULL) == QB_OK);
        CHECK(same_bits(all + 17 * h, one, 31 * h));
        free(x);
        free(all);
        free(one);
        free_case(a);
        free_case(b);
    }
    qb_device_close(device);
}

static void
test_masked_keys_get_probability_zero_and_a_fully_masked_row_is_uniform(void)
{
    qb_device *device = case_device(NULL, 1);
    const int64_t lengths[] = {5};
    const int64_t h = 14;
    attention_case *c = make_case(device, h, 2, lengths, 1);
    float *x = case_random(5 * h, 1.0f, 26);
    float *y = case_memory((size_t)(5 * h) * sizeof *y);
    const float mask[5] = {0.0f, -FLT_MAX, 0.0f, 0.0f, -FLT_MAX};
    int64_t mask_3d[25];
    const float *kept = NULL;
    switch_all(c, QB_STAGE_DISABLED);
    c->sequences.mask = mask;
    CHECK(run_forward(c, x, NULL, &kept, y, NULL) == QB_OK);
    float by_rank_2[50];
    memcpy(by_rank_2, kept, sizeof by_rank_2);
    for (int64_t row = 0; row < 10; row++) {
        const float *p = by_rank_2 + row * 5;
        CHECK(p[1] == 0.0f && p[4] == 0.0f);
        CHECK(fabsf(p[0] + p[2] + p[3] - 1.0f) <= 4.0f * FLT_EPSILON);
    }
    for (int64_t i = 0; i < 25; i++) {
        mask_3d[i] = mask[i % 5] == 0.0f;
    }
    c->sequences.mask = NULL;
    c->sequences.mask_3d = mask_3d;
    CHECK(run_forward(c, x, NULL, &kept, y, NULL) == QB_OK);
    CHECK(same_bits(kept, by_rank_2, 50));
    memset(mask_3d + 10, 0, 5 * sizeof *mask_3d); /* query 2 sees no key */
    CHECK(run_forward(c, x, NULL, &kept, y, NULL) == QB_OK);
    for (int64_t i = 0; i < 5; i++) {
        CHECK(fabsf(kept[10 + i] - 0.2f) <= FLT_EPSILON);
    }
    CHECK(same_bits(kept, by_rank_2, 10));
    free(x);
    free(y);
    free_case(c);
    qb_device_close(device);
}

static void
test_statistics_see_every_tensor_once(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t lengths[] = {17, 2};
    const int64_t h = 30;
    attention_case *c = make_case(device, h, 5, lengths, 2);
    float *x = case_random(19 * h, 1.0f, 27);
    float *y = case_memory((size_t)(19 * h) * sizeof *y);
    qb_observer *observers[QUANTIZERS];
    for (size_t i = 0; i < c->slots_count; i++) {
        observers[i] = case_max_observer(device);
        CHECK(qb_quantizer_set_observer(*c->slots[i], observers[i]) == QB_OK);
    }
    switch_all(c, QB_STAGE_CALIB);
    CHECK(qb_attention_keeps_probabilities(&c->layer));
    CHECK(run_forward(c, x, NULL, NULL, y, NULL) == QB_OK);
    /* visiting order: query, key, value (input, weight), matmul q, k, v, a, dense (input, weight), local, residual */
    const float amax_x = naive_amax(x, 19 * h);
    CHECK(case_observed(observers[0]) == amax_x && case_observed(observers[2]) == amax_x);
    CHECK(case_observed(observers[4]) == amax_x);
    CHECK(case_observed(observers[6]) == naive_amax(c->work.q, 19 * h));
    CHECK(case_observed(observers[7]) == naive_amax(c->work.k, 19 * h));
    CHECK(case_observed(observers[8]) == naive_amax(c->work.v, 19 * h));
    CHECK(case_observed(observers[9]) == naive_amax(c->work.probabilities, 5 * (17 * 17 + 2 * 2)));
    CHECK(case_observed(observers[10]) == naive_amax(c->work.context, 19 * h));
    for (size_t i = 0; i < c->slots_count; i++) {
        qb_observer_release(observers[i]);
    }
    free(x);
    free(y);
    free_case(c);
    qb_device_close(device);
}

static void
test_nan_is_reported_by_site(void)
{
    qb_device *device = case_device(NULL, 2);
    const int64_t lengths[] = {3};
    const int64_t h = 14;
    attention_case *c = make_case(device, h, 2, lengths, 1);
    float *x = case_random(3 * h, 1.0f, 28);
    float *y = case_memory((size_t)(3 * h) * sizeof *y);
    qb_error error;
    switch_all(c, QB_STAGE_DISABLED);
    case_set_amax(c->layer.matmul_q, 1.0f);
    case_set_amax(c->layer.matmul_k, 1.0f);
    CHECK(qb_quantizer_set_stages(c->layer.matmul_q, QB_STAGE_QUANT) == QB_OK);
    CHECK(qb_quantizer_set_stages(c->layer.matmul_k, QB_STAGE_QUANT) == QB_OK);
    x[h] = NAN;
    CHECK(run_forward(c, x, NULL, NULL, y, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "encoder.layer.0.attention.self.matmul_q_input_quantizer: element (1, 0) is NaN");
    switch_all(c, QB_STAGE_DISABLED);
    case_set_amax(c->layer.matmul_a, 1.0f);
    case_set_amax(c->layer.matmul_v, 1.0f);
    CHECK(qb_quantizer_set_stages(c->layer.matmul_a, QB_STAGE_QUANT) == QB_OK);
    CHECK(run_forward(c, x, NULL, NULL, y, &error) == QB_OK); /* a float product lets NaN through */
    free(x);
    free(y);
    free_case(c);
    qb_device_close(device);
}

static void
test_ranges_along_an_axis_are_refused_by_name(void)
{
    qb_device *device = case_device("ref", 1);
    const int64_t lengths[] = {3};
    attention_case *c = make_case(device, 14, 2, lengths, 1);
    float *x = case_random(3 * 14, 1.0f, 29);
    float y[42];
    qb_quantizer_options options = case_quantizer_options(8, 0);
    qb_error error;
    options.axis_count = 1;
    options.axes[0] = -1;
    CHECK(qb_quantizer_set_options(c->layer.matmul_k, &options, NULL) == QB_OK);
    CHECK(run_forward(c, x, NULL, NULL, y, &error) == QB_ERR_UNSUPPORTED);
    CHECK_CONTAINS(error.message, "encoder.layer.0.attention.self.matmul_k_input_quantizer: ");
    free(x);
    free_case(c);
    qb_device_close(device);
}

static void
test_items_are_cut_by_rows_only_when_there_are_few(void)
{
    const int64_t lengths[] = {400};
    const int64_t offsets[] = {0};
    const qb_sequences one = {.count = 1, .tokens = 400, .max_length = 400, .offsets = offsets, .lengths = lengths};
    CHECK(qb_attention_row_splits(&one, 1, 1) == 1);
    CHECK(qb_attention_row_splits(&one, 16, 4) == 1);
    CHECK(qb_attention_row_splits(&one, 1, 4) == 5); /* parts of a block or more */
    CHECK(qb_attention_row_splits(&one, 2, 2) == 4);
}

int
main(void)
{
    RUN(test_float_attention_is_the_definition);
    RUN(test_integer_attention_is_the_naive_integer_products);
    RUN(test_fused_and_kept_probabilities_give_equal_bits_on_every_device);
    RUN(test_batch_mates_change_nothing);
    RUN(test_masked_keys_get_probability_zero_and_a_fully_masked_row_is_uniform);
    RUN(test_statistics_see_every_tensor_once);
    RUN(test_nan_is_reported_by_site);
    RUN(test_ranges_along_an_axis_are_refused_by_name);
    RUN(test_items_are_cut_by_rows_only_when_there_are_few);
    return check_report();
}
