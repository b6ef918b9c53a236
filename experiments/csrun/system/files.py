"""Files that are either whole or not there, and names derived from content."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_UNFINISHED = ".unfinished"


def digest_of(content: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of a mapping of plain values.

    >>> digest_of({"a": 1, "b": 0.5}) == digest_of({"b": 0.5, "a": 1})
    True
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def archive_of(arrays: Mapping[str, np.ndarray], *, compressed: bool = True) -> bytes:
    """Arrays by name as the content of an ``.npz`` file."""
    save: Callable[..., None] = np.savez_compressed if compressed else np.savez
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: whoever looks sees the old file or the new one, also after a crash."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process was writing; only under the lock of whatever the folder holds."""
    for path in folder.rglob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def remove_unfinished_beside(lock: Path) -> None:
    """Remove what a killed process was writing of the files that a lock is named after; only under that lock."""
    for path in lock.parent.glob(f".{glob.escape(lock.stem)}.*{_UNFINISHED}"):
        path.unlink(missing_ok=True)
