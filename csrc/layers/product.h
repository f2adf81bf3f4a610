/* SPDX-License-Identifier: Apache-2.0
 *
 * Products y = a b' with a packed b on all threads: what linear layers do forward and backward.
 *
 *   y[m,n] = epilogue(sum_k a[m,k] b[n,k])      a (M, K), b (N, K) packed, y (M, N)
 *
 * Work is cut in tiles of rows and columns, never along k, so that no element depends on the number of threads.
 */
#ifndef QB_LAYERS_PRODUCT_H
#define QB_LAYERS_PRODUCT_H

#include "core/run.h"
#include "layers/scratch.h"

typedef struct qb_product {
    const void *a;      /* (rows, k) floats, or int8 codes */
    const void *packed; /* of (n, k), in the kernels' layout for what a is */
    int is_integer;     /* codes */
    int64_t lda;        /* distance of rows of a */
    int64_t rows, n, k;
    qb_epilogue epilogue;
    float *y;                                                 /* (rows, n) */
    int64_t tile_rows, tile_columns, row_tiles, column_tiles; /* set by qb_product_run */
} qb_product;

/* Bytes of scratch that one chunk of such a product needs, of floats or codes. */
size_t qb_product_scratch_bytes(const qb_kernels *kernels, int64_t n, int64_t k);

/* Up to a few products in one parallel region.  No allocation. */
qb_status qb_product_run(const qb_run *run, qb_product *products, int32_t count, qb_scratch *scratch);

/* Pack b for float products: element (column j, depth i) is b[j * column_stride + i * depth_stride]; packed has the
 * bytes that pack_f32_size says, 64-byte aligned. */
qb_status qb_product_pack(const qb_run *run, const float *b, int64_t column_stride, int64_t depth_stride, int64_t n,
                          int64_t k, void *packed);

#endif
