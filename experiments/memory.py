"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes
import sys

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
