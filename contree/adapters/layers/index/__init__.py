"""What is in a layer, and in a stack of layers, without its tar: one SQLite file for each."""
