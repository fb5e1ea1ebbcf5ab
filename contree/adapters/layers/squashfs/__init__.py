"""Mountable squashfs images whose data blocks are the layers' own tars (ADR 17)."""
