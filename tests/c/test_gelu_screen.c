/* SPDX-License-Identifier: Apache-2.0
 *
 * The screen before the codes of gelu: its error is within its bound, and no code that it settles differs from the
 * definition's, on every variant that this machine runs.  A product of zeros with biases gives the activation any
 * float.
 */
#include "kernel_check.h"
#include "kernels/gelu_screen.h"

enum { WIDTH = 4096, NEIGHBOURS = 48, RANDOM_PANELS = 48, DEPTH = 4 };

static kernel_tables tables; /* tables.at[0] is the reference */

/* 127 / amax, of ranges that networks have, of one that puts the minimum of gelu, -0.16997, in the middle between two
 * codes, of some for which the screen does not serve, and of a dead quantizer. */
static const float amaxes[] = {0.3f, 1.0f, 3.7f, 127.0f * 0.1699712f / 2.5f, 12.5f, 90.0f, 0.05f, 1e-4f, 0.0f};

static qb_quant_range
range_of(float amax, int is_narrow)
{
    return (qb_quant_range){
        .scale = amax == 0.0f ? 0.0f : 127.0f / amax, .lower = is_narrow ? -127.0f : -128.0f, .upper = 127.0f};
}

static float
gelu(float x)
{
    float y = 0.0f;
    tables.at[0].activation_f32(QB_ACTIVATION_GELU, &x, 1, &y);
    return y;
}

/* The screen's g, with its operations. */
static float
screen(float t)
{
    const float bounded = t < QB_GELU_SCREEN_LIMIT ? t : QB_GELU_SCREEN_LIMIT;
    const float segment = fmaf(bounded, QB_GELU_SCREEN_RATE, 0x1.8p23f) - 0x1.8p23f;
    const int i = (int)segment;
    CHECK(i >= 0 && i < QB_GELU_SCREEN_SEGMENTS);
    return fmaf(fmaf(qb_gelu_screen_c2[i], bounded, qb_gelu_screen_c1[i]), bounded, qb_gelu_screen_c0[i]);
}

static void
test_the_error_is_within_its_bound(void)
{
    double worst = 0.0;
    for (uint32_t bits = 0; bits < 0x42000000u; bits += 509) { /* up to 32 */
        float t;
        memcpy(&t, &bits, sizeof t);
        const double truth = (double)t * 0.5 * erfc((double)t * 0.70710678118654752440);
        worst = fmax(worst, fabs((double)screen(t) - truth));
    }
    (void)printf("  gelu screen: largest error %.3g of %.3g\n", worst, (double)QB_GELU_SCREEN_ERROR);
    CHECK(worst <= (double)QB_GELU_SCREEN_ERROR);
    CHECK(worst >= (double)QB_GELU_SCREEN_ERROR / 2);
}

/* The codes of the gelu of x, of which there are n, at most WIDTH, and whether any is not finite: all variants against
 * the reference. */
static void
compare(const float *x, size_t n, const qb_quant_range *range)
{
    static float step[WIDTH];
    static float made[WIDTH];
    static int8_t expected[WIDTH];
    static int8_t got[WIDTH];
    static const int8_t zeros[WIDTH * DEPTH];
    const qb_epilogue epilogue = {.step = step, .bias = x, .divisor = 1.0f, .activation = QB_ACTIVATION_GELU};
    uint32_t nonfinite = 0;
    tables.at[0].activation_f32(QB_ACTIVATION_GELU, x, n, made);
    tables.at[0].quantize_qs8(made, n, range, expected, &nonfinite);
    for (size_t v = 0; v < tables.count; ++v) {
        const qb_kernels *kernels = &tables.at[v];
        int64_t panel = 0;
        size_t packed_bytes = 0;
        size_t scratch_bytes = 0;
        uint32_t found = 0;
        kernels->pack_qs8_size((int64_t)n, DEPTH, &panel, &packed_bytes, &scratch_bytes);
        guarded packed = guarded_make(packed_bytes, 0);
        guarded scratch = guarded_make(scratch_bytes, 0);
        kernels->pack_qs8(zeros, DEPTH, 1, 0, (int64_t)n, (int64_t)n, DEPTH, packed.data);
        kernels->product_qs8_codes(zeros, DEPTH, 1, packed.data, 0, (int64_t)n, (int64_t)n, DEPTH, &epilogue, range,
                                   got, (int64_t)n, &found, scratch.data);
        const int same = found == nonfinite && (nonfinite != 0 || memcmp(got, expected, n) == 0);
        CHECK(same);
        if (!same) {
            (void)fprintf(stderr, "  %s scale %g\n", kernels->isa, (double)range->scale);
        }
        guarded_free(&packed);
        guarded_free(&scratch);
    }
}

