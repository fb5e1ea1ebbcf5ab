"""What differs between two images, from the indexes of their layers."""
