/* SPDX-License-Identifier: Apache-2.0
 *
 *     class Observer:
 *         def __new__(cls, device: Device, kind: str, *, axis: tuple[int, ...] | None = None,
 *                     track_amax: bool = False, num_bins: int = 2048, skip_zeros: bool = False,
 *                     rule: str = "from_zero", fixed_max: float = 0.0): ...
 *         kind: str                                        # "max" or "histogram", read-only
 *         has_data: bool                                   # read-only
 *         def collect(self, x: float32) -> None: ...
 *         def reset(self) -> None: ...
 *         def merge(self, other: Observer) -> None: ...
 *         def amax(self) -> ndarray: ...                   # copy; of a histogram: its largest magnitude
 *         def set_amax(self, values: float32) -> None: ...
 *         def tracked(self) -> list[ndarray]: ...          # max with track_amax: every batch's range
 *         def histogram(self) -> tuple[ndarray, ndarray]: ...      # counts (bins,) int64, edges (bins + 1,) float32
 *         def set_histogram(self, counts: int64, edges: float32) -> None: ...
 *
 * An Observer has one reference to a qb_observer; quantizers that feed it have others, and may do so from any thread.
 * So the C side, not this object, refuses two threads at once, and getters freeze the observer while they copy.
 */
#include "ndarray.h"
#include "state.h"

typedef struct observer_object {
    PyObject_HEAD
    qb_observer *observer; /* constant after new */
    qb_observer_kind kind; /* constant after new */
} observer_object;

qb_observer *
qb_py_observer_handle(qb_py_state *state, PyObject *object, const char *argument)
{
    if (!PyObject_TypeCheck(object, state->observer_type)) {
        PyErr_Format(PyExc_TypeError, "%s: expected Observer, got %.100s", argument, Py_TYPE(object)->tp_name);
        return NULL;
    }
    return ((observer_object *)object)->observer;
}

/* ---- construction ------------------------------------------------------------------------------------------------ */

/* Index of `text` in `names` (NULL-terminated), or -1 with ValueError. */
static int
choose(const char *argument, const char *text, const char *const *names)
{
    for (int i = 0; names[i]; ++i) {
        if (strcmp(text, names[i]) == 0) {
            return i;
        }
    }
    PyErr_Format(PyExc_ValueError, "%s: unknown value '%.100s'", argument, text);
    return -1;
}

static int
read_axes(PyObject *axis, qb_observer_options *options)
{
    if (axis == Py_None) {
        options->axis_count = -1;
        return 0;
    }
    if (!PyTuple_Check(axis) || PyTuple_GET_SIZE(axis) > QB_MAX_RANK) {
        PyErr_Format(PyExc_TypeError, "axis: expected None or a tuple of at most %d ints, got %R", QB_MAX_RANK, axis);
        return -1;
    }
    options->axis_count = (int32_t)PyTuple_GET_SIZE(axis);
    for (int32_t i = 0; i < options->axis_count; ++i) {
        const long value = PyLong_AsLong(PyTuple_GET_ITEM(axis, i));
        if (value == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (value < INT32_MIN || value > INT32_MAX) {
            PyErr_Format(PyExc_ValueError, "axis: %ld does not fit 32 bits", value);
            return -1;
        }
        options->axes[i] = (int32_t)value;
    }
    return 0;
}

static PyObject *
observer_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static const char *const names[] = {"device",     "kind", "axis",      "track_amax", "num_bins",
                                        "skip_zeros", "rule", "fixed_max", NULL};
    static const char *const kinds[] = {"max", "histogram", NULL};
    static const char *const rules[] = {"from_zero", "from_min", "fixed", NULL};
    qb_observer_options options = {.struct_size = sizeof options};
    PyObject *device_object = NULL;
    PyObject *axis = Py_None;
    const char *kind_text = NULL;
    const char *rule_text = rules[0];
    int track_amax = 0;
    int skip_zeros = 0;
    long long num_bins = 2048;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "Os|$OpLpsf:Observer", qb_py_keywords(names), &device_object,
                                     &kind_text, &axis, &track_amax, &num_bins, &skip_zeros, &rule_text,
                                     &options.fixed_max)) {
        return NULL;
    }
    qb_py_state *state = qb_py_state_of_type(type);
    qb_device *device = state ? qb_py_device_handle(state, device_object, "device") : NULL;
    if (!device) {
        return NULL;
    }
    const int kind = choose("kind", kind_text, kinds);
    const int rule = kind < 0 ? -1 : choose("rule", rule_text, rules);
    if (rule < 0 || read_axes(axis, &options) < 0) {
        return NULL;
    }
    options.kind = (qb_observer_kind)kind;
    options.rule = (qb_histogram_rule)rule;
    options.track_amax = track_amax;
    options.num_bins = num_bins;
    options.skip_zeros = skip_zeros;
    observer_object *self = (observer_object *)type->tp_alloc(type, 0);
    if (!self) {
        return NULL;
    }
    self->kind = options.kind;
    qb_error error;
    if (qb_observer_create(device, &options, &self->observer, &error) != QB_OK) {
        Py_DECREF(self);
        return qb_py_raise(state, &error);
    }
    return (PyObject *)self;
}

