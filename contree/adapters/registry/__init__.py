"""Images from OCI registries, pulled over HTTP."""
