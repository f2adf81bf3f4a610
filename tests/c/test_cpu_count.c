/* SPDX-License-Identifier: Apache-2.0
 *
 * CPU limits: the affinity mask of the process, and quotas of control groups, read from folders made here.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_setaffinity, mkdtemp */
#endif

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "core/parallel.h"

static char base[64];

/* A file below the folder of this test, with the folders on its way. */
static void
write_file(const char *name, const char *text)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", base, name);
    for (char *slash = strchr(path + strlen(base) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    if (file != NULL) {
        (void)fputs(text, file);
        (void)fclose(file);
    }
}

static void
remove_file(const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", base, name);
    CHECK(unlink(path) == 0);
}

static int32_t
quota(void)
{
    char groups[96];
    char mount[96];
    (void)snprintf(groups, sizeof groups, "%s/cgroup", base);
    (void)snprintf(mount, sizeof mount, "%s/mount", base);
    return qb_quota_threads(groups, mount);
}

static void
test_the_smallest_quota_on_the_way_to_the_root_counts(void)
{
    write_file("cgroup", "1:name=systemd:/x\n0::/outer/inner\n");
    CHECK(quota() == 0); /* no files yet */
    write_file("mount/outer/inner/cpu.max", "max 100000\n");
    CHECK(quota() == 0);
    write_file("mount/outer/cpu.max", "350000 100000\n");
    CHECK(quota() == 4); /* 3.5 CPUs, rounded up */
    write_file("mount/outer/inner/cpu.max", "200000 100000\n");
    CHECK(quota() == 2);
    write_file("mount/cpu.max", "50000 100000\n");
    CHECK(quota() == 1);
}

static void
test_in_a_container_the_root_that_is_seen_counts(void)
{
    write_file("cgroup", "0::/\n");
    write_file("mount/cpu.max", "300000 100000\n");
    CHECK(quota() == 3);
    write_file("cgroup", "0::/not/mounted/here\n");
    CHECK(quota() == 3);
}

static void
test_files_that_say_nothing_sensible_are_no_limit(void)
{
    static const char *const texts[] = {"", "\n", "max", "-1 100000", "100000", "100000 0", "100000 -5", "abc def"};
    write_file("cgroup", "0::/\n");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        write_file("mount/cpu.max", texts[i]);
        CHECK(quota() == 0);
    }
    write_file("cgroup", "garbage\n0:\n::::\n\n");
    CHECK(quota() == 0);
    write_file("mount/cpu.max", "9223372036854775807 1\n");
    CHECK(quota() == QB_MAX_THREADS);
}

static void
test_the_first_version_is_read_where_the_second_has_none(void)
{
    write_file("mount/cpu.max", "max 100000\n");
    write_file("cgroup", "5:cpuset:/no\n4:cpuacct,cpu:/slice/job\n0::/\n");
    write_file("mount/cpu/slice/job/cpu.cfs_quota_us", "150000\n");
    write_file("mount/cpu/slice/job/cpu.cfs_period_us", "100000\n");
    CHECK(quota() == 2);
    write_file("mount/cpu/slice/job/cpu.cfs_quota_us", "-1\n");
    CHECK(quota() == 0);
    write_file("mount/cpu/cpu.cfs_quota_us", "100000\n");
    CHECK(quota() == 0); /* a period is missing */
    write_file("mount/cpu/cpu.cfs_period_us", "100000\n");
    CHECK(quota() == 1);
    remove_file("mount/cpu/cpu.cfs_period_us");
}

static void
test_no_file_of_groups_is_the_root_alone(void)
{
    remove_file("cgroup");
    write_file("mount/cpu.max", "200000 100000\n");
    CHECK(quota() == 2);
}

static void
test_the_affinity_mask_is_honoured(void)
{
#if defined(__linux__)
    cpu_set_t before;
    cpu_set_t one;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++) {
        if (CPU_ISSET(i, &before)) {
            CPU_SET(i, &one);
        }
    }
    const qb_cpu_limits all = qb_cpu_limits_read();
    CHECK(all.affinity == CPU_COUNT(&before) && all.online >= all.affinity);
    CHECK(all.threads == (all.quota > 0 && all.quota < all.affinity ? all.quota : all.affinity));
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(qb_cpu_limits_read().affinity == 1 && qb_available_threads() == 1);
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
    CHECK(qb_cpu_limits_read().affinity == all.affinity);
#endif
}

int
main(void)
{
    (void)snprintf(base, sizeof base, "/tmp/qdqbert-cpu-count-XXXXXX");
    if (mkdtemp(base) == NULL) {
        return EXIT_FAILURE;
    }
    RUN(test_the_smallest_quota_on_the_way_to_the_root_counts);
    RUN(test_in_a_container_the_root_that_is_seen_counts);
    RUN(test_files_that_say_nothing_sensible_are_no_limit);
    RUN(test_the_first_version_is_read_where_the_second_has_none);
    RUN(test_no_file_of_groups_is_the_root_alone);
    RUN(test_the_affinity_mask_is_honoured);
    return check_report();
}
