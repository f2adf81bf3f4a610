/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/layer_norm.h"

void
qb_layer_norm_init(qb_layer_norm *self, int64_t features, float eps)
{
    *self = (qb_layer_norm){
        .features = features,
        .eps = eps,
        .weight = {.rank = 1, .shape = {features}},
        .bias = {.rank = 1, .shape = {features}},
    };
}

qb_status
qb_layer_norm_visit(qb_layer_norm *self, const qb_visitor *visitor, const qb_path *path)
{
    QB_TRY(qb_visit_parameter(visitor, path, "weight", &self->weight));
    return qb_visit_parameter(visitor, path, "bias", &self->bias);
}
