/* A sparse member is a map (run count, then offset and length of each run, in decimal lines,
 * padded to a block) followed by the data of the runs. The runs are asked of the filesystem three
 * times, to measure, to write the map and to copy, so that memory does not grow with their number.
 * */
#include "sparse.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct sparse {
    struct tar *tar;
    int fd;
    off_t size;
    const char *path;
    uint64_t runs, map_bytes, data_bytes;
};

typedef int visit_run(struct sparse *s, off_t start, off_t length, struct error *err);

/* A final hole counts as a run of 0 bytes at the file's end. */
static int each_run(struct sparse *s, visit_run *visit, struct error *err)
{
    off_t end = 0;

    while (end < s->size) {
        off_t start = lseek(s->fd, end, SEEK_DATA);

        if (start < 0 && errno == ENXIO)
            return visit(s, s->size, 0, err);
        end = start < 0 ? -1 : lseek(s->fd, start, SEEK_HOLE);
        if (end < 0)
            return error_set(err, ERROR_IO, errno, "find the holes of %.800s", s->path);
        if (end > s->size)
            end = s->size;
        if (visit(s, start, end - start, err) < 0)
            return -1;
    }
    return 0;
}

static int run_measure(struct sparse *s, off_t start, off_t length, struct error *err)
{
    (void)err; /* counting cannot fail */
    s->runs++;
    s->map_bytes +=
        (uint64_t)snprintf(NULL, 0, "%lld\n%lld\n", (long long)start, (long long)length);
    s->data_bytes += (uint64_t)length;
    return 0;
}

static int run_map(struct sparse *s, off_t start, off_t length, struct error *err)
{
    char text[48];
    int used = snprintf(text, sizeof(text), "%lld\n%lld\n", (long long)start, (long long)length);

    return tar_bytes(s->tar, text, (size_t)used, err);
}

static int run_copy(struct sparse *s, off_t start, off_t length, struct error *err)
{
    return tar_copy(s->tar, s->fd, (uint64_t)start, (uint64_t)length, err);
}

static int record_sparse(const struct sparse *s, struct error *err)
{
    char text[24];
    int length = snprintf(text, sizeof(text), "%lld", (long long)s->size);

    if (tar_record(s->tar, "GNU.sparse.major", "1", 1, err) < 0 ||
        tar_record(s->tar, "GNU.sparse.minor", "0", 1, err) < 0 ||
        tar_record(s->tar, "GNU.sparse.name", s->path, strlen(s->path), err) < 0)
        return -1;
    return tar_record(s->tar, "GNU.sparse.realsize", text, (size_t)length, err);
}

int sparse_write(struct tar *t, int fd, struct tar_member *m, struct error *err)
{
    struct sparse s = {.tar = t, .fd = fd, .size = m->st->st_size, .path = m->path};
    char count[24];

    if (each_run(&s, run_measure, err) < 0)
        return -1;
    s.map_bytes += (uint64_t)snprintf(count, sizeof(count), "%llu\n", (unsigned long long)s.runs);
    m->size = (s.map_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES + s.data_bytes;
    if (record_sparse(&s, err) < 0 || tar_header(t, m, err) < 0 ||
        tar_bytes(t, count, strlen(count), err) < 0 || each_run(&s, run_map, err) < 0 ||
        tar_pad(t, s.map_bytes, err) < 0 || each_run(&s, run_copy, err) < 0)
        return -1;
    return tar_pad(t, s.data_bytes, err);
}
