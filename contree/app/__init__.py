"""Use cases, one duty a file, and the Protocols they call, declared beside them."""
