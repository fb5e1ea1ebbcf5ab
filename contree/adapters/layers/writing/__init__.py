"""Layers on their way in: a guest's capture, or a registry's archive, to a stored layer."""
