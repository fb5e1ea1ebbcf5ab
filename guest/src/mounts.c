/* Mounts as tables. docs/guest-protocol.md section 7. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "etc_files.h"
#include "identity.h"

#define ROOT_DIR "/new"
#define WORK_DIR SCRATCH_DIR "/w"
#define ETC_DIR SCRATCH_DIR "/e" /* as long as it is there, a layer on top of the image */
#define SKELETON SCRATCH_DIR "/k"

enum { TTY_GROUP = 5 };

static int reserve_fd = -1; /* how much of the scratch disk nobody gets: /sys/fs/ext4 */
static struct statfs blank; /* of the scratch disk, when nothing had been written to it */

struct mount_spec {
    const char *type, *target;
    unsigned long flags;
    const char *options;
};

/* In mount order: a target may lie inside an earlier one. */
static const struct mount_spec AGENT_MOUNTS[] = {
    {"proc", "/proc", 0, NULL},
    {"sysfs", "/sys", 0, NULL},
};
static const struct mount_spec WORKLOAD_MOUNTS[] = {
    {"proc", INSIDE_DIR "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"sysfs", INSIDE_DIR "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"tmpfs", INSIDE_DIR "/dev", MS_NOSUID, "mode=0755,size=1m"},
    {"devpts", INSIDE_DIR "/dev/pts", MS_NOSUID | MS_NOEXEC,
     "newinstance,ptmxmode=0666,mode=0620,gid=5"},
    {"tmpfs", INSIDE_DIR "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
};

static const char *const INSIDE[] = {"proc", "sys", "dev"};

struct node_spec {
    const char *path;
    unsigned major_number, minor_number;
    gid_t group;
};
static const struct node_spec NODES[] = {
    {"null", 1, 3, 0},   {"zero", 1, 5, 0},    {"full", 1, 7, 0},
    {"random", 1, 8, 0}, {"urandom", 1, 9, 0}, {"tty", 5, 0, TTY_GROUP},
};
static const char *const LINKS[][2] = {
    {"pts/ptmx", "ptmx"},          {"/proc/self/fd", "fd"},
    {"/proc/self/fd/0", "stdin"},  {"/proc/self/fd/1", "stdout"},
    {"/proc/self/fd/2", "stderr"},
};
static const char *const AGENT_DIRS[] = {LAYERS_DIR, SCRATCH_DIR, ROOT_DIR, INSIDE_DIR, "/dev"};
/* The skeleton is on the disk of the upper directory, so that all below the overlay are filesystems
 * of 32-bit inode numbers, whose high bits are free to tell them apart. */
static const char *const SCRATCH_DIRS[] = {
    UPPER_DIR,        WORK_DIR,        SKELETON, SKELETON "/dev",
    SKELETON "/proc", SKELETON "/sys", ETC_DIR,  ETC_DIR "/etc",
};

static int make_directory(const char *path, struct error *err)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return error_set(err, ERROR_MOUNT, errno, "make directory %s: %s", path, strerror(errno));
    return 0;
}

static int make_directories(const char *const *paths, size_t count, struct error *err)
{
    for (size_t i = 0; i < count; i++)
        if (make_directory(paths[i], err) < 0)
            return -1;
    return 0;
}

static int mount_one(const struct mount_spec *m, struct error *err)
{
    if (make_directory(m->target, err) < 0)
        return -1;
    if (mount(m->type, m->target, m->type, m->flags, m->options) < 0)
        return error_set(err, ERROR_MOUNT, errno, "mount %s on %s: %s", m->type, m->target,
                         strerror(errno));
    return 0;
}

static int make_nodes(const char *directory, struct error *err)
{
    cleanup_close int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);

    for (size_t i = 0; i < ARRAY_LEN(NODES); i++) {
        const struct node_spec *n = &NODES[i];
        dev_t device = makedev(n->major_number, n->minor_number);

        if ((mknodat(fd, n->path, S_IFCHR | 0666, device) < 0 && errno != EEXIST) ||
            fchownat(fd, n->path, 0, n->group, 0) < 0)
            return error_set(err, ERROR_MOUNT, errno, "make node %s/%s", directory, n->path);
    }
    return 0;
}

int mount_agent(struct error *err)
{
    if (make_directories(AGENT_DIRS, ARRAY_LEN(AGENT_DIRS), err) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(AGENT_MOUNTS); i++)
        if (mount_one(&AGENT_MOUNTS[i], err) < 0)
            return -1;
    return make_nodes("/dev", err);
}

