"""Training methods: what the loss of a batch is.

A method is a subclass of `Method` in a file here and a line of `csrun.registry.METHODS`.
"""

from csrun.training.methods.base import Method, with_noise

__all__ = ["Method", "with_noise"]
