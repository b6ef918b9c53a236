"""One file a registered data set."""