int mount_layers(const struct disk *layers, unsigned count, struct error *err)
{
    char node[64], target[32];

    for (unsigned i = 0; i < count; i++) {
        (void)snprintf(target, sizeof(target), LAYERS_DIR "/%u", i);
        if (disk_node(layers, i + 1, node, sizeof(node), err) < 0 ||
            make_directory(target, err) < 0)
            return -1;
        if (mount(node, target, "squashfs", MS_RDONLY | MS_NOATIME, NULL) < 0)
            return error_set(err, ERROR_MOUNT, errno, "mount layer %u: %s", i, strerror(errno));
    }
    return 0;
}

/* What bounding it later needs is at hand then: a run waits for that, and for this nobody. */
static int measure_scratch(const struct disk *scratch, struct error *err)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/sys/fs/ext4/%s/reserved_clusters", scratch->name);
    close_descriptor(&reserve_fd);
    reserve_fd = open(path, O_WRONLY | O_CLOEXEC);
    if (reserve_fd < 0 || statfs(SCRATCH_DIR, &blank) < 0)
        return error_set(err, ERROR_MOUNT, errno, "measure scratch: %s", strerror(errno));
    return 0;
}

int furnish_scratch(struct error *err)
{
    return make_directories(SCRATCH_DIRS, ARRAY_LEN(SCRATCH_DIRS), err);
}

int mount_scratch(const struct disk *scratch, struct error *err)
{
    char node[64];

    if (disk_node(scratch, 0, node, sizeof(node), err) < 0)
        return -1;
    /* The disk dies with the guest: nothing needs to reach it in order, or at all. */
    if (mount(node, SCRATCH_DIR, "ext4", MS_NOATIME, "nobarrier,noauto_da_alloc,noinit_itable") < 0)
        return error_set(err, ERROR_MOUNT, errno, "mount scratch: %s", strerror(errno));
    if (furnish_scratch(err) < 0)
        return -1;
    return measure_scratch(scratch, err);
}

int bound_scratch(uint64_t room_bytes, struct error *err)
{
    uint64_t room_blocks = room_bytes / (uint64_t)blank.f_bsize;
    char text[32];
    int length;

    if (blank.f_bavail <= room_blocks)
        return 0;
    length = snprintf(text, sizeof(text), "%llu",
                      (unsigned long long)(blank.f_bfree - room_blocks));
    if (write(reserve_fd, text, (size_t)length) != length)
        return error_set(err, ERROR_MOUNT, errno, "bound scratch: %s", strerror(errno));
    return 0;
}

static int remount_scratch(unsigned long flags, struct error *err)
{
    if (mount(NULL, SCRATCH_DIR, NULL, MS_REMOUNT | MS_NOATIME | flags, NULL) < 0)
        return error_set(err, ERROR_MOUNT, errno, "remount scratch: %s", strerror(errno));
    return 0;
}

int hold_scratch(struct error *err)
{
    return remount_scratch(MS_RDONLY, err);
}

int take_scratch(struct error *err)
{
    return remount_scratch(0, err);
}

int change_scratch(const struct disk *scratch, struct error *err)
{
    char node[64];

    if (umount(SCRATCH_DIR) < 0)
        return error_set(err, ERROR_MOUNT, errno, "unmount scratch: %s", strerror(errno));
    if (disk_node(scratch, 0, node, sizeof(node), err) < 0)
        return -1;
    cleanup_close int fd = open(node, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || ioctl(fd, BLKFLSBUF, 0) < 0)
        return error_set(err, ERROR_MOUNT, errno, "forget scratch: %s", strerror(errno));
    return mount_scratch(scratch, err);
}

/* The merged root shows its upper directory's attributes, which must be those of the image's root.
 * */
static int dress_upper(unsigned layer_count, struct error *err)
{
    struct stat root = {.st_mode = 0755};
    char top[32];
    struct timespec times[2];

    (void)snprintf(top, sizeof(top), LAYERS_DIR "/%u", layer_count - 1);
    if (layer_count > 0 && stat(top, &root) < 0)
        return error_set(err, ERROR_MOUNT, errno, "stat the top layer's root");
    times[0] = root.st_mtim;
    times[1] = root.st_mtim;
    if (chown(UPPER_DIR, root.st_uid, root.st_gid) < 0 ||
        chmod(UPPER_DIR, root.st_mode & 07777) < 0 ||
        utimensat(AT_FDCWD, UPPER_DIR, times, 0) < 0)
        return error_set(err, ERROR_MOUNT, errno, "dress the upper directory");
    return 0;
}

