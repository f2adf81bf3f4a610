/* SPDX-License-Identifier: Apache-2.0
 *
 * Padded tensors to ragged sequences and back.  What is refused on the way: test_batch_check.c.
 */
#include "models/batch.h"

#include <pthread.h>
#include <stdatomic.h>

#include "model_case.h"

enum { MAX_BATCH = 3, MAX_LENGTH = 5, MAX_PAST = 4, MAX_ENCODER = 3 };

static const qb_session_options limits = {.max_sequences = MAX_BATCH,
                                          .max_length = MAX_LENGTH,
                                          .max_tokens = MAX_BATCH * MAX_LENGTH,
                                          .max_past = MAX_PAST,
                                          .max_encoder_length = MAX_ENCODER};

/* A planned batch for a model with cross-attention. */
typedef struct batch_case {
    qb_bert_config config;
    qb_batch batch;
    void *block;
    qb_forward_inputs inputs;
    const float *arrays[LAYERS];
    float states[MAX_BATCH * MAX_ENCODER * HIDDEN];
} batch_case;

static batch_case *
make(int64_t batch, int64_t length, const int64_t *ids, const int64_t *mask)
{
    batch_case *c = case_memory(sizeof *c);
    qb_model_options options = model_options(QB_HEAD_LANGUAGE_MODEL);
    options.add_cross_attention = 1;
    CHECK(qb_bert_config_init(&c->config, &options, NULL) == QB_OK);
    const qb_limits planned = {.sequences = MAX_BATCH,
                               .tokens = MAX_BATCH * MAX_LENGTH,
                               .length = MAX_LENGTH,
                               .past = MAX_PAST,
                               .encoder_length = MAX_ENCODER};
    qb_arena arena = qb_arena_measuring();
    qb_batch_plan(&c->batch, &arena, &planned, HIDDEN);
    c->block = case_aligned(arena.used);
    arena = qb_arena_bind(c->block, arena.used);
    qb_batch_plan(&c->batch, &arena, &planned, HIDDEN);
    c->inputs = model_inputs(batch, length, ids, mask);
    for (int64_t i = 0; i < LAYERS; i++) {
        c->arrays[i] = c->states;
    }
    for (int64_t i = 0; i < MAX_BATCH * MAX_ENCODER * HIDDEN; i++) {
        c->states[i] = (float)(i / HIDDEN);
    }
    c->inputs.past_keys = c->arrays;
    c->inputs.past_values = c->arrays;
    c->inputs.encoder_attention_mask_rank = 2;
    return c;
}

static void
drop(batch_case *c)
{
    free(c->block);
    free(c);
}

