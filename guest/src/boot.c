/* The initramfs stage. Modules lie in /modules, put there by
 * contree/adapters/microvm/boot/initramfs.py. */
#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devices.h"
#include "mounts.h"

/* In load order: each needs the ones before it. ext4 is built into the kernel. */
static const char *const MODULES[] = {
    "virtio_ring", "virtio",         "virtio_pci_legacy_dev", "virtio_pci_modern_dev",
    "virtio_pci",  "virtio_console", "virtio_blk",            "squashfs",
    "overlay",
};

static int load_module(const char *name, struct error *err)
{
    char path[64];
    cleanup_close int fd = -1;

    (void)snprintf(path, sizeof(path), "/modules/%s.ko", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, ERROR_DEVICE, errno, "open %s: %s", path, strerror(errno));
    /* EEXIST: this kernel has it built in. */
    if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
        return error_set(err, ERROR_DEVICE, errno, "load %s: %s", name, strerror(errno));
    return 0;
}

/* Test suites talk to themselves on 127.0.0.1; there is no other interface. */
static int raise_loopback(struct error *err)
{
    struct ifreq request = {.ifr_name = "lo"};
    cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        return error_set(err, ERROR_IO, errno, "raise lo");
    return 0;
}

int boot(int *control_fd, int *data_fd, struct error *err)
{
    if (mount_agent(err) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(MODULES); i++)
        if (load_module(MODULES[i], err) < 0)
            return -1;
    if (raise_loopback(err) < 0)
        return -1;
    *control_fd = port_open("agent", err);
    if (*control_fd < 0)
        return -1;
    *data_fd = port_open("data", err);
    return *data_fd < 0 ? -1 : 0;
}
