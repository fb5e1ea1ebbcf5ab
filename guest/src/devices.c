/* virtio disks and ports through sysfs. Nodes are made by hand: no devtmpfs, no udev. */
#include "devices.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "clock.h"

enum { READY_TIMEOUT_MS = 10000, READY_RETRY_MS = 2 };

static const char PORTS[] = "/sys/class/virtio-ports";

int read_line(const char *path, char *text, size_t size, struct error *err)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);

    if (got < 0)
        return error_set(err, ERROR_DEVICE, errno, "read %s: %s", path, strerror(errno));
    text[got] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return 0;
}

/* The first entry of a directory whose name has this prefix. */
static int find_entry(const char *directory, const char *prefix, char *name, size_t size,
                      struct error *err)
{
    DIR *d = opendir(directory);
    const struct dirent *e;
    bool found = false;

    if (d == NULL)
        return error_set(err, ERROR_DEVICE, errno, "open %s: %s", directory, strerror(errno));
    while (!found && (e = readdir(d)) != NULL) {
        found = e->d_name[0] != '.' && strncmp(e->d_name, prefix, strlen(prefix)) == 0 &&
                strlen(e->d_name) < size;
        if (found)
            memcpy(name, e->d_name, strlen(e->d_name) + 1);
    }
    (void)closedir(d);
    return found ? 0 : error_set(err, ERROR_DEVICE, ENOENT, "no %s* in %s", prefix, directory);
}

/* Makes a node from a sysfs `dev` file ("major:minor"). */
static int make_node(const char *dev_file, const char *node, mode_t type, struct error *err)
{
    char text[32];
    unsigned major_number, minor_number;

    if (read_line(dev_file, text, sizeof(text), err) < 0)
        return -1;
    if (sscanf(text, "%u:%u", &major_number, &minor_number) != 2)
        return error_set(err, ERROR_DEVICE, 0, "%s has %s", dev_file, text);
    if (mknod(node, type | 0600, makedev(major_number, minor_number)) < 0 && errno != EEXIST)
        return error_set(err, ERROR_DEVICE, errno, "make node %s: %s", node, strerror(errno));
    return 0;
}

int disk_find(const struct pci_address *where, struct disk *disk, struct error *err)
{
    char pci[64], virtio[32], path[112];

    (void)snprintf(pci, sizeof(pci), "/sys/bus/pci/devices/%04x:%02x:%02x.%x", where->domain,
                   where->bus, where->slot, where->function);
    if (find_entry(pci, "virtio", virtio, sizeof(virtio), err) < 0)
        return -1;
    (void)snprintf(path, sizeof(path), "%s/%s/block", pci, virtio);
    if (find_entry(path, "vd", disk->name, sizeof(disk->name), err) < 0)
        return -1;
    if (snprintf(disk->sysfs, sizeof(disk->sysfs), "%s/%s", path, disk->name) >=
        (int)sizeof(disk->sysfs))
        return error_set(err, ERROR_DEVICE, ENAMETOOLONG, "path of disk %s", disk->name);
    return 0;
}

int disk_part(const struct disk *disk, unsigned count, uint64_t size_bytes, struct error *err)
{
    cleanup_close int fd = -1;
    char node[64];

    if (disk_node(disk, 0, node, sizeof(node), err) < 0)
        return -1;
    fd = open(node, O_RDONLY | O_CLOEXEC);
    for (unsigned n = 1; n <= count; n++) {
        struct blkpg_partition partition = {.start = (long long)(n * size_bytes),
                                            .length = (long long)size_bytes, .pno = (int)n};
        struct blkpg_ioctl_arg request = {.op = BLKPG_ADD_PARTITION,
                                          .datalen = sizeof(partition), .data = &partition};

        if (fd < 0 || ioctl(fd, BLKPG, &request) < 0)
            return error_set(err, ERROR_DEVICE, errno, "partition %u of disk %s: %s", n,
                             disk->name, strerror(errno));
    }
    return 0;
}

int disk_node(const struct disk *disk, unsigned partition, char *node, size_t size,
              struct error *err)
{
    char dev_file[256];
    int errno_value = ENOENT;

    if (partition == 0) {
        (void)snprintf(dev_file, sizeof(dev_file), "%s/dev", disk->sysfs);
        (void)snprintf(node, size, "/dev/%s", disk->name);
    } else {
        (void)snprintf(dev_file, sizeof(dev_file), "%s/%s%u/dev", disk->sysfs, disk->name,
                       partition);
        (void)snprintf(node, size, "/dev/%s%u", disk->name, partition);
    }
    for (long waited_ms = 0; waited_ms < READY_TIMEOUT_MS; waited_ms += READY_RETRY_MS) {
        struct error not_yet;

        if (make_node(dev_file, node, S_IFBLK, &not_yet) == 0) {
            cleanup_close int fd = open(node, O_RDONLY | O_CLOEXEC);

            if (fd >= 0)
                return 0;
            errno_value = errno; /* ENXIO: the node is there before the disk is */
        }
        /* Partitions are there once they are added: a missing one will not come. */
        if (partition > 0 && errno_value == ENOENT)
            return error_set(err, ERROR_DEVICE, ENOENT, "disk %s has no partition %u", disk->name,
                             partition);
        sleep_ms(READY_RETRY_MS);
    }
    return error_set(err, ERROR_DEVICE, errno_value, "%s: %s", node, strerror(errno_value));
}

/* The port's directory entry (vportNpM) whose `name` file says `name`. */
static bool find_port(const char *name, char *entry, size_t size)
{
    DIR *d = opendir(PORTS);
    const struct dirent *e;
    bool found = false;

    while (d != NULL && !found && (e = readdir(d)) != NULL) {
        char path[320], text[64];
        struct error ignored; /* a port may have no name yet */

        (void)snprintf(path, sizeof(path), "%s/%s/name", PORTS, e->d_name);
        found = e->d_name[0] != '.' && strlen(e->d_name) < size &&
                read_line(path, text, sizeof(text), &ignored) == 0 && strcmp(text, name) == 0;
        if (found)
            memcpy(entry, e->d_name, strlen(e->d_name) + 1);
    }
    if (d != NULL)
        (void)closedir(d);
    return found;
}

int port_open(const char *name, struct error *err)
{
    char entry[32], dev_file[80], node[48];
    int fd;

    for (long waited_ms = 0; !find_port(name, entry, sizeof(entry)); waited_ms += READY_RETRY_MS) {
        if (waited_ms >= READY_TIMEOUT_MS)
            return error_set(err, ERROR_DEVICE, ENODEV, "no virtio-serial port named %s", name);
        sleep_ms(READY_RETRY_MS);
    }
    (void)snprintf(dev_file, sizeof(dev_file), "%s/%s/dev", PORTS, entry);
    (void)snprintf(node, sizeof(node), "/dev/%s", entry);
    if (make_node(dev_file, node, S_IFCHR, err) < 0)
        return -1;
    fd = open(node, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, ERROR_DEVICE, errno, "open port %s: %s", name, strerror(errno));
    return fd;
}
