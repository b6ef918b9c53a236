"""Folders and files that requests of `fuzz_requests.py` name: right ones of odd names, and such as cannot be read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

NAMES = ["runs", "a b", "ümläut", "[x]", "a=b,c", "#1", "it's", 'say "so"', "back\\slash", "~tilde", "-x"]
NAMES += ["{a}", "日本"]
NAMES += ["per%cent", "semi;colon", "a:b", "null.d", "tail.", "@at", "a&b", "(p)", "*", "?", "tab\tname", "$HOME"]
"""Names of files and folders that are text and nothing else."""


@dataclass(frozen=True)
class Place:
    """Somewhere to write results to, or to read inputs from.

    Attributes
    ----------
    make : callable, ``(folder, name) -> path``
        Makes it in a folder, which is the working folder of the request; returns how the request names it.
    served : bool
        Whether it can be used.
    """

    make: Callable[[Path, str], str]
    served: bool = True


def _link(folder: Path, name: str) -> str:
    (folder / "target").mkdir()
    (folder / name).symlink_to("target")
    return name


def _below_a_file(folder: Path, name: str) -> str:
    (folder / name).write_text("a file")
    return f"{name}/runs"


def _a_file(folder: Path, name: str) -> str:
    (folder / name).write_text("a file")
    return name


def _dangling(folder: Path, name: str) -> str:
    (folder / name).symlink_to("nowhere/at/all")
    return name


def _loop(folder: Path, name: str) -> str:
    (folder / name).symlink_to(name)
    return name


def _existing(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return f"{name}/"


OUT = {
    "relative": Place(lambda folder, name: name),
    "absolute": Place(lambda folder, name: str(folder / name)),
    "deep": Place(lambda folder, name: f"{name}/{name}/runs"),
    "trailing slash": Place(_existing),
    "dots": Place(lambda folder, name: f"./{name}/../{name}"),
    "link": Place(_link),
    "file": Place(_a_file, served=False),
    "below a file": Place(_below_a_file, served=False),
    "dangling link": Place(_dangling, served=False),
    "loop": Place(_loop, served=False),
    "too long": Place(lambda folder, name: "x" * 300, served=False),
    "of the system": Place(lambda folder, name: "/proc/nope", served=False),
}


def _array(dtype: str, *shape: int) -> np.ndarray:
    drawn = np.random.default_rng(0).uniform(0, 1, size=shape or (3, 1, 8, 8))
    return (drawn * (255 if np.dtype(dtype).kind in "iu" else 1)).astype(dtype)


def _saved(array: np.ndarray, suffix: str = ".npy") -> Callable[[Path, str], str]:
    def make(folder: Path, name: str) -> str:
        content = io.BytesIO()
        np.save(content, array)
        (folder / f"{name}{suffix}").write_bytes(content.getvalue())
        return f"{name}{suffix}"

    return make


def _written(suffix: str, content: bytes) -> Callable[[Path, str], str]:
    def make(folder: Path, name: str) -> str:
        (folder / f"{name}{suffix}").write_bytes(content)
        return f"{name}{suffix}"

    return make


def _npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, inputs=_array("float32"))
    return content.getvalue()


def _pt() -> bytes:
    content = io.BytesIO()
    torch.save(torch.zeros(3, 1, 8, 8), content)
    return content.getvalue()


def _image(mode: str, size: tuple[int, int] = (8, 8), seed: int = 0, form: str = "PNG") -> bytes:
    drawn = np.random.default_rng(seed).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(drawn).convert(mode).save(content, form)
    return content.getvalue()


def _folder(**files: bytes) -> Callable[[Path, str], str]:
    def make(folder: Path, name: str) -> str:
        for file, content in files.items():
            path = folder / name / file.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (folder / name).mkdir(exist_ok=True)
        return f"{name}/"

    return make


def _archive(**files: bytes) -> Callable[[Path, str], str]:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file, one in files.items():
            archive.writestr(file.replace("__", "/").replace("_", "."), one)
    return _written(".zip", content.getvalue())


def _linked(folder: Path, name: str) -> str:
    _saved(_array("float32"))(folder, "target")
    (folder / f"{name}.npy").symlink_to("target.npy")
    return f"{name}.npy"


_THREE_GREY = {f"{index}_png": _image("L", seed=index) for index in range(3)}
_THREE = {f"c{index}__{index}_jpg": _image("RGB", seed=index, form="JPEG") for index in range(3)}
_STRINGS = np.array([["a", "b", "c", "d"]] * 3)
_OBJECTS = np.array([[1, None], [2, "x"], [3, []]], dtype=object)

MODULES = {
    "syntax": b"def model(:\n",
    "bytes": b"\0\xff",
    "latin": "def model():\n    return 'ä'\n".encode("latin-1"),
    "name": b"def model():\n    return None\nundefined\n",
    "raises": b"raise RuntimeError('of\\na module')\n",
    "exits": b"raise SystemExit(3)\n",
    "needs": b"import nope_nope\n",
    "asks": b"def __getattr__(name):\n    raise RuntimeError(name)\n",
    "exits_when_called": b"def model():\n    raise SystemExit\n",
    "empty": b"",
}
"""Modules of a user's own, none of which has a model."""