static int
observer_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    (void)arg;
    return 0;
}

static void
observer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    qb_observer_release(((observer_object *)self)->observer);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- collecting -------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(collect_doc, "collect($self, x, /)\n--\n\n"
                          "Count the elements of a tensor.\n\n"
                          "Parameters\n----------\n"
                          "x : float32, C-contiguous, any shape\n\n"
                          "Raises\n------\n"
                          "ValueError\n"
                          "    If an element is NaN or infinite, or above fixed_max.\n"
                          "ShapeError\n"
                          "    If the shape of the maxima would change.\n"
                          "StateError\n"
                          "    If another thread uses the observer.");

static PyObject *
observer_collect(PyObject *object, PyObject *argument)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    qb_py_tensor x = {0};
    if (!state || qb_py_borrow(state, argument, "x", QB_PY_FLOAT32, &x) < 0) {
        return NULL;
    }
    qb_error error;
    qb_py_call call;
    qb_py_call_begin(&call);
    const qb_status status = qb_observer_collect(self->observer, &call.interrupt, x.data, x.rank, x.shape, &error);
    qb_py_call_end(&call);
    qb_py_give_back(&x);
    return status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
}

PyDoc_STRVAR(reset_doc, "reset($self, /)\n--\n\n"
                        "Forget everything that was collected.\n\n"
                        "Raises\n------\n"
                        "StateError\n"
                        "    If another thread uses the observer.");

static PyObject *
observer_reset(PyObject *object, PyObject *unused)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    (void)unused;
    if (!state) {
        return NULL;
    }
    if (qb_observer_reset(self->observer) != QB_OK) {
        PyErr_SetString(state->state_error, "observer is in use by another thread");
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(merge_doc,
             "merge($self, other, /)\n--\n\n"
             "Add what another observer of the same kind has seen.\n\n"
             "Parameters\n----------\n"
             "other : Observer\n"
             "    Left as it is.\n\n"
             "Raises\n------\n"
             "StateError\n"
             "    If it is of another kind or this very one, has other edges, or another thread uses one of them.");

static PyObject *
observer_merge(PyObject *object, PyObject *argument)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    if (!state || !qb_py_observer_handle(state, argument, "other")) {
        return NULL;
    }
    qb_observer *other = ((observer_object *)argument)->observer;
    const int is_itself = other == self->observer; /* for qb_observer_merge to refuse */
    qb_error error;
    qb_status status = is_itself ? QB_OK : qb_observer_freeze(other, &error);
    if (status == QB_OK) {
        status = qb_observer_merge(self->observer, other, &error);
        if (!is_itself) {
            qb_observer_thaw(other);
        }
    }
    return status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
}

/* Keep other threads from changing the statistics while they are copied.  0, or -1 with StateError. */
static int
freeze(const qb_py_state *state, qb_observer *observer)
{
    qb_error error;
    if (qb_observer_freeze(observer, &error) == QB_OK) {
        return 0;
    }
    qb_py_raise(state, &error);
    return -1;
}

/* ---- statistics, out and in ---------------------------------------------------------------------------------------
 */

PyDoc_STRVAR(amax_doc, "amax($self, /)\n--\n\n"
                       "Largest magnitude so far, as a new array.\n\n"
                       "Returns\n-------\n"
                       "ndarray, float32\n"
                       "    Kept axes keep their place; a histogram has one number, exact whatever its edges are.\n\n"
                       "Raises\n------\n"
                       "StateError\n"
                       "    If nothing was collected, or another thread uses the observer.");

