/* SPDX-License-Identifier: Apache-2.0
 *
 * CBLAS under the name that this build links: BLAS(cblas_sgemm) is scipy_cblas_sgemm when the library comes from the
 * scipy-openblas32 package, and cblas_sgemm when it comes from the system.
 */
#ifndef QB_KERNELS_CPU_OPENBLAS_BLAS_H
#define QB_KERNELS_CPU_OPENBLAS_BLAS_H

#include <cblas.h>

#ifndef BLAS_SYMBOL_PREFIX
#define BLAS_SYMBOL_PREFIX
#endif
#define BLAS_PASTE(prefix, name) prefix##name
#define BLAS_EXPAND(prefix, name) BLAS_PASTE(prefix, name)
#define BLAS(name) BLAS_EXPAND(BLAS_SYMBOL_PREFIX, name)

#endif
