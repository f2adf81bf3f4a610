/* SPDX-License-Identifier: Apache-2.0 */
#include "models/bert_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "models/heads.h"

/* The names of the original.  Several of its classes compute one function in different ways. */
static const struct {
    const char *name;
    qb_activation activation;
} activations[] = {
    {"gelu", QB_ACTIVATION_GELU},
    {"gelu_10", QB_ACTIVATION_GELU_CLIPPED},
    {"gelu_accurate", QB_ACTIVATION_GELU_TANH},
    {"gelu_fast", QB_ACTIVATION_GELU_TANH},
    {"gelu_new", QB_ACTIVATION_GELU_TANH},
    {"gelu_python", QB_ACTIVATION_GELU},
    {"gelu_pytorch_tanh", QB_ACTIVATION_GELU_TANH},
    {"laplace", QB_ACTIVATION_LAPLACE},
    {"leaky_relu", QB_ACTIVATION_LEAKY_RELU},
    {"linear", QB_ACTIVATION_NONE},
    {"mish", QB_ACTIVATION_MISH},
    {"quick_gelu", QB_ACTIVATION_QUICK_GELU},
    {"relu", QB_ACTIVATION_RELU},
    {"relu2", QB_ACTIVATION_RELU_SQUARED},
    {"relu6", QB_ACTIVATION_RELU6},
    {"sigmoid", QB_ACTIVATION_SIGMOID},
    {"silu", QB_ACTIVATION_SILU},
    {"swish", QB_ACTIVATION_SILU},
    {"tanh", QB_ACTIVATION_TANH},
};

static qb_status
find_activation(const char *name, qb_activation *activation, qb_error *error)
{
    const size_t count = sizeof activations / sizeof activations[0];
    for (size_t i = 0; name != NULL && i < count; i++) {
        if (strcmp(name, activations[i].name) == 0) {
            *activation = activations[i].activation;
            return QB_OK;
        }
    }
    char names[QB_ERROR_BYTES];
    for (size_t i = 0, used = 0; i < count && used < sizeof names; i++) {
        used += (size_t)snprintf(names + used, sizeof names - used, i == 0 ? "%s" : ", %s", activations[i].name);
    }
    return qb_fail(error, NULL, QB_ERR_VALUE, "hidden_act is \"%.40s\", expected one of %s", name == NULL ? "" : name,
                   names);
}

static qb_status
check_sizes(const qb_model_options *o, qb_error *error)
{
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {
        {"vocab_size", o->vocab_size, INT32_MAX},
        {"hidden_size", o->hidden_size, QB_MAX_FEATURES},
        {"num_layers", o->num_layers, 1 << 16},
        {"num_heads", o->num_heads, QB_MAX_FEATURES},
        {"intermediate_size", o->intermediate_size, QB_MAX_FEATURES},
        {"max_positions", o->max_positions, QB_MAX_FEATURES},
        {"type_vocab_size", o->type_vocab_size, INT32_MAX},
        {"num_labels", o->num_labels, INT32_MAX},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        /* A base model has no labels and may leave the field alone. */
        const int64_t least = strcmp(sizes[i].name, "num_labels") == 0 && o->head == QB_HEAD_NONE ? 0 : 1;
        if (sizes[i].value < least || sizes[i].value > sizes[i].most) {
            return qb_fail(error, NULL, QB_ERR_VALUE, "%s is %" PRId64 ", expected %" PRId64 " .. %" PRId64,
                           sizes[i].name, sizes[i].value, least, sizes[i].most);
        }
    }
    if (o->hidden_size % o->num_heads != 0) {
        return qb_fail(error, NULL, QB_ERR_VALUE,
                       "hidden_size is %" PRId64 ", expected a multiple of num_heads, which is %" PRId64,
                       o->hidden_size, o->num_heads);
    }
    return QB_OK;
}

static const char *const position_names[] = {
    [QB_POSITIONS_ABSOLUTE] = "absolute",
    [QB_POSITIONS_RELATIVE_KEY] = "relative_key",
    [QB_POSITIONS_RELATIVE_KEY_QUERY] = "relative_key_query",
};

