"""The booted, blank guest that runs are restored from."""
