/* The filesystems: the agent's own, the layers, and the workload's root. */
#ifndef CONTREE_MOUNTS_H
#define CONTREE_MOUNTS_H

#include "devices.h"
#include "spawn.h"

#define LAYERS_DIR "/l"
#define SCRATCH_DIR "/s"
#define UPPER_DIR SCRATCH_DIR "/u"

/* /proc, /sys and the few device nodes that the agent itself needs. */
int mount_agent(struct error *err);
/* Layers and scratch, bottom first. */
int mount_disks(const struct disk *layers, const struct disk *scratch, unsigned layer_count,
                struct error *err);
/* The overlay and what is mounted inside it; fills where. */
int mount_workload(unsigned layer_count, struct workload *where, struct error *err);

#endif
