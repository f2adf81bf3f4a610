/* SPDX-License-Identifier: Apache-2.0 */
#include "core/status.h"

#include "check.h"

static void
a_sentence_starts_with_where_it_happened(void)
{
    const qb_path root = {NULL, "bert"};
    const qb_path layer = {&root, "encoder.layer.3"};
    const qb_path nothing = {&layer, ""};
    const qb_path leaf = {&nothing, "query"};
    qb_error error;
    CHECK(qb_fail(&error, &leaf, QB_ERR_SHAPE, "x is %d", 7) == QB_ERR_SHAPE);
    CHECK(error.status == QB_ERR_SHAPE);
    CHECK(strcmp(error.message, "bert.encoder.layer.3.query: x is 7") == 0);
    CHECK(qb_fail(&error, NULL, QB_ERR_VALUE, "alone") == QB_ERR_VALUE);
    CHECK(strcmp(error.message, "alone") == 0);
}

static void
without_an_error_struct_the_status_still_comes(void)
{
    CHECK(qb_fail(NULL, NULL, QB_ERR_STATE, "%s", "unheard") == QB_ERR_STATE);
}

static void
long_sentences_are_cut_and_terminated(void)
{
    char name[2 * QB_ERROR_BYTES];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    const qb_path path = {NULL, name};
    struct {
        qb_error error;
        char guard[8];
    } framed;
    memset(&framed, 0x5A, sizeof framed);
    CHECK(qb_fail(&framed.error, &path, QB_ERR_VALUE, "%s", name) == QB_ERR_VALUE);
    CHECK(strlen(framed.error.message) == QB_ERROR_BYTES - 1);
    CHECK(framed.guard[0] == 0x5A);
    CHECK(qb_fail(&framed.error, NULL, QB_ERR_VALUE, "%s", name) == QB_ERR_VALUE);
    CHECK(strlen(framed.error.message) == QB_ERROR_BYTES - 1);
    char small[4];
    CHECK(strcmp(qb_path_text(&path, small, sizeof small), "nnn") == 0);
}

static void
every_status_has_words(void)
{
    for (int s = QB_OK; s <= QB_ERR_INTERNAL; s++) {
        CHECK(strcmp(qb_status_text((qb_status)s), "unknown status") != 0);
    }
    CHECK(strcmp(qb_status_text((qb_status)1000), "unknown status") == 0);
}

int
main(void)
{
    RUN(a_sentence_starts_with_where_it_happened);
    RUN(without_an_error_struct_the_status_still_comes);
    RUN(long_sentences_are_cut_and_terminated);
    RUN(every_status_has_words);
    return check_report();
}
