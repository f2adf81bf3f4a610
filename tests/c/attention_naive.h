/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention twice, as its definition says (layers/attention.h), one query and one key at a time:
 *
 *   naive    in the arithmetic of csrc/README.md: equal to the bit
 *   exact    in float64, with a bound for what float32 may differ by
 *
 * Both begin with x, memory, earlier keys and weights, and take nothing that the layer has computed.
 *
 * The bound is carried along with each value: u = 2^-24 is the unit roundoff, a sum of n products computed in float32
 * is off by at most n u / (1 - n u) of the sum of their magnitudes (Higham, Accuracy and Stability of Numerical
 * Algorithms, section 3.1), and the errors of operands enter to first and second order.
 */
#ifndef QB_TESTS_ATTENTION_NAIVE_H
#define QB_TESTS_ATTENTION_NAIVE_H

#include <float.h>

#include "attention_case.h"

/* ---- which keys a query sees ------------------------------------------------------------------------------------ */

static inline int
naive_sees(const attention_case *c, int64_t sequence, int64_t row, int64_t key)
{
    const qb_sequences *keys = &c->keys.sequences;
    const int64_t rows = c->setup.rows[sequence];
    const int64_t s = c->key_lengths[sequence];
    if (keys->mask_3d != NULL) {
        return keys->mask_3d[(sequence * rows + row) * s + key] != 0;
    }
    const int64_t at = c->key_offsets[sequence] + key;
    const int is_padding = keys->mask != NULL && keys->mask[at] != 0.0f;
    const int is_later = c->inputs.is_causal && c->key_places[at] > c->places[c->offsets[sequence] + row];
    return !is_padding && !is_later;
}

/* The row of the table for this query and key. */
static inline const float *
naive_distance(const attention_case *c, int64_t sequence, int64_t row, int64_t key)
{
    const int64_t positions = (c->layer.distance.out_features + 1) / 2;
    const int64_t i = c->places[c->offsets[sequence] + row];
    const int64_t j = c->key_places[c->key_offsets[sequence] + key];
    return c->layer.distance.weight.data + (i - j + positions - 1) * c->setup.head_size;
}

/* ---- to the bit ------------------------------------------------------------------------------------------------- */

/* One operand of a product: scale 0 if its quantizer is off. */
typedef struct naive_operand {
    float scale;
    int32_t bits;
} naive_operand;

static inline naive_operand
naive_operand_of(const qb_quantizer *quantizer, const float *x, int64_t n)
{
    if (qb_quantizer_stages(quantizer) & QB_STAGE_DISABLED) {
        return (naive_operand){0.0f, 0};
    }
    const int32_t bits = quantizer->options.num_bits;
    const float amax = quantizer->amax.data != NULL ? quantizer->amax.data[0] : naive_amax(x, n);
    return (naive_operand){naive_scale(amax, bits), bits};
}

static inline float
naive_value(float x, naive_operand of)
{
    return of.scale == 0.0f ? x : (float)naive_code(x, of.scale, of.bits) / of.scale;
}

/* Of codes where both are quantized to 8 bits or fewer, otherwise a chain of values; then + bias. */
static inline float
naive_product(const float *a, int64_t a_stride, naive_operand of_a, const float *b, int64_t b_stride,
              naive_operand of_b, int64_t n, float bias)
{
    if (of_a.scale == 0.0f || of_b.scale == 0.0f || of_a.bits > 8 || of_b.bits > 8) {
        float chain = 0.0f;
        for (int64_t i = 0; i < n; i++) {
            chain = fmaf(naive_value(a[i * a_stride], of_a), naive_value(b[i * b_stride], of_b), chain);
        }
        return chain + bias;
    }
    int32_t acc = 0;
    for (int64_t i = 0; i < n; i++) {
        acc += naive_code(a[i * a_stride], of_a.scale, of_a.bits) * naive_code(b[i * b_stride], of_b.scale, of_b.bits);
    }
    return fmaf((float)acc, (1.0f / of_a.scale) * (1.0f / of_b.scale), bias);
}

