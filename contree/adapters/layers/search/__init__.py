"""grep over an image with ripgrep, without a guest."""
