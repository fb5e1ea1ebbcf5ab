/* Finding devices in sysfs: by PCI address or port name, never by the order in which they
 * appeared. */
#ifndef CONTREE_DEVICES_H
#define CONTREE_DEVICES_H

#include "messages.h"

struct disk {
    char sysfs[128]; /* directory of the block device, e.g. .../virtio1/block/vda */
    char name[32];   /* vda */
};

/* Reads one line, without its newline, into text. */
int read_line(const char *path, char *text, size_t size, struct error *err);

/* Finds the block device of the virtio disk at this address. */
int disk_find(const struct pci_address *where, struct disk *disk, struct error *err);
/* Tells the kernel of partitions 1..count that no table on the disk names: partition n from n *
 * size_bytes on, of that size. */
int disk_part(const struct disk *disk, unsigned count, uint64_t size_bytes, struct error *err);
/* Makes a node for partition 1.. of the disk (0: the disk) and waits until it opens. node receives
 * its path. */
int disk_node(const struct disk *disk, unsigned partition, char *node, size_t size,
              struct error *err);
/* Opens the virtio-serial port of this name, waiting for it to appear. Returns a non-blocking
 * descriptor. */
int port_open(const char *name, struct error *err);

#endif
