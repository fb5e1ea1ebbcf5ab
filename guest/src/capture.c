/* Walks the upper directory in canonical order and says what each entry is. Memory is bounded: two
 * fixed arenas, reserved but not touched until needed. */
#include "capture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "clock.h"
#include "sparse.h"

enum {
    ARENA_BYTES = 64 << 20, /* names of the directories being walked; paths of hard-linked files */
    LINK_SLOTS = 1 << 20,
    MAX_LINKS = LINK_SLOTS / 4 * 3,
    XATTR_LIST_BYTES = 65536,
    XATTR_VALUE_BYTES = 65536, /* the kernel's own limit */
};

struct arena {
    char *base;
    size_t used;
};

struct link {
    uint64_t inode; /* 0: free slot */
    uint32_t path;  /* offset in the paths arena */
};

struct walk {
    struct arena names, paths;
    struct link *links;
    size_t link_count;
    uint64_t entries;
    size_t path_length;
    char path[MAX_PATH_BYTES + 2]; /* relative to the upper directory; one more for a final slash */
};

static struct tar tar;
static struct walk walk;

static int reserve(void **memory, size_t bytes, struct error *err)
{
    if (*memory != NULL)
        return 0;
    *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (*memory != MAP_FAILED)
        return 0;
    *memory = NULL;
    return error_set(err, ERROR_IO, errno, "reserve memory for the capture");
}

static int arena_add(struct arena *a, const void *data, size_t length, struct error *err)
{
    if (length > ARENA_BYTES - a->used)
        return error_set(err, ERROR_LIMIT, ENOMEM, "names near %.200s exceed %d bytes", walk.path,
                         ARENA_BYTES);
    memcpy(a->base + a->used, data, length);
    a->used += length;
    return 0;
}

static int io_error(const char *what, struct error *err)
{
    int saved = errno;

    return error_set(err, ERROR_IO, saved, "%s %.800s: %s", what, walk.path, strerror(saved));
}

/* The first path of this inode, or NULL after recording the present path as that. */
static int first_path(uint64_t inode, const char **first, struct error *err)
{
    size_t slot = (size_t)(inode * 0x9e3779b97f4a7c15U >> 44) % LINK_SLOTS;
    struct link *l;

    for (;; slot = (slot + 1) % LINK_SLOTS) {
        l = &walk.links[slot];
        if (l->inode == 0)
            break;
        if (l->inode == inode) {
            *first = walk.paths.base + l->path;
            return 0;
        }
    }
    *first = NULL;
    if (walk.link_count++ == MAX_LINKS)
        return error_set(err, ERROR_LIMIT, 0, "more than %d files with several names", MAX_LINKS);
    l->path = (uint32_t)walk.paths.used;
    l->inode = inode;
    return arena_add(&walk.paths, walk.path, strlen(walk.path) + 1, err);
}

static int record_xattr(const char *name, struct error *err)
{
    static char value[XATTR_VALUE_BYTES];
    char key[sizeof("SCHILY.xattr.") + XATTR_NAME_MAX + 1];
    ssize_t length;

    /* Of overlayfs's own notes only "opaque" says something about content. */
    if (strncmp(name, "trusted.overlay.", 16) == 0 && strcmp(name + 16, "opaque") != 0)
        return 0;
    if (strchr(name, '=') != NULL)
        return error_set(err, ERROR_BAD_NAME, 0, "attribute %s of %.600s: '=' in its name", name,
                         walk.path);
    length = lgetxattr(walk.path, name, value, sizeof(value));
    if (length < 0)
        return io_error("read an attribute of", err);
    (void)snprintf(key, sizeof(key), "SCHILY.xattr.%s", name);
    return tar_record(&tar, key, value, (size_t)length, err);
}

static int record_xattrs(struct error *err)
{
    static char list[XATTR_LIST_BYTES];
    ssize_t length = llistxattr(walk.path, list, sizeof(list));

    if (length < 0 && errno != ENOTSUP)
        return io_error("list the attributes of", err);
    for (const char *name = list; name < list + length; name += strlen(name) + 1)
        if (record_xattr(name, err) < 0)
            return -1;
    return 0;
}

static int write_file(struct tar_member *m, struct error *err)
{
    cleanup_close int fd = open(walk.path, O_RDONLY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC);
    off_t size = m->st->st_size;
    off_t hole;

    if (fd < 0)
        return io_error("open", err);
    /* Not told by st_blocks: what fallocate took ahead has blocks, and is a hole until written. */
    hole = lseek(fd, 0, SEEK_HOLE);
    if (hole >= 0 && hole < size)
        return sparse_write(&tar, fd, m, err);
    m->size = (uint64_t)size;
    if (tar_header(&tar, m, err) < 0 || tar_copy(&tar, fd, 0, m->size, err) < 0)
        return -1;
    return tar_pad(&tar, m->size, err);
}

static int write_symlink(struct tar_member *m, struct error *err)
{
    static char target[MAX_PATH_BYTES + 2];
    ssize_t length = readlink(walk.path, target, sizeof(target) - 1);

    if (length < 0)
        return io_error("read the link", err);
    target[length] = '\0';
    m->link = target;
    return tar_header(&tar, m, err);
}

/* The typeflag of what is neither file, directory nor symbolic link; 0 for a socket. */
static char special_type(mode_t mode)
{
    return S_ISCHR(mode) ? '3' : S_ISBLK(mode) ? '4' : S_ISFIFO(mode) ? '6' : '\0';
}

