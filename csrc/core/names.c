/* SPDX-License-Identifier: Apache-2.0 */
#include "core/names.h"

#include <string.h>

void
qb_names_init(qb_names *names, qb_heap *heap)
{
    *names = (qb_names){.heap = heap};
}

void
qb_names_clear(qb_names *names)
{
    qb_heap_release(names->heap, names->text);
    *names = (qb_names){.heap = names->heap};
}

static qb_status
grow(qb_names *names, qb_error *error)
{
    const int64_t capacity = names->capacity == 0 ? 64 : 2 * names->capacity;
    char(*text)[QB_NAME_BYTES] = qb_heap_allocate(names->heap, (size_t)capacity * QB_NAME_BYTES);
    if (text == NULL) {
        return qb_fail(error, NULL, QB_ERR_NOMEM, "no memory for %lld names", (long long)capacity);
    }
    if (names->count > 0) {
        memcpy(text, names->text, (size_t)names->count * QB_NAME_BYTES);
    }
    qb_heap_release(names->heap, names->text);
    names->text = text;
    names->capacity = capacity;
    return QB_OK;
}

qb_status
qb_names_append(qb_names *names, const qb_path *path, qb_error *error)
{
    char text[QB_NAME_BYTES + 1];
    (void)qb_path_text(path, text, sizeof text);
    if (strlen(text) >= QB_NAME_BYTES) {
        return qb_fail(error, NULL, QB_ERR_VALUE, "name %s... is longer than %d bytes", text, QB_NAME_BYTES - 1);
    }
    if (names->count == names->capacity) {
        QB_TRY(grow(names, error));
    }
    memcpy(names->text[names->count++], text, strlen(text) + 1);
    return QB_OK;
}

int64_t
qb_names_find(const qb_names *names, const char *name)
{
    for (int64_t i = 0; i < names->count; i++) {
        if (strcmp(names->text[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

/* One member of [...], from just behind the bracket; *next is set behind the closing one.  0 when there is none. */
static int
match_set(const char *set, char c, const char **next)
{
    const int negated = *set == '!';
    set += negated;
    int found = 0;
    const char *first = set;
    while (*set != '\0' && (*set != ']' || set == first)) {
        if (set[1] == '-' && set[2] != ']' && set[2] != '\0') {
            found |= set[0] <= c && c <= set[2];
            set += 3;
        }
        else {
            found |= *set == c;
            set++;
        }
    }
    if (*set != ']') {
        return -1;
    }
    *next = set + 1;
    return found != negated;
}

/* Length of one pattern element at p and whether it matches c; *p moves behind it. */
static int
match_one(const char **p, char c)
{
    const char *next = *p + 1;
    int matched = 0;
    if (**p == '?') {
        matched = 1;
    }
    else if (**p == '[') {
        matched = match_set(*p + 1, c, &next);
        if (matched < 0) { /* no closing bracket: an ordinary character */
            next = *p + 1;
            matched = c == '[';
        }
    }
    else {
        matched = **p == c;
    }
    *p = next;
    return matched;
}

int
qb_glob_match(const char *pattern, const char *name)
{
    /* Greedy with one backtracking point: the last star.  Linear in practice, quadratic at worst. */
    const char *star = NULL;
    const char *resume = NULL;
    while (*name != '\0') {
        const char *p = pattern;
        if (*p == '*') {
            star = ++pattern;
            resume = name;
        }
        else if (*p != '\0' && match_one(&p, *name)) {
            pattern = p;
            name++;
        }
        else if (star != NULL) {
            pattern = star;
            name = ++resume;
        }
        else {
            return 0;
        }
    }
    while (*pattern == '*') {
        pattern++;
    }
    return *pattern == '\0';
}

int64_t
qb_name_distance(const char *a, const char *b)
{
    /* Levenshtein over at most QB_NAME_BYTES characters of each. */
    int64_t row[QB_NAME_BYTES + 1];
    size_t length = strlen(b);
    length = length < QB_NAME_BYTES ? length : QB_NAME_BYTES;
    for (size_t j = 0; j <= length; j++) {
        row[j] = (int64_t)j;
    }
    for (size_t i = 0; a[i] != '\0' && i < QB_NAME_BYTES; i++) {
        int64_t diagonal = row[0];
        row[0] = (int64_t)i + 1;
        for (size_t j = 0; j < length; j++) {
            int64_t best = diagonal + (a[i] != b[j]);
            best = row[j] + 1 < best ? row[j] + 1 : best;
            best = row[j + 1] + 1 < best ? row[j + 1] + 1 : best;
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    return row[length];
}
