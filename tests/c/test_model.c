/* SPDX-License-Identifier: Apache-2.0 */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#include "models/model.h"

#include <sys/wait.h>
#include <unistd.h>

#include "model_case.h"
#include "models/bert_config.h"
#include "models/guard.h"
#include "models/heads.h"

/* ---- configuration ---------------------------------------------------------------------------------------------- */

static void
check_refused(const qb_model_options *options, const char *part)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = NULL;
    qb_error error = {.status = QB_OK};
    const uint64_t blocks = qb_device_memory_statistics(device).live_blocks;
    CHECK(qb_model_create(device, options, &model, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, part);
    CHECK(model == NULL);
    CHECK(qb_device_memory_statistics(device).live_blocks == blocks);
    qb_device_close(device);
}

static void
test_a_wrong_option_is_named(void)
{
    qb_model_options o = model_options(QB_HEAD_NONE);
    o.hidden_size = 31;
    check_refused(&o, "hidden_size is 31, expected a multiple of num_heads, which is 5");
    o = model_options(QB_HEAD_NONE);
    o.hidden_act = "gelu_slow";
    check_refused(&o, "hidden_act is \"gelu_slow\", expected one of gelu, gelu_10, ");
    check_refused(&o, ", swish, tanh");
    o.hidden_act = NULL;
    check_refused(&o, "hidden_act is \"\"");
    o = model_options(QB_HEAD_NONE);
    o.num_layers = 0;
    check_refused(&o, "num_layers is 0, expected 1 ..");
    o = model_options(QB_HEAD_NONE);
    o.max_positions = -3;
    check_refused(&o, "max_positions is -3");
    o = model_options(QB_HEAD_NONE);
    o.layer_norm_eps = 0.0f;
    check_refused(&o, "layer_norm_eps is 0");
    o = model_options(QB_HEAD_QUESTION_ANSWERING);
    o.num_labels = 0;
    check_refused(&o, "num_labels is 0");
    o = model_options((qb_head)77);
    check_refused(&o, "head is 77");
}

