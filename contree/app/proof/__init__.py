"""Proving the log to an outsider: checkpoints, verification, bundles and exports."""
