"""Quantities that only one paper needs."""
