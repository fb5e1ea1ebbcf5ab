/* The upper directory as a tar stream. docs/guest-protocol.md section 6. */
#ifndef CONTREE_CAPTURE_H
#define CONTREE_CAPTURE_H

#include "error.h"

struct capture_result {
    uint64_t bytes, entries, elapsed_us;
};

/* Streams the directory to data_fd (non-blocking), at most max_bytes. Nothing may change the tree
 * meanwhile: every process is dead. Moves the agent's working directory. */
int capture_stream(const char *upper, int data_fd, uint64_t max_bytes,
                   struct capture_result *result, struct error *err);

#endif
