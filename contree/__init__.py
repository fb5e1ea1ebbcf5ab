"""Contree: execution environments that branch like Git. ARCHITECTURE.md is the map."""
