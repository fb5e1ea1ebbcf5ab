"""Runs: started, listed, watched, steered, repeated."""
