/* Starting one process: everything between fork and exec. */
#ifndef CONTREE_SPAWN_H
#define CONTREE_SPAWN_H

#include "messages.h"

/* Where processes live: a mount namespace to enter, or (hosted, for tests) a directory to chroot
 * to. */
struct workload {
    int namespace_fd; /* -1: none */
    int root_fd;      /* O_PATH directory: the root as the agent sees it */
};

/* What the child writes to its status pipe when it cannot become the program. */
struct spawn_failure {
    uint32_t stage;
    int32_t errno_value;
};

/* The parent's ends; all close-on-exec and non-blocking. */
struct spawned {
    pid_t pid;
    int status_fd; /* end of file: exec succeeded; a struct spawn_failure: it did not */
    int stdin_fd;  /* -1: /dev/null */
    int output_fds[2];
};

/* Returns 0, or -1 with errno; nothing is left behind then. */
int spawn_process(const struct spawn *request, const struct workload *where, struct spawned *out);

#endif
