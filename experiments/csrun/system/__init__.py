"""Files, locks, memory, threads, progress and provenance."""
