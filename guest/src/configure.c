#include "configure.h"

#include "cgroups.h"
#include "clock.h"
#include "identity.h"
#include "mounts.h"

int prepare_guest(const struct prepare *m, unsigned layers_max, struct error *err)
{
    struct disk layers, scratch;

    if (layers_max > 0 && (disk_find(&m->layers_disk, &layers, err) < 0 ||
                           disk_part(&layers, layers_max, LAYER_ROOM_BYTES, err) < 0))
        return -1;
    if (disk_find(&m->scratch_disk, &scratch, err) < 0 || mount_scratch(&scratch, err) < 0)
        return -1;
    return mount_inside(err) < 0 ? -1 : cgroups_make(INSIDE_DIR "/sys/fs/cgroup", err);
}

/* The scratch disk of a prepared guest is held: it may be another one by now. */
static int settle_scratch(const struct configure *m, struct error *err)
{
    struct disk scratch;

    if (!m->other_scratch)
        return take_scratch(err);
    return disk_find(&m->scratch_disk, &scratch, err) < 0 ? -1 : change_scratch(&scratch, err);
}

int configure_guest(const struct configure *m, bool prepared, struct workload *where,
                    uint64_t *disks_us, struct error *err)
{
    struct prepare disks = {.layers_disk = m->layers_disk, .scratch_disk = m->scratch_disk};
    uint64_t started_us = monotonic_us();
    struct disk layers;

    if (m->layer_count > MAX_LAYERS)
        return error_set(err, ERROR_LIMIT, 0, "%u layers, allowed %d", m->layer_count, MAX_LAYERS);
    if (identity_take(m, err) < 0)
        return -1;
    if ((prepared ? settle_scratch(m, err) : prepare_guest(&disks, m->layer_count, err)) < 0)
        return -1;
    if (m->scratch_room > 0 && bound_scratch(m->scratch_room, err) < 0)
        return -1;
    *disks_us = monotonic_us() - started_us;
    if (m->layer_count > 0 && (disk_find(&m->layers_disk, &layers, err) < 0 ||
                               mount_layers(&layers, m->layer_count, err) < 0))
        return -1;
    return mount_workload(m->layer_count, where, err);
}
