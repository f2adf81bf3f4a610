/* SPDX-License-Identifier: Apache-2.0
 *
 * A model: configuration, layers, one block of parameters, quantizers, and the tables of their names.
 *
 * Reference counted: sessions and the quantizers that were handed out hold it.
 */
#ifndef QB_MODELS_MODEL_H
#define QB_MODELS_MODEL_H

#include <stdatomic.h>

#include "core/device.h"
#include "core/names.h"
#include "models/bert.h"
#include "models/bert_config.h"
#include "models/guard.h"
#include "models/heads.h"
#include "quant/quantizer.h"

struct qb_model {
    _Atomic int64_t references;
    qb_device *device; /* retained */
    qb_bert_config config;
    qb_bert bert;
    const qb_head_interface *head; /* NULL: none */
    qb_head_layers head_layers;
    qb_guard guard;
    qb_page_pool packs; /* the packed weights of all layers */

    void *block; /* every parameter, in the order of parameters */
    size_t block_bytes;
    void *gradients;           /* of the same layout; NULL until a session trains */
    qb_parameter **parameters; /* (parameter_names.count) members of the layers */
    qb_quantizer **quantizers; /* (quantizer_names.count) owned */
    qb_site *sites;            /* (site_names.count) */
    qb_linear **linears; /* (parameter_names.count) of which a parameter is the weight, if it can be codes; NULL */
    qb_names parameter_names, quantizer_names, site_names;
    int has_guard; /* guard was initialised */
    int is_float;  /* every parameter is a float in the block */
    int is_sealed;
    void (*release_lent)(void *context); /* or NULL */
    void *lent_context;
};

/* Announce everything, under the names that the checkpoint uses. */
qb_status qb_model_visit(qb_model *model, const qb_visitor *visitor);
/* Bring every packed weight that such a run needs up to date; only inside qb_guard_begin_forward. */
qb_status qb_model_prepare(qb_model *model, const qb_run *run);
/* QB_ERR_STATE unless every parameter is a float in the block; the sentence names one that is not, and `what` needs it.
 */
qb_status qb_model_require_floats(const qb_model *model, const char *what, qb_error *error);
/* Make room for gradients, zero, unless it is there. */
qb_status qb_model_make_gradients(qb_model *model, qb_error *error);
/* 1 if some quantizer collects. */
int qb_model_collects(const qb_model *model);
/* The path of the encoder's names: "bert" below a head. */
qb_path qb_model_root(const qb_model *model);

#endif
