/* FILE_BEGIN, FILE_DATA, FILE_END. Paths are resolved inside the workload's root only: openat2 with
 * RESOLVE_IN_ROOT, because the image decides where its symbolic links point. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int open_directory_in(int root_fd, const char *path)
{
    struct open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_IN_ROOT,
    };

    return (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
}

static bool component_is_plain(const char *component, size_t length)
{
    return length > 0 && !(length == 1 && component[0] == '.') &&
           !(length == 2 && component[0] == '.' && component[1] == '.');
}

/* Opens the directory that holds the leaf, making what is missing (root, 0755). path is cut at
 * each slash in turn and restored. Returns a descriptor and sets *leaf. */
static int open_parent(int root_fd, char *path, const char **leaf, struct error *err)
{
    cleanup_close int at = open_directory_in(root_fd, "/");
    char *component = path + 1;
    char *slash;
    int found;

    if (at < 0)
        return error_set(err, ERROR_IO, errno, "open the root directory");
    for (;; component = slash + 1) {
        slash = strchr(component, '/');
        if (!component_is_plain(component, slash ? (size_t)(slash - component) : strlen(component)))
            return error_set(err, ERROR_BAD_NAME, 0, "path %s: empty, . or .. component", path);
        if (slash == NULL)
            break;
        *slash = '\0';
        found = open_directory_in(root_fd, path);
        if (found < 0 && errno == ENOENT && mkdirat(at, component, 0755) == 0)
            found = open_directory_in(root_fd, path);
        if (found < 0) {
            (void)error_set(err, ERROR_IO, errno, "directory %s: %s", path, strerror(errno));
            *slash = '/';
            return -1;
        }
        *slash = '/';
        close_descriptor(&at);
        at = found;
    }
    *leaf = component;
    found = at;
    at = -1;
    return found;
}

/* What utimensat takes: atime stays, mtime is as told or stays. */
static void times_of(const struct file_begin *file, struct timespec times[2])
{
    bool told = file->mtime_s != MTIME_ARRIVAL;

    times[0] = (struct timespec){.tv_nsec = UTIME_OMIT};
    times[1] = (struct timespec){.tv_nsec = UTIME_OMIT};
    if (told)
        times[1] = (struct timespec){.tv_sec = file->mtime_s};
}

/* chown before chmod: chown clears set-id bits. Looking is cheaper than setting what is so. */
static int dress(int fd, const struct file_begin *file)
{
    struct timespec times[2];
    struct stat st;

    times_of(file, times);
    if (fstat(fd, &st) < 0)
        return -1;
    if ((st.st_uid != file->uid || st.st_gid != file->gid) &&
        (fchown(fd, file->uid, file->gid) < 0 || fstat(fd, &st) < 0))
        return -1;
    if ((st.st_mode & 07777) != file->mode && fchmod(fd, file->mode) < 0)
        return -1;
    return file->mtime_s == MTIME_ARRIVAL ? 0 : futimens(fd, times);
}

/* A directory that is there stays, and so does a link to one: an archive that is unpacked over an
 * image must not take its /lib away. */
