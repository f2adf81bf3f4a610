/* SPDX-License-Identifier: Apache-2.0
 *
 * What sites a model has, and what travels between them, for people.  The layers tell it themselves: sites when they
 * are visited, edges each time that somebody asks, since they depend on the quantizers.
 */
#include <string.h>

#include "models/model.h"

/* ---- sites ------------------------------------------------------------------------------------------------------ */

int64_t
qb_model_site_count(const qb_model *model)
{
    return model->site_names.count;
}

static const char *
name_of(const qb_model *model, const qb_quantizer *quantizer)
{
    for (int64_t i = 0; quantizer != NULL && i < model->quantizer_names.count; i++) {
        if (model->quantizers[i] == quantizer) {
            return model->quantizer_names.text[i];
        }
    }
    return "";
}

/* A site is known by its slots. */
static int
is_same(const qb_site *a, const qb_site *b)
{
    return a->a == b->a;
}

static const char *
name_of_site(const qb_model *model, const qb_site *site)
{
    for (int64_t i = 0; i < model->site_names.count; i++) {
        if (is_same(&model->sites[i], site)) {
            return model->site_names.text[i];
        }
    }
    return "";
}

/* Whether a product gives codes: one site reads it. */
typedef struct product_question {
    const qb_site *maker;
    int gives_codes;
} product_question;

static void
look_for_codes(void *context, const qb_edge *edge)
{
    product_question *question = context;
    if (is_same(&edge->maker, question->maker)) {
        question->gives_codes = qb_edge_refusal(edge, NULL) == NULL;
    }
}

qb_site_info
qb_model_site(const qb_model *model, int64_t index, uint32_t asked)
{
    qb_site_info info = {.name = NULL};
    if (index < 0 || index >= model->site_names.count) {
        return info;
    }
    const qb_site *site = &model->sites[index];
    product_question question = {.maker = site};
    const qb_edge_visitor visitor = {.asked = asked, .context = &question, .edge = look_for_codes};
    qb_bert_visit_edges(&model->bert, &visitor);
    const size_t kernel = qb_site_kernel(site, question.gives_codes);
    info.name = model->site_names.text[index];
    info.path = qb_arithmetic_text(qb_site_arithmetic(site, &info.reason));
    info.obstacle = name_of(model, qb_site_obstacle(site));
    info.kernel = qb_kernel_name(kernel);
    info.variant = qb_device_kernel_variant(model->device, kernel);
    return info;
}

/* ---- edges ------------------------------------------------------------------------------------------------------ */

/* The edge number `wanted`, and how many there are. */
typedef struct edge_question {
    const qb_model *model;
    int64_t wanted, count;
    qb_edge_info info;
} edge_question;

static void
count_edge(void *context, const qb_edge *edge)
{
    edge_question *question = context;
    const qb_model *model = question->model;
    if (question->count++ == question->wanted) {
        const char *refusal = qb_edge_refusal(edge, NULL);
        question->info.maker = edge->origin == NULL ? name_of_site(model, &edge->maker) : edge->origin;
        question->info.reader = name_of_site(model, &edge->reader);
        question->info.quantizer = name_of(model, edge->quantizer);
        question->info.refusal = refusal == NULL ? "" : refusal;
    }
}

static edge_question
ask_for_edge(const qb_model *model, int64_t index, uint32_t asked)
{
    edge_question question = {.model = model, .wanted = index};
    const qb_edge_visitor visitor = {.asked = asked, .context = &question, .edge = count_edge};
    qb_bert_visit_edges(&model->bert, &visitor);
    return question;
}

int64_t
qb_model_edge_count(const qb_model *model, uint32_t asked)
{
    return ask_for_edge(model, -1, asked).count;
}

qb_edge_info
qb_model_edge(const qb_model *model, int64_t index, uint32_t asked)
{
    return ask_for_edge(model, index, asked).info;
}
