/* SPDX-License-Identifier: Apache-2.0
 *
 * Losses of the heads, computed in float64 and summed in the order of their rows: one result everywhere.  They are
 * declared in the public header, because callers combine them (start and end positions, problem types) in their own
 * ways.
 */
#ifndef QB_LAYERS_LOSS_H
#define QB_LAYERS_LOSS_H

#include "qdqbert/qdqbert.h"

#endif
