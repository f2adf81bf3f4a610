/* SPDX-License-Identifier: Apache-2.0
 *
 * How many threads this process may use: the affinity mask, cut by the CPU quota of its cgroup (v2, then v1).  A
 * container that was given two of sixty-four CPUs would otherwise start sixty-four threads and be throttled.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif

#include "core/parallel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

static int64_t
affinity_threads(void)
{
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        return CPU_COUNT(&set);
    }
#endif
    return sysconf(_SC_NPROCESSORS_ONLN);
}

/* First line of a file; 0 when there is none. */
static int
read_line(const char *path, char *line, int bytes)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return 0;
    }
    const int found = fgets(line, bytes, file) != NULL;
    (void)fclose(file);
    return found;
}

/* Quota divided by period, rounded up; 0: no limit, or the files cannot be read.  v2 keeps "quota period" or
 * "max period" in one file (period_path NULL); v1 has a file for each, and -1 for no limit. */
static int64_t
quota_from(const char *quota_path, const char *period_path)
{
    char line[128];
    if (!read_line(quota_path, line, (int)sizeof line)) {
        return 0;
    }
    char *rest = line;
    const long long quota = strtoll(line, &rest, 10); /* 0 for "max" */
    if (period_path != NULL) {
        if (!read_line(period_path, line, (int)sizeof line)) {
            return 0;
        }
        rest = line;
    }
    const long long period = strtoll(rest, NULL, 10);
    return quota > 0 && period > 0 ? (int64_t)((quota + period - 1) / period) : 0;
}

/* The smallest quota on the way from this process's cgroup to the root (v2). */
static int64_t
cgroup_v2_threads(void)
{
    char line[1024];
    char group[1024] = "";
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "0::", 3) == 0) {
            line[strcspn(line, "\n")] = '\0';
            (void)snprintf(group, sizeof group, "%s", line + 3);
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    int64_t smallest = 0;
    for (;;) {
        char path[1200];
        (void)snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        const int64_t threads = quota_from(path, NULL);
        if (threads > 0 && (smallest == 0 || threads < smallest)) {
            smallest = threads;
        }
        char *slash = strrchr(group, '/');
        if (slash == NULL) {
            return smallest;
        }
        *slash = '\0';
    }
}

int32_t
qb_available_threads(void)
{
    int64_t threads = affinity_threads();
    int64_t quota = cgroup_v2_threads();
    if (quota == 0) {
        quota = quota_from("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    }
    threads = quota > 0 && quota < threads ? quota : threads;
    threads = threads < 1 ? 1 : threads;
    return (int32_t)(threads > QB_MAX_THREADS ? QB_MAX_THREADS : threads);
}
