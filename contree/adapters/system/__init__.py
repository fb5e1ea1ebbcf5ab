"""The machine's own: clock, randomness, and the key that seals secrets."""
