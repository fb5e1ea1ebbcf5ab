"""The worker: claims operations, runs them, renews its lease, drains on SIGTERM."""