/* x W' + b, (rows, N D); to be freed. */
static inline float *
naive_projection(const attention_case *c, const qb_linear *layer, const float *x, int64_t rows)
{
    const int64_t h = c->setup.hidden;
    const naive_operand of_x = naive_operand_of(layer->input_quantizer, x, rows * h);
    float *y = (float *)case_memory((size_t)(rows * c->width) * sizeof *y);
    for (int64_t n = 0; n < c->width; n++) {
        const float *weight = layer->weight.data + n * h;
        const float bias = layer->bias.data[n];
        const naive_operand of_weight = naive_operand_of(layer->weight_quantizer, weight, h); /* a range for each row */
        for (int64_t i = 0; i < rows; i++) {
            y[i * c->width + n] = naive_product(x + i * h, 1, of_x, weight, 1, of_weight, h, bias);
        }
    }
    return y;
}

/* What all queries look at, (keys, N D); to be freed. */
static inline float *
naive_keys(const attention_case *c, const qb_linear *layer, const float *earlier)
{
    const int64_t d = c->setup.head_size;
    float *fresh = naive_projection(c, layer, c->setup.is_cross ? c->memory : c->x, c->keys.projected);
    float *all = (float *)case_memory((size_t)(c->key_tokens * c->width) * sizeof *all);
    const float *next = fresh;
    for (int64_t i = 0; i < c->setup.count; i++) {
        for (int64_t j = 0; j < c->key_lengths[i]; j++) {
            float *row = all + (c->key_offsets[i] + j) * c->width;
            if (j >= c->setup.earlier[i]) {
                memcpy(row, next, (size_t)c->width * sizeof *row);
                next += c->width;
                continue;
            }
            for (int64_t f = 0; f < c->width; f++) {
                const int64_t pair = i * c->setup.heads + f / d;
                const int64_t column = c->key_places[c->key_offsets[i] + j];
                row[f] = earlier[(pair * c->setup.earlier_width + column) * d + f % d];
            }
        }
    }
    free(fresh);
    return all;
}

/* q, k and v of a forward. */
typedef struct naive_inputs {
    float *q, *k, *v; /* (M, N D), (keys, N D) */
    naive_operand of_q, of_k, of_v;
} naive_inputs;

static inline naive_inputs
naive_inputs_make(const attention_case *c)
{
    naive_inputs made = {.q = naive_projection(c, &c->layer.query, c->x, c->tokens),
                         .k = naive_keys(c, &c->layer.key, c->earlier_keys),
                         .v = naive_keys(c, &c->layer.value, c->earlier_values)};
    made.of_q = naive_operand_of(c->layer.matmul_q, made.q, c->tokens * c->width);
    made.of_k = naive_operand_of(c->layer.matmul_k, made.k, c->key_tokens * c->width);
    made.of_v = naive_operand_of(c->layer.matmul_v, made.v, c->key_tokens * c->width);
    return made;
}

static inline void
naive_inputs_free(naive_inputs *in)
{
    free(in->q);
    free(in->k);
    free(in->v);
}

/* Scores of one query, and their mask. */
static inline void
naive_scores(const attention_case *c, const naive_inputs *in, int64_t sequence, int64_t head, int64_t row, float *s,
             float *mask)
{
    const naive_operand itself = {0.0f, 0};
    const int64_t d = c->setup.head_size;
    const float *q = in->q + (c->offsets[sequence] + row) * c->width + head * d;
    for (int64_t j = 0; j < c->key_lengths[sequence]; j++) {
        const float *k = in->k + (c->key_offsets[sequence] + j) * c->width + head * d;
        s[j] = naive_product(q, 1, in->of_q, k, 1, in->of_k, d, 0.0f);
        if (c->setup.positions != QB_POSITIONS_ABSOLUTE) {
            const float *e = naive_distance(c, sequence, row, j);
            s[j] += naive_product(q, 1, itself, e, 1, itself, d, 0.0f);
            if (c->setup.positions == QB_POSITIONS_RELATIVE_KEY_QUERY) {
                s[j] += naive_product(k, 1, itself, e, 1, itself, d, 0.0f);
            }
        }
        s[j] /= sqrtf((float)d);
        mask[j] = naive_sees(c, sequence, row, j) ? 0.0f : -FLT_MAX;
    }
}

