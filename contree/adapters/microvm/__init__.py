"""Guests in QEMU through libvirt: domains, the channel to the agent, the runner."""
