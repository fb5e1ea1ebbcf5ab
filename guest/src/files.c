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

void transfer_begin(struct transfer *t, int root_fd)
{
    t->open = true;
    t->failed = false;
    t->received = 0;
    t->parent_fd = open_parent(root_fd, t->file.path, &t->leaf, &t->err);
    if (t->parent_fd < 0) {
        t->failed = true;
        return;
    }
    if (unlinkat(t->parent_fd, t->leaf, 0) < 0 && errno != ENOENT) {
        (void)transfer_fail(t, errno, "replace");
        return;
    }
    t->fd = openat(t->parent_fd, t->leaf, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                   0600);
    if (t->fd < 0)
        (void)transfer_fail(t, errno, "create");
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

/* chown before chmod: chown clears set-id bits. close tells of a late ENOSPC. */
static int transfer_seal(struct transfer *t)
{
    int fd;

    if (t->received != t->file.size) {
        t->failed = true;
        return error_set(&t->err, ERROR_BAD_FRAME, 0, "%s: %llu bytes announced, %llu sent",
                         t->file.path, (unsigned long long)t->file.size,
                         (unsigned long long)t->received);
    }
    if (fchown(t->fd, t->file.uid, t->file.gid) < 0 || fchmod(t->fd, t->file.mode) < 0)
        return transfer_fail(t, errno, "set owner and mode of");
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
    close_descriptor(&t->parent_fd);
    if (!t->failed)
        return 0;
    *err = t->err;
    return -1;
}
