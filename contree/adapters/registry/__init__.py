"""Images from OCI registries, pulled by skopeo."""
