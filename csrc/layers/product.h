/* SPDX-License-Identifier: Apache-2.0
 *
 * Products y = a b' with a packed b on all threads: what linear layers do forward and backward.
 *
 *   y[m,n] = epilogue(sum_k a[m,k] b[n,k])      a (M, K), b (N, K) packed, y (M, N)
 *
 * A product of codes can give the codes of y instead of y, for a reader whose range is known before.
 *
 * Work is cut in tiles of rows and columns, never along k, so that no element depends on the number of threads.
 *
 * Of floats there are two: as they are, or rounded to bfloat16, which halves the bytes and the time where the processor
 * has an instruction for it.  A training run chooses the latter for all its linear layers (qb_run.uses_bf16); sums,
 * bias, activation and whatever is added to stay float32.
 */
#ifndef QB_LAYERS_PRODUCT_H
#define QB_LAYERS_PRODUCT_H

#include "core/run.h"
#include "layers/scratch.h"

typedef enum qb_operands {
    QB_OPERANDS_F32 = 0,
    QB_OPERANDS_BF16, /* floats that the kernels round */
    QB_OPERANDS_QS8   /* int8 codes */
} qb_operands;

typedef struct qb_product {
    const void *a;        /* (rows, k) floats, or int8 codes */
    const void *packed;   /* of (n, k), in the kernels' layout for such operands */
    qb_operands operands; /* what is multiplied */
    int64_t lda;          /* distance of rows of a */
    int64_t rows, n, k;
    qb_epilogue epilogue;
    float *y;             /* (rows, n); not touched if codes are given */
    int8_t *codes;        /* (rows, n) the codes of y, made in its stead; may be y's memory; NULL: y itself is made */
    qb_quant_range range; /* of these codes */
    int is_nonfinite;     /* set by qb_product_run: y holds a NaN or infinity, so the codes are worth nothing */
    int64_t tile_rows, tile_columns, row_tiles, column_tiles; /* set by qb_product_run */
} qb_product;

/* What the run's float products multiply. */
qb_operands qb_product_float_operands(const qb_run *run);

/* What the kernels say of b of (n, k). */
typedef struct qb_product_sizes {
    int64_t panel;  /* columns of a panel */
    size_t packed;  /* bytes of b, packed */
    size_t scratch; /* bytes that one chunk of a product needs */
} qb_product_sizes;

qb_product_sizes qb_product_sizes_of(const qb_kernels *kernels, qb_operands operands, int64_t n, int64_t k);

/* Bytes of scratch that one chunk of such a product needs, whatever the operands. */
size_t qb_product_scratch_bytes(const qb_kernels *kernels, int64_t n, int64_t k);

/* Up to a few products in one parallel region.  No allocation. */
qb_status qb_product_run(const qb_run *run, qb_product *products, int32_t count, qb_scratch *scratch);

/* Pack b for the run's float products: element (column j, depth i) is b[j * column_stride + i * depth_stride]; packed
 * has the bytes that qb_product_sizes_of says, 64-byte aligned. */
qb_status qb_product_pack(const qb_run *run, const float *b, int64_t column_stride, int64_t depth_stride, int64_t n,
                          int64_t k, void *packed);

#endif
