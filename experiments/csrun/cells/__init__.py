"""Cells: what is computed once and kept, the evidence of each point and the rows derived from it."""

METHOD_VERSION = 6
"""Raised whenever a change makes any cell's numbers differ; declared in the CHANGELOG."""
