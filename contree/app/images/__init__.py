"""Images and their layers: where they come from, what they hold, what points at them."""