static void
test_options_of_an_older_struct_read_as_zero(void)
{
    qb_model_options o = model_options(QB_HEAD_NONE);
    qb_bert_config config;
    o.struct_size = (uint32_t)offsetof(qb_model_options, hidden_act);
    qb_error error;
    CHECK(qb_bert_config_init(&config, &o, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "hidden_act");
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

static void
test_names_and_shapes_are_the_originals(void)
{
    static const struct {
        int64_t index;
        const char *name;
        int32_t rank;
        int64_t rows, columns;
    } expected[] = {
        {0, "bert.embeddings.word_embeddings.weight", 2, VOCABULARY, HIDDEN},
        {1, "bert.embeddings.position_embeddings.weight", 2, POSITIONS, HIDDEN},
        {2, "bert.embeddings.token_type_embeddings.weight", 2, 2, HIDDEN},
        {3, "bert.embeddings.LayerNorm.weight", 1, HIDDEN, 0},
        {5, "bert.encoder.layer.0.attention.self.query.weight", 2, HIDDEN, HIDDEN},
        {15, "bert.encoder.layer.0.intermediate.dense.weight", 2, INTERMEDIATE, HIDDEN},
        {17, "bert.encoder.layer.0.output.dense.weight", 2, HIDDEN, INTERMEDIATE},
        {36, "bert.encoder.layer.1.output.LayerNorm.bias", 1, HIDDEN, 0},
        {37, "bert.pooler.dense.weight", 2, HIDDEN, HIDDEN},
        {39, "classifier.weight", 2, LABELS, HIDDEN},
        {40, "classifier.bias", 1, LABELS, 0},
    };
    static const char *const quantizers[] = {
        "attention.self.query._input_quantizer",
        "attention.self.query._weight_quantizer",
        "attention.self.key._input_quantizer",
        "attention.self.key._weight_quantizer",
        "attention.self.value._input_quantizer",
        "attention.self.value._weight_quantizer",
        "attention.self.matmul_q_input_quantizer",
        "attention.self.matmul_k_input_quantizer",
        "attention.self.matmul_v_input_quantizer",
        "attention.self.matmul_a_input_quantizer",
        "attention.output.dense._input_quantizer",
        "attention.output.dense._weight_quantizer",
        "attention.output.add_local_input_quantizer",
        "attention.output.add_residual_input_quantizer",
        "intermediate.dense._input_quantizer",
        "intermediate.dense._weight_quantizer",
        "output.dense._input_quantizer",
        "output.dense._weight_quantizer",
        "output.add_local_input_quantizer",
        "output.add_residual_input_quantizer",
    };
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_SEQUENCE_CLASSIFICATION);
    CHECK(qb_model_parameter_count(model) == 41);
    for (size_t i = 0; i < COUNT(expected); i++) {
        const qb_parameter_info info = qb_model_parameter(model, expected[i].index);
        CHECK(strcmp(info.name, expected[i].name) == 0);
        CHECK(info.rank == expected[i].rank && info.shape[0] == expected[i].rows);
        CHECK(info.rank == 1 || info.shape[1] == expected[i].columns);
    }
    CHECK(qb_model_quantizer_count(model) == 40);
    for (size_t i = 0; i < COUNT(quantizers); i++) {
        char name[QB_NAME_BYTES];
        (void)snprintf(name, sizeof name, "bert.encoder.layer.1.%s", quantizers[i]);
        CHECK(strcmp(qb_model_quantizer_name(model, 20 + (int64_t)i), name) == 0);
    }
    qb_model_release(model);

    model = model_make(device, QB_HEAD_NONE);
    CHECK(strcmp(qb_model_parameter(model, 0).name, "embeddings.word_embeddings.weight") == 0);
    CHECK(strcmp(qb_model_quantizer_name(model, 0), "encoder.layer.0.attention.self.query._input_quantizer") == 0);
    CHECK(qb_model_parameter(model, -1).name == NULL && qb_model_parameter(model, 39).name == NULL);
    CHECK(qb_model_quantizer(model, 40) == NULL && qb_model_quantizer_name(model, -1) == NULL);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_parameters_lie_in_one_block_aligned_and_in_order(void)
{
    qb_device *device = case_device("ref", 1);
    const qb_model_options options = model_options(QB_HEAD_QUESTION_ANSWERING);
    qb_model *model = NULL;
    CHECK(qb_model_create(device, &options, &model, NULL) == QB_OK);
    const char *end = NULL;
    for (int64_t i = 0; i < qb_model_parameter_count(model); i++) {
        const qb_parameter_info info = qb_model_parameter(model, i);
        const int64_t n = info.shape[0] * (info.rank == 2 ? info.shape[1] : 1);
        const char *begin = (const char *)info.data;
        CHECK((uintptr_t)begin % 64 == 0);
        CHECK(end == NULL || (begin >= end && begin < end + 64));
        CHECK(all_zero(info.data, n));
        end = begin + n * (int64_t)sizeof(float);
    }
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_sites_say_which_way_and_why(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_QUESTION_ANSWERING);
    CHECK(qb_model_site_count(model) == 2 * 10 + 1);
    const qb_site_info query = qb_model_site(model, 0, 0);
    CHECK(strcmp(query.name, "bert.encoder.layer.0.attention.self.query") == 0);
    CHECK(strcmp(query.path, "integer") == 0 && *query.reason == '\0');
    CHECK(strcmp(qb_model_site(model, 3, 0).name, "bert.encoder.layer.0.attention.self.scores") == 0);
    CHECK(strcmp(qb_model_site(model, 20, 0).name, "qa_outputs") == 0);
    CHECK(strcmp(qb_model_site(model, 20, 0).path, "float") == 0);
    CHECK(qb_quantizer_set_stages(qb_model_quantizer(model, 0), QB_STAGE_DISABLED) == QB_OK);
    CHECK(strcmp(qb_model_site(model, 0, 0).path, "dequantized") == 0 && *qb_model_site(model, 0, 0).reason != '\0');
    model_set_stages(model, QB_STAGE_DISABLED);
    CHECK(strcmp(qb_model_site(model, 0, 0).path, "float") == 0);
    qb_model_release(model);
    qb_device_close(device);
}

/* ---- lifetime and order ----------------------------------------------------------------------------------------- */

static void
test_a_quantizer_that_was_handed_out_holds_the_model(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_quantizer *quantizer = qb_quantizer_retain(qb_model_quantizer(model, 3));
    const uint64_t blocks = qb_device_memory_statistics(device).live_blocks;
    qb_model_release(model);
    CHECK(qb_device_memory_statistics(device).live_blocks == blocks);
    CHECK(qb_quantizer_set_stages(quantizer, QB_STAGE_DISABLED) == QB_OK);
    qb_quantizer_release(quantizer);
    CHECK(qb_device_memory_statistics(device).live_blocks < blocks);
    qb_device_close(device);
}

static qb_status
prepare_nothing(void *context)
{
    ++*(int *)context;
    return QB_OK;
}

static qb_status
prepare_fails(void *context)
{
    return qb_fail(context, NULL, QB_ERR_NOMEM, "no memory");
}

static void
test_changes_are_refused_while_a_forward_runs_and_advance_the_epoch(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_error error;
    float *data = NULL;
    int prepared = 0;
    CHECK(qb_guard_begin_forward(&model->guard, 0, QB_PACKING_F32, prepare_nothing, &prepared, &error) == QB_OK);
    CHECK(qb_guard_begin_forward(&model->guard, 0, QB_PACKING_F32, prepare_nothing, &prepared, &error) == QB_OK);
    CHECK(prepared == 1);
    CHECK(qb_model_parameter_write(model, 0, &data, &error) == QB_ERR_STATE && data == NULL);
    CHECK(qb_quantizer_set_amax(qb_model_quantizer(model, 0), NULL, 0, NULL, &error) == QB_ERR_STATE);
    CHECK(qb_guard_begin_forward(&model->guard, 1, QB_PACKING_F32, prepare_nothing, &prepared, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "another session runs");
    qb_guard_end_forward(&model->guard);
    qb_guard_end_forward(&model->guard);

    CHECK(qb_guard_begin_forward(&model->guard, 1, QB_PACKING_F32, prepare_nothing, &prepared, &error) == QB_OK);
    CHECK(qb_guard_begin_forward(&model->guard, 0, QB_PACKING_F32, prepare_nothing, &prepared, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "another session collects");
    qb_guard_end_forward(&model->guard);
    CHECK(prepared == 1);

    CHECK(qb_model_parameter_write(model, 0, &data, &error) == QB_OK && data != NULL);
    CHECK(qb_model_parameter_write(model, 999, &data, &error) == QB_ERR_INDEX);
    CHECK(qb_guard_begin_forward(&model->guard, 0, QB_PACKING_F32, prepare_fails, &error, &error) == QB_ERR_NOMEM);
    CHECK(qb_guard_begin_forward(&model->guard, 0, QB_PACKING_F32, prepare_nothing, &prepared, &error) == QB_OK);
    CHECK(prepared == 2); /* a failed preparation is tried again */
    qb_guard_end_forward(&model->guard);

    qb_model_release(model);
    qb_device_close(device);
}

static void
test_each_packing_is_made_beside_forwards_on_the_other(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_guard *guard = &model->guard;
    qb_error error;
    int floats = 0;
    int halves = 0;
    CHECK(qb_guard_begin_forward(guard, 0, QB_PACKING_F32, prepare_nothing, &floats, &error) == QB_OK);
    const uint64_t epoch = guard->epoch;
    CHECK(qb_guard_begin_backward(guard, epoch, QB_PACKING_BF16, &error) == QB_ERR_STATE); /* it had no forward */
    CHECK(qb_guard_begin_forward(guard, 0, QB_PACKING_BF16, prepare_nothing, &halves, &error) == QB_OK);
    CHECK(qb_guard_begin_forward(guard, 0, QB_PACKING_BF16, prepare_nothing, &halves, &error) == QB_OK);
    CHECK(floats == 1 && halves == 1);
    CHECK(qb_guard_begin_backward(guard, epoch, QB_PACKING_BF16, &error) == QB_OK);
    qb_guard_end_backward(guard);
    for (int i = 0; i < 3; i++) {
        qb_guard_end_forward(guard);
    }
    float *data = NULL;
    CHECK(qb_model_parameter_write(model, 0, &data, &error) == QB_OK);
    CHECK(qb_guard_begin_forward(guard, 0, QB_PACKING_BF16, prepare_nothing, &halves, &error) == QB_OK);
    CHECK(floats == 1 && halves == 2); /* nobody asked for floats since the change */
    qb_guard_end_forward(guard);
    qb_model_release(model);
    qb_device_close(device);
}

/* What a child finds that is forked now and begins a forward: 0 it may, 1 it may not and is told of the fork, 2
 * neither.
 */
static int
status_of_a_child(qb_guard *guard)
{
    (void)fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        (void)alarm(20); /* a hang is a failure, not a stuck test run */
        qb_error error = {.status = QB_OK};
        int prepared = 0;
        const qb_status status = qb_guard_begin_forward(guard, 1, QB_PACKING_F32, prepare_nothing, &prepared, &error);
        if (status == QB_OK) {
            qb_guard_end_forward(guard);
            _exit(qb_guard_begin_write(guard, &error) == QB_OK && guard->readers == 0 ? 0 : 2);
        }
        _exit(strstr(error.message, "forked while a thread changed the model") != NULL ? 1 : 2);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static qb_status
prepare_and_fork(void *context)
{
    CHECK(status_of_a_child(context) == 0); /* the child prepares what its parent had not finished */
    return QB_OK;
}

static void
test_a_child_forgets_the_threads_of_its_parent(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_guard *guard = &model->guard;
    qb_error error;
    CHECK(qb_guard_begin_forward(guard, 1, QB_PACKING_F32, prepare_and_fork, guard, &error) == QB_OK);
    CHECK(status_of_a_child(guard) == 0);
    qb_guard_end_forward(guard);
    (void)pthread_mutex_lock(&guard->mutex);
    CHECK(status_of_a_child(guard) == 0);
    (void)pthread_mutex_unlock(&guard->mutex);
    CHECK(qb_guard_begin_write(guard, &error) == QB_OK);
    CHECK(status_of_a_child(guard) == 1);
    qb_guard_end_write(guard);
    CHECK(status_of_a_child(guard) == 0);
    qb_model_release(model);
    qb_device_close(device);
}

static void
test_no_forward_comes_between_the_changes_of_one_section(void)
{
    qb_device *device = case_device("ref", 1);
    qb_model *model = model_make(device, QB_HEAD_NONE);
    qb_quantizer *quantizer = qb_model_quantizer(model, 3);
    qb_error error;
    float *data = NULL;
    const float amax = 2.5F;
    int prepared = 0;
    CHECK(qb_model_begin_change(model, &error) == QB_OK);
    CHECK(qb_quantizer_begin_change(quantizer, &error) == QB_OK);
    CHECK(qb_model_parameter_write(model, 0, &data, &error) == QB_OK);
    CHECK(qb_guard_begin_forward(&model->guard, 0, QB_PACKING_F32, prepare_nothing, &prepared, &error) == QB_ERR_STATE);
    CHECK_CONTAINS(error.message, "being changed");
    CHECK(qb_quantizer_set_amax(quantizer, &amax, 0, NULL, &error) == QB_OK);
    qb_model_end_change(model);
    CHECK(qb_guard_begin_forward(&model->guard, 0, QB_PACKING_F32, prepare_nothing, &prepared, &error) == QB_ERR_STATE);
    qb_quantizer_end_change(quantizer);
    CHECK(qb_guard_begin_forward(&model->guard, 0, QB_PACKING_F32, prepare_nothing, &prepared, &error) == QB_OK);
    CHECK(qb_model_begin_change(model, &error) == QB_ERR_STATE);
    CHECK(qb_quantizer_begin_change(quantizer, &error) == QB_ERR_STATE);
    qb_guard_end_forward(&model->guard);
    CHECK(prepared == 1);

    /* One that is in no model has nothing to hold, and works as ever. */
    const qb_quantizer_options options = qb_quantizer_get_options(quantizer);
    qb_model_release(model);
    qb_quantizer *own = NULL;
    CHECK(qb_quantizer_create(device, &options, &own, &error) == QB_OK);
    CHECK(qb_quantizer_begin_change(own, &error) == QB_OK);
    CHECK(qb_quantizer_set_amax(own, &amax, 0, NULL, &error) == QB_OK);
    qb_quantizer_end_change(own);
    qb_quantizer_release(own);
    qb_device_close(device);
}

static void
test_heads_are_found_by_kind_and_by_name(void)
{
    CHECK(qb_head_find(QB_HEAD_NONE) == NULL);
    CHECK(strcmp(qb_head_find(QB_HEAD_QUESTION_ANSWERING)->layer_name, "qa_outputs") == 0);
    CHECK(qb_head_find(QB_HEAD_SEQUENCE_CLASSIFICATION)->is_pooled);
    CHECK(!qb_head_find(QB_HEAD_TOKEN_CLASSIFICATION)->is_pooled);
    CHECK(qb_head_find((qb_head)77) == NULL);
    for (int kind = QB_HEAD_QUESTION_ANSWERING; kind <= QB_HEAD_LANGUAGE_MODEL; kind++) {
        qb_head found = QB_HEAD_NONE;
        CHECK(qb_head_from_name(qb_head_find((qb_head)kind)->name, &found, NULL) == QB_OK);
        CHECK(found == (qb_head)kind);
    }
    qb_head kept = QB_HEAD_NEXT_SENTENCE;
    qb_error error;
    CHECK(qb_head_from_name("pretraining", &kept, &error) == QB_ERR_VALUE && kept == QB_HEAD_NEXT_SENTENCE);
    CHECK_CONTAINS(error.message, "head is \"pretraining\", expected one of none, question_answering,");
    CHECK_CONTAINS(error.message, "language_model");
}

int
main(void)
{
    RUN(test_a_wrong_option_is_named);
    RUN(test_options_of_an_older_struct_read_as_zero);
    RUN(test_names_and_shapes_are_the_originals);
    RUN(test_parameters_lie_in_one_block_aligned_and_in_order);
    RUN(test_sites_say_which_way_and_why);
    RUN(test_a_quantizer_that_was_handed_out_holds_the_model);
    RUN(test_changes_are_refused_while_a_forward_runs_and_advance_the_epoch);
    RUN(test_each_packing_is_made_beside_forwards_on_the_other);
    RUN(test_a_child_forgets_the_threads_of_its_parent);
    RUN(test_no_forward_comes_between_the_changes_of_one_section);
    RUN(test_heads_are_found_by_kind_and_by_name);
    return check_report();
}
