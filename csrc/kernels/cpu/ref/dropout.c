/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/ref/philox.h"
#include "kernels/cpu/variant.h"

void
dropout_f32__ref(const float *x, size_t n, const qb_dropout *dropout, uint64_t first, float *y)
{
    for (size_t i = 0; i < n; ++i) {
        const uint64_t element = first + i;
        const ref_philox_words counter = {
            {(uint32_t)(element / 4), dropout->node, (uint32_t)dropout->step, (uint32_t)(dropout->step >> 32)}};
        const ref_philox_words random = ref_philox(counter, (uint32_t)dropout->seed, (uint32_t)(dropout->seed >> 32));
        y[i] = x[i] * (random.word[element % 4] >= dropout->threshold ? dropout->factor : 0.0f);
    }
}
