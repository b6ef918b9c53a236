"""One file a choice of training methods."""