static int
same_integers(const int64_t *a, const int64_t *b, int64_t n)
{
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

/* ---- there ------------------------------------------------------------------------------------------------------ */

static void
test_keys_are_the_earlier_columns_that_count_and_then_the_tokens(void)
{
    const int64_t ids[6] = {5, 6, 7, 8, 9, 10};
    const int64_t mask[12] = {1, 0, 1, /* past */ 1, 0, 1, /* second row */ 0, 0, 0, 1, 1, 0};
    const int64_t lengths[2] = {2, 2};
    const int64_t places[4] = {3, 5, 3, 4};
    const int64_t rows[4] = {0, 2, 3, 4};
    const int64_t key_lengths[2] = {4, 2};
    const int64_t key_offsets[2] = {0, 4};
    const int64_t key_places[6] = {0, 2, 3, 5, 3, 4};
    const int64_t positions[4] = {3, 5, 3, 4}; /* after the past */
    batch_case *c = make(2, 3, ids, mask);
    c->inputs.past_length = 3;
    CHECK(qb_batch_fill(&c->batch, &c->config, &limits, &c->inputs, NULL) == QB_OK);
    CHECK(c->batch.sequences.tokens == 4 && c->batch.sequences.max_length == 2 && c->batch.sequences.mask == NULL);
    CHECK(same_integers(c->batch.sequences.lengths, lengths, 2));
    CHECK(same_integers(c->batch.sequences.places, places, 4));
    CHECK(same_integers(c->batch.rows, rows, 4));
    CHECK(same_integers(c->batch.tokens.positions, positions, 4));
    CHECK(c->batch.keys.tokens == 6 && c->batch.keys.max_length == 4 && c->batch.keys.mask == NULL);
    CHECK(same_integers(c->batch.keys.lengths, key_lengths, 2));
    CHECK(same_integers(c->batch.keys.offsets, key_offsets, 2));
    CHECK(same_integers(c->batch.keys.places, key_places, 6));
    drop(c);
}

static void
test_computed_padding_is_a_mask_over_all_keys(void)
{
    const int64_t ids[4] = {5, 6, 7, 8};
    const int64_t mask[6] = {1, 1, 0, /* second row */ 0, 0, 0};
    batch_case *c = make(2, 2, ids, mask);
    c->inputs.past_length = 1;
    c->inputs.padding = QB_PADDING_COMPUTE;
    CHECK(qb_batch_fill(&c->batch, &c->config, &limits, &c->inputs, NULL) == QB_OK);
    CHECK(c->batch.sequences.tokens == 4 && c->batch.keys.tokens == 6 && c->batch.keys.mask_3d == NULL);
    for (int64_t i = 0; i < 6; i++) {
        CHECK(c->batch.keys.places[i] == i % 3);
        CHECK((c->batch.keys.mask[i] == 0.0f) == (mask[i] != 0));
    }
    drop(c);
}

static void
test_encoder_tokens_are_gathered_unless_their_keys_are_given(void)
{
    const int64_t ids[2] = {5, 6};
    const int64_t mask[6] = {0, 1, 1, /* second row */ 1, 0, 0};
    const int64_t places[3] = {1, 2, 0};
    batch_case *c = make(2, 1, ids, NULL);
    c->inputs.encoder_length = 3;
    c->inputs.encoder_attention_mask = mask;
    c->inputs.encoder_hidden_states = c->states;
    CHECK(qb_batch_fill(&c->batch, &c->config, &limits, &c->inputs, NULL) == QB_OK);
    CHECK(c->batch.encoder.tokens == 3 && c->batch.encoder.max_length == 2 && c->batch.encoder.mask == NULL);
    CHECK(same_integers(c->batch.encoder.places, places, 3));
    CHECK(c->batch.memory != NULL);
    for (int64_t f = 0; f < HIDDEN; f++) {
        CHECK(c->batch.memory[f] == 1.0f && c->batch.memory[HIDDEN + f] == 2.0f);
        CHECK(c->batch.memory[2 * HIDDEN + f] == 3.0f);
    }
    c->inputs.cross_keys = c->arrays;
    c->inputs.cross_values = c->arrays;
    CHECK(qb_batch_fill(&c->batch, &c->config, &limits, &c->inputs, NULL) == QB_OK);
    CHECK(c->batch.memory == NULL && c->batch.encoder.tokens == 3);
    drop(c);
}

/* ---- and back --------------------------------------------------------------------------------------------------- */

static void
test_tokens_go_back_to_their_places_and_the_rest_is_zero(void)
{
    const int64_t ids[6] = {5, 6, 7, 8, 9, 10};
    const int64_t mask[6] = {0, 1, 1, 1, 0, 0};
    const float rows[6] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}; /* two features of three tokens */
    const float expected[12] = {0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0};
    const float pairs[5] = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f}; /* one head: (2, 2), then (1, 1) */
    const float expected_pairs[18] = {0, 0, 0, 0, 0.1f, 0.2f, 0, 0.3f, 0.4f, 0.5f};
    float y[18];
    batch_case *c = make(2, 3, ids, mask);
    CHECK(qb_batch_fill(&c->batch, &c->config, &limits, &c->inputs, NULL) == QB_OK);
    CHECK(c->batch.sequences.tokens == 3 && c->batch.sequences.max_length == 2 && c->batch.keys.mask == NULL);
    CHECK(c->batch.ids[0] == 6 && c->batch.ids[1] == 7 && c->batch.ids[2] == 8);
    CHECK(c->batch.positions[0] == 1 && c->batch.positions[1] == 2 && c->batch.positions[2] == 0);
    memset(y, 0xff, sizeof y);
    qb_batch_scatter(&c->batch, rows, 2, y);
    CHECK(same_bits(y, expected, 12));
    memset(y, 0xff, sizeof y);
    qb_batch_scatter_pairs(&c->batch, &c->batch.keys, 3, pairs, 1, y);
    CHECK(same_bits(y, expected_pairs, 18));
    drop(c);
}

