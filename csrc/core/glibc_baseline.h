/* SPDX-License-Identifier: Apache-2.0
 *
 * Binds to the oldest versions of the few C library symbols whose newest version came after glibc 2.28, so that a wheel
 * built on a newer system runs on every manylinux_2_28 one.  The old versions are the same code: 2.29 dropped the
 * SVID error wrappers of exp, log and pow, 2.32 and 2.34 moved the thread functions from libpthread to libc.
 *
 * Included before every unit by the build (CMakeLists.txt), except under sanitizers, whose interceptors replace the
 * newest versions.  .ci/check_wheel.py fails when a newer symbol slips in.
 */
#ifndef QB_CORE_GLIBC_BASELINE_H
#define QB_CORE_GLIBC_BASELINE_H

#if defined(__linux__) && defined(__gnu_linux__) && (defined(__x86_64__) || defined(__aarch64__))

#if defined(__x86_64__)
#define QB_OLDEST_GLIBC "GLIBC_2.2.5"
#else
#define QB_OLDEST_GLIBC "GLIBC_2.17"
#endif

__asm__(".symver exp,exp@" QB_OLDEST_GLIBC);
__asm__(".symver log,log@" QB_OLDEST_GLIBC);
__asm__(".symver pow,pow@" QB_OLDEST_GLIBC);
__asm__(".symver pthread_create,pthread_create@" QB_OLDEST_GLIBC);
__asm__(".symver pthread_join,pthread_join@" QB_OLDEST_GLIBC);
__asm__(".symver pthread_sigmask,pthread_sigmask@" QB_OLDEST_GLIBC);

#endif

#endif
