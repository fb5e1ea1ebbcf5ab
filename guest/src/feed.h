/* Bytes on their way into one process's stdin: a ring of STDIN_WINDOW_BYTES before its pipe.
 * docs/guest-protocol.md section 3, STDIN. */
#ifndef CONTREE_FEED_H
#define CONTREE_FEED_H

#include "messages.h"

struct feed {
    int fd;      /* -1: no stdin, or closed */
    bool eof;    /* the host has said its last; close once the ring is empty */
    bool broken; /* the process closed its end */
    uint32_t start, length;
    uint8_t bytes[STDIN_WINDOW_BYTES];
};

void feed_open(struct feed *f, int fd);
int feed_add(struct feed *f, uint32_t spid, struct span data, struct error *err);
/* Writes what the pipe takes; sends credit, or the news that nobody reads. */
void feed_step(struct feed *f, uint32_t spid, struct queue *out);

#endif
