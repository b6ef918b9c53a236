"""One file an experiment: what differs from `config.yaml`, and its budgets."""