static uint32_t
next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

static void
test_codes_are_the_definition_s_everywhere(void)
{
    static float x[WIDTH];
    uint64_t state = 7;
    for (size_t a = 0; a < COUNT(amaxes); ++a) {
        for (int panel = 0; panel < RANDOM_PANELS; ++panel) {
            const qb_quant_range range = range_of(amaxes[a], panel % 2);
            for (size_t i = 0; i < WIDTH; ++i) {
                const float uniform = (float)next_random(&state) * 0x1p-31f - 1.0f;
                uint32_t bits = next_random(&state) & 0xbfffffffu; /* below 2 in magnitude, of any exponent */
                float any;
                memcpy(&any, &bits, sizeof any);
                x[i] = i % 4 == 0 ? any : uniform * (i % 4 == 1 ? 1.0f : i % 4 == 2 ? 6.0f : 200.0f);
            }
            compare(x, WIDTH, &range);
        }
    }
}

/* Between low and high, whose codes differ, the first float that has not low's. */
static float
threshold_between(float low, float high, float scale)
{
    const float code = rintf(gelu(low) * scale);
    for (float middle = low + (high - low) / 2; middle != low && middle != high; middle = low + (high - low) / 2) {
        if (rintf(gelu(middle) * scale) == code) {
            low = middle;
        }
        else {
            high = middle;
        }
    }
    return high;
}

/* The floats around every place where a code changes: no approximation can settle them. */
static void
test_codes_are_the_definition_s_around_the_thresholds(void)
{
    static float x[WIDTH];
    size_t thresholds = 0;
    for (size_t a = 0; a < COUNT(amaxes); ++a) {
        const qb_quant_range range = range_of(amaxes[a], 0);
        size_t n = 0;
        for (float low = -8.0f; low < 100.0f && range.scale > 0.0f; low += 0.0078125f) {
            const float high = low + 0.0078125f;
            if (rintf(gelu(low) * range.scale) == rintf(gelu(high) * range.scale)) {
                continue;
            }
            ++thresholds;
            float at = threshold_between(low, high, range.scale);
            for (int i = 0; i < NEIGHBOURS / 2; ++i) {
                at = nextafterf(at, -INFINITY);
            }
            for (int i = 0; i < NEIGHBOURS; ++i) {
                x[n++] = at;
                at = nextafterf(at, INFINITY);
            }
            if (n + NEIGHBOURS > WIDTH) {
                compare(x, n, &range);
                n = 0;
            }
        }
        if (n > 0) {
            compare(x, n, &range);
        }
    }
    CHECK(thresholds > 1000);
}

static void
test_what_is_not_finite_is_reported_as_by_the_definition(void)
{
    static const float odd[] = {INFINITY, -INFINITY, NAN, FLT_MAX, -FLT_MAX, -0.0f, FLT_MIN / 2};
    static float x[96];
    for (size_t a = 0; a < COUNT(amaxes); ++a) {
        const qb_quant_range range = range_of(amaxes[a], 0);
        for (size_t i = 0; i < COUNT(odd); ++i) {
            for (size_t at = 0; at < COUNT(x); at += 19) {
                for (size_t j = 0; j < COUNT(x); ++j) {
                    x[j] = (float)j * 0.1f - 4.0f;
                }
                x[at] = odd[i];
                compare(x, COUNT(x), &range);
            }
        }
    }
}

int
main(void)
{
    tables = kernel_tables_load();
    RUN(test_the_error_is_within_its_bound);
    RUN(test_codes_are_the_definition_s_everywhere);
    RUN(test_codes_are_the_definition_s_around_the_thresholds);
    RUN(test_what_is_not_finite_is_reported_as_by_the_definition);
    return check_report();
}
