"""Running again what was recorded, and saying what came out otherwise."""
