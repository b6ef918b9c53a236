"""Files, locks, memory, progress and provenance."""
