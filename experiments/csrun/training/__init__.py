"""Training of base models: methods, a file each, and the loop with its checkpoints."""
