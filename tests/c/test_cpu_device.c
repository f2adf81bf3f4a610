/* SPDX-License-Identifier: Apache-2.0
 *
 * Choosing kernels: what a cap includes, what it leaves out, and what is said about names that do not work.
 */
#include "check.h"
#include "core/kernels.h"

static size_t
index_of(const char *name)
{
    size_t index = 0;
    while (index < qb_variant_count() && strcmp(qb_variant_name(index), name) != 0) {
        ++index;
    }
    return index;
}

static void
test_the_reference_is_first_and_always_supported(void)
{
    CHECK(qb_variant_count() >= 1);
    CHECK(strcmp(qb_variant_name(0), "ref") == 0);
    CHECK(qb_variant_is_supported(0));
    CHECK(qb_variant_name(qb_variant_count()) == NULL);
    CHECK(!qb_variant_is_supported(qb_variant_count()));
}

static void
test_cap_ref_takes_every_slot_from_ref(void)
{
    qb_kernels kernels;

    CHECK(qb_cpu_kernels_select("ref", &kernels, NULL) == QB_OK);

    CHECK(strcmp(kernels.isa, "ref") == 0);
    for (size_t i = 0; i < QB_KERNEL_COUNT; ++i) {
        CHECK(strcmp(kernels.variant[i], "ref") == 0);
    }
}

static void
test_cap_excludes_stronger_variants(void)
{
    for (size_t v = 0; v < qb_variant_count(); ++v) {
        qb_kernels kernels;
        qb_error error;
        const qb_status status = qb_cpu_kernels_select(qb_variant_name(v), &kernels, &error);
        if (!qb_variant_is_supported(v)) {
            CHECK(status == QB_ERR_UNSUPPORTED);
            CHECK_CONTAINS(error.message, qb_variant_name(v));
            continue;
        }
        CHECK(status == QB_OK);
        CHECK(strcmp(kernels.isa, qb_variant_name(v)) == 0);
        for (size_t i = 0; i < QB_KERNEL_COUNT; ++i) {
            CHECK(index_of(kernels.variant[i]) <= v);
        }
    }
}

static void
test_openblas_is_taken_only_by_name(void)
{
    if (index_of("openblas") == qb_variant_count()) {
        return; /* built without it */
    }
    qb_kernels named;
    qb_kernels best;

    CHECK(qb_cpu_kernels_select("openblas", &named, NULL) == QB_OK);
    CHECK(qb_cpu_kernels_select(NULL, &best, NULL) == QB_OK);

    CHECK(strcmp(named.variant[QB_KERNEL_INDEX_product_qs8], "openblas") == 0);
    CHECK(strcmp(named.variant[QB_KERNEL_INDEX_product_f32], "ref") == 0);
    for (size_t i = 0; i < QB_KERNEL_COUNT; ++i) {
        CHECK(strcmp(best.variant[i], "openblas") != 0);
    }
}

/* The pack and product kernels of one type share a layout, so they must come from one variant. */
static void
test_packed_layouts_match_their_products(void)
{
    for (size_t v = 0; v < qb_variant_count(); ++v) {
        qb_kernels kernels;
        if (qb_cpu_kernels_select(qb_variant_name(v), &kernels, NULL) == QB_OK) {
            const char *f32 = kernels.variant[QB_KERNEL_INDEX_product_f32];
            const char *qs8 = kernels.variant[QB_KERNEL_INDEX_product_qs8];
            CHECK(strcmp(kernels.variant[QB_KERNEL_INDEX_pack_f32], f32) == 0);
            CHECK(strcmp(kernels.variant[QB_KERNEL_INDEX_pack_f32_size], f32) == 0);
            CHECK(strcmp(kernels.variant[QB_KERNEL_INDEX_pack_qs8], qs8) == 0);
            CHECK(strcmp(kernels.variant[QB_KERNEL_INDEX_pack_qs8_size], qs8) == 0);
            CHECK(strcmp(kernels.variant[QB_KERNEL_INDEX_unpack_qs8], qs8) == 0);
        }
    }
}

static void
test_without_cap_the_strongest_supported_is_taken(void)
{
    qb_kernels kernels;

    CHECK(qb_cpu_kernels_select(NULL, &kernels, NULL) == QB_OK);

    for (size_t v = index_of(kernels.isa) + 1; v < qb_variant_count(); ++v) {
        CHECK(!qb_variant_is_supported(v) || strcmp(qb_variant_name(v), "openblas") == 0);
    }
}

static void
test_unknown_name_lists_the_known_ones_and_changes_nothing(void)
{
    qb_kernels kernels;
    qb_error error;
    memset(&kernels, 0x5A, sizeof(kernels));
    const qb_kernels before = kernels;

    CHECK(qb_cpu_kernels_select("avx1024", &kernels, &error) == QB_ERR_VALUE);

    CHECK_CONTAINS(error.message, "'avx1024'");
    for (size_t v = 0; v < qb_variant_count(); ++v) {
        CHECK_CONTAINS(error.message, qb_variant_name(v));
    }
    CHECK(memcmp(&kernels, &before, sizeof(kernels)) == 0);
}

/* The variant that the caller, who knows the CPU, expects; NULL: it does not say. */
static const char *expected_isa;

static void
test_the_expected_variant_is_taken(void)
{
    qb_kernels kernels;

    CHECK(qb_cpu_kernels_select(NULL, &kernels, NULL) == QB_OK);

    CHECK(expected_isa == NULL || strcmp(kernels.isa, expected_isa) == 0);
}

/* test_cpu_device [ISA] */
int
main(int count, char **arguments)
{
    expected_isa = count > 1 ? arguments[1] : NULL;
    RUN(test_the_expected_variant_is_taken);
    RUN(test_the_reference_is_first_and_always_supported);
    RUN(test_cap_ref_takes_every_slot_from_ref);
    RUN(test_cap_excludes_stronger_variants);
    RUN(test_openblas_is_taken_only_by_name);
    RUN(test_packed_layouts_match_their_products);
    RUN(test_without_cap_the_strongest_supported_is_taken);
    RUN(test_unknown_name_lists_the_known_ones_and_changes_nothing);
    return check_report();
}
