/* SPDX-License-Identifier: Apache-2.0
 *
 * The small structs that kernels take.  Shared by core/kernel_list.inc, the kernels and the layers, so that a kernel's
 * arguments have one definition.  No functions live here: variant objects are compiled with wider instruction sets,
 * and an inline function compiled there could be the copy that the linker keeps for everybody.
 */
#ifndef QB_CORE_KERNEL_TYPES_H
#define QB_CORE_KERNEL_TYPES_H

#include <stddef.h>
#include <stdint.h>

/* A quantizer with one scale, ready for use (NUMERICS section 4): q = clamp(rint(x * scale), lower, upper).
 * A range of amax <= 2^-24 is dead: scale is 0 and q is 0 for every finite x, and the fake-quantized value is 0. */
typedef struct qb_quant_range {
    float scale; /* bound / amax, one float32 division; 0 when dead */
    float lower; /* 0, -bound or -bound - 1 */
    float upper; /* bound */
} qb_quant_range;

/* Longest sum of products of codes that is exact in 32 bits whatever the codes: 2^14 * (2^17 - 1) < 2^31. */
#define QB_DEPTH_MAX 131071

/* Elements that sum_squares_f32 adds up in lanes before it adds to its sum: where work may be cut. */
#define QB_SUM_SQUARES_BLOCK 4096

typedef enum qb_activation {
    QB_ACTIVATION_NONE = 0,
    QB_ACTIVATION_GELU,         /* x Phi(x), erf form */
    QB_ACTIVATION_GELU_TANH,    /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    QB_ACTIVATION_GELU_CLIPPED, /* min(10, x Phi(x)); a bound of -10 below is never reached */
    QB_ACTIVATION_QUICK_GELU,   /* x / (1 + exp(-1.702 x)) */
    QB_ACTIVATION_RELU,
    QB_ACTIVATION_RELU_SQUARED,
    QB_ACTIVATION_RELU6,      /* min(6, max(0, x)) */
    QB_ACTIVATION_LEAKY_RELU, /* 0.01 x where x is negative */
    QB_ACTIVATION_SILU,
    QB_ACTIVATION_MISH,    /* x tanh(log(1 + exp(x))) */
    QB_ACTIVATION_LAPLACE, /* Phi((x - 0.707107) / 0.282095) */
    QB_ACTIVATION_SIGMOID,
    QB_ACTIVATION_TANH,
    QB_ACTIVATION_LAST = QB_ACTIVATION_TANH /* for loops over all of them */
} qb_activation;

/* What happens to a product's accumulator before it is stored; one definition for every variant.
 *
 *   float product:  y = acc;                         then y = y + bias[n]   if bias
 *   code product:   y = fma((float)acc, step[n], bias ? bias[n] : +0)
 *   then            y = y / divisor                  if divisor != 1
 *   then            y = activation(y)
 *
 * The arrays are indexed by the output column and are as long as the whole product's n. */
typedef struct qb_epilogue {
    const float *step; /* (n); code products only, NULL otherwise */
    const float *bias; /* (n) or NULL */
    float divisor;     /* 1: none; > 0 */
    qb_activation activation;
} qb_epilogue;

/* The dropout of one node of a model in one step.  Element i, counted over the node's whole tensor, is dropped where a
 * word of Philox4x32-10 (kernels/philox.h) is below the threshold: word i % 4 of counter (i / 4, node, step, step >>
 * 32) under the key (seed, seed >> 32).  So what is dropped depends on nothing but these numbers. */
typedef struct qb_dropout {
    uint64_t seed;
    uint64_t step;
    uint32_t node;      /* distinct for every dropout of a model */
    uint32_t threshold; /* p * 2^32 for the probability p of being dropped, 0 <= p < 1 */
    float factor;       /* 1 / (1 - p) */
} qb_dropout;

/* One step of AdamW.  PyTorch (torch.optim.AdamW, single tensor) computes these scalars in float64 and rounds each to
 * float32 once, where it meets a float32 tensor; so does whoever fills this.  Hyperparameters: lr >= 0, beta1 and beta2
 * in [0, 1), eps >= 0, weight_decay >= 0; t = 1, 2, ... counts the steps. */
typedef struct qb_adamw {
    float decay;         /* 1 - lr * weight_decay */
    float first_weight;  /* 1 - beta1 */
    float second_decay;  /* beta2 */
    float second_weight; /* 1 - beta2 */
    float correction;    /* sqrt(1 - beta2^t) */
    float eps;
    float step_size; /* lr / (1 - beta1^t) */
} qb_adamw;

/* One step of SGD (torch.optim.SGD, single tensor, dampening 0, minimizing). */
typedef struct qb_sgd {
    float learning_rate;
    float weight_decay; /* 0: none */
    float momentum;     /* 0: none, and no momentum buffer is kept */
    int is_nesterov;    /* 1: only with momentum */
    int is_first;       /* 1: the momentum buffer holds nothing yet and becomes the gradient */
} qb_sgd;

#endif
