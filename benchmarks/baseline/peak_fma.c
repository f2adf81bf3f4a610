/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine's own roof: float32 multiply-adds per second from registers, on every thread at once.
 *
 *     peak_fma THREADS SECONDS      prints one line of JSON: isa, threads, gflops (1 multiply-add = 2 operations)
 *
 * Twelve independent accumulators cover latency times ports of every x86 core with two fma pipes (4 x 2) and leave
 * room for the operands.  An empty asm statement per accumulator keeps the compiler from folding the loop away: it
 * deleted three loops of this kind silently.  Each thread counts its own rounds until the deadline and divides by its
 * own time, so a late start of one thread does not count against the sum.
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { ACCUMULATORS = 12, ROUNDS_PER_LOOK = 20000, MAX_THREADS = 1024 };

static double
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One body per vector width: ROUNDS_PER_LOOK rounds of ACCUMULATORS fused multiply-adds.  Named accumulators, because
 * gcc keeps an array of vectors in memory. */
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

#if defined(__x86_64__)
#define START_512(i) __m512 acc##i = _mm512_set1_ps((float)(i));
#define STEP_512(i)                                                                                                    \
    acc##i = _mm512_fmadd_ps(acc##i, a, b);                                                                            \
    __asm__ volatile("" : "+v"(acc##i));

__attribute__((target("avx512f"))) static void
rounds_avx512(void)
{
    const __m512 a = _mm512_set1_ps(0.999F), b = _mm512_set1_ps(0.001F);

    EACH(START_512)
    for (int r = 0; r < ROUNDS_PER_LOOK; r++) {
        EACH(STEP_512)
    }
}

#define START_256(i) __m256 acc##i = _mm256_set1_ps((float)(i));
#define STEP_256(i)                                                                                                    \
    acc##i = _mm256_fmadd_ps(acc##i, a, b);                                                                            \
    __asm__ volatile("" : "+x"(acc##i));

__attribute__((target("avx2,fma"))) static void
rounds_avx2(void)
{
    const __m256 a = _mm256_set1_ps(0.999F), b = _mm256_set1_ps(0.001F);

    EACH(START_256)
    for (int r = 0; r < ROUNDS_PER_LOOK; r++) {
        EACH(STEP_256)
    }
}
#elif defined(__aarch64__)
#define START_128(i) float32x4_t acc##i = vdupq_n_f32((float)(i));
#define STEP_128(i)                                                                                                    \
    acc##i = vfmaq_f32(b, acc##i, a);                                                                                  \
    __asm__ volatile("" : "+w"(acc##i));

static void
rounds_neon(void)
{
    const float32x4_t a = vdupq_n_f32(0.999F), b = vdupq_n_f32(0.001F);

    EACH(START_128)
    for (int r = 0; r < ROUNDS_PER_LOOK; r++) {
        EACH(STEP_128)
    }
}
#endif

typedef struct loop {
    const char *isa;
    int lanes;
    void (*rounds)(void);
} loop;

typedef struct work {
    pthread_t thread;
    const loop *loop;
    double seconds;
    double gflops; /* written by the thread */
} work;

static void *
work_run(void *argument)
{
    work *self = argument;
    const double operations = 2.0 * self->loop->lanes * ACCUMULATORS * ROUNDS_PER_LOOK;
    double start, end, best = 0;

    self->loop->rounds(); /* wakes the wide units and the clock */
    start = now();
    do {
        const double before = now();
        double rate;

        self->loop->rounds();
        end = now();
        rate = operations / (end - before) * 1e-9;
        best = rate > best ? rate : best;
    } while (end - start < self->seconds);
    self->gflops = best;
    return NULL;
}

static int
choose(loop *chosen)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        *chosen = (loop){"avx512", 16, rounds_avx512};
        return 0;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        *chosen = (loop){"avx2", 8, rounds_avx2};
        return 0;
    }
#elif defined(__aarch64__)
    *chosen = (loop){"neon", 4, rounds_neon};
    return 0;
#endif
    return -1;
}

int
main(int argc, char **argv)
{
    static work workers[MAX_THREADS];
    const int threads = argc == 3 ? atoi(argv[1]) : 0;
    const double seconds = argc == 3 ? atof(argv[2]) : 0;
    double sum = 0;
    loop chosen;

    if (threads < 1 || threads > MAX_THREADS || seconds <= 0) {
        fprintf(stderr, "usage: peak_fma THREADS SECONDS\n");
        return 2;
    }
    if (choose(&chosen)) {
        fprintf(stderr, "peak_fma: this CPU has neither avx2+fma, avx512f nor neon\n");
        return 1;
    }
    for (int t = 0; t < threads; t++) {
        workers[t].loop = &chosen;
        workers[t].seconds = seconds;
        if (pthread_create(&workers[t].thread, NULL, work_run, &workers[t])) {
            fprintf(stderr, "peak_fma: thread %d did not start\n", t);
            return 1;
        }
    }
    for (int t = 0; t < threads; t++) {
        pthread_join(workers[t].thread, NULL);
        sum += workers[t].gflops;
    }
    printf("{\"isa\": \"%s\", \"threads\": %d, \"gflops\": %.2f}\n", chosen.isa, threads, sum);
    return 0;
}
