/* SPDX-License-Identifier: Apache-2.0
 *
 * What Session.forward hands back: fresh arrays, which the core writes into.
 */
#ifndef QB_PYEXT_SESSION_RESULTS_H
#define QB_PYEXT_SESSION_RESULTS_H

#include "model_object.h"

/* In the order of the tuple that forward returns.  The first six are the OUTPUT_* bits; OUTPUT_CACHE is the bit of all
 * the others. */
enum {
    LAST_HIDDEN_STATE,
    POOLER_OUTPUT,
    LOGITS,
    HIDDEN_STATES,
    ATTENTIONS,
    CROSS_ATTENTIONS,
    KEYS,
    VALUES,
    NEW_CROSS_KEYS,
    NEW_CROSS_VALUES,
    RESULT_COUNT
};

/* Zero-initialise it. */
typedef struct qb_py_results {
    PyObject *objects[RESULT_COUNT]; /* owned, or NULL where not asked for */
    float *one[RESULT_COUNT];        /* memory of an array */
    float **per_layer[RESULT_COUNT]; /* memory of the arrays of a tuple */
} qb_py_results;

/* Make what `wanted`, a sum of OUTPUT_* bits, asks of this call; its shapes are checked.  Cross-attentions and the
 * encoder's keys are left out of a call that has none.  -1 with an exception; free what was made either way. */
int qb_py_results_make(const qb_py_model *model, const qb_forward_inputs *in, unsigned long wanted,
                       qb_py_results *results);
/* The same memory as the core takes it. */
qb_forward_outputs qb_py_results_outputs(const qb_py_results *results);
/* The tuple, with None for what was not asked for; a new reference. */
PyObject *qb_py_results_pack(const qb_py_results *results);
void qb_py_results_free(qb_py_results *results);

/* What such a forward is asked for, as qb_model_site takes it.  -1 with an exception. */
int qb_py_results_asked(PyObject *wanted, uint32_t *asked);
/* Adds the OUTPUT_* constants. */
int qb_py_results_register(PyObject *module);

#endif