static int place_directory(const struct transfer *t, int root_fd)
{
    cleanup_close int fd = -1;

    if (mkdirat(t->parent_fd, t->leaf, 0700) < 0) {
        struct stat st;

        if (errno != EEXIST || fstatat(t->parent_fd, t->leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return -1;
        if (S_ISLNK(st.st_mode)) {
            fd = open_directory_in(root_fd, t->file.path);
            if (fd >= 0)
                return 0;
        }
        if (!S_ISDIR(st.st_mode) && (unlinkat(t->parent_fd, t->leaf, 0) < 0 ||
                                     mkdirat(t->parent_fd, t->leaf, 0700) < 0))
            return -1;
    }
    fd = openat(t->parent_fd, t->leaf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -1 : dress(fd, &t->file);
}

static int place_symlink(const struct transfer *t)
{
    struct timespec times[2];

    times_of(&t->file, times);
    if (symlinkat(t->file.target, t->parent_fd, t->leaf) < 0 ||
        fchownat(t->parent_fd, t->leaf, t->file.uid, t->file.gid, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    return utimensat(t->parent_fd, t->leaf, times, AT_SYMLINK_NOFOLLOW);
}

static int place_hard_link(const struct transfer *t, int root_fd)
{
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
    cleanup_close int source =
        (int)syscall(SYS_openat2, root_fd, t->file.target, &how, sizeof(how));

    return source < 0 ? -1 : linkat(source, "", t->parent_fd, t->leaf, AT_EMPTY_PATH);
}

static int create(struct transfer *t, int root_fd)
{
    switch (t->file.kind) {
    case FILE_DIRECTORY:
        return place_directory(t, root_fd);
    case FILE_SYMLINK:
        return place_symlink(t);
    case FILE_HARD_LINK:
        return place_hard_link(t, root_fd);
    case FILE_REGULAR:
        break;
    }
    t->fd = openat(t->parent_fd, t->leaf, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                   t->file.mode & 0777);
    return t->fd < 0 ? -1 : 0;
}

static int transfer_fail(struct transfer *t, int errno_value, const char *what)
{
    t->failed = true;
    return error_set(&t->err, ERROR_IO, errno_value, "%s %s: %s", what, t->file.path,
                     strerror(errno_value));
}

void transfer_init(struct transfer *t)
{
    t->open = false;
    t->fd = -1;
    t->parent_fd = -1;
}

void transfer_forget(struct transfer *t)
{
    close_descriptor(&t->parent_fd);
}

/* Sets parent_fd and leaf. */
static int find_parent(struct transfer *t, int root_fd)
{
    const char *leaf = strrchr(t->file.path, '/') + 1;
    size_t length = (size_t)(leaf - t->file.path);

    if (t->parent_fd >= 0 && length == t->parent_length &&
        memcmp(t->parent, t->file.path, length) == 0 && component_is_plain(leaf, strlen(leaf))) {
        t->leaf = leaf;
        return 0;
    }
    transfer_forget(t);
    t->parent_fd = open_parent(root_fd, t->file.path, &t->leaf, &t->err);
    if (t->parent_fd < 0)
        return -1;
    memcpy(t->parent, t->file.path, length);
    t->parent_length = length;
    return 0;
}

/* Mostly nothing stands there. A link that goes may have led to the known parent. */
static int replace(struct transfer *t, int root_fd)
{
    if (create(t, root_fd) == 0)
        return 0;
    if (errno != EEXIST || t->file.kind == FILE_DIRECTORY)
        return transfer_fail(t, errno, "create");
    t->parent_length = 0;
    if (unlinkat(t->parent_fd, t->leaf, 0) < 0)
        return transfer_fail(t, errno, "replace");
    return create(t, root_fd) < 0 ? transfer_fail(t, errno, "create") : 0;
}

void transfer_begin(struct transfer *t, int root_fd)
{
    t->open = true;
    t->failed = false;
    t->received = 0;
    if (find_parent(t, root_fd) < 0) {
        t->failed = true;
        return;
    }
    if (t->file.kind != FILE_REGULAR)
        t->parent_length = 0;
    (void)replace(t, root_fd);
}

static void transfer_discard(struct transfer *t)
{
    if (t->fd >= 0)
        (void)unlinkat(t->parent_fd, t->leaf, 0); /* the transfer's own error is what matters */
    close_descriptor(&t->fd);
}

void transfer_data(struct transfer *t, const uint8_t *data, size_t length)
{
    if (t->failed)
        return;
    t->received += length;
    while (length > 0) {
        ssize_t written = write(t->fd, data, length);

        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            (void)transfer_fail(t, errno, "write");
            transfer_discard(t);
            return;
        }
        data += written;
        length -= (size_t)written;
    }
}

/* close tells of a late ENOSPC. */
static int transfer_seal(struct transfer *t)
{
    int fd;

    if (t->received != t->file.size) {
        t->failed = true;
        return error_set(&t->err, ERROR_BAD_FRAME, 0, "%s: %llu bytes announced, %llu sent",
                         t->file.path, (unsigned long long)t->file.size,
                         (unsigned long long)t->received);
    }
    if (t->file.kind != FILE_REGULAR)
        return 0;
    if (dress(t->fd, &t->file) < 0)
        return transfer_fail(t, errno, "set owner, mode and time of");
    fd = t->fd;
    t->fd = -1;
    if (close(fd) < 0)
        return transfer_fail(t, errno, "close");
    return 0;
}

int transfer_end(struct transfer *t, struct error *err)
{
    if (!t->failed && transfer_seal(t) < 0)
        transfer_discard(t);
    t->open = false;
    close_descriptor(&t->fd);
    if (!t->failed)
        return 0;
    transfer_forget(t);
    *err = t->err;
    return -1;
}
