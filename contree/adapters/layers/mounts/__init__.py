"""What a guest mounts for a stack: single layers, and spans of them merged aside."""