/* Probabilities of the layer, per sequence (N, T, S); softmax is the reference kernel's, which is bit-defined.  To be
 * freed. */
static inline float *
naive_probabilities(const attention_case *c, const naive_inputs *in, const qb_kernels *reference)
{
    const int64_t heads = c->setup.heads;
    const int64_t longest = c->keys.sequences.max_length;
    float *all = (float *)case_memory((size_t)(heads * c->tokens * longest) * sizeof *all);
    float *mask = (float *)case_memory((size_t)longest * sizeof *mask);
    float *p = all;
    for (int64_t i = 0; i < c->setup.count; i++) {
        const int64_t s = c->key_lengths[i];
        for (int64_t pair = 0; pair < heads * c->setup.rows[i]; pair++) {
            const int64_t head = pair / c->setup.rows[i];
            naive_scores(c, in, i, head, pair % c->setup.rows[i], p, mask);
            reference->softmax_f32(p, 1, (size_t)s, (size_t)s, mask);
            for (int64_t j = 0; c->inputs.head_mask != NULL && j < s; j++) {
                p[j] *= c->inputs.head_mask[head];
            }
            p += s;
        }
    }
    free(mask);
    return all;
}

/* Context (M, N D) of these probabilities; to be freed. */
static inline float *
naive_context(const attention_case *c, const naive_inputs *in, const float *probabilities)
{
    const int64_t d = c->setup.head_size;
    const int64_t count = qb_attention_probability_count(&c->sequences, &c->keys.sequences, c->setup.heads);
    const naive_operand of_a = naive_operand_of(c->layer.matmul_a, probabilities, count);
    float *context = (float *)case_memory((size_t)(c->tokens * c->width) * sizeof *context);
    const float *p = probabilities;
    for (int64_t i = 0; i < c->setup.count; i++) {
        const int64_t s = c->key_lengths[i];
        for (int64_t pair = 0; pair < c->setup.heads * c->setup.rows[i]; pair++) {
            const int64_t head = pair / c->setup.rows[i];
            const int64_t row = c->offsets[i] + pair % c->setup.rows[i];
            for (int64_t f = 0; f < d; f++) {
                const float *v = in->v + c->key_offsets[i] * c->width + head * d + f;
                context[row * c->width + head * d + f] = naive_product(p, 1, of_a, v, c->width, in->of_v, s, 0.0f);
            }
            p += s;
        }
    }
    return context;
}

/* 1 if work.context holds the codes that the dense layer makes of the context, in its stead. */
static inline int
naive_context_is_coded(const attention_case *c)
{
    qb_edge edge = qb_linear_edge(&c->layer.output.dense);
    edge.maker = (qb_site){.a = &c->layer.matmul_a, .b = &c->layer.matmul_v};
    return qb_edge_refusal(&edge, NULL) == NULL;
}

/* Whether work.context is this context, or its codes. */
static inline int
naive_context_is(const attention_case *c, const float *context)
{
    const int64_t n = c->tokens * c->width;
    if (!naive_context_is_coded(c)) {
        return same_bits(c->work.context, context, n);
    }
    const int8_t *codes = (const int8_t *)c->work.context;
    const float scale = naive_scale(c->layer.output.dense.input_quantizer->amax.data[0], 8);
    int same = 1;
    for (int64_t i = 0; i < n; i++) {
        same &= codes[i] == naive_code(context[i], scale, 8);
    }
    return same;
}

/* Check work.context, and `kept` (may be NULL) against the naive probabilities. */
static inline void
check_naive(const attention_case *c, const qb_kernels *reference, const float *kept)
{
    naive_inputs in = naive_inputs_make(c);
    float *probabilities = naive_probabilities(c, &in, reference);
    float *context = naive_context(c, &in, probabilities);
    const int64_t count = qb_attention_probability_count(&c->sequences, &c->keys.sequences, c->setup.heads);
    CHECK(kept == NULL || same_bits(kept, probabilities, count));
    CHECK(naive_context_is(c, context));
    free(probabilities);
    free(context);
    naive_inputs_free(&in);
}

