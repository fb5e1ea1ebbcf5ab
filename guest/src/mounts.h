/* The filesystems: the agent's own, the layers, and the workload's root. */
#ifndef CONTREE_MOUNTS_H
#define CONTREE_MOUNTS_H

#include "devices.h"
#include "spawn.h"

#define LAYERS_DIR "/l"
#define SCRATCH_DIR "/s"
#define UPPER_DIR SCRATCH_DIR "/u"
#define INSIDE_DIR "/i" /* what belongs inside the root, until there is one */

/* /proc, /sys and the few device nodes that the agent itself needs. */
int mount_agent(struct error *err);
/* What does not depend on the image: the scratch disk with its directories, and, aside, what is to
 * be mounted inside the root. */
int mount_scratch(const struct disk *scratch, struct error *err);
int mount_inside(struct error *err);
/* Lets no more than room_bytes of it be taken from now on. */
int bound_scratch(uint64_t room_bytes, struct error *err);
/* The directories that a run wants at SCRATCH_DIR; mount_scratch has made them. */
int furnish_scratch(struct error *err);
/* Held, nothing is written to it, whatever disk is there then; taken, it is as mounted. */
int hold_scratch(struct error *err);
int take_scratch(struct error *err);
/* Mounts another disk, of another size, in the place of a held one. */
int change_scratch(const struct disk *scratch, struct error *err);
/* Layers, bottom first: partitions 1..count of their disk. */
int mount_layers(const struct disk *layers, unsigned count, struct error *err);
/* The overlay with what `mount_inside` made inside it; fills where. */
int mount_workload(unsigned layer_count, struct workload *where, struct error *err);

#endif
