/* SPDX-License-Identifier: Apache-2.0
 *
 * What backward is made of: products on all threads, column sums, transposition, the gradient through a quantizer.
 */
#include "layers/gradient.h"
#include "layers/product.h"

#include "layer_case.h"

enum { ROWS = 83, N = 67, K = 35, LDA = 41 };

typedef struct scratch_case {
    qb_scratch scratch;
    void *block;
} scratch_case;

static scratch_case
scratch_open(const qb_device *device, size_t bytes)
{
    scratch_case made;
    qb_arena arena = qb_arena_measuring();
    qb_scratch_plan(&made.scratch, &arena, qb_queue_threads(device->queue), bytes);
    made.block = aligned_alloc(64, arena.used);
    CHECK(made.block != NULL);
    arena = qb_arena_bind(made.block, arena.used);
    qb_scratch_plan(&made.scratch, &arena, qb_queue_threads(device->queue), bytes);
    qb_scratch_reset(&made.scratch);
    return made;
}

static void
test_products_are_chains_of_fma_whatever_the_device_and_the_row_distance(void)
{
    case_devices devices = case_devices_open();
    float *a = case_random(ROWS * LDA, 1.0f, 1);
    float *b = case_random(N * K, 1.0f, 2); /* element (depth i, column j) at b[i * N + j] */
    float *y = case_memory(ROWS * N * sizeof *y);
    for (size_t d = 0; d < devices.count; d++) {
        qb_device *device = devices.at[d];
        const qb_run run = qb_device_run(device, NULL, NULL);
        int64_t panel;
        size_t bytes;
        size_t unused;
        device->kernels.pack_f32_size(N, K, &panel, &bytes, &unused);
        void *packed = aligned_alloc(64, (bytes + 63) / 64 * 64);
        CHECK(packed != NULL);
        scratch_case scratch = scratch_open(device, qb_product_scratch_bytes(&device->kernels, N, K));
        CHECK(qb_product_pack(&run, b, 1, N, N, K, packed) == QB_OK);
        for (int64_t rows = 1; rows <= ROWS; rows += 41) {
            qb_product product = {.a = a,
                                  .packed = packed,
                                  .lda = LDA,
                                  .rows = rows,
                                  .n = N,
                                  .k = K,
                                  .epilogue = {.divisor = 1.0f},
                                  .y = y};
            CHECK(qb_product_run(&run, &product, 1, &scratch.scratch) == QB_OK);
            int equal = 1;
            for (int64_t m = 0; m < rows; m++) {
                for (int64_t n = 0; n < N; n++) {
                    float sum = 0.0f;
                    for (int64_t k = 0; k < K; k++) {
                        sum = fmaf(a[m * LDA + k], b[k * N + n], sum);
                    }
                    equal &= y[m * N + n] == sum;
                }
            }
            CHECK(equal);
        }
        free(packed);
        free(scratch.block);
    }
    free(a);
    free(b);
    free(y);
    case_devices_close(&devices);
}

static void
test_sums_copies_and_transposes_do_what_their_names_say(void)
{
    case_devices devices = case_devices_open();
    float *x = case_random(ROWS * N, 1.0f, 3);
    float *y = case_memory((size_t)(qb_gradient_stride(ROWS) * N) * sizeof *y);
    for (size_t d = 0; d < devices.count; d++) {
        const qb_run run = qb_device_run(devices.at[d], NULL, NULL);
        int equal = 1;
        CHECK(qb_gradient_transpose(&run, x, ROWS, N, 5, 61, y) == QB_OK);
        for (int64_t c = 0; c < 61; c++) {
            for (int64_t r = 0; r < ROWS; r++) {
                equal &= y[c * qb_gradient_stride(ROWS) + r] == x[r * N + 5 + c];
            }
        }
        for (int64_t c = 0; c < N; c++) {
            y[c] = 0.25f;
        }
        CHECK(qb_gradient_sum_rows(&run, x, ROWS, N, y) == QB_OK);
        for (int64_t c = 0; c < N; c++) {
            float sum = 0.25f;
            for (int64_t r = 0; r < ROWS; r++) {
                sum += x[r * N + c];
            }
            equal &= y[c] == sum;
        }
        CHECK(qb_gradient_copy(&run, x, ROWS * N, y) == QB_OK);
        CHECK(qb_gradient_add(&run, x, ROWS * N, y) == QB_OK);
        for (int64_t i = 0; i < ROWS * N; i++) {
            equal &= y[i] == 2.0f * x[i];
        }
        CHECK(equal);
    }
    free(x);
    free(y);
    case_devices_close(&devices);
}

static void
test_transposed_rows_are_an_odd_number_of_cache_lines_apart(void)
{
    for (int64_t columns = 1; columns <= 4096; columns++) {
        const int64_t stride = qb_gradient_stride(columns);
        CHECK(stride >= columns && stride < columns + 32 && stride % 32 == 16);
    }
}

static void
test_needs_grow_to_the_largest_and_remember_an_overflow(void)
{
    size_t most = 3;
    int overflowed = 0;
    qb_gradient_need(&most, 2, 1, &overflowed);
    CHECK(most == 3 && !overflowed);
    qb_gradient_need(&most, 5, 7, &overflowed);
    CHECK(most == 35 && !overflowed);
    qb_gradient_need(&most, SIZE_MAX / 2, 3, &overflowed);
    CHECK(most == 35 && overflowed);
    const qb_gradient_sizes sizes = {.overflowed = 1};
    qb_gradient_work work;
    qb_arena arena = qb_arena_measuring();
    qb_gradient_plan(&sizes, &work, &arena, NULL);
    CHECK(!qb_arena_ok(&arena));
}