static PyObject *
observer_amax(PyObject *object, PyObject *unused)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    (void)unused;
    if (!state || freeze(state, self->observer) < 0) {
        return NULL;
    }
    const float *values = NULL;
    const int64_t *shape = NULL;
    int32_t rank = 0;
    qb_error error;
    PyObject *result = qb_observer_amax(self->observer, &values, &rank, &shape, &error) == QB_OK
                           ? qb_py_array_copy(QB_PY_FLOAT32, rank, shape, values)
                           : qb_py_raise(state, &error);
    qb_observer_thaw(self->observer);
    return result;
}

PyDoc_STRVAR(tracked_doc, "tracked($self, /)\n--\n\n"
                          "Ranges of the single batches, oldest first.\n\n"
                          "Returns\n-------\n"
                          "list of ndarray, float32\n"
                          "    Empty without track_amax.\n\n"
                          "Raises\n------\n"
                          "StateError\n"
                          "    If another thread uses the observer.");

static PyObject *
observer_tracked(PyObject *object, PyObject *unused)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    (void)unused;
    if (!state || freeze(state, self->observer) < 0) {
        return NULL;
    }
    PyObject *list = PyList_New(0);
    const int64_t count = qb_observer_tracked_count(self->observer);
    const float *values = NULL;
    const int64_t *shape = NULL;
    int32_t rank = 0;
    /* Without a running maximum (after a reset) nothing knows the batches' shape, and the list is empty. */
    qb_error error;
    const int has_shape = count > 0 && qb_observer_amax(self->observer, &values, &rank, &shape, &error) == QB_OK;
    for (int64_t i = 0; list && has_shape && i < count; ++i) {
        PyObject *item = qb_py_array_copy(QB_PY_FLOAT32, rank, shape, qb_observer_tracked(self->observer, i));
        if (!item || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    qb_observer_thaw(self->observer);
    return list;
}

PyDoc_STRVAR(set_amax_doc, "set_amax($self, values, /)\n--\n\n"
                           "Replace the running maximum, to resume a calibration.\n\n"
                           "Parameters\n----------\n"
                           "values : float32, any shape\n"
                           "    Magnitudes; of a histogram one number up to its last edge.\n\n"
                           "Raises\n------\n"
                           "ValueError\n"
                           "    If a value cannot be.\n"
                           "StateError\n"
                           "    If a histogram is empty, or another thread uses the observer.");

static PyObject *
observer_set_amax(PyObject *object, PyObject *argument)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    qb_py_tensor values = {0};
    if (!state || qb_py_borrow(state, argument, "values", QB_PY_FLOAT32, &values) < 0) {
        return NULL;
    }
    qb_error error;
    const qb_status status = qb_observer_set_amax(self->observer, values.data, values.rank, values.shape, &error);
    qb_py_give_back(&values);
    return status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
}

PyDoc_STRVAR(histogram_doc, "histogram($self, /)\n--\n\n"
                            "Counts and edges, as new arrays.\n\n"
                            "Returns\n-------\n"
                            "tuple of (ndarray, ndarray)\n"
                            "    int64 (bins,) and float32 (bins + 1,).\n\n"
                            "Raises\n------\n"
                            "StateError\n"
                            "    If the observer keeps maxima, nothing was collected, or another thread uses it.");

static PyObject *
observer_histogram(PyObject *object, PyObject *unused)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    (void)unused;
    if (!state || freeze(state, self->observer) < 0) {
        return NULL;
    }
    const int64_t *counts = NULL;
    const float *edges = NULL;
    int64_t bins = 0;
    qb_error error;
    PyObject *result = NULL;
    if (qb_observer_histogram(self->observer, &counts, &edges, &bins, &error) == QB_OK) {
        const int64_t edge_count = bins + 1;
        PyObject *count_array = qb_py_array_copy(QB_PY_INT64, 1, &bins, counts);
        PyObject *edge_array = qb_py_array_copy(QB_PY_FLOAT32, 1, &edge_count, edges);
        if (count_array && edge_array) {
            result = PyTuple_Pack(2, count_array, edge_array);
        }
        Py_XDECREF(count_array);
        Py_XDECREF(edge_array);
    }
    else {
        qb_py_raise(state, &error);
    }
    qb_observer_thaw(self->observer);
    return result;
}

