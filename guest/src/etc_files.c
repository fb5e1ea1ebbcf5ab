#include "etc_files.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { NAME_BYTES = 65, PATH_BYTES = 64, XATTR_NAMES_BYTES = 65536, XATTR_BYTES = 65536 };

enum file { HOSTS, HOSTNAME, RESOLV_CONF, FILES };
static const char *const NAMES[FILES] = {"hosts", "hostname", "resolv.conf"};

static int fail(const char *what, struct error *err)
{
    return error_set(err, ERROR_MOUNT, errno, "%s: %s", what, strerror(errno));
}

/* Said of a real directory only: where /etc is something else, it stays as it is. */
static bool is_wanted(const char *root, enum file file)
{
    char path[PATH_BYTES];
    struct stat found;

    (void)snprintf(path, sizeof(path), "%s/etc/%s", root, NAMES[file]);
    if (lstat(path, &found) < 0)
        return errno == ENOENT;
    return S_ISREG(found.st_mode) && found.st_size == 0;
}

/* A host name is any bytes; not all of them can be in a hosts file. */
static bool is_word(const char *name)
{
    for (const char *c = name; *c != '\0'; c++)
        if (!isgraph((unsigned char)*c) || *c == '#')
            return false;
    return *name != '\0';
}

static int text_of(enum file file, const char *hostname, char *text, size_t size)
{
    bool named = is_word(hostname) && strcmp(hostname, "localhost") != 0;

    switch (file) {
    case HOSTS:
        return snprintf(text, size,
                        "127.0.0.1\tlocalhost\n"
                        "::1\tlocalhost ip6-localhost ip6-loopback\n"
                        "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n%s%s%s",
                        named ? "127.0.1.1\t" : "", named ? hostname : "", named ? "\n" : "");
    case HOSTNAME:
        return snprintf(text, size, "%s\n", hostname);
    case RESOLV_CONF: /* nobody listens there, so that a question fails at once */
        return snprintf(text, size, "# This guest has no network.\nnameserver 127.0.0.1\n");
    case FILES:
        break;
    }
    return 0;
}

static int write_file(const char *directory, enum file file, const char *hostname,
                      struct error *err)
{
    static const struct timespec EPOCH[2]; /* so that they are the same in every guest */
    char path[PATH_BYTES], text[512];
    int length = text_of(file, hostname, text, sizeof(text));
    cleanup_close int fd = -1;

    (void)snprintf(path, sizeof(path), "%s/etc/%s", directory, NAMES[file]);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, (size_t)length) != length || futimens(fd, EPOCH) < 0)
        return fail(path, err);
    return 0;
}

static bool copy_xattrs(const char *from, const char *to)
{
    static char names[XATTR_NAMES_BYTES], value[XATTR_BYTES];
    ssize_t length = llistxattr(from, names, sizeof(names));

    if (length < 0)
        return errno == ENOTSUP || errno == ENOENT;
    for (const char *name = names; name < names + length; name += strlen(name) + 1) {
        ssize_t size = lgetxattr(from, name, value, sizeof(value));

        if (size < 0 || lsetxattr(to, name, value, (size_t)size, 0) < 0)
            return false;
    }
    return true;
}

int etc_files_make(const char *root, const char *directory, bool *any, struct error *err)
{
    char hostname[NAME_BYTES] = "", from[PATH_BYTES], to[PATH_BYTES];
    bool wanted[FILES];
    struct stat etc;
    struct timespec times[2];

    (void)snprintf(from, sizeof(from), "%s/etc", root);
    (void)snprintf(to, sizeof(to), "%s/etc", directory);
    *any = false;
    if (lstat(from, &etc) < 0) {
        if (errno != ENOENT || stat(root, &etc) < 0)
            return fail(from, err);
        etc.st_mode = S_IFDIR | 0755;
        etc.st_uid = 0;
        etc.st_gid = 0;
    }
    if (!S_ISDIR(etc.st_mode))
        return 0;
    for (enum file f = 0; f < FILES; f++) {
        wanted[f] = is_wanted(root, f);
        *any = *any || wanted[f];
    }
    if (!*any)
        return 0;
    if (gethostname(hostname, sizeof(hostname)) < 0)
        return fail("get the host name", err);
    if (!copy_xattrs(from, to)) { /* ext4 cannot hold what squashfs can: rather no files of ours */
        *any = false;
        return 0;
    }
    for (enum file f = 0; f < FILES; f++)
        if (wanted[f] && write_file(directory, f, hostname, err) < 0)
            return -1;
    times[0] = etc.st_atim;
    times[1] = etc.st_mtim;
    /* A merged directory shows the attributes of the topmost one, which is ours. */
    if (chown(to, etc.st_uid, etc.st_gid) < 0 || chmod(to, etc.st_mode & 07777) < 0 ||
        utimensat(AT_FDCWD, to, times, 0) < 0)
        return fail(to, err);
    return 0;
}
