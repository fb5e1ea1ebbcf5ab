/* Writes a pax tar to the data port: headers, records, data, padding. docs/guest-protocol.md
 * section 6. Knows nothing of overlays or directories; capture.c does. */
#ifndef CONTREE_TAR_H
#define CONTREE_TAR_H

#include <sys/stat.h>

#include "error.h"

enum { BLOCK_BYTES = 512, TAR_BUFFER_BYTES = 32768, PAX_BYTES = 524288 };

struct tar {
    int fd;
    uint64_t total, limit; /* bytes, buffered ones included */
    size_t used;           /* of buffer */
    size_t pax_used;       /* records for the next header */
    uint8_t buffer[TAR_BUFFER_BYTES];
    char pax[PAX_BYTES];
};

struct tar_member {
    const char *path; /* directories: with the final slash */
    const char *link; /* symbolic or hard link target, or NULL */
    char type;        /* ustar typeflag */
    uint64_t size;    /* bytes that follow the header */
    const struct stat *st;
};

void tar_init(struct tar *t, int fd, uint64_t limit);
/* Adds one pax record to the member that comes next. */
int tar_record(struct tar *t, const char *key, const void *value, size_t length, struct error *err);
int tar_header(struct tar *t, const struct tar_member *m, struct error *err);
int tar_bytes(struct tar *t, const void *data, size_t length, struct error *err);
/* Copies length bytes of a file from offset on. A file that ends early is an error. */
int tar_copy(struct tar *t, int fd, uint64_t offset, uint64_t length, struct error *err);
/* Fills the block after `size` bytes of data. */
int tar_pad(struct tar *t, uint64_t size, struct error *err);
/* The two zero blocks, and everything still buffered. */
int tar_finish(struct tar *t, struct error *err);

#endif