/* ---- in float64, with bounds ------------------------------------------------------------------------------------ */

static const double UNIT = 0x1p-24;

typedef struct bounded {
    double value, error;
} bounded;

static inline bounded
bounded_dot(const bounded *a, const bounded *b, int64_t b_stride, int64_t n)
{
    bounded sum = {0.0, 0.0};
    double magnitude = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const bounded x = a[i];
        const bounded y = b[i * b_stride];
        sum.value += x.value * y.value;
        sum.error += fabs(x.value) * y.error + x.error * fabs(y.value) + x.error * y.error;
        magnitude += (fabs(x.value) + x.error) * (fabs(y.value) + y.error);
    }
    sum.error += (double)n * UNIT / (1.0 - (double)n * UNIT) * magnitude;
    return sum;
}

static inline bounded
bounded_add(bounded a, bounded b)
{
    const double value = a.value + b.value;
    const double error = a.error + b.error;
    return (bounded){value, error + UNIT * (fabs(value) + error)};
}

/* One head's rows of x W' + b; to be freed. */
static inline bounded *
exact_projection(const attention_case *c, const qb_linear *layer, const float *x, int64_t rows, int64_t head)
{
    const int64_t d = c->setup.head_size;
    const int64_t h = c->setup.hidden;
    bounded *y = (bounded *)case_memory((size_t)(rows * d) * sizeof *y);
    bounded *row = (bounded *)case_memory((size_t)(2 * h) * sizeof *row);
    bounded *weight = row + h;
    for (int64_t i = 0; i < rows * d; i++) {
        const int64_t out = head * d + i % d;
        for (int64_t f = 0; f < h; f++) {
            row[f] = (bounded){(double)x[i / d * h + f], 0.0};
            weight[f] = (bounded){(double)layer->weight.data[out * h + f], 0.0};
        }
        y[i] = bounded_add(bounded_dot(row, weight, 1, h), (bounded){(double)layer->bias.data[out], 0.0});
    }
    free(row);
    return y;
}

/* One sequence's and head's keys or values (S, D): earlier ones as they are, then the projected ones; to be freed. */
static inline bounded *
exact_keys(const attention_case *c, const qb_linear *layer, const float *earlier, int64_t sequence, int64_t head)
{
    const int64_t d = c->setup.head_size;
    const int64_t h = c->setup.hidden;
    const int64_t before = c->setup.earlier[sequence];
    const int64_t projected = c->key_lengths[sequence] - before;
    const float *z =
        c->setup.is_cross ? c->memory + case_sum(c->setup.memory, sequence) * h : c->x + c->offsets[sequence] * h;
    bounded *made = (bounded *)case_memory((size_t)((before + projected) * d) * sizeof *made);
    bounded *fresh = exact_projection(c, layer, z, projected, head);
    for (int64_t i = 0; i < before * d; i++) {
        const int64_t column = c->key_places[c->key_offsets[sequence] + i / d];
        const int64_t at = ((sequence * c->setup.heads + head) * c->setup.earlier_width + column) * d + i % d;
        made[i] = (bounded){(double)earlier[at], 0.0};
    }
    memcpy(made + before * d, fresh, (size_t)(projected * d) * sizeof *made);
    free(fresh);
    return made;
}

static inline bounded
exact_score(const attention_case *c, int64_t sequence, int64_t row, int64_t key, const bounded *q, const bounded *k)
{
    const int64_t d = c->setup.head_size;
    bounded s = bounded_dot(q, k, 1, d);
    if (c->setup.positions != QB_POSITIONS_ABSOLUTE) {
        const float *table = naive_distance(c, sequence, row, key);
        bounded e[64];
        for (int64_t f = 0; f < d; f++) {
            e[f] = (bounded){(double)table[f], 0.0};
        }
        s = bounded_add(s, bounded_dot(q, e, 1, d));
        if (c->setup.positions == QB_POSITIONS_RELATIVE_KEY_QUERY) {
            s = bounded_add(s, bounded_dot(k, e, 1, d));
        }
    }
    s.value /= sqrt((double)d);
    s.error = s.error / sqrt((double)d) * (1.0 + 4.0 * UNIT) + 2.0 * UNIT * fabs(s.value); /* root and quotient */
    return s;
}

