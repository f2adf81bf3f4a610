/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/coded.h"

#include <stddef.h>

qb_coded
qb_coded_begin(void)
{
    return (qb_coded){.lacks_floats = 1};
}

void
qb_coded_want(qb_coded *coded, const qb_edge *edge, int8_t *codes)
{
    qb_quant_range range;
    if (codes == NULL || qb_edge_refusal(edge, &range) != NULL) {
        coded->lacks_floats = 0;
    }
    else if (qb_coded_find(coded, &range) == NULL) {
        qb_coded_add(coded, &range, codes);
    }
}

static int
is_equal(const qb_quant_range *a, const qb_quant_range *b)
{
    return a->scale == b->scale && a->lower == b->lower && a->upper == b->upper;
}

const int8_t *
qb_coded_find(const qb_coded *coded, const qb_quant_range *range)
{
    for (int32_t i = 0; i < coded->count; i++) {
        if (is_equal(&coded->made[i].range, range)) {
            return coded->made[i].codes;
        }
    }
    return NULL;
}

void
qb_coded_add(qb_coded *coded, const qb_quant_range *range, int8_t *codes)
{
    if (coded->count < QB_CODINGS_MAX) {
        coded->made[coded->count].range = *range;
        coded->made[coded->count].codes = codes;
        coded->count++;
    }
}

qb_status
qb_coded_check(const qb_coded *coded, const qb_run *run, int64_t columns)
{
    return coded->is_nonfinite ? qb_site_fail_nonfinite(run, coded->element, columns, coded->is_nan) : QB_OK;
}
