/* SPDX-License-Identifier: Apache-2.0 */
#include "session_results.h"

#include "ndarray.h"

enum { OUTPUT_CACHE = 1 << 6, OUTPUT_ALL = 2 * OUTPUT_CACHE - 1 };

/* A dimension that differs between layers: the heads of each one's self-attention. */
enum { OWN_HEADS = -1 };

/* What one result will be: an array, or a tuple of `count` arrays. */
typedef struct result_plan {
    int is_wanted;
    int64_t count; /* 0: one array */
    int32_t rank;
    int64_t shape[4];
} result_plan;

void
qb_py_results_free(qb_py_results *results)
{
    for (int i = 0; i < RESULT_COUNT; ++i) {
        Py_XDECREF(results->objects[i]);
        PyMem_Free((void *)results->per_layer[i]);
    }
}

static PyObject *
make_array(const qb_py_model *model, const result_plan *plan, int64_t layer, float **memory)
{
    int64_t shape[4];
    void *data = NULL;
    for (int32_t i = 0; i < plan->rank; ++i) {
        shape[i] = plan->shape[i] == OWN_HEADS ? qb_model_heads(model->model, layer) : plan->shape[i];
    }
    PyObject *array = qb_py_array_new(QB_PY_FLOAT32, plan->rank, shape, &data);
    *memory = data;
    return array;
}

static int
make_result(const qb_py_model *model, const result_plan *plan, int index, qb_py_results *results)
{
    if (plan->count == 0) {
        results->objects[index] = make_array(model, plan, 0, &results->one[index]);
        return results->objects[index] ? 0 : -1;
    }
    results->objects[index] = PyTuple_New(plan->count);
    if (!results->objects[index]) {
        return -1;
    }
    results->per_layer[index] = PyMem_Calloc((size_t)plan->count, sizeof *results->per_layer[index]);
    if (!results->per_layer[index]) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < plan->count; ++i) {
        PyObject *array = make_array(model, plan, i, &results->per_layer[index][i]);
        if (!array) {
            return -1;
        }
        PyTuple_SET_ITEM(results->objects[index], i, array);
    }
    return 0;
}

static int
wants(unsigned long wanted, int result)
{
    return (wanted >> result & 1) != 0;
}

/* The logits that a call asks for: of all tokens, of some, or of pooled rows. */
static result_plan
plan_logits(const qb_py_model *model, const qb_forward_inputs *in, int is_wanted)
{
    result_plan plan = {.is_wanted = is_wanted};
    plan.rank = qb_model_logits_shape(model->model, in->batch, in->length, plan.shape);
    if (in->logits_positions && plan.rank == 3) {
        plan.rank = 2;
        plan.shape[0] = in->logits_count;
        plan.shape[1] = plan.shape[2];
    }
    return plan;
}

static int
check_wanted(unsigned long wanted)
{
    if (wanted > OUTPUT_ALL) {
        PyErr_Format(PyExc_ValueError, "outputs: %lu is not a sum of OUTPUT_* constants", wanted);
        return -1;
    }
    return 0;
}