/* Softmax over the keys that are seen, times a factor; all alike if none is.
 *
 * Float32 computes exp of s - max, both off by at most e, with a rounding of the difference (u times its magnitude) and
 * exp's own 1 ulp (2 u), so each term by a factor exp(+-t), t = 2 e + (range + 2) u; the sum of S terms adds S u, the
 * reciprocal and the product one u each.  Terms below exp(-104) are 0, and terms below 2^-126 have fewer bits. */
static inline void
exact_softmax(const attention_case *c, int64_t sequence, int64_t row, double factor, bounded *s)
{
    const int64_t n = c->key_lengths[sequence];
    double largest = -HUGE_VAL;
    double smallest = HUGE_VAL;
    double error = 0.0;
    double sum = 0.0;
    for (int64_t j = 0; j < n; j++) {
        if (naive_sees(c, sequence, row, j)) {
            largest = s[j].value > largest ? s[j].value : largest;
            smallest = s[j].value < smallest ? s[j].value : smallest;
            error = s[j].error > error ? s[j].error : error;
        }
    }
    const int sees_none = largest == -HUGE_VAL;
    for (int64_t j = 0; j < n; j++) {
        s[j].value = sees_none ? 1.0 : naive_sees(c, sequence, row, j) ? exp(s[j].value - largest) : 0.0;
        sum += s[j].value;
    }
    const double t = sees_none ? 0.0 : 2.0 * error + (largest - smallest + 2.0) * UNIT;
    const double relative = expm1(2.0 * t + ((double)n + 3.0) * UNIT);
    for (int64_t j = 0; j < n; j++) {
        const double p = s[j].value / sum * factor;
        s[j] = (bounded){p, p == 0.0 ? 0.0 : fabs(p) * relative + 0x1p-120};
    }
}

/* One query's context (D). */
static inline void
exact_context(const attention_case *c, int64_t sequence, int64_t head, int64_t row, const bounded *q, const bounded *k,
              const bounded *v, bounded *context)
{
    const int64_t d = c->setup.head_size;
    const int64_t n = c->key_lengths[sequence];
    const double factor = c->inputs.head_mask == NULL ? 1.0 : (double)c->inputs.head_mask[head];
    bounded *p = (bounded *)case_memory((size_t)n * sizeof *p);
    for (int64_t j = 0; j < n; j++) {
        p[j] = exact_score(c, sequence, row, j, q, k + j * d);
    }
    exact_softmax(c, sequence, row, factor, p);
    for (int64_t f = 0; f < d; f++) {
        context[f] = bounded_dot(p, v + f, d, n);
    }
    free(p);
}

/* Check work.context of a forward with all quantizers off.  Returns the largest part of the bound that was used. */
static inline double
check_exact(const attention_case *c)
{
    const int64_t d = c->setup.head_size;
    double used = 0.0;
    for (int64_t pair = 0; pair < c->setup.count * c->setup.heads; pair++) {
        const int64_t i = pair / c->setup.heads;
        const int64_t head = pair % c->setup.heads;
        bounded *q =
            exact_projection(c, &c->layer.query, c->x + c->offsets[i] * c->setup.hidden, c->setup.rows[i], head);
        bounded *k = exact_keys(c, &c->layer.key, c->earlier_keys, i, head);
        bounded *v = exact_keys(c, &c->layer.value, c->earlier_values, i, head);
        for (int64_t row = 0; row < c->setup.rows[i]; row++) {
            bounded context[64];
            const float *got = c->work.context + (c->offsets[i] + row) * c->width + head * d;
            exact_context(c, i, head, row, q + row * d, k, v, context);
            for (int64_t f = 0; f < d; f++) {
                const double off = fabs((double)got[f] - context[f].value);
                CHECK(off <= context[f].error);
                used = off / context[f].error > used ? off / context[f].error : used;
            }
        }
        free(q);
        free(k);
        free(v);
    }
    return used;
}

