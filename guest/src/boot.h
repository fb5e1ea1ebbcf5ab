/* From the kernel's hand-over to a listening agent: PID 1's first steps. */
#ifndef CONTREE_BOOT_H
#define CONTREE_BOOT_H

#include "error.h"

/* Mounts, loads the kernel modules, opens both ports. */
int boot(int *control_fd, int *data_fd, struct error *err);

#endif