static void
test_new_keys_follow_the_earlier_ones_which_stay_as_they_are(void)
{
    const int64_t ids[4] = {5, 6, 7, 8};
    const int64_t mask[6] = {0, 1, 0, /* second row */ 1, 1, 1};
    /* (B, N, past, D) = (2, 2, 1, 2), of which a masked column is kept too */
    const float earlier[8] = {-1, -2, -3, -4, -5, -6, -7, -8};
    /* (M, N D): one token, then two */
    const float rows[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    /* (B, N, past + T, D) */
    const float expected[24] = {-1, -2, 1, 2, 0, 0,  /* head 1 */ -3, -4, 3, 4, 0,  0,
                                -5, -6, 5, 6, 9, 10, /* head 1 */ -7, -8, 7, 8, 11, 12};
    float y[24];
    batch_case *c = make(2, 2, ids, mask);
    c->inputs.past_length = 1;
    CHECK(qb_batch_fill(&c->batch, &c->config, &limits, &c->inputs, NULL) == QB_OK);
    memset(y, 0xff, sizeof y);
    qb_batch_scatter_keys(&c->batch, earlier, rows, 2, 2, y);
    CHECK(same_bits(y, expected, 24));
    drop(c);
}

static void
test_encoder_keys_and_cross_attentions_go_back_to_their_columns(void)
{
    const int64_t ids[4] = {5, 6, 7, 8};
    const int64_t mask[4] = {1, 1, /* second row */ 0, 1};
    const int64_t encoder_mask[6] = {0, 1, 1, /* second row */ 1, 0, 0};
    const float rows[6] = {1, 2, 3, 4, 5, 6};                                       /* (encoder tokens, D), one head */
    const float expected[12] = {0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0};                /* (B, 1, S, D) */
    const float pairs[5] = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f};                          /* (2, 2), then (1, 1) */
    const float expected_pairs[12] = {0, 0.1f, 0.2f, 0, 0.3f, 0.4f, 0, 0, 0, 0.5f}; /* (B, 1, T, S) */
    float y[12];
    batch_case *c = make(2, 2, ids, mask);
    c->inputs.encoder_length = 3;
    c->inputs.encoder_attention_mask = encoder_mask;
    c->inputs.encoder_hidden_states = c->states;
    CHECK(qb_batch_fill(&c->batch, &c->config, &limits, &c->inputs, NULL) == QB_OK);
    memset(y, 0xff, sizeof y);
    qb_batch_scatter_encoder_keys(&c->batch, rows, 1, 2, y);
    CHECK(same_bits(y, expected, 12));
    memset(y, 0xff, sizeof y);
    qb_batch_scatter_pairs(&c->batch, &c->batch.encoder, 3, pairs, 1, y);
    CHECK(same_bits(y, expected_pairs, 12));
    drop(c);
}

/* ---- arrays that change meanwhile ------------------------------------------------------------------------------- */

/* The arrays are the caller's, and so is the fault; but no index may then lead out of a table.  ThreadSanitizer reports
 * the caller's race itself. */
#if defined(__SANITIZE_THREAD__)
#define HAS_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAS_THREAD_SANITIZER 1
#endif
#endif

typedef struct writer {
    _Atomic int is_done;
    volatile int64_t ids[MAX_BATCH * MAX_LENGTH], types[MAX_BATCH * MAX_LENGTH], positions[MAX_BATCH * MAX_LENGTH];
    volatile int64_t mask[MAX_BATCH * (MAX_PAST + MAX_LENGTH)], encoder_mask[MAX_BATCH * MAX_ENCODER];
    volatile unsigned long long sink;
} writer;

static void
wait(writer *w, unsigned long long *seed, int steps)
{
    for (int i = 0; i < steps; i++) {
        w->sink = check_random(seed);
    }
}

/* Mostly right, so that checks pass, and wrong for moments. */
static void *
keep_changing(void *argument)
{
    writer *w = argument;
    unsigned long long seed = 99;
    while (!atomic_load(&w->is_done)) {
        const unsigned long long random = check_random(&seed);
        volatile int64_t *const arrays[] = {w->ids, w->types, w->positions}; /* one at a time: errors hide each other */
        const size_t array = random % COUNT(arrays);
        const int64_t i = (int64_t)(random >> 8) % (MAX_BATCH * MAX_LENGTH);
        const int64_t right = arrays[array][i];
        arrays[array][i] = random >> 63 != 0 ? INT64_MAX / 2 : INT64_MIN / 2;
        wait(w, &seed, 10); /* a fill takes as long as a hundred of these */
        arrays[array][i] = right;
        wait(w, &seed, 100);
        w->mask[(int64_t)(random >> 16) % (MAX_BATCH * (MAX_PAST + MAX_LENGTH))] = (int64_t)(random >> 32) % 2;
        w->encoder_mask[(int64_t)(random >> 24) % (MAX_BATCH * MAX_ENCODER)] = (int64_t)(random >> 33) % 2;
    }
    return NULL;
}

