"""Cells: what is computed once and kept, the evidence of each point and the rows derived from it."""
