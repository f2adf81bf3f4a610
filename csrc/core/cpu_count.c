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
    return quota > 0 && period > 0 ? (int64_t)(quota / period + (quota % period != 0)) : 0;
}

/* Copy the path of this process's group from a line of its cgroup file, "number:controllers:path", if the line is of
 * the unified hierarchy (v2, no controllers) or of the one that limits CPUs (v1). */
static void
read_group(char *line, int is_unified, char *group, size_t bytes)
{
    char *controllers = strchr(line, ':');
    char *path = controllers == NULL ? NULL : strchr(controllers + 1, ':');
    if (path == NULL || path[1] != '/') {
        return;
    }
    *path++ = '\0';
    path[strcspn(path, "\n")] = '\0';
    int is_wanted = is_unified && controllers[1] == '\0';
    for (const char *name = controllers + 1; !is_unified && *name != '\0'; name += strspn(name, ",")) {
        const size_t length = strcspn(name, ",");
        is_wanted |= length == 3 && strncmp(name, "cpu", length) == 0;
        name += length;
    }
    if (is_wanted) {
        (void)snprintf(group, bytes, "%s", path);
    }
}

/* The smallest quota on the way from this process's group to the root.  In a container the root that is seen is the
 * container's own group, and a path below it may not exist: then its files say nothing. */
static int64_t
smallest_quota(const char *groups_file, const char *mount, int is_unified)
{
    char line[1024];
    char group[1024] = "";
    FILE *file = fopen(groups_file, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        read_group(line, is_unified, group, sizeof group);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    int64_t smallest = 0;
    for (;;) {
        char quota[1200];
        char period[1200];
        (void)snprintf(quota, sizeof quota, "%s%s/%s", mount, group, is_unified ? "cpu.max" : "cpu.cfs_quota_us");
        (void)snprintf(period, sizeof period, "%s%s/cpu.cfs_period_us", mount, group);
        const int64_t threads = quota_from(quota, is_unified ? NULL : period);
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
qb_quota_threads(const char *groups_file, const char *mount)
{
    char old_mount[1024];
    (void)snprintf(old_mount, sizeof old_mount, "%s/cpu", mount);
    int64_t threads = smallest_quota(groups_file, mount, 1);
    if (threads == 0) {
        threads = smallest_quota(groups_file, old_mount, 0);
    }
    return (int32_t)(threads > QB_MAX_THREADS ? QB_MAX_THREADS : threads);
}

static int32_t
clamp(int64_t threads)
{
    return (int32_t)(threads < 1 ? 1 : threads > QB_MAX_THREADS ? QB_MAX_THREADS : threads);
}

qb_cpu_limits
qb_cpu_limits_read(void)
{
    const int32_t affinity = clamp(affinity_threads());
    const int32_t quota = qb_quota_threads("/proc/self/cgroup", "/sys/fs/cgroup");
    return (qb_cpu_limits){.online = clamp(sysconf(_SC_NPROCESSORS_ONLN)),
                           .affinity = affinity,
                           .quota = quota,
                           .threads = quota > 0 && quota < affinity ? quota : affinity};
}

int32_t
qb_available_threads(void)
{
    return qb_cpu_limits_read().threads;
}
