"""Training of base models, with checkpoints."""