/* ---- whole tables of setups -------------------------------------------------------------------------------------- */

static const float naive_head_mask[5] = {1.0f, 0.5f, 0.0f, 2.0f, 1.0f};

/* Quantizers off: the definition within its bounds, of which at least a thousandth is used somewhere (a bound that is
 * much too wide would prove little). */
static inline void
check_definition(qb_device *device, const attention_setup *setups, size_t count)
{
    double used = 0.0;
    for (size_t t = 0; t < count; t++) {
        attention_case *c = attention_make(device, &setups[t]);
        float *y = attention_output(c);
        attention_set_mode(c, MODE_FLOAT);
        c->inputs.head_mask = t % 2 == 0 ? naive_head_mask : NULL;
        CHECK(attention_run(c, y, NULL) == QB_OK);
        const double part = check_exact(c);
        used = part > used ? part : used;
        free(y);
        attention_free(c);
    }
    CHECK(used > 0.001);
}

/* One setup and mode: naive on the reference, and equal bits on every device, in one region and in two. */
static inline void
check_bits(const case_devices *devices, const attention_setup *setup, attention_mode mode)
{
    void *context = NULL;
    float *expected = NULL;
    for (size_t d = 0; d < devices->count; d++) {
        attention_case *c = attention_make(devices->at[d], setup);
        const int64_t n = c->tokens * c->width;
        float *y = attention_output(c);
        const float *kept = NULL;
        attention_set_mode(c, mode);
        const size_t bytes = (size_t)n * (naive_context_is_coded(c) ? sizeof(int8_t) : sizeof(float));
        c->inputs.head_mask = naive_head_mask;
        CHECK(attention_run(c, y, NULL) == QB_OK);
        if (d == 0) {
            check_naive(c, &devices->at[0]->kernels, NULL);
            context = case_memory(bytes);
            memcpy(context, c->work.context, bytes);
            expected = attention_output(c);
            memcpy(expected, y, (size_t)(c->tokens * setup->hidden) * sizeof *y);
        }
        for (int keeps = 0; keeps < 2; keeps++) {
            CHECK(memcmp(c->work.context, context, bytes) == 0);
            CHECK(same_bits(y, expected, c->tokens * setup->hidden));
            attention_keep(c, &kept);
            CHECK(keeps == 1 || (attention_run(c, y, NULL) == QB_OK && kept != NULL));
        }
        free(y);
        attention_free(c);
    }
    free(context);
    free(expected);
}

/* The last sequence of a setup has the bits that it has alone. */
static inline void
check_batch_mates(qb_device *device, const attention_setup *setup, attention_mode mode)
{
    const int64_t last = setup->count - 1;
    const int64_t h = setup->hidden;
    attention_setup one = *setup;
    one.count = 1;
    one.rows[0] = setup->rows[last];
    one.earlier[0] = setup->earlier[last];
    one.memory[0] = setup->memory[last];
    attention_case *together = attention_make(device, setup);
    attention_case *alone = attention_make(device, &one);
    float *all = attention_output(together);
    float *y = attention_output(alone);
    const int64_t earlier = one.heads * one.earlier_width * one.head_size;
    const int64_t memory = case_sum(setup->memory, last);
    const float *x = together->x + together->offsets[last] * h;
    memcpy(alone->x, x, (size_t)(alone->tokens * h) * sizeof *y);
    memcpy(alone->memory, together->memory + memory * h, (size_t)(one.memory[0] * h) * sizeof *y);
    memcpy(alone->earlier_keys, together->earlier_keys + last * earlier, (size_t)earlier * sizeof *y);
    memcpy(alone->earlier_values, together->earlier_values + last * earlier, (size_t)earlier * sizeof *y);
    attention_set_mode(together, mode);
    attention_set_mode(alone, mode);
    CHECK(attention_run(together, all, NULL) == QB_OK);
    CHECK(attention_run(alone, y, NULL) == QB_OK);
    CHECK(same_bits(y, all + together->offsets[last] * h, alone->tokens * h));
    free(all);
    free(y);
    attention_free(together);
    attention_free(alone);
}

#endif
