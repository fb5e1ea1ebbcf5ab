/* The initramfs stage. Modules lie in /modules, put there by
 * contree/adapters/microvm/initramfs.py. */
#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devices.h"
#include "mounts.h"

struct module_spec {
    const char *name;
    bool late_bind; /* its devices are bound on CONFIGURE, not when it is loaded */
};

/* In load order: each needs the ones before it. ext4 is built into the kernel. */
static const struct module_spec MODULES[] = {
    {"virtio_ring", false},           {"virtio", false},
    {"virtio_pci_legacy_dev", false}, {"virtio_pci_modern_dev", false},
    {"virtio_pci", false},            {"virtio_console", false},
    {"virtio_blk", true},             {"squashfs", false},
    {"overlay", false},
};

static int load_module(const struct module_spec *m, struct error *err)
{
    char path[64];
    cleanup_close int fd = -1;

    (void)snprintf(path, sizeof(path), "/modules/%s.ko", m->name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, ERROR_DEVICE, errno, "open %s: %s", path, strerror(errno));
    if (m->late_bind && write_line("/sys/bus/virtio/drivers_autoprobe", "0", err) < 0)
        return -1;
    /* EEXIST: this kernel has it built in. */
    if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
        return error_set(err, ERROR_DEVICE, errno, "load %s: %s", m->name, strerror(errno));
    return 0;
}

int boot(int *control_fd, int *data_fd, struct error *err)
{
    if (mount_agent(err) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(MODULES); i++)
        if (load_module(&MODULES[i], err) < 0)
            return -1;
    *control_fd = port_open("agent", err);
    if (*control_fd < 0)
        return -1;
    *data_fd = port_open("data", err);
    return *data_fd < 0 ? -1 : 0;
}
