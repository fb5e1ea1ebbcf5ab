/* One group `workload` has the limits; a group below it for each process that was spawned tells
 * whose memory ran out. cgroup v2, as the kernel documents it in admin-guide/cgroup-v2.rst. */
#include "cgroups.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define GROUPS_DIR "/sys/fs/cgroup"
#define WORKLOAD_DIR GROUPS_DIR "/workload"

/* Whose group is made in advance, in the template: making one takes milliseconds. It stays. */
enum { FIRST_SPID = 1 };

static const uint64_t RESERVE_BYTES = 64 << 20; /* what the kernel and the agent may need */
static const uint64_t BYTES_PER_PID = 256 << 10;

static int namespace_fd = -1;

static int fail(const char *what, struct error *err)
{
    return error_set(err, ERROR_IO, errno, "%s: %s", what, strerror(errno));
}

static int set(const char *path, const char *text, struct error *err)
{
    cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);

    return fd < 0 || write(fd, text, strlen(text)) < 0 ? fail(path, err) : 0;
}

static int set_number(const char *path, uint64_t number, struct error *err)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    return set(path, text, err);
}

static int mount_groups(const char *target, unsigned long flags, struct error *err)
{
    flags |= MS_NOSUID | MS_NODEV | MS_NOEXEC;
    return mount("cgroup2", target, "cgroup2", flags, NULL) < 0 ? fail(target, err) : 0;
}

/* Swap there is none, unless the workload makes some. */
static int limit(struct error *err)
{
    struct sysinfo machine;
    uint64_t bytes;

    if (sysinfo(&machine) < 0)
        return fail("sysinfo", err);
    bytes = (uint64_t)machine.totalram * machine.mem_unit;
    bytes -= bytes / 2 < RESERVE_BYTES ? bytes / 2 : RESERVE_BYTES;
    if (set_number(WORKLOAD_DIR "/memory.max", bytes, err) < 0 ||
        set(WORKLOAD_DIR "/memory.swap.max", "0", err) < 0)
        return -1;
    return set_number(WORKLOAD_DIR "/pids.max", bytes / BYTES_PER_PID, err);
}

/* A namespace's root is the group of whoever makes it, so the agent goes in for it, before the
 * group has children with limits of their own: from then on the kernel takes no process there. */
static int make_namespace(const char *inside, struct error *err)
{
    cleanup_close int home = open("/proc/self/ns/cgroup", O_RDONLY | O_CLOEXEC);

    if (set(WORKLOAD_DIR "/cgroup.procs", "0", err) < 0)
        return -1;
    if (home < 0 || unshare(CLONE_NEWCGROUP) < 0)
        return fail("make the workload's cgroup namespace", err);
    namespace_fd = open("/proc/self/ns/cgroup", O_RDONLY | O_CLOEXEC);
    if (mount_groups(inside, MS_RDONLY, err) < 0)
        return -1;
    if (namespace_fd < 0 || setns(home, CLONE_NEWCGROUP) < 0)
        return fail("leave the workload's cgroup namespace", err);
    return set(GROUPS_DIR "/cgroup.procs", "0", err);
}

int cgroups_make(const char *inside, struct error *err)
{
    if (mount_groups(GROUPS_DIR, 0, err) < 0 ||
        set(GROUPS_DIR "/cgroup.subtree_control", "+cpu +memory +pids", err) < 0)
        return -1;
    if (mkdir(WORKLOAD_DIR, 0755) < 0)
        return fail(WORKLOAD_DIR, err);
    if (limit(err) < 0 || make_namespace(inside, err) < 0)
        return -1;
    if (set(WORKLOAD_DIR "/cgroup.subtree_control", "+memory", err) < 0)
        return -1;
    cleanup_close int first = group_open(FIRST_SPID);

    return first < 0 ? fail("make the first process's group", err) : 0;
}

int cgroups_namespace(void)
{
    return namespace_fd;
}

int group_open(unsigned spid)
{
    char path[64];

    (void)snprintf(path, sizeof(path), WORKLOAD_DIR "/%u", spid);
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return -1;
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The kernel counts a kill before it kills, so whoever has ended because of one is counted. */
static bool was_short_of_memory(const char *path)
{
    char file[96], text[512];
    cleanup_close int fd = -1;
    const char *found;
    ssize_t got;

    (void)snprintf(file, sizeof(file), "%s/memory.events", path);
    fd = open(file, O_RDONLY | O_CLOEXEC);
    got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (got < 0)
        return false;
    text[got] = '\0';
    found = strstr(text, "oom_kill ");
    return found != NULL && strtoul(found + strlen("oom_kill "), NULL, 10) > 0;
}

bool group_close(unsigned spid)
{
    char path[64];
    bool killed;

    if (namespace_fd < 0)
        return false;
    (void)snprintf(path, sizeof(path), WORKLOAD_DIR "/%u", spid);
    killed = was_short_of_memory(path);
    if (spid != FIRST_SPID)
        (void)rmdir(path); /* EBUSY: a process that it left behind lives there */
    return killed;
}
