"""A guest while it runs: the machine, its processes, and what clients do to them."""