static int
is_sound(const qb_sequences *sequences, int64_t most, int64_t width)
{
    int64_t next = 0;
    int sound = sequences->count == MAX_BATCH && sequences->tokens <= most && sequences->max_length <= width;
    for (int64_t b = 0; sound && b < sequences->count; b++) {
        sound = sequences->offsets[b] == next && sequences->lengths[b] >= 1 && sequences->lengths[b] <= width;
        for (int64_t i = next; sound && i < next + sequences->lengths[b]; i++) {
            sound =
                sequences->places[i] >= (i == next ? 0 : sequences->places[i - 1] + 1) && sequences->places[i] < width;
        }
        next += sequences->lengths[b];
    }
    return sound && next == sequences->tokens;
}

static void
test_a_writer_at_work_meanwhile_never_leads_out_of_the_tables(void)
{
    enum { MOST_TIMES = 500000, ENOUGH = 500, MOST_TOKENS = 8 };
#ifndef HAS_THREAD_SANITIZER
    writer w = {.is_done = 0};
    pthread_t thread;
    qb_session_options few = limits;
    few.max_tokens = MOST_TOKENS; /* about as many as the mask has ones */
    batch_case *c = make(MAX_BATCH, MAX_LENGTH, (const int64_t *)w.ids, (const int64_t *)w.mask);
    int64_t hits = 0; /* changes between the check of an array and its use */
    for (int64_t i = 0; i < MAX_BATCH * (MAX_PAST + MAX_LENGTH); i++) {
        w.mask[i] = 1;
    }
    for (int64_t i = 0; i < MAX_BATCH * MAX_ENCODER; i++) {
        w.encoder_mask[i] = 1;
    }
    for (int64_t i = 0; i < MAX_BATCH * MAX_LENGTH; i++) {
        w.ids[i] = 1;
        w.positions[i] = 2;
    }
    c->inputs.token_type_ids = (const int64_t *)w.types;
    c->inputs.position_ids = (const int64_t *)w.positions;
    c->inputs.past_length = MAX_PAST;
    c->inputs.encoder_length = MAX_ENCODER;
    c->inputs.encoder_attention_mask = (const int64_t *)w.encoder_mask;
    c->inputs.encoder_hidden_states = c->states;
    CHECK(pthread_create(&thread, NULL, keep_changing, &w) == 0);
    for (int64_t i = 0; i < MOST_TIMES && hits < ENOUGH; i++) {
        qb_error error;
        if (qb_batch_fill(&c->batch, &c->config, &few, &c->inputs, &error) != QB_OK) {
            hits += strstr(error.message, "changed while the call was reading it") != NULL;
            continue;
        }
        CHECK(is_sound(&c->batch.sequences, MOST_TOKENS, MAX_PAST + MAX_LENGTH));
        CHECK(is_sound(&c->batch.keys, MOST_TOKENS + MAX_BATCH * MAX_PAST, MAX_PAST + MAX_LENGTH));
        CHECK(is_sound(&c->batch.encoder, MAX_BATCH * MAX_ENCODER, MAX_ENCODER));
        for (int64_t m = 0; m < c->batch.sequences.tokens; m++) {
            CHECK(c->batch.ids[m] == 1 && c->batch.types[m] == 0 && c->batch.positions[m] == 2);
        }
    }
    atomic_store(&w.is_done, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    drop(c);
#endif
}

int
main(void)
{
    RUN(test_keys_are_the_earlier_columns_that_count_and_then_the_tokens);
    RUN(test_computed_padding_is_a_mask_over_all_keys);
    RUN(test_encoder_tokens_are_gathered_unless_their_keys_are_given);
    RUN(test_tokens_go_back_to_their_places_and_the_rest_is_zero);
    RUN(test_new_keys_follow_the_earlier_ones_which_stay_as_they_are);
    RUN(test_encoder_keys_and_cross_attentions_go_back_to_their_columns);
    RUN(test_a_writer_at_work_meanwhile_never_leads_out_of_the_tables);
    return check_report();
}
