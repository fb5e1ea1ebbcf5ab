"""Content stores: bytes by their SHA-256, in a local directory or in an S3-compatible service."""
