/* SPDX-License-Identifier: Apache-2.0
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four random words
 * for every counter of four words under a key of two, without state, so that any element's words can be had in any
 * order by any thread.  Ten rounds of
 *
 *     (high0, low0) = M0 * c0,  (high1, low1) = M1 * c2               products of 64 bits
 *     c = (high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0)
 *     k = (k0 + W0, k1 + W1)
 *
 * Implemented by cpu/ref/philox.h and cpu/simd/dropout.c; tests/c/test_dropout.c has the known answers.
 */
#ifndef QB_KERNELS_PHILOX_H
#define QB_KERNELS_PHILOX_H

#define QB_PHILOX_ROUNDS 10
#define QB_PHILOX_M0 0xD2511F53u
#define QB_PHILOX_M1 0xCD9E8D57u
#define QB_PHILOX_W0 0x9E3779B9u
#define QB_PHILOX_W1 0xBB67AE85u

#endif
