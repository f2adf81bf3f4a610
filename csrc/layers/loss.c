/* SPDX-License-Identifier: Apache-2.0 */
#include "layers/loss.h"

#include <inttypes.h>
#include <math.h>

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

qb_status
qb_cross_entropy(const float *logits, int64_t rows, int64_t classes, const int64_t *labels, int64_t ignore_index,
                 float *loss, qb_error *error)
{
    if (rows < 0 || classes < 1) {
        return qb_fail(error, NULL, QB_ERR_SHAPE, "logits are (%" PRId64 ", %" PRId64 "), expected at least one class",
                       rows, classes);
    }
    double sum = 0.0;
    int64_t counted = 0;
    for (int64_t i = 0; i < rows; i++) {
        /* Taken once: a thread of the caller's may write into the array between a check and a second look. */
        const int64_t label = labels[i];
        if (label == ignore_index) {
            continue;
        }
        if (label < 0 || label >= classes) {
            return qb_fail(error, NULL, QB_ERR_INDEX,
                           "labels[%" PRId64 "] is %" PRId64 ", expected 0 .. %" PRId64 " or the ignored %" PRId64, i,
                           label, classes - 1, ignore_index);
        }
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