int
qb_py_results_make(const qb_py_model *model, const qb_forward_inputs *in, unsigned long wanted, qb_py_results *results)
{
    const int64_t b = in->batch;
    const int64_t t = in->length;
    const int64_t h = model->hidden_size;
    const int64_t n = model->num_heads;
    const int64_t d = h / n;
    const int64_t s = in->encoder_length;
    const int64_t keys = in->past_length + t;
    const int64_t layers = model->num_layers;
    const int has_cross = model->has_cross_attention && s > 0;
    const int caches = (wanted & OUTPUT_CACHE) != 0;
    const int projects = caches && has_cross && in->cross_keys == NULL;
    const result_plan plans[RESULT_COUNT] = {
        [LAST_HIDDEN_STATE] = {wants(wanted, LAST_HIDDEN_STATE), 0, 3, {b, t, h}},
        [POOLER_OUTPUT] = {wants(wanted, POOLER_OUTPUT), 0, 2, {b, h}},
        [LOGITS] = plan_logits(model, in, wants(wanted, LOGITS)),
        [HIDDEN_STATES] = {wants(wanted, HIDDEN_STATES), layers + 1, 3, {b, t, h}},
        [ATTENTIONS] = {wants(wanted, ATTENTIONS), layers, 4, {b, OWN_HEADS, t, keys}},
        [CROSS_ATTENTIONS] = {wants(wanted, CROSS_ATTENTIONS) && has_cross, layers, 4, {b, n, t, s}},
        [KEYS] = {caches, layers, 4, {b, OWN_HEADS, keys, d}},
        [VALUES] = {caches, layers, 4, {b, OWN_HEADS, keys, d}},
        [NEW_CROSS_KEYS] = {projects, layers, 4, {b, n, s, d}},
        [NEW_CROSS_VALUES] = {projects, layers, 4, {b, n, s, d}},
    };
    if (check_wanted(wanted) < 0) {
        return -1;
    }
    const int lacks_logits = plans[LOGITS].is_wanted && plans[LOGITS].rank == 0;
    if (lacks_logits || (plans[POOLER_OUTPUT].is_wanted && !qb_model_has_pooler(model->model))) {
        PyErr_Format(PyExc_ValueError, "outputs: this model has no %s", lacks_logits ? "logits" : "pooler_output");
        return -1;
    }
    for (int i = 0; i < RESULT_COUNT; ++i) {
        if (plans[i].is_wanted && make_result(model, &plans[i], i, results) < 0) {
            return -1;
        }
    }
    return 0;
}

qb_forward_outputs
qb_py_results_outputs(const qb_py_results *results)
{
    return (qb_forward_outputs){
        .struct_size = sizeof(qb_forward_outputs),
        .last_hidden_state = results->one[LAST_HIDDEN_STATE],
        .pooler_output = results->one[POOLER_OUTPUT],
        .logits = results->one[LOGITS],
        .hidden_states = results->per_layer[HIDDEN_STATES],
        .attentions = results->per_layer[ATTENTIONS],
        .cross_attentions = results->per_layer[CROSS_ATTENTIONS],
        .keys = results->per_layer[KEYS],
        .values = results->per_layer[VALUES],
        .cross_keys = results->per_layer[NEW_CROSS_KEYS],
        .cross_values = results->per_layer[NEW_CROSS_VALUES],
    };
}

PyObject *
qb_py_results_pack(const qb_py_results *results)
{
    PyObject *tuple = PyTuple_New(RESULT_COUNT);
    for (int i = 0; tuple && i < RESULT_COUNT; ++i) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(results->objects[i] ? results->objects[i] : Py_None));
    }
    return tuple;
}

int
qb_py_results_asked(PyObject *wanted, uint32_t *asked)
{
    const unsigned long bits = PyLong_AsUnsignedLong(wanted);
    if (PyErr_Occurred() || check_wanted(bits) < 0) {
        return -1;
    }
    *asked =
        ((bits & OUTPUT_CACHE) != 0 ? QB_ASKED_KEYS : 0u) | (wants(bits, HIDDEN_STATES) ? QB_ASKED_HIDDEN_STATES : 0u);
    return 0;
}

int
qb_py_results_register(PyObject *module)
{
    static const char *const names[] = {
        "OUTPUT_LAST_HIDDEN_STATE", "OUTPUT_POOLER_OUTPUT",    "OUTPUT_LOGITS", "OUTPUT_HIDDEN_STATES",
        "OUTPUT_ATTENTIONS",        "OUTPUT_CROSS_ATTENTIONS", "OUTPUT_CACHE",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i) {
        if (PyModule_AddIntConstant(module, names[i], 1L << i) < 0) {
            return -1;
        }
    }
    return 0;
}
