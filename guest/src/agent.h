/* The agent proper: one poll loop over the host's frames, the processes and their ends. */
#ifndef CONTREE_AGENT_H
#define CONTREE_AGENT_H

#include "spawn.h"

struct agent_config {
    int control_fd, data_fd;
    /* Hosted mode, for tests: the root and upper directory are given, no device is touched, and the
     * agent ends when the host hangs up. */
    bool hosted;
    const char *root, *upper;
};

/* Returns only in hosted mode (0), or when the loop cannot be set up (-1). */
int agent_run(const struct agent_config *config, struct error *err);

#endif
