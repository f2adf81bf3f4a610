/* SPDX-License-Identifier: Apache-2.0
 *
 * Session.backward: gradients of the outputs in, gradients of the inputs out; those of the parameters are the model's.
 */
#include "ndarray.h"
#include "session_object.h"

enum { D_LAST_HIDDEN_STATE, D_POOLER_OUTPUT, D_LOGITS, WANTS_INPUTS, WANTS_ENCODER, D_HIDDEN_STATES, ARGUMENT_COUNT };
enum { GRADIENT_COUNT = D_LOGITS + 1 };

static const char *const names[ARGUMENT_COUNT] = {[D_LAST_HIDDEN_STATE] = "d_last_hidden_state",
                                                  [D_POOLER_OUTPUT] = "d_pooler_output",
                                                  [D_LOGITS] = "d_logits",
                                                  [D_HIDDEN_STATES] = "d_hidden_states"};

/* What was borrowed. */
typedef struct backward_gradients {
    qb_py_tensor one[GRADIENT_COUNT];
    qb_py_tensors hidden;
} backward_gradients;

static void
give_back(backward_gradients *given)
{
    for (int i = 0; i < GRADIENT_COUNT; ++i) {
        qb_py_give_back(&given->one[i]);
    }
    qb_py_give_back_each(&given->hidden);
}

static int
borrow(const qb_py_state *state, const qb_py_session *self, PyObject *const *arguments, Py_ssize_t count,
       backward_gradients *given)
{
    for (int i = 0; i < GRADIENT_COUNT; ++i) {
        if (qb_py_borrow_optional(state, arguments[i], names[i], QB_PY_FLOAT32, &given->one[i]) < 0) {
            return -1;
        }
    }
    return count <= D_HIDDEN_STATES || arguments[D_HIDDEN_STATES] == Py_None
               ? 0
               : qb_py_borrow_each(state, arguments[D_HIDDEN_STATES], names[D_HIDDEN_STATES],
                                   self->model->num_layers + 1, "hidden states", 1, &given->hidden);
}

static int
require_shape(const qb_py_state *state, int index, const qb_py_tensor *given, int32_t rank, const int64_t *shape)
{
    int fits = given->rank == rank;
    for (int32_t i = 0; fits && i < rank; ++i) {
        fits = given->shape[i] == shape[i];
    }
    if (given->data && !fits) {
        char expected[QB_PY_SHAPE_TEXT];
        char got[QB_PY_SHAPE_TEXT];
        PyErr_Format(state->shape_error, "%s: expected shape %s, got %s", names[index],
                     qb_py_shape_text(expected, rank, shape), qb_py_shape_text(got, given->rank, given->shape));
        return -1;
    }
    return 0;
}

static int
check_shapes(const qb_py_state *state, const qb_py_session *self, const backward_gradients *given)
{
    const qb_py_shapes *shapes = &self->shapes;
    const int64_t hidden[3] = {shapes->batch, shapes->length, shapes->hidden};
    const int64_t pooled[2] = {shapes->batch, shapes->hidden};
    for (int64_t i = 0; i < given->hidden.count; ++i) {
        if (require_shape(state, D_HIDDEN_STATES, &given->hidden.each[i], 3, hidden) < 0) {
            return -1;
        }
    }
    return require_shape(state, D_LAST_HIDDEN_STATE, &given->one[D_LAST_HIDDEN_STATE], 3, hidden) < 0 ||
                   require_shape(state, D_POOLER_OUTPUT, &given->one[D_POOLER_OUTPUT], 2, pooled) < 0 ||
                   require_shape(state, D_LOGITS, &given->one[D_LOGITS], shapes->logits_rank, shapes->logits) < 0
               ? -1
               : 0;
}

static qb_status
run_backward(qb_py_session *self, const qb_backward_inputs *inputs, const qb_backward_outputs *outputs, qb_error *error)
{
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_session_backward(self->session, &call.interrupt, inputs, outputs, error);
    qb_py_call_end(&call);
    return status;
}

