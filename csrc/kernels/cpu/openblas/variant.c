/* SPDX-License-Identifier: Apache-2.0
 *
 * Code products by OpenBLAS.  A side branch: it is selected by its name, to check the integers of the other variants.
 */
#include "kernels/cpu/openblas/blas.h"
#include "kernels/cpu/variant.h"

static void
overlay(qb_kernels *kernels)
{
    BLAS(openblas_set_num_threads)(1); /* the thread pool of the device divides the work */
    QB_OVERLAY(kernels, pack_qs8_size, openblas);
    QB_OVERLAY(kernels, pack_qs8, openblas);
    QB_OVERLAY(kernels, unpack_qs8, openblas);
    QB_OVERLAY(kernels, product_qs8, openblas);
    QB_OVERLAY(kernels, product_qs8_codes, openblas);
}

const qb_cpu_variant qb_cpu_variant_openblas = {
    .name = "openblas", .required_features = 0, .is_side_branch = 1, .overlay = overlay};