static bool is_whiteout(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

static int write_leaf(const struct stat *st, struct error *err)
{
    struct tar_member m = {.path = walk.path, .st = st, .type = special_type(st->st_mode)};

    if (S_ISREG(st->st_mode))
        m.type = '0';
    else if (S_ISLNK(st->st_mode))
        m.type = '2';
    if (m.type == '\0')
        return 0;
    walk.entries++;
    /* overlayfs gives all whiteouts one inode: names of one file they are not. */
    if (st->st_nlink > 1 && !is_whiteout(st)) {
        if (first_path(st->st_ino, &m.link, err) < 0)
            return -1;
        if (m.link != NULL) {
            m.type = '1';
            return tar_header(&tar, &m, err);
        }
    }
    if (record_xattrs(err) < 0)
        return -1;
    if (m.type == '0')
        return write_file(&m, err);
    return m.type == '2' ? write_symlink(&m, err) : tar_header(&tar, &m, err);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(walk.names.base + *(const uint32_t *)a, walk.names.base + *(const uint32_t *)b);
}

static int check_name(const char *name, struct error *err)
{
    if (strncmp(name, ".wh.", 4) != 0)
        return 0;
    return error_set(err, ERROR_BAD_NAME, 0,
                     "%.500s/%s: in a layer a name beginning .wh. means a deletion", walk.path,
                     name);
}

/* Reads the present directory's names into the arena and sorts them. */
static int read_names(uint32_t **sorted, size_t *count, struct error *err)
{
    size_t start = walk.names.used;
    DIR *d = opendir(walk.path);
    const struct dirent *e;
    int result = 0;

    *count = 0;
    if (d == NULL)
        return io_error("open directory", err);
    while (result == 0 && (errno = 0, e = readdir(d)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        result = check_name(e->d_name, err);
        if (result == 0)
            result = arena_add(&walk.names, e->d_name, strlen(e->d_name) + 1, err);
        ++*count;
    }
    if (result == 0 && errno != 0)
        result = io_error("read directory", err);
    (void)closedir(d);
    walk.names.used = (walk.names.used + 3) / 4 * 4;
    if (result < 0 || *count * sizeof(uint32_t) > ARENA_BYTES - walk.names.used)
        return result < 0 ? -1 : arena_add(&walk.names, "", ARENA_BYTES, err);
    *sorted = (uint32_t *)(void *)(walk.names.base + walk.names.used);
    walk.names.used += *count * sizeof(uint32_t);
    for (size_t i = 0; i < *count; i++) {
        (*sorted)[i] = (uint32_t)start;
        start += strlen(walk.names.base + start) + 1;
    }
    qsort(*sorted, *count, sizeof(uint32_t), compare_names);
    return 0;
}

static int write_directory(const struct stat *st, struct error *err)
{
    struct tar_member m = {.path = walk.path, .type = '5', .st = st};
    int result;

    walk.entries++;
    if (record_xattrs(err) < 0)
        return -1;
    walk.path[walk.path_length] = '/'; /* for the header only */
    walk.path[walk.path_length + 1] = '\0';
    result = tar_header(&tar, &m, err);
    walk.path[walk.path_length] = '\0';
    return result;
}

static int walk_directory(struct error *err);

static int walk_entry(const char *name, struct error *err)
{
    size_t parent_length = walk.path_length, name_length = strlen(name);
    /* Entries of the root are named without "./" before them. */
    size_t at = strcmp(walk.path, ".") == 0 ? 0 : parent_length + 1;
    struct stat st;
    int result;

    if (at + name_length > MAX_PATH_BYTES)
        return error_set(err, ERROR_LIMIT, ENAMETOOLONG, "a path exceeds %d bytes: %.800s...",
                         MAX_PATH_BYTES, walk.path);
    if (at > 0)
        walk.path[parent_length] = '/';
    memcpy(walk.path + at, name, name_length + 1);
    walk.path_length = at + name_length;
    if (lstat(walk.path, &st) < 0)
        result = io_error("stat", err);
    else if (!S_ISDIR(st.st_mode))
        result = write_leaf(&st, err);
    else
        result = write_directory(&st, err) < 0 ? -1 : walk_directory(err);
    walk.path_length = parent_length;
    if (at == 0)
        walk.path[0] = '.';
    walk.path[parent_length] = '\0';
    return result;
}

static int walk_directory(struct error *err)
{
    size_t mark = walk.names.used, count;
    uint32_t *sorted = NULL;

    if (read_names(&sorted, &count, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (walk_entry(walk.names.base + sorted[i], err) < 0)
            return -1;
    walk.names.used = mark;
    return 0;
}

static int walk_start(struct error *err)
{
    void *names = walk.names.base, *paths = walk.paths.base, *links = walk.links;

    if (reserve(&names, ARENA_BYTES, err) < 0 || reserve(&paths, ARENA_BYTES, err) < 0 ||
        reserve(&links, LINK_SLOTS * sizeof(struct link), err) < 0)
        return -1;
    if (walk.link_count > 0)
        memset(links, 0, LINK_SLOTS * sizeof(struct link));
    walk = (struct walk){.names.base = names, .paths.base = paths, .links = links};
    memcpy(walk.path, ".", 2);
    walk.path_length = 1;
    return 0;
}

int capture_stream(const char *upper, int data_fd, uint64_t max_bytes,
                   struct capture_result *result, struct error *err)
{
    uint64_t started_us = monotonic_us();
    struct stat root;

    if (walk_start(err) < 0)
        return -1;
    tar_init(&tar, data_fd, max_bytes);
    if (chdir(upper) < 0 || lstat(".", &root) < 0)
        return io_error("enter the upper directory", err);
    if (write_directory(&root, err) < 0 || walk_directory(err) < 0 || tar_finish(&tar, err) < 0)
        return -1;
    result->bytes = tar.total;
    result->entries = walk.entries;
    result->elapsed_us = monotonic_us() - started_us;
    return chdir("/") < 0 ? io_error("leave the upper directory", err) : 0;
}
