/* SPDX-License-Identifier: Apache-2.0
 *
 * VPDPBUSD on 256-bit registers for a CPU that has AVX2 and not AVX-VNNI: the instruction is illegal there, so Linux
 * sends a signal, and the handler carries it out on the registers that the signal saved, as Intel's manual defines it
 * (Software Developer's Manual, volume 2, VPDPBUSD: VEX.256.66.0F38.W0 50 /r).  Anything else that is illegal ends the
 * test.  Sources define _GNU_SOURCE before the first include, for the names of registers.
 */
#ifndef QB_TESTS_VPDPBUSD_EMULATOR_H
#define QB_TESTS_VPDPBUSD_EMULATOR_H

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t emulated_instructions; /* modulo what the type holds */

/* Where a signal's frame keeps registers: the area of FXSAVE, then XSAVE's header and upper halves of ymm, in the
 * standard format (volume 1, chapter 13). */
enum {
    XMM_OFFSET = 160,
    XSAVE_HEADER_OFFSET = 512,
    YMM_HIGH_OFFSET = 576,
    STATE_SSE = 2, /* bits of the header's first byte: the state is not that of a fresh process */
    STATE_AVX = 4,
    HALF_BYTES = 16,
    REGISTERS = 16
};

/* Register `number` of the saved state, its two halves. */
static inline void
read_ymm(const unsigned char *state, int number, unsigned char value[2 * HALF_BYTES])
{
    memcpy(value, state + XMM_OFFSET + number * HALF_BYTES, HALF_BYTES);
    memcpy(value + HALF_BYTES, state + YMM_HIGH_OFFSET + number * HALF_BYTES, HALF_BYTES);
}

static inline void
write_ymm(unsigned char *state, int number, const unsigned char value[2 * HALF_BYTES])
{
    memcpy(state + XMM_OFFSET + number * HALF_BYTES, value, HALF_BYTES);
    memcpy(state + YMM_HIGH_OFFSET + number * HALF_BYTES, value + HALF_BYTES, HALF_BYTES);
}

/* sums += the products of four bytes of `unsigned_bytes` and `signed_bytes` each, modulo 2^32. */
static inline void
dot_product_of_bytes(unsigned char sums[2 * HALF_BYTES], const unsigned char *unsigned_bytes,
                     const unsigned char *signed_bytes)
{
    for (int lane = 0; lane < 2 * HALF_BYTES; lane += 4) {
        uint32_t sum;
        memcpy(&sum, sums + lane, sizeof sum);
        for (int i = lane; i < lane + 4; ++i) {
            const int32_t code = signed_bytes[i] < 128 ? signed_bytes[i] : signed_bytes[i] - 256;
            sum += (uint32_t)((int32_t)unsigned_bytes[i] * code);
        }
        memcpy(sums + lane, &sum, sizeof sum);
    }
}

static inline void
emulate_vpdpbusd(int signal_number, siginfo_t *info, void *context)
{
    ucontext_t *frame = context;
    unsigned char *state = (unsigned char *)frame->uc_mcontext.fpregs;
    const unsigned char *code = info->si_addr;
    const int is_vpdpbusd = code[0] == 0xc4 && (code[1] & 0x1f) == 2 /* 0F38 */ && (code[2] & 0x87) == 5 /* W0 256 66 */
                            && code[3] == 0x50 && code[4] >> 6 == 3 /* registers */;
    (void)signal_number;
    if (!is_vpdpbusd) {
        static const char message[] = "an illegal instruction other than VPDPBUSD on ymm registers\n";
        (void)!write(STDERR_FILENO, message, sizeof message - 1);
        _exit(EXIT_FAILURE);
    }
    const int destination = (code[4] >> 3 & 7) | (code[1] & 0x80 ? 0 : 8);
    const int without_sign = ~code[2] >> 3 & 15;
    const int with_sign = (code[4] & 7) | (code[1] & 0x20 ? 0 : 8);
    unsigned char *saved = state + XSAVE_HEADER_OFFSET;
    if (!(*saved & STATE_AVX)) {
        memset(state + YMM_HIGH_OFFSET, 0, REGISTERS * HALF_BYTES);
    }
    if (!(*saved & STATE_SSE)) {
        memset(state + XMM_OFFSET, 0, REGISTERS * HALF_BYTES);
    }
    *saved |= STATE_SSE | STATE_AVX;
    unsigned char sums[2 * HALF_BYTES];
    unsigned char first[2 * HALF_BYTES];
    unsigned char second[2 * HALF_BYTES];
    read_ymm(state, destination, sums);
    read_ymm(state, without_sign, first);
    read_ymm(state, with_sign, second);
    dot_product_of_bytes(sums, first, second);
    write_ymm(state, destination, sums);
    frame->uc_mcontext.gregs[REG_RIP] += 5; /* the instruction's bytes */
    ++emulated_instructions;
}

/* From now on VPDPBUSD works. */
static inline void
emulator_start(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = emulate_vpdpbusd;
    action.sa_flags = SA_SIGINFO;
    if (sigaction(SIGILL, &action, NULL) != 0) {
        (void)fprintf(stderr, "no handler for SIGILL\n");
        exit(EXIT_FAILURE);
    }
}

/* Whether the CPU needs it: tried on one instruction, vpdpbusd %ymm2, %ymm1, %ymm0. */
static inline int
emulator_is_needed(void)
{
    const sig_atomic_t before = emulated_instructions;
    __asm__ volatile(".byte 0xc4, 0xe2, 0x75, 0x50, 0xc2\n\t" ::: "xmm0");
    return emulated_instructions != before;
}

#endif
