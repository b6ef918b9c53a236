"""Memory of a process: how much it holds, keeping what is freed, and a smaller batch when it runs out."""

from __future__ import annotations

import ctypes
import sys
from typing import NamedTuple

from centersmooth.errors import ForwardMemoryError
from csrun.errors import RunError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``mallopt``'s parameters, from glibc's malloc.h."""
_SETTINGS = ((_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**30))


def keep_freed_memory() -> bool:
    """Reuse the memory of freed tensors, up to 32 MiB each, instead of handing it back to the system every time.

    A forward pass frees as many tensors as it makes. By default glibc returns large ones to the system and gets them
    back as fresh pages, each cleared on its first use: a third of the time of the paper's autoencoder on a CPU.
    Changes no number.

    Returns
    -------
    bool
        Whether the C library took it; others than glibc are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) for setting in _SETTINGS)


class Held(NamedTuple):
    """Bytes of memory that a process holds: all of them, and those of files, which processes share.

    Libraries are such files: PyTorch's alone are a few hundred megabytes. 0 where the system does not tell.
    """

    all: int
    shared: int


def held() -> Held:
    """Bytes of memory that this process holds."""
    import psutil  # a tenth of a second, which only estimates take

    found = psutil.Process().memory_info()
    return Held(found.rss, getattr(found, "shared", 0))


def smaller_batch(batch_size: int, forward_block: int, error: Exception) -> int:
    """Half of the batch that was too large, in whole blocks.

    Raises
    ------
    RunError
        It was a single block already; says whether the model's call did not fit or what is kept beside it.
    """
    if (blocks := batch_size // forward_block) > 1:
        return blocks // 2 * forward_block
    if isinstance(error, ForwardMemoryError):
        raise RunError(
            f"memory ran out in a call of the model on forward_block={forward_block} inputs, the least batch there is: "
            f"forward_block={max(1, forward_block // 2)} needs about half (its rows differ in last digits: other cells)"
        ) from error
    raise RunError(
        "memory ran out over the outputs of a point and their distances, which do not depend on batch_size: lower n or "
        "forward_block; cs-run --dry-run estimates the memory"
    ) from error
