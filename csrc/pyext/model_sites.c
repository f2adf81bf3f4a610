/* SPDX-License-Identifier: Apache-2.0
 *
 * How a Model will be computed, as its quantizers stand, in an evaluation that is asked for these outputs:
 *
 *     def sites(self, outputs=0, /) -> list[tuple[str, str, str, str, str, str]]: ...   # the fields of qb_site_info
 *     def edges(self, outputs=0, /) -> list[tuple[str, str, str, str]]: ...             # those of qb_edge_info
 */
#include "model_object.h"
#include "session_results.h"

/* The one argument that may be given.  -1 with an exception. */
static int
read_asked(const char *function, PyObject *const *arguments, Py_ssize_t count, uint32_t *asked)
{
    *asked = 0;
    if (count > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes 0 or 1 arguments, %zd given", function, count);
        return -1;
    }
    return count == 0 ? 0 : qb_py_results_asked(arguments[0], asked);
}

/* Append a tuple, which is given away; NULL is an exception. */
static void
append(PyObject **list, PyObject *entry)
{
    if (!entry || PyList_Append(*list, entry) < 0) {
        Py_CLEAR(*list);
    }
    Py_XDECREF(entry);
}

const char qb_py_model_sites_doc[] =
    "sites($self, outputs=0, /)\n--\n\n"
    "How every product will be computed, as the quantizers stand now.\n\n"
    "Parameters\n----------\n"
    "outputs : int\n"
    "    What an evaluation is asked for, a sum of OUTPUT_* constants.\n\n"
    "Returns\n-------\n"
    "list of (str, str, str, str, str, str)\n"
    "    Name; path (\"integer\", \"float\" or \"dequantized\"); the reason of the last and the quantizer that it\n"
    "    speaks of, otherwise \"\"; the kernel that combines the operands, and its variant.\n\n"
    "Raises\n------\n"
    "ValueError\n"
    "    If `outputs` is no such sum.";

PyObject *
qb_py_model_sites(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    const qb_model *model = ((qb_py_model *)self)->model;
    uint32_t asked;
    PyObject *list = read_asked("sites", arguments, count, &asked) < 0 ? NULL : PyList_New(0);
    for (int64_t i = 0; list && i < qb_model_site_count(model); ++i) {
        const qb_site_info site = qb_model_site(model, i, asked);
        append(&list,
               Py_BuildValue("(ssssss)", site.name, site.path, site.reason, site.obstacle, site.kernel, site.variant));
    }
    return list;
}

const char qb_py_model_edges_doc[] =
    "edges($self, outputs=0, /)\n--\n\n"
    "Which tensors travel between products as codes and which as floats, as the quantizers stand now.\n\n"
    "Parameters\n----------\n"
    "outputs : int\n"
    "    What an evaluation is asked for, a sum of OUTPUT_* constants.\n\n"
    "Returns\n-------\n"
    "list of (str, str, str, str)\n"
    "    What makes the tensor: a name of sites(), \"embeddings\" or \"encoder_hidden_states\"; which site reads it, "
    "and\n"
    "    the quantizer that it reads it with, \"\" for others; why floats travel, \"\" if codes do.\n\n"
    "Raises\n------\n"
    "ValueError\n"
    "    If `outputs` is no such sum.";

PyObject *
qb_py_model_edges(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    const qb_model *model = ((qb_py_model *)self)->model;
    uint32_t asked;
    PyObject *list = read_asked("edges", arguments, count, &asked) < 0 ? NULL : PyList_New(0);
    const int64_t edges = list ? qb_model_edge_count(model, asked) : 0;
    for (int64_t i = 0; list && i < edges; ++i) {
        const qb_edge_info edge = qb_model_edge(model, i, asked);
        append(&list, Py_BuildValue("(ssss)", edge.maker, edge.reader, edge.quantizer, edge.refusal));
    }
    return list;
}
