"""Edit distances between texts, as lists of code points of one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from centersmooth.errors import ModelError, RequestError
from centersmooth.metrics.base import Metric, distinct

LAST_CODE: Final = 0x10FFFF
"""The last code point of Unicode."""


class Levenshtein(Metric):
    """The least number of letters to insert, delete or replace that turns one text into the other.

    Input layout ``(n, length)``: integers, such as Unicode code points or tokens, padded with zeros at the end; a row
    of zeros is the empty text. `encode_texts` makes them of strings. Power 1, range ``[0, length]``. The distances are
    computed by rapidfuzz, once for each two texts that differ.

    Raises
    ------
    RequestError
        At the first outputs, where rapidfuzz is not installed.

    Examples
    --------
    >>> edit = Levenshtein()
    >>> texts = edit.features(encode_texts(["kitten", "sitting", ""], length=8))
    >>> edit.pairwise(texts, texts)[0].tolist()
    [0.0, 3.0, 6.0]
    """

    no_mean = "texts have none"
    whole = True

    def diameter(self, output_shape: tuple[int, ...], output_range: tuple[float, float] | None) -> float:
        return float(output_shape[0])

    def features(self, outputs: Tensor) -> Tensor:
        """``(n, length) -> (n, length)``, int32.

        Raises
        ------
        RequestError
            The outputs are no texts, or rapidfuzz is not installed.
        ModelError
            A text goes on after its padding.
        """
        _rapidfuzz()  # before any draw
        if outputs.ndim != 2 or outputs.is_floating_point() or outputs.dtype == torch.bool:
            raise RequestError(
                f"an edit distance came to outputs of shape {tuple(outputs.shape)}, {outputs.dtype}: expected texts "
                "(n, length) as integers, code points padded with zeros (centersmooth.metrics.encode_texts)"
            )
        if outputs.numel() and not 0 <= int(outputs.min()) <= int(outputs.max()) <= LAST_CODE:
            raise RequestError(
                f"an edit distance came to outputs from {int(outputs.min())} to {int(outputs.max())}: expected code "
                f"points from 1 to {LAST_CODE:,}, and zeros for padding"
            )
        if bool(((outputs[:, :-1] == 0) & (outputs[:, 1:] != 0)).any()):
            raise ModelError("an edit distance came to a text with a zero before its end: zeros stand for padding only")
        return outputs.int()

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n, length), (m, length) -> (n, m)``, float32, in which counts of letters are exact."""
        scorer, cdist = _rapidfuzz()
        (rows, row_of), (columns, column_of) = distinct(a), distinct(b)
        counts = cdist(decode_texts(rows), decode_texts(columns), scorer=scorer, dtype=np.float32)
        return torch.from_numpy(counts).to(a.device)[row_of][:, column_of]


class NormalisedLevenshtein(Levenshtein):
    """The edit distance ``d`` in relation to the lengths of both texts, ``2 d / (|a| + |b| + d)``.

    Input layout as for `Levenshtein`. Power 1, range ``[0, 1]``: 1 between the empty text and any other. The triangle
    inequality holds (Yujian and Bo, *A Normalized Levenshtein Distance Metric*, 2007), as it does not for the common
    quotient of ``d`` by the longer length: from ``ab`` to ``ba`` that is 1, and 1/3 from either to ``aba``.

    Examples
    --------
    >>> edit = NormalisedLevenshtein()
    >>> texts = edit.features(encode_texts(["ab", "aba", ""], length=4))
    >>> [round(d, 4) for d in edit.pairwise(texts, texts)[0].tolist()]
    [0.0, 0.3333, 1.0]
    """

    whole = False

    def diameter(self, output_shape: tuple[int, ...], output_range: tuple[float, float] | None) -> float:
        return 1.0

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n, length), (m, length) -> (n, m)``, float64."""
        counts = super().pairwise(a, b).double()
        lengths = (a != 0).sum(dim=1)[:, None] + (b != 0).sum(dim=1)
        return 2 * counts / (lengths + counts).clamp(min=1)


def encode_texts(texts: Sequence[str], length: int) -> Tensor:
    """Texts as code points padded with zeros, as a model returns them: ``(len(texts), length)``, int32.

    Raises
    ------
    ModelError
        A text is longer, or has the code point 0, which stands for padding.

    Examples
    --------
    >>> encode_texts(["no", ""], length=3).tolist()
    [[110, 111, 0], [0, 0, 0]]
    """
    codes = np.zeros((len(texts), length), dtype=np.int32)
    for row, text in zip(codes, texts, strict=True):
        if len(text) > length:
            raise ModelError(f"a text has {len(text)} letters ({text[:20]!r} ...): expected {length} at most")
        if "\0" in text:
            raise ModelError(f"a text has the code point 0 ({text[:20]!r}), which stands for padding")
        row[: len(text)] = list(map(ord, text))
    return torch.from_numpy(codes)


def decode_texts(codes: Tensor) -> list[str]:
    """Texts of code points padded with zeros, ``(n, length)``.

    Examples
    --------
    >>> decode_texts(encode_texts(["no", ""], length=3))
    ['no', '']
    """
    rows = np.ascontiguousarray(codes.cpu().numpy(), dtype=np.uint32)
    texts: list[str] = rows.view(f"U{rows.shape[1]}")[:, 0].tolist()  # numpy takes zeros at the end for padding
    return texts


def _rapidfuzz() -> tuple[Any, Any]:
    """The scorer of pairs and the function of all pairs."""
    try:
        from rapidfuzz.distance.Levenshtein import distance
        from rapidfuzz.process import cdist
    except ImportError as error:
        raise RequestError(
            "edit distances need rapidfuzz, which is not installed: pip install 'centersmooth[ocr]'"
        ) from error
    return distance, cdist
