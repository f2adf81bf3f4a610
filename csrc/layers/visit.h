/* SPDX-License-Identifier: Apache-2.0
 *
 * Announcing what a layer holds.  Each layer writes its `visit` once, in the order of the original's named_modules, and
 * that one walk serves everything that needs "all X with names": sizing and binding the parameter block, state-dict
 * keys, the table of quantizers, the table of sites.  Names are exactly Hugging Face's.
 */
#ifndef QB_LAYERS_VISIT_H
#define QB_LAYERS_VISIT_H

#include "core/status.h"
#include "layers/site.h"
#include "qdqbert/qdqbert.h"

struct qb_linear;

/* A tensor of weights inside the model's parameter block, or wherever `storage` says. */
typedef struct qb_parameter {
    float *data; /* 64-byte aligned in the block; NULL until the model binds it, and for good in a tied one and in one
                  * that is kept as codes */
    qb_storage storage;
    float *gradient; /* of the same shape; NULL: nobody trains it */
    int32_t rank;
    int64_t shape[2];
    int is_frozen;                      /* its gradient is not computed */
    uint64_t revision;                  /* advances with every write; what is made from it remembers the value */
    const struct qb_parameter *tied_to; /* the parameter that this one is another name of, or NULL; never announced */
} qb_parameter;

/* Where a parameter's numbers and their revision are. */
static inline const qb_parameter *
qb_parameter_source(const qb_parameter *parameter)
{
    return parameter->tied_to == NULL ? parameter : parameter->tied_to;
}

typedef enum qb_quantizer_role { QB_ROLE_INPUT, QB_ROLE_WEIGHT } qb_quantizer_role;

/* What a walk does at each thing; NULL: skip that kind.  A status other than QB_OK ends the walk. */
typedef struct qb_visitor {
    void *context;
    qb_status (*parameter)(void *context, const qb_path *path, qb_parameter *parameter);
    /* *slot is the layer's member: the visitor may fill or read it. */
    qb_status (*quantizer)(void *context, const qb_path *path, qb_quantizer **slot, qb_quantizer_role role);
    qb_status (*site)(void *context, const qb_path *path, const qb_site *site);
    /* A layer whose weight, which is announced next and is not tied, can be kept as codes. */
    qb_status (*linear)(void *context, const qb_path *path, struct qb_linear *linear);
} qb_visitor;

/* Announce one thing called `name` below `parent`. */
static inline qb_status
qb_visit_parameter(const qb_visitor *visitor, const qb_path *parent, const char *name, qb_parameter *parameter)
{
    const qb_path path = {parent, name};
    const int is_announced = visitor->parameter != NULL && parameter->tied_to == NULL;
    return is_announced ? visitor->parameter(visitor->context, &path, parameter) : QB_OK;
}

static inline qb_status
qb_visit_quantizer(const qb_visitor *visitor, const qb_path *parent, const char *name, qb_quantizer **slot,
                   qb_quantizer_role role)
{
    const qb_path path = {parent, name};
    return visitor->quantizer == NULL ? QB_OK : visitor->quantizer(visitor->context, &path, slot, role);
}

/* `name` may be "": the site is then called like its layer. */
static inline qb_status
qb_visit_site(const qb_visitor *visitor, const qb_path *parent, const char *name, const qb_site *site)
{
    const qb_path path = {parent, name};
    return visitor->site == NULL ? QB_OK : visitor->site(visitor->context, &path, site);
}

static inline qb_status
qb_visit_linear(const qb_visitor *visitor, const qb_path *path, struct qb_linear *linear)
{
    return visitor->linear == NULL ? QB_OK : visitor->linear(visitor->context, path, linear);
}

#endif
