"""One file a smoothing law: its name, and what it has beside its scale."""
