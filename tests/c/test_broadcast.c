/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/broadcast.h"

#include "check.h"

/* The element of the small tensor by the definition: walk the coordinates. */
static int64_t
by_definition(int32_t rank, const int64_t *shape, int32_t small_rank, const int64_t *small, int64_t index)
{
    int64_t offset = 0;
    int64_t stride = 1;
    for (int32_t i = 1; i <= rank; i++) {
        const int64_t at = index % shape[rank - i];
        index /= shape[rank - i];
        if (i <= small_rank) {
            offset += small[small_rank - i] == 1 ? 0 : at * stride;
            stride *= small[small_rank - i];
        }
    }
    return offset;
}

static void
check_case(int32_t rank, const int64_t *shape, int32_t small_rank, const int64_t *small)
{
    qb_broadcast plan;
    CHECK(qb_broadcast_plan(rank, shape, small_rank, small, &plan));
    int64_t count = 1;
    for (int32_t d = 0; d < rank; d++) {
        count *= shape[d];
    }
    CHECK(plan.count == count && plan.runs * plan.length == count);
    for (int64_t i = 0; i < count; i++) {
        CHECK(qb_broadcast_element(&plan, i) == by_definition(rank, shape, small_rank, small, i));
    }
}

static void
every_element_finds_its_range(void)
{
    const int64_t shape[4] = {2, 3, 5, 7};
    /* every subset of kept dimensions */
    for (int mask = 0; mask < 16; mask++) {
        int64_t small[4];
        for (int d = 0; d < 4; d++) {
            small[d] = mask >> d & 1 ? shape[d] : 1;
        }
        check_case(4, shape, 4, small);
    }
    check_case(4, shape, 0, NULL);
    check_case(4, shape, 1, (int64_t[]){7});
    check_case(4, shape, 2, (int64_t[]){5, 1});
    check_case(0, NULL, 0, NULL);
    check_case(2, (int64_t[]){1, 1}, 2, (int64_t[]){1, 1});
    check_case(8, (int64_t[]){1, 2, 1, 3, 2, 1, 2, 2}, 8, (int64_t[]){1, 2, 1, 1, 2, 1, 1, 2});
    check_case(1, (int64_t[]){3}, 3, (int64_t[]){1, 1, 3});
}

static void
common_cases_are_long_runs(void)
{
    qb_broadcast plan;
    const int64_t shape[3] = {4, 5, 6};
    CHECK(qb_broadcast_plan(3, shape, 0, NULL, &plan) && plan.runs == 1 && plan.length == 120 && plan.step == 0);
    CHECK(qb_broadcast_plan(3, shape, 3, (int64_t[]){4, 1, 1}, &plan) && plan.runs == 4 && plan.length == 30);
    CHECK(qb_broadcast_plan(3, shape, 1, (int64_t[]){6}, &plan) && plan.length == 6 && plan.step == 1);
}

static void
shapes_that_do_not_stretch_are_refused(void)
{
    qb_broadcast plan = {.count = 77};
    CHECK(!qb_broadcast_plan(2, (int64_t[]){2, 3}, 1, (int64_t[]){2}, &plan));
    CHECK(!qb_broadcast_plan(1, (int64_t[]){3}, 2, (int64_t[]){2, 3}, &plan));
    CHECK(!qb_broadcast_plan(1, (int64_t[]){1}, 1, (int64_t[]){3}, &plan));
    CHECK(plan.count == 77);
}

static void
empty_tensors_have_no_elements(void)
{
    qb_broadcast plan;
    CHECK(qb_broadcast_plan(2, (int64_t[]){0, 3}, 0, NULL, &plan) && plan.count == 0);
    CHECK(qb_broadcast_plan(2, (int64_t[]){3, 0}, 2, (int64_t[]){3, 1}, &plan) && plan.count == 0);
}

int
main(void)
{
    RUN(every_element_finds_its_range);
    RUN(common_cases_are_long_runs);
    RUN(shapes_that_do_not_stretch_are_refused);
    RUN(empty_tensors_have_no_elements);
    return check_report();
}
