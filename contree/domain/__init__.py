"""Aggregates, events, values and errors: pure, synchronous, no I/O, no clock, no ids made here."""
