/* SPDX-License-Identifier: Apache-2.0
 * The public header alone, as C++17. */
#include "qdqbert/qdqbert.h"

int
main()
{
    return qb_glob_match("*.query", "self.query") && qb_status_text(QB_OK) != nullptr ? 0 : 1;
}
