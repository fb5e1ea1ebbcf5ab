/* Files the host places in the workload's root before, or while, it runs. */
#ifndef CONTREE_FILES_H
#define CONTREE_FILES_H

#include "messages.h"

struct transfer {
    bool open;   /* between FILE_BEGIN and FILE_END */
    bool failed; /* err says why; the rest of the transfer is swallowed */
    struct error err;
    int fd; /* -1 when closed */
    /* Of the latest file's directory, which the next one mostly is in too; -1 when not known. */
    int parent_fd;
    size_t parent_length;
    char parent[MAX_PATH_BYTES + 1];
    struct file_begin file;
    const char *leaf;  /* inside file.path */
    uint64_t received;
};

void transfer_init(struct transfer *t);
/* Starts replacing t->file.path below root_fd; a failure is kept until transfer_end. */
void transfer_begin(struct transfer *t, int root_fd);
void transfer_data(struct transfer *t, const uint8_t *data, size_t length);
int transfer_end(struct transfer *t, struct error *err);
/* Somebody else may move directories from now on. */
void transfer_forget(struct transfer *t);

#endif
