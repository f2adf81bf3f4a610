/* SPDX-License-Identifier: Apache-2.0 */
#include "core/names.h"

#include "check.h"

static void
glob_matches_whole_names_only(void)
{
    CHECK(qb_glob_match("*.layer.1.*", "encoder.layer.1.output"));
    CHECK(!qb_glob_match("*.layer.1.*", "encoder.layer.10.output"));
    CHECK(!qb_glob_match("layer.1", "encoder.layer.1"));
    CHECK(qb_glob_match("*", ""));
    CHECK(!qb_glob_match("?", ""));
    CHECK(qb_glob_match("", ""));
    CHECK(!qb_glob_match("", "a"));
}

static void
glob_star_backtracks(void)
{
    CHECK(qb_glob_match("*add_*quantizer", "output.add_local_input_quantizer"));
    CHECK(qb_glob_match("a*b*c", "a_b_b_xc"));
    CHECK(!qb_glob_match("a*b*c", "a_b_b_x"));
    CHECK(qb_glob_match("**", "anything.at.all"));
}

static void
glob_sets(void)
{
    CHECK(qb_glob_match("layer.[0-3].x", "layer.2.x"));
    CHECK(!qb_glob_match("layer.[0-3].x", "layer.4.x"));
    CHECK(qb_glob_match("layer.[!0-3].x", "layer.4.x"));
    CHECK(!qb_glob_match("layer.[!0-3].x", "layer.2.x"));
    CHECK(qb_glob_match("[]]", "]"));
    CHECK(qb_glob_match("a[", "a[")); /* unclosed: an ordinary character */
    CHECK(qb_glob_match("a[b", "a[b"));
    CHECK(qb_glob_match("[a-]", "-"));
}

static void
distance_counts_edits(void)
{
    CHECK(qb_name_distance("", "") == 0);
    CHECK(qb_name_distance("abc", "") == 3);
    CHECK(qb_name_distance("", "abc") == 3);
    CHECK(qb_name_distance("kitten", "sitting") == 3);
    CHECK(qb_name_distance("attention", "atention") == 1);
}

static void
registry_finds_what_was_appended(void)
{
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    qb_names names;
    qb_names_init(&names, &heap);
    for (int i = 0; i < 200; i++) {
        char text[32];
        (void)snprintf(text, sizeof text, "layer.%d", i);
        const qb_path root = {NULL, "bert"};
        const qb_path node = {&root, text};
        CHECK(qb_names_append(&names, &node, NULL) == QB_OK);
    }
    CHECK(names.count == 200);
    CHECK(qb_names_find(&names, "bert.layer.137") == 137);
    CHECK(qb_names_find(&names, "bert.layer") == -1);
    qb_names_clear(&names);
    CHECK(qb_heap_statistics(&heap).live_blocks == 0);
}

static void
registry_refuses_names_that_do_not_fit(void)
{
    char text[QB_NAME_BYTES + 8];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    qb_heap heap;
    qb_heap_init(&heap, NULL);
    qb_names names;
    qb_names_init(&names, &heap);
    const qb_path node = {NULL, text};
    qb_error error;
    CHECK(qb_names_append(&names, &node, &error) == QB_ERR_VALUE);
    CHECK_CONTAINS(error.message, "longer than 127 bytes");
    CHECK(names.count == 0);
    text[QB_NAME_BYTES - 1] = '\0'; /* the longest that fits */
    CHECK(qb_names_append(&names, &node, &error) == QB_OK);
    qb_names_clear(&names);
}

int
main(void)
{
    RUN(glob_matches_whole_names_only);
    RUN(glob_star_backtracks);
    RUN(glob_sets);
    RUN(distance_counts_edits);
    RUN(registry_finds_what_was_appended);
    RUN(registry_refuses_names_that_do_not_fit);
    return check_report();
}
