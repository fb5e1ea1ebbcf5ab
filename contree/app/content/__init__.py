"""Content by its digest, encrypted by project: kept, found, held, and removed for good."""