const char qb_py_session_backward_doc[] =
    "backward($self, d_last_hidden_state, d_pooler_output, d_logits, wants_inputs, wants_encoder, "
    "d_hidden_states=None, /)\n--\n\n"
    "Add the gradients of the parameters, for what the last forward of this session computed.\n\n"
    "Parameters\n----------\n"
    "d_last_hidden_state, d_pooler_output, d_logits : float32, of the shape of the output, or None\n"
    "    None: zero.\n"
    "wants_inputs : bool\n"
    "    Whether the gradient of the word vectors is wanted.\n"
    "wants_encoder : bool\n"
    "    Whether the gradient of encoder_hidden_states is wanted.\n"
    "d_hidden_states : sequence of float32, shape (batch, length, hidden), or None\n"
    "    Of the embeddings and of each layer's output, each of which may be None; in addition to what comes from\n"
    "    above.\n\n"
    "Returns\n-------\n"
    "tuple\n"
    "    Gradients of the word vectors, (batch, length, hidden), and of encoder_hidden_states; None where not\n"
    "    wanted.\n\n"
    "Raises\n------\n"
    "StateError\n"
    "    If the session does not train, nothing was computed or the model has changed since.\n"
    "ShapeError, ValueError\n"
    "    For gradients of a wrong shape, or of what was not computed.\n"
    "UnsupportedError\n"
    "    If a quantizer has no gradient; it is named.";

PyObject *
qb_py_session_backward(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    qb_py_session *self = (qb_py_session *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    if (!state) {
        return NULL;
    }
    if (count < D_HIDDEN_STATES || count > ARGUMENT_COUNT) {
        return PyErr_Format(PyExc_TypeError, "backward() takes %d or %d arguments, %zd given", (int)D_HIDDEN_STATES,
                            (int)ARGUMENT_COUNT, count);
    }
    const int wants_inputs = PyObject_IsTrue(arguments[WANTS_INPUTS]);
    const int wants_encoder = wants_inputs < 0 ? -1 : PyObject_IsTrue(arguments[WANTS_ENCODER]);
    if (wants_encoder < 0) {
        return NULL;
    }
    backward_gradients given = {.hidden = {.count = 0}};
    PyObject *made[2] = {NULL, NULL};
    void *memory[2] = {NULL, NULL};
    PyObject *tuple = NULL;
    int is_inside = 0;
    if (borrow(state, self, arguments, count, &given) < 0 || qb_py_enter(state, &self->busy, "session") < 0) {
        goto done;
    }
    is_inside = 1;
    if (self->kept && check_shapes(state, self, &given) < 0) {
        goto done;
    }
    const int64_t of_inputs[3] = {self->shapes.batch, self->shapes.length, self->shapes.hidden};
    const int64_t of_encoder[3] = {self->shapes.batch, self->shapes.encoder_length, self->shapes.hidden};
    if ((wants_inputs && !(made[0] = qb_py_array_new(QB_PY_FLOAT32, 3, of_inputs, &memory[0]))) ||
        (wants_encoder && !(made[1] = qb_py_array_new(QB_PY_FLOAT32, 3, of_encoder, &memory[1])))) {
        goto done;
    }
    const qb_backward_inputs inputs = {.struct_size = sizeof inputs,
                                       .d_last_hidden_state = given.one[D_LAST_HIDDEN_STATE].data,
                                       .d_pooler_output = given.one[D_POOLER_OUTPUT].data,
                                       .d_logits = given.one[D_LOGITS].data,
                                       .d_hidden_states = given.hidden.data};
    const qb_backward_outputs outputs = {
        .struct_size = sizeof outputs, .d_inputs_embeds = memory[0], .d_encoder_hidden_states = memory[1]};
    qb_error error;
    tuple = run_backward(self, &inputs, &outputs, &error) == QB_OK
                ? PyTuple_Pack(2, made[0] ? made[0] : Py_None, made[1] ? made[1] : Py_None)
                : qb_py_raise(state, &error);
done:
    if (is_inside) {
        qb_py_leave(&self->busy);
    }
    give_back(&given);
    Py_XDECREF(made[0]);
    Py_XDECREF(made[1]);
    return tuple;
}
