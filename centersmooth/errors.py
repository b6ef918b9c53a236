"""The errors of the library: one line each, saying what came, what was expected and what to do."""

from __future__ import annotations

import torch


class CenterSmoothError(Exception):
    """Base of every error this library raises on purpose."""


class RequestError(CenterSmoothError, ValueError):
    """A request that cannot be served as it stands: a bad shape, a bad number, a bad name."""


class InfeasibleError(RequestError):
    """A budget too small for what is asked of it, said before the model is called even once."""


class ModelError(CenterSmoothError, RuntimeError):
    """A model or a metric that broke the contract: NaN, randomness at test time, dependence on the batch."""


class ForwardMemoryError(CenterSmoothError, MemoryError):
    """Memory ran out in a call of the model on one block of inputs, the least that is ever asked of it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Test for an error that says memory ran out, of a device or of the host.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not fit"))
    (True, False)
    >>> is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN: no room for a convolution's code
    True
    """
    said = str(error)
    short = "DefaultCPUAllocator" in said or said == "could not create a primitive"
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or short
