/* The cgroups that commands run in, so that memory and process numbers run out for them and never
 * for the machine: docs/guest.md. */
#ifndef CONTREE_CGROUPS_H
#define CONTREE_CGROUPS_H

#include <stdbool.h>

#include "error.h"

/* Mounts cgroup2 for the agent, and for the workload at `inside` (read-only), limits the workload's
 * group, and makes its cgroup namespace. Once in a guest, never in a hosted agent. */
int cgroups_make(const char *inside, struct error *err);
/* The namespace in which the workload's group is the root; -1 if there is none. */
int cgroups_namespace(void);
/* Makes the group of one process. Returns a descriptor of it for clone3, or -1 with errno. */
int group_open(unsigned spid);
/* Removes that group, unless somebody lives in it; says whether memory ran out for the process, or
 * one that it started, so that the kernel killed it. To be called once it is reaped. */
bool group_close(unsigned spid);

#endif
