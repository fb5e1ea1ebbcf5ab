/* PREPARE and CONFIGURE without their frames: identity, disks, the workload's root. */
#ifndef CONTREE_CONFIGURE_H
#define CONTREE_CONFIGURE_H

#include "messages.h"
#include "spawn.h"

/* What needs neither the image nor an identity: a template is saved after it. */
int prepare_guest(const struct prepare *m, unsigned layers_max, struct error *err);
/* All of it, or what is left after prepare_guest; fills where. disks_us: until the disks are there. */
int configure_guest(const struct configure *m, bool prepared, struct workload *where,
                    uint64_t *disks_us, struct error *err);

#endif