DATA = {
    "float32": Place(_saved(_array("float32"))),
    "float64": Place(_saved(_array("float64"))),
    "float16": Place(_saved(_array("float16"))),
    "bytes": Place(_saved(_array("uint8"))),
    "integers": Place(_saved(_array("int64", 3, 8))),
    "booleans": Place(_saved(_array("float32") > 0.5)),
    "big-endian": Place(_saved(_array(">f4"))),
    "column by column": Place(_saved(np.asfortranarray(_array("float32")))),
    "vectors": Place(_saved(_array("float32", 3, 8))),
    "three channels": Place(_saved(_array("float32", 3, 3, 8, 8))),
    "upper case": Place(_saved(_array("float32"), ".NPY")),
    "link": Place(_linked),
    "grey images": Place(_folder(**_THREE_GREY)),
    "images by class": Place(_folder(**_THREE)),
    "archive": Place(_archive(**_THREE)),
    "grey archive": Place(_archive(**_THREE_GREY)),
    "images and a note": Place(_folder(**_THREE_GREY, note_txt=b"read me")),
    "one dimension": Place(_saved(_array("float32", 8)), served=False),
    "no dimension": Place(_saved(np.float32(1)), served=False),
    "no numbers": Place(_saved(_array("float32", 3, 0)), served=False),
    "no inputs": Place(_saved(_array("float32", 0, 8)), served=False),
    "not a number": Place(_saved(np.full((3, 8), np.nan, np.float32)), served=False),
    "beyond float32": Place(_saved(np.full((3, 8), np.longdouble("1e400"))), served=False),
    "complex": Place(_saved(_array("complex64", 3, 8)), served=False),
    "texts": Place(_saved(_STRINGS), served=False),
    "objects": Place(_saved(_OBJECTS), served=False),
    "dates": Place(_saved(np.zeros((3, 4), "datetime64[s]")), served=False),
    "records": Place(_saved(np.zeros((3, 4), [("a", "f4")])), served=False),
    "npz": Place(_written(".npz", _npz()), served=False),
    "npz as npy": Place(_written(".npy", _npz()), served=False),
    "csv": Place(_written(".csv", b"1,2,3,4\n5,6,7,8\n"), served=False),
    "txt": Place(_written(".txt", b"1 2 3 4\n"), served=False),
    "pt": Place(_written(".pt", _pt()), served=False),
    "truncated": Place(_written(".npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'"), served=False),
    "header only": Place(_written(".npy", b"\x93NUMPY"), served=False),
    "empty file": Place(_written(".npy", b""), served=False),
    "empty archive": Place(_archive(), served=False),
    "broken archive": Place(_written(".zip", b"PK\x03\x04 and no more"), served=False),
    "one image": Place(_written(".png", _image("L")), served=False),
    "broken images": Place(_folder(a_png=b"no image", b_png=_image("L")), served=False),
    "deep images": Place(_folder(a_png=_image("I;16")), served=False),
    "images of two sizes": Place(_folder(**_THREE_GREY, **{"00_png": _image("L", (9, 8))}), served=False),
    "empty folder": Place(_folder(), served=False),
    "folder of notes": Place(_folder(note_txt=b"read me"), served=False),
    "folder called npy": Place(lambda folder, name: _folder()(folder, f"{name}.npy"), served=False),
    "missing": Place(lambda folder, name: f"{name}.npy", served=False),
    "below a file": Place(lambda folder, name: f"{_a_file(folder, name)}/x.npy", served=False),
    "dangling link": Place(_dangling, served=False),
    "too long": Place(lambda folder, name: "x" * 300 + ".npy", served=False),
    "device": Place(lambda folder, name: "/dev/null", served=False),
}