PyDoc_STRVAR(set_histogram_doc, "set_histogram($self, counts, edges, /)\n--\n\n"
                                "Replace the histogram, to resume a calibration.\n\n"
                                "Parameters\n----------\n"
                                "counts : int64, shape (bins,)\n"
                                "    At least 0.\n"
                                "edges : float32, shape (bins + 1,)\n"
                                "    Finite, increasing, as the rule makes them.\n\n"
                                "Raises\n------\n"
                                "ShapeError\n"
                                "    If the two do not fit each other.\n"
                                "ValueError\n"
                                "    If an element cannot be.\n"
                                "StateError\n"
                                "    If the observer keeps maxima, or another thread uses it.");

static PyObject *
observer_set_histogram(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    qb_py_tensor counts = {0};
    qb_py_tensor edges = {0};
    PyObject *result = NULL;
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "set_histogram() takes 2 arguments, %zd given", count);
        return NULL;
    }
    if (!state || qb_py_borrow(state, arguments[0], "counts", QB_PY_INT64, &counts) < 0 ||
        qb_py_borrow(state, arguments[1], "edges", QB_PY_FLOAT32, &edges) < 0) {
        goto done;
    }
    if (counts.rank != 1 || edges.rank != 1 || edges.shape[0] != counts.shape[0] + 1) {
        char got_counts[QB_PY_SHAPE_TEXT];
        char got_edges[QB_PY_SHAPE_TEXT];
        PyErr_Format(state->shape_error, "edges: expected counts (bins,) and edges (bins + 1,), got %s and %s",
                     qb_py_shape_text(got_counts, counts.rank, counts.shape),
                     qb_py_shape_text(got_edges, edges.rank, edges.shape));
        goto done;
    }
    qb_error error;
    const qb_status status =
        qb_observer_set_histogram(self->observer, counts.data, edges.data, counts.shape[0], &error);
    result = status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
done:
    qb_py_give_back(&counts);
    qb_py_give_back(&edges);
    return result;
}

PyDoc_STRVAR(fine_edges_doc, "fine_edges($self, /)\n--\n\n"
                             "Edges that decide, where those of histogram are roundings of them.\n\n"
                             "Returns\n-------\n"
                             "ndarray, shape (bins + 1,), float64, or None\n"
                             "    None unless the rule is \"from_min\" and the histogram has grown.\n\n"
                             "Raises\n------\n"
                             "StateError\n"
                             "    If the observer keeps maxima, nothing was collected, or another thread uses it.");

static PyObject *
observer_fine_edges(PyObject *object, PyObject *unused)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    (void)unused;
    if (!state || freeze(state, self->observer) < 0) {
        return NULL;
    }
    const int64_t *counts = NULL;
    const float *edges = NULL;
    int64_t bins = 0;
    qb_error error;
    PyObject *result = NULL;
    if (qb_observer_histogram(self->observer, &counts, &edges, &bins, &error) == QB_OK) {
        const double *fine = qb_observer_fine_edges(self->observer);
        const int64_t edge_count = bins + 1;
        result = fine ? qb_py_array_copy(QB_PY_FLOAT64, 1, &edge_count, fine) : Py_NewRef(Py_None);
    }
    else {
        qb_py_raise(state, &error);
    }
    qb_observer_thaw(self->observer);
    return result;
}

PyDoc_STRVAR(set_fine_edges_doc,
             "set_fine_edges($self, edges, /)\n--\n\n"
             "Put back what fine_edges returned, after set_histogram.\n\n"
             "Parameters\n----------\n"
             "edges : float64, shape (bins + 1,)\n"
             "    Which round to the edges that are there.\n\n"
             "Raises\n------\n"
             "ShapeError\n"
             "    If they have not one dimension.\n"
             "ValueError\n"
             "    If they are others.\n"
             "StateError\n"
             "    If the rule is not \"from_min\", there is no histogram, or another thread uses the\n"
             "    observer.");

