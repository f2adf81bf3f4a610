/* SPDX-License-Identifier: Apache-2.0
 *
 * See broadcast.h.  Neighbouring dimensions whose strides fit are merged first, so a per-row range of a matrix is one
 * numbering dimension and one run, and a single range is one run in all.
 */
#include "quant/broadcast.h"

typedef struct layout {
    int32_t dims;
    int64_t size[QB_MAX_RANK];
    int64_t stride[QB_MAX_RANK];
} layout;

/* Innermost first; dimensions of one element are dropped. */
static int
lay_out(int32_t rank, const int64_t *shape, int32_t small_rank, const int64_t *small_shape, layout *out)
{
    if (small_rank > rank) {
        /* More dimensions than the large tensor has: only ones are allowed there. */
        for (int32_t d = 0; d < small_rank - rank; d++) {
            if (small_shape[d] != 1) {
                return 0;
            }
        }
        small_shape += small_rank - rank;
        small_rank = rank;
    }
    out->dims = 0;
    int64_t next_stride = 1;
    for (int32_t i = 1; i <= rank; i++) {
        const int64_t size = shape[rank - i];
        const int64_t small = i <= small_rank ? small_shape[small_rank - i] : 1;
        if (small != 1 && small != size) {
            return 0;
        }
        const int64_t stride = small == 1 ? 0 : next_stride;
        next_stride *= small;
        if (size == 1) {
            continue;
        }
        const int32_t last = out->dims - 1;
        const int merges =
            last >= 0 && (stride == 0 ? out->stride[last] == 0 : out->stride[last] * out->size[last] == stride);
        if (merges) {
            out->size[last] *= size;
            continue;
        }
        out->size[out->dims] = size;
        out->stride[out->dims] = stride;
        out->dims++;
    }
    return 1;
}

int
qb_broadcast_plan(int32_t rank, const int64_t *shape, int32_t small_rank, const int64_t *small_shape,
                  qb_broadcast *plan)
{
    layout all = {0};
    if (!lay_out(rank, shape, small_rank, small_shape, &all)) {
        return 0;
    }
    *plan = (qb_broadcast){.runs = 1, .length = 1};
    int32_t inner = 0;
    if (all.dims > 0) {
        plan->length = all.size[0];
        plan->step = all.stride[0];
        inner = 1;
    }
    plan->dims = all.dims - inner;
    for (int32_t d = 0; d < plan->dims; d++) {
        plan->size[d] = all.size[all.dims - 1 - d];
        plan->stride[d] = all.stride[all.dims - 1 - d];
        plan->runs *= plan->size[d];
    }
    plan->count = plan->runs * plan->length;
    return 1;
}

int64_t
qb_broadcast_offset(const qb_broadcast *plan, int64_t run)
{
    int64_t offset = 0;
    for (int32_t d = plan->dims - 1; d >= 0; d--) {
        offset += run % plan->size[d] * plan->stride[d];
        run /= plan->size[d];
    }
    return offset;
}

int64_t
qb_broadcast_element(const qb_broadcast *plan, int64_t index)
{
    return qb_broadcast_offset(plan, index / plan->length) + index % plan->length * plan->step;
}
