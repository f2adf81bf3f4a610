/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/coded.h"

#include <math.h>
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

static void
report(const float *x, int64_t first, int64_t n, _Atomic int64_t *nonfinite)
{
    int64_t at = 0;
    while (at < n - 1 && isfinite(x[at])) {
        at++;
    }
    const int64_t mine = 1 + 2 * (first + at) + (isnan(x[at]) != 0);
    int64_t least = atomic_load_explicit(nonfinite, memory_order_relaxed);
    while ((least == 0 || mine < least) && !atomic_compare_exchange_weak_explicit(
                                               nonfinite, &least, mine, memory_order_relaxed, memory_order_relaxed)) {
    }
}

void
qb_coded_make(const qb_coded *coded, const qb_kernels *kernels, const float *x, int64_t first, int64_t n,
              _Atomic int64_t *nonfinite)
{
    uint32_t bad = 0;
    for (int32_t i = 0; i < coded->count; i++) {
        kernels->quantize_qs8(x, (size_t)n, &coded->made[i].range, coded->made[i].codes + first, &bad);
    }
    if (bad != 0) {
        report(x, first, n, nonfinite);
    }
}

qb_status
qb_coded_check(const qb_coded *coded, const qb_run *run, int64_t columns)
{
    const int64_t found = coded->nonfinite - 1;
    return found < 0 ? QB_OK : qb_site_fail_nonfinite(run, found / 2, columns, (int)(found % 2));
}