/* ---- through a quantizer ------------------------------------------------------------------------------------------
 */

static void
test_a_gradient_passes_where_nothing_was_clamped(void)
{
    qb_device *device = case_device(NULL, 2);
    qb_error error;
    const qb_run run = qb_device_run(device, NULL, &error);
    const float x[6] = {-1.0f, -0.5f, 0.5f, 0.75f, 1.0f, 2.0f};
    const int64_t shape[2] = {2, 3};
    qb_quantizer_options options = {.struct_size = sizeof options, .num_bits = 8, .fake_quant = 1, .axis_count = -1};
    qb_quantizer *quantizer = NULL;
    CHECK(qb_quantizer_create(device, &options, &quantizer, NULL) == QB_OK);

    float g[6] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};
    CHECK(qb_quantizer_backward(quantizer, &run, x, 2, shape, g) == QB_OK); /* a range made from x clamps nothing */
    CHECK(g[0] == 1.0f && g[5] == 6.0f);

    const float amax = 0.75f;
    CHECK(qb_quantizer_set_amax(quantizer, &amax, 0, NULL, NULL) == QB_OK);
    CHECK(qb_quantizer_backward(quantizer, &run, x, 2, shape, g) == QB_OK);
    CHECK(g[0] == 0.0f && g[1] == 2.0f && g[2] == 3.0f && g[3] == 4.0f && g[4] == 0.0f && g[5] == 0.0f);

    const float of_rows[2] = {0.5f, 2.0f};
    const int64_t column[2] = {2, 1};
    float h[6] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};
    CHECK(qb_quantizer_set_amax(quantizer, of_rows, 2, column, NULL) == QB_OK);
    CHECK(qb_quantizer_backward(quantizer, &run, x, 2, shape, h) == QB_OK);
    CHECK(h[0] == 0.0f && h[1] == 2.0f && h[2] == 3.0f && h[3] == 4.0f && h[5] == 6.0f);

    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_DISABLED) == QB_OK);
    float kept[6] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};
    CHECK(qb_quantizer_backward(quantizer, &run, x, 2, shape, kept) == QB_OK && kept[0] == 1.0f);
    CHECK(qb_quantizer_backward(NULL, &run, x, 2, shape, kept) == QB_OK && kept[0] == 1.0f);

    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_QUANT) == QB_OK);
    options.scale_amax = 0.5f;
    CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
    CHECK(qb_quantizer_backward(quantizer, &run, x, 2, shape, kept) == QB_ERR_UNSUPPORTED);
    CHECK_CONTAINS(error.message, "scale_amax");
    options.scale_amax = 0.0f;
    CHECK(qb_quantizer_set_options(quantizer, &options, NULL) == QB_OK);
    const float factor = 2.0f;
    CHECK(qb_quantizer_set_pre_quant_scale(quantizer, &factor, 0, NULL, NULL) == QB_OK);
    CHECK(qb_quantizer_backward(quantizer, &run, x, 2, shape, kept) == QB_ERR_UNSUPPORTED);
    CHECK_CONTAINS(error.message, "pre_quant_scale");
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

static void
test_learned_bounds_collect_what_they_cut(void)
{
    qb_device *device = case_device(NULL, 3);
    const qb_run run = qb_device_run(device, NULL, NULL);
    const float x[5] = {-2.0f, -1.0f, 0.25f, 0.5f, 3.0f};
    const int64_t shape[1] = {5};
    const qb_quantizer_options options = {
        .struct_size = sizeof options, .num_bits = 8, .fake_quant = 1, .learn_amax = 1, .axis_count = -1};
    qb_quantizer *quantizer = NULL;
    CHECK(qb_quantizer_create(device, &options, &quantizer, NULL) == QB_OK);
    CHECK(qb_quantizer_set_clip(quantizer, -1.0f, 0.5f, NULL) == QB_OK);
    float g[5] = {1.0f, 2.0f, 4.0f, 8.0f, 16.0f};
    float minimum;
    float maximum;
    CHECK(qb_quantizer_backward(quantizer, &run, x, 1, shape, g) == QB_OK);
    CHECK(g[0] == 0.0f && g[1] == 0.0f && g[2] == 4.0f && g[3] == 0.0f && g[4] == 0.0f);
    qb_quantizer_clip_gradient(quantizer, &minimum, &maximum);
    CHECK(minimum == 3.0f && maximum == 24.0f);
    float again[5] = {1.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    CHECK(qb_quantizer_backward(quantizer, &run, x, 1, shape, again) == QB_OK);
    qb_quantizer_clip_gradient(quantizer, &minimum, &maximum);
    CHECK(minimum == 4.0f && maximum == 24.0f);
    qb_quantizer_release(quantizer);
    qb_device_close(device);
}

int
main(void)
{
    RUN(test_products_are_chains_of_fma_whatever_the_device_and_the_row_distance);
    RUN(test_sums_copies_and_transposes_do_what_their_names_say);
    RUN(test_transposed_rows_are_an_odd_number_of_cache_lines_apart);
    RUN(test_needs_grow_to_the_largest_and_remember_an_overflow);
    RUN(test_a_gradient_passes_where_nothing_was_clamped);
    RUN(test_learned_bounds_collect_what_they_cut);
    return check_report();
}