static qb_status
find_positions(const char *name, qb_positions *positions, qb_error *error)
{
    *positions = QB_POSITIONS_ABSOLUTE;
    for (size_t i = 0; name != NULL && i < sizeof position_names / sizeof position_names[0]; i++) {
        if (strcmp(name, position_names[i]) == 0) {
            *positions = (qb_positions)i;
            return QB_OK;
        }
    }
    return name == NULL ? QB_OK
                        : qb_fail(error, NULL, QB_ERR_VALUE,
                                  "position_embedding_type is \"%.40s\", expected absolute, relative_key or "
                                  "relative_key_query",
                                  name);
}

static qb_status
check_padding_token(const qb_model_options *o, qb_error *error)
{
    return o->padding_token >= 0 && o->padding_token <= o->vocab_size
               ? QB_OK
               : qb_fail(error, NULL, QB_ERR_VALUE, "padding_token is %" PRId64 ", expected 0 .. vocab_size %" PRId64,
                         o->padding_token, o->vocab_size);
}

static qb_status
check_heads(const qb_model_options *o, qb_error *error)
{
    for (int64_t i = 0; o->heads_of_layers != NULL && i < o->num_layers; i++) {
        if (o->heads_of_layers[i] < 1 || o->heads_of_layers[i] > o->num_heads) {
            return qb_fail(error, NULL, QB_ERR_VALUE,
                           "heads_of_layers[%" PRId64 "] is %" PRId64 ", expected 1 .. num_heads %" PRId64, i,
                           o->heads_of_layers[i], o->num_heads);
        }
    }
    return QB_OK;
}

int64_t
qb_bert_config_heads(const qb_bert_config *config, int64_t layer)
{
    return config->heads_of_layers == NULL ? config->num_heads : config->heads_of_layers[layer];
}

qb_status
qb_bert_config_init(qb_bert_config *config, const qb_model_options *options, qb_error *error)
{
    qb_model_options o = {.struct_size = 0};
    const size_t given = options->struct_size;
    memcpy(&o, options, given < sizeof o ? given : sizeof o);
    qb_activation activation = QB_ACTIVATION_NONE;
    QB_TRY(check_sizes(&o, error));
    qb_positions positions = QB_POSITIONS_ABSOLUTE;
    QB_TRY(check_heads(&o, error));
    QB_TRY(check_padding_token(&o, error));
    QB_TRY(find_positions(o.position_embedding_type, &positions, error));
    QB_TRY(find_activation(o.hidden_act, &activation, error));
    if (!(o.layer_norm_eps > 0.0f) || !isfinite(o.layer_norm_eps)) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "layer_norm_eps is %g, expected a finite number above 0",
                       (double)o.layer_norm_eps);
    }
    const qb_head_interface *head = qb_head_find(o.head);
    if (head == NULL && o.head != QB_HEAD_NONE) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "head is %d, expected a value of qb_head", (int)o.head);
    }
    *config = (qb_bert_config){
        .vocab_size = o.vocab_size,
        .hidden_size = o.hidden_size,
        .num_layers = o.num_layers,
        .num_heads = o.num_heads,
        .intermediate_size = o.intermediate_size,
        .max_positions = o.max_positions,
        .type_vocab_size = o.type_vocab_size,
        .num_labels = o.num_labels,
        .layer_norm_eps = o.layer_norm_eps,
        .activation = activation,
        .head = o.head,
        .has_pooler = head == NULL ? o.add_pooling_layer != 0 : head->is_pooled,
        .positions = positions,
        .has_cross_attention = o.add_cross_attention != 0,
        .tie_word_embeddings = o.tie_word_embeddings != 0,
        .heads_of_layers = o.heads_of_layers,
        .padding_token = o.padding_token - 1,
        .input_quantizer = o.input_quantizer,
        .weight_quantizer = o.weight_quantizer,
    };
    return QB_OK;
}
