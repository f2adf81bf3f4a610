/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/loss.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/status.h"

/* log(sum exp(x)) - x[label], shifted by the largest element so that exp does not overflow. */
static double
negative_log_likelihood(const float *x, int64_t classes, int64_t label)
{
    double largest = (double)x[0];
    for (int64_t c = 1; c < classes; c++) {
        largest = (double)x[c] > largest ? (double)x[c] : largest;
    }
    double sum = 0.0;
    for (int64_t c = 0; c < classes; c++) {
        sum += exp((double)x[c] - largest);
    }
    return log(sum) - ((double)x[label] - largest);
}

static qb_status
check_logits(int64_t rows, int64_t classes, qb_error *error)
{
    if (rows >= 0 && classes >= 1) {
        return QB_OK;
    }
    return qb_fail(error, NULL, QB_ERR_SHAPE, "logits are (%" PRId64 ", %" PRId64 "), expected at least one class",
                   rows, classes);
}

static qb_status
check_label(int64_t label, int64_t row, int64_t classes, int64_t ignore_index, qb_error *error)
{
    if (label >= 0 && label < classes) {
        return QB_OK;
    }
    return qb_fail(error, NULL, QB_ERR_INDEX,
                   "labels[%" PRId64 "] is %" PRId64 ", expected 0 .. %" PRId64 " or the ignored %" PRId64, row, label,
                   classes - 1, ignore_index);
}

qb_status
qb_cross_entropy(const float *logits, int64_t rows, int64_t classes, const int64_t *labels, int64_t ignore_index,
                 float *loss, qb_error *error)
{
    QB_TRY(check_logits(rows, classes, error));
    double sum = 0.0;
    int64_t counted = 0;
    for (int64_t i = 0; i < rows; i++) {
        /* Taken once: a thread of the caller's may write into the array between a check and a second look. */
        const int64_t label = labels[i];
        if (label == ignore_index) {
            continue;
        }
        QB_TRY(check_label(label, i, classes, ignore_index, error));
        sum += negative_log_likelihood(logits + i * classes, classes, label);
        counted++;
    }
    *loss = counted == 0 ? NAN : (float)(sum / (double)counted);
    return QB_OK;
}

static qb_status
check_count(int64_t count, qb_error *error)
{
    return count >= 0 ? QB_OK : qb_fail(error, NULL, QB_ERR_SHAPE, "count is %" PRId64 ", expected 0 or more", count);
}

qb_status
qb_mean_squared_error(const float *x, const float *y, int64_t count, float *loss, qb_error *error)
{
    QB_TRY(check_count(count, error));
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double d = (double)x[i] - (double)y[i];
        sum += d * d;
    }
    *loss = count == 0 ? NAN : (float)(sum / (double)count);
    return QB_OK;
}

qb_status
qb_binary_cross_entropy(const float *logits, const float *labels, int64_t count, float *loss, qb_error *error)
{
    QB_TRY(check_count(count, error));
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        /* -(z log s(x) + (1 - z) log(1 - s(x))) = max(x, 0) - x z + log(1 + exp(-|x|)), which cannot overflow. */
        const double x = (double)logits[i];
        sum += (x > 0.0 ? x : 0.0) - x * (double)labels[i] + log1p(exp(-fabs(x)));
    }
    *loss = count == 0 ? NAN : (float)(sum / (double)count);
    return QB_OK;
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

/* dx = factor (softmax(x) - onehot(label)). */
static void
negative_log_likelihood_backward(const float *x, int64_t classes, int64_t label, double factor, float *dx)
{
    double largest = (double)x[0];
    for (int64_t c = 1; c < classes; c++) {
        largest = (double)x[c] > largest ? (double)x[c] : largest;
    }
    double sum = 0.0;
    for (int64_t c = 0; c < classes; c++) {
        sum += exp((double)x[c] - largest);
    }
    for (int64_t c = 0; c < classes; c++) {
        const double p = exp((double)x[c] - largest) / sum;
        dx[c] = (float)(factor * (c == label ? p - 1.0 : p));
    }
}

qb_status
qb_cross_entropy_grad(const float *logits, int64_t rows, int64_t classes, const int64_t *labels, int64_t ignore_index,
                      float factor, float *dlogits, qb_error *error)
{
    QB_TRY(check_logits(rows, classes, error));
    int64_t counted = 0;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t label = labels[i];
        if (label != ignore_index) {
            QB_TRY(check_label(label, i, classes, ignore_index, error));
            counted++;
        }
    }
    const double each = counted == 0 ? (double)NAN : (double)factor / (double)counted;
    for (int64_t i = 0; i < rows; i++) {
        /* Looked at again: another thread's write may only make the result wrong, not the access. */
        const int64_t label = labels[i];
        float *row = dlogits + i * classes;
        if (counted > 0 && (label == ignore_index || label < 0 || label >= classes)) {
            memset(row, 0, (size_t)classes * sizeof *row);
            continue;
        }
        negative_log_likelihood_backward(logits + i * classes, classes, label, each, row);
    }
    return QB_OK;
}

qb_status
qb_mean_squared_error_grad(const float *x, const float *y, int64_t count, float factor, float *dx, qb_error *error)
{
    QB_TRY(check_count(count, error));
    for (int64_t i = 0; i < count; i++) {
        dx[i] = (float)(2.0 * (double)factor * ((double)x[i] - (double)y[i]) / (double)count);
    }
    return QB_OK;
}

qb_status
qb_binary_cross_entropy_grad(const float *logits, const float *labels, int64_t count, float factor, float *dlogits,
                             qb_error *error)
{
    QB_TRY(check_count(count, error));
    for (int64_t i = 0; i < count; i++) {
        const double x = (double)logits[i];
        const double p = x >= 0.0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
        dlogits[i] = (float)((double)factor * (p - (double)labels[i]) / (double)count);
    }
    return QB_OK;
}
