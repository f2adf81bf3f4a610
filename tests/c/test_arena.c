/* SPDX-License-Identifier: Apache-2.0 */
#include "core/arena.h"

#include "check.h"
#include "core/alloc.h"
#include "core/shape.h"

typedef struct plan_result {
    float *a;
    int8_t *b;
    double *c;
} plan_result;

static void
plan(plan_result *result, qb_arena *arena)
{
    result->a = qb_arena_take(arena, 17, sizeof *result->a);
    result->b = qb_arena_take(arena, 0, sizeof *result->b);
    result->c = qb_arena_take(arena, 3, sizeof *result->c);
}

static void
measuring_and_binding_agree(void)
{
    plan_result result;
    qb_arena arena = qb_arena_measuring();
    plan(&result, &arena);
    CHECK(qb_arena_ok(&arena));
    CHECK(result.a == NULL && result.b == NULL && result.c == NULL);
    const size_t bytes = arena.used;
    CHECK(bytes == 128 + 0 + 64);

    qb_heap heap;
    qb_heap_init(&heap, NULL);
    void *base = qb_heap_allocate(&heap, bytes);
    arena = qb_arena_bind(base, bytes);
    plan(&result, &arena);
    CHECK(qb_arena_ok(&arena));
    CHECK(arena.used == bytes);
    CHECK((uintptr_t)result.a % QB_ALIGNMENT == 0 && (uintptr_t)result.c % QB_ALIGNMENT == 0);
    CHECK((char *)result.c == (char *)result.a + 128);
    qb_heap_release(&heap, base);
}

static void
an_overflow_sticks(void)
{
    qb_arena arena = qb_arena_measuring();
    CHECK(qb_arena_take(&arena, INT64_MAX, 16) == NULL);
    CHECK(!qb_arena_ok(&arena));
    CHECK(qb_arena_take(&arena, 1, 1) == NULL);
    CHECK(!qb_arena_ok(&arena));
    arena = qb_arena_measuring();
    CHECK(qb_arena_take(&arena, -1, 1) == NULL);
    CHECK(!qb_arena_ok(&arena));
    arena = qb_arena_measuring();
    (void)qb_arena_take(&arena, INT64_MAX, 1);
    (void)qb_arena_take(&arena, INT64_MAX, 1);
    (void)qb_arena_take(&arena, 128, 1); /* the sum no longer fits */
    CHECK(!qb_arena_ok(&arena));
}

static void
a_bound_arena_never_hands_out_more_than_it_has(void)
{
    _Alignas(QB_ALIGNMENT) char memory[128];
    qb_arena arena = qb_arena_bind(memory, sizeof memory);
    CHECK(qb_arena_take(&arena, 64, 1) == memory);
    CHECK(qb_arena_take(&arena, 65, 1) == NULL);
    CHECK(!qb_arena_ok(&arena));
}

static void
release_gives_back_to_the_mark(void)
{
    _Alignas(QB_ALIGNMENT) char memory[256];
    qb_arena arena = qb_arena_bind(memory, sizeof memory);
    (void)qb_arena_take(&arena, 1, 1);
    const size_t mark = qb_arena_mark(&arena);
    void *first = qb_arena_take(&arena, 100, 1);
    qb_arena_release(&arena, mark);
    CHECK(qb_arena_take(&arena, 100, 1) == first);
}

static void
shape_products_do_not_wrap(void)
{
    int64_t elements = -1;
    CHECK(qb_shape_elements(0, NULL, &elements) && elements == 1);
    CHECK(qb_shape_elements(3, (int64_t[]){2, 3, 7}, &elements) && elements == 42);
    CHECK(qb_shape_elements(3, (int64_t[]){INT64_MAX, 0, INT64_MAX}, &elements) && elements == 0);
    CHECK(!qb_shape_elements(2, (int64_t[]){INT64_MAX, 2}, &elements));
    CHECK(!qb_shape_elements(1, (int64_t[]){-1}, &elements));
    size_t size = 7;
    CHECK(!qb_size_multiply(SIZE_MAX, 2, &size) && size == 7);
    CHECK(!qb_size_add(SIZE_MAX, 1, &size) && size == 7);
    CHECK(qb_size_multiply(0, SIZE_MAX, &size) && size == 0);
}

static void
shapes_read_like_tuples(void)
{
    char text[QB_SHAPE_TEXT_BYTES];
    CHECK(strcmp(qb_shape_text(0, NULL, text, sizeof text), "()") == 0);
    CHECK(strcmp(qb_shape_text(2, (int64_t[]){2, 64}, text, sizeof text), "(2, 64)") == 0);
    char small[6];
    CHECK(strcmp(qb_shape_text(2, (int64_t[]){123456, 64}, small, sizeof small), "(1234") == 0);
}

int
main(void)
{
    RUN(measuring_and_binding_agree);
    RUN(an_overflow_sticks);
    RUN(a_bound_arena_never_hands_out_more_than_it_has);
    RUN(release_gives_back_to_the_mark);
    RUN(shape_products_do_not_wrap);
    RUN(shapes_read_like_tuples);
    return check_report();
}
