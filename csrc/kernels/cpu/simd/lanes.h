/* SPDX-License-Identifier: Apache-2.0
 *
 * What vectors of every variant have in common, for sources that take their vec.h from elsewhere.
 */
#ifndef QB_KERNELS_CPU_SIMD_LANES_H
#define QB_KERNELS_CPU_SIMD_LANES_H

enum {
    LANES = 16,                     /* of a vector */
    MAGNITUDE_INFINITY = 0x7f800000 /* vec_magnitude_bits: infinity; larger is NaN */
};

/* For functions whose constant arguments must vanish into the caller's loop. */
#define VEC_INLINE static inline __attribute__((always_inline))

#endif