/* Layer names are relative to LAYERS_DIR and short: mount options must fit one page. */
static int mount_overlay(unsigned layer_count, const char *above, const char *upper,
                         struct error *err)
{
    char options[4096];
    size_t at = (size_t)snprintf(options, sizeof(options), "lowerdir=" SKELETON "%s", above);

    for (unsigned i = layer_count; i-- > 0;)
        at += (size_t)snprintf(options + at, sizeof(options) - at, ":%u", i);
    (void)snprintf(options + at, sizeof(options) - at,
                   ",redirect_dir=nofollow,metacopy=off,index=off,xino=on%s", upper);
    if (chdir(LAYERS_DIR) < 0 || mount("overlay", ROOT_DIR, "overlay", 0, options) < 0)
        return error_set(err, ERROR_MOUNT, errno, "mount the overlay of %u layers: %s", layer_count,
                         strerror(errno));
    return chdir("/") < 0 ? error_set(err, ERROR_MOUNT, errno, "chdir /") : 0;
}

/* Looks at the image as the kernel stacks it, before anything is made of it. A stack without an
 * upper directory has two lower ones at least: so many there are, unless the image is empty. */
static int make_etc(unsigned layer_count, bool *any, struct error *err)
{
    if (layer_count == 0)
        return etc_files_make(ROOT_DIR, ETC_DIR, any, err);
    if (mount_overlay(layer_count, "", "", err) < 0 ||
        etc_files_make(ROOT_DIR, ETC_DIR, any, err) < 0)
        return -1;
    return umount(ROOT_DIR) < 0 ? error_set(err, ERROR_MOUNT, errno, "unmount the image") : 0;
}

int mount_inside(struct error *err)
{
    for (size_t i = 0; i < ARRAY_LEN(WORKLOAD_MOUNTS); i++)
        if (mount_one(&WORKLOAD_MOUNTS[i], err) < 0)
            return -1;
    if (make_nodes(INSIDE_DIR "/dev", err) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(LINKS); i++) {
        char path[64];

        (void)snprintf(path, sizeof(path), INSIDE_DIR "/dev/%s", LINKS[i][1]);
        if (symlink(LINKS[i][0], path) < 0)
            return error_set(err, ERROR_MOUNT, errno, "link %s", path);
    }
    return 0;
}

static int move_inside(struct error *err)
{
    for (size_t i = 0; i < ARRAY_LEN(INSIDE); i++) {
        char from[32], to[32];

        (void)snprintf(from, sizeof(from), INSIDE_DIR "/%s", INSIDE[i]);
        (void)snprintf(to, sizeof(to), ROOT_DIR "/%s", INSIDE[i]);
        if (mount(from, to, NULL, MS_MOVE, NULL) < 0)
            return error_set(err, ERROR_MOUNT, errno, "move %s: %s", from, strerror(errno));
    }
    if (mount(BOOT_ID_FILE, ROOT_DIR "/proc/sys/kernel/random/boot_id", NULL, MS_BIND, NULL) < 0)
        return error_set(err, ERROR_MOUNT, errno, "bind the boot id");
    return 0;
}

/* A second mount namespace in which the overlay *is* the root, as after switch_root: a mere chroot
 * would forbid user namespaces and pivot_root to the workload. The agent goes in to build it and
 * comes back; setns sets root and cwd to the namespace's own. */
static int make_namespace(struct workload *where, struct error *err)
{
    cleanup_close int home = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);

    where->root_fd = open(ROOT_DIR, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (home < 0 || where->root_fd < 0 || unshare(CLONE_NEWNS) < 0)
        return error_set(err, ERROR_MOUNT, errno, "make the workload's namespace");
    if (chdir(ROOT_DIR) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
        return error_set(err, ERROR_MOUNT, errno, "make the overlay the root");
    where->namespace_fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (where->namespace_fd < 0 || setns(home, CLONE_NEWNS) < 0)
        return error_set(err, ERROR_MOUNT, errno, "leave the workload's namespace");
    return 0;
}

int mount_workload(unsigned layer_count, struct workload *where, struct error *err)
{
    static const char UPPER[] = ",upperdir=" UPPER_DIR ",workdir=" WORK_DIR ",volatile";
    bool has_etc;

    if (dress_upper(layer_count, err) < 0 || make_etc(layer_count, &has_etc, err) < 0 ||
        mount_overlay(layer_count, has_etc ? ":" ETC_DIR : "", UPPER, err) < 0 ||
        move_inside(err) < 0)
        return -1;
    return make_namespace(where, err);
}
