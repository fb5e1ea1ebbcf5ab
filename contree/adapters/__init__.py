"""Everything outside: PostgreSQL, libvirt, layers, content stores, registries, the system."""
