"""Everything outside: PostgreSQL, libvirt, layers on disk, content stores, registries, the system."""
