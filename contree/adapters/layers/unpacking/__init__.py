"""Archives that clients upload, to entries for a guest."""