static PyObject *
observer_set_fine_edges(PyObject *object, PyObject *argument)
{
    observer_object *self = (observer_object *)object;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(object));
    qb_py_tensor edges = {0};
    if (!state || qb_py_borrow(state, argument, "edges", QB_PY_FLOAT64, &edges) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    if (edges.rank != 1) {
        char got[QB_PY_SHAPE_TEXT];
        PyErr_Format(state->shape_error, "edges: expected (bins + 1,), got %s",
                     qb_py_shape_text(got, edges.rank, edges.shape));
    }
    else {
        qb_error error;
        const qb_status status = qb_observer_set_fine_edges(self->observer, edges.data, edges.shape[0] - 1, &error);
        result = status == QB_OK ? Py_NewRef(Py_None) : qb_py_raise(state, &error);
    }
    qb_py_give_back(&edges);
    return result;
}

static PyObject *
observer_get_kind(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(((observer_object *)self)->kind == QB_OBSERVER_MAX ? "max" : "histogram");
}

static PyObject *
observer_get_has_data(PyObject *self, void *closure)
{
    qb_observer *observer = ((observer_object *)self)->observer;
    qb_py_state *state = qb_py_state_of_type(Py_TYPE(self));
    (void)closure;
    if (!state || freeze(state, observer) < 0) {
        return NULL;
    }
    const int has_data = qb_observer_has_data(observer);
    qb_observer_thaw(observer);
    return PyBool_FromLong(has_data);
}

static PyMethodDef observer_methods[] = {
    {"collect", observer_collect, METH_O, collect_doc},
    {"reset", observer_reset, METH_NOARGS, reset_doc},
    {"merge", observer_merge, METH_O, merge_doc},
    {"amax", observer_amax, METH_NOARGS, amax_doc},
    {"set_amax", observer_set_amax, METH_O, set_amax_doc},
    {"tracked", observer_tracked, METH_NOARGS, tracked_doc},
    {"histogram", observer_histogram, METH_NOARGS, histogram_doc},
    {"fine_edges", observer_fine_edges, METH_NOARGS, fine_edges_doc},
    {"set_fine_edges", observer_set_fine_edges, METH_O, set_fine_edges_doc},
    {"set_histogram", (PyCFunction)(void (*)(void))observer_set_histogram, METH_FASTCALL, set_histogram_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef observer_properties[] = {
    {"kind", observer_get_kind, NULL, "\"max\" or \"histogram\".", NULL},
    {"has_data", observer_get_has_data, NULL, "Whether anything was collected.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(observer_doc,
             "Observer(device, kind, *, axis=None, track_amax=False, num_bins=2048, skip_zeros=False, "
             "rule='from_zero', fixed_max=0.0)\n--\n\n"
             "What a calibrator has seen: a running maximum or a histogram.\n\n"
             "Parameters\n----------\n"
             "device : Device\n"
             "kind : {'max', 'histogram'}\n"
             "axis : tuple of int, optional\n"
             "    Axes that keep a maximum of their own, negative ones counted from the end; for \"max\".\n"
             "track_amax : bool\n"
             "    Whether to keep the range of every batch as well; for \"max\".\n"
             "num_bins : int\n"
             "    Bins of the first histogram, at least 1.\n"
             "skip_zeros : bool\n"
             "    Whether a histogram leaves zeros out.\n"
             "rule : {'from_zero', 'from_min', 'fixed'}\n"
             "    How the first histogram gets its edges and later ones grow; \"fixed\": [0, fixed_max] for good.\n"
             "fixed_max : float\n"
             "    Finite, above 0, for that rule.\n\n"
             "Raises\n------\n"
             "ValueError\n"
             "    If an argument is out of range.\n"
             "UnsupportedError\n"
             "    For a histogram with axes.");

static PyType_Slot observer_slots[] = {
    {Py_tp_doc, (void *)observer_doc},
    {Py_tp_new, observer_new},
    {Py_tp_dealloc, observer_dealloc},
    {Py_tp_traverse, observer_traverse},
    {Py_tp_methods, observer_methods},
    {Py_tp_getset, observer_properties},
    {0, NULL},
};

static PyType_Spec observer_spec = {
    .name = "qdqbert._core.Observer",
    .basicsize = sizeof(observer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = observer_slots,
};

int
qb_py_observer_register(PyObject *module, qb_py_state *state)
{
    return qb_py_type_register(module, &observer_spec, &state->observer_type);
}
