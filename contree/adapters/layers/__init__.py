"""Layers on one machine: hostile tars in, canonical layers, mountable squashfs and indexes out."""
