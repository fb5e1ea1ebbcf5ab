"""libvirt and QEMU: connection, domains, device state, processes, what they can do here."""
