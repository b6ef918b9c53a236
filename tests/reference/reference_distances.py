"""The distances of the paper in plain Python, on nested lists: slow, and sharing no line with the library."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import torch


def l1(a: list[float], b: list[float]) -> float:
    total = 0.0
    for u, v in zip(a, b, strict=True):
        total += abs(u - v)
    return total


def squared_l2(a: list[float], b: list[float]) -> float:
    total = 0.0
    for u, v in zip(a, b, strict=True):
        total += (u - v) ** 2
    return total


def l2(a: list[float], b: list[float]) -> float:
    return math.sqrt(squared_l2(a, b))


def _cos(a: list[float], b: list[float]) -> float:
    """The zero vector: at right angles to every other one, in one direction with itself."""
    na, nb = l2(a, [0.0] * len(a)), l2(b, [0.0] * len(b))
    if na == 0 or nb == 0:
        return float(na == nb)
    dot = math.fsum((u / na) * (v / nb) for u, v in zip(a, b, strict=True))
    return max(-1.0, min(1.0, dot))


def cosine(a: list[float], b: list[float]) -> float:
    return 1 - _cos(a, b)


def angular(a: list[float], b: list[float]) -> float:
    return math.acos(_cos(a, b)) / math.pi


def total_variation(a: list[list[list[float]]], b: list[list[list[float]]]) -> float:
    """Images as channels of rows of pixels."""
    total = 0.0
    for image_a, image_b in zip(a, b, strict=True):
        gap = [[u - v for u, v in zip(ra, rb, strict=True)] for ra, rb in zip(image_a, image_b, strict=True)]
        for i in range(len(gap)):
            for j in range(len(gap[0])):
                if j + 1 < len(gap[0]):
                    total += abs(gap[i][j + 1] - gap[i][j])
                if i + 1 < len(gap):
                    total += abs(gap[i + 1][j] - gap[i][j])
    return total


def hamming(a: list[list[list[float]]], b: list[list[list[float]]]) -> float:
    """Scores as classes of rows of pixels; the first of the highest."""
    differing = pixels = 0
    for i in range(len(a[0])):
        for j in range(len(a[0][0])):
            (first, second) = ([of_class[i][j] for of_class in scores] for scores in (a, b))
            differing += first.index(max(first)) != second.index(max(second))
            pixels += 1
    return differing / pixels


def mask_jaccard(a: list[list[bool]], b: list[list[bool]]) -> float:
    """Masks as sets of the places of their pixels."""
    first, second = (
        {(i, j) for i, row in enumerate(mask) for j, inside in enumerate(row) if inside} for mask in (a, b)
    )
    return 1 - len(first & second) / len(first | second) if first | second else 0.0


def levenshtein(a: list[float], b: list[float]) -> float:
    """Wagner and Fischer's table, row by row; texts end with their padding, which is 0."""
    a, b = ([code for code in text if code] for text in (a, b))
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(row[-1] + 1, above[j] + 1, above[j - 1] + (letter != other)))
    return row[-1]


def normalised_levenshtein(a: list[float], b: list[float]) -> float:
    edits, letters = levenshtein(a, b), sum(code != 0 for code in [*a, *b])
    return 2 * edits / (letters + edits) if letters else 0.0


def jaccard(a: list[float], b: list[float]) -> float:
    """One minus intersection over union; the empty set is at 1 from every box and at 0 from itself."""
    area_a, area_b = _area(a), _area(b)
    if area_a == 0 or area_b == 0:
        return 0.0 if area_a == area_b else 1.0
    common = _area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return 1 - common / (area_a + area_b - common)


def ospa(a: list[list[float]], b: list[list[float]]) -> float:
    """Mean over the larger set of Jaccard distances and of 1 for a box left over, in the best of all matchings."""
    few, many = sorted(([box for box in boxes if _area(box) > 0] for boxes in (a, b)), key=len)
    if not many:
        return 0.0
    least = min(sum(jaccard(x, y) for x, y in zip(few, chosen, strict=True)) for chosen in permutations(many, len(few)))
    return (least + len(many) - len(few)) / len(many)


def _area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) if box[2] > box[0] and box[3] > box[1] else 0.0


def on_tensors(distance: Callable, keeps_shape: bool = False) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """The same distance on two tensors; vectors are flattened first."""

    def measure(a: torch.Tensor, b: torch.Tensor) -> float:
        lists = [(t if keeps_shape else t.flatten()).double().tolist() for t in (a, b)]
        return distance(*lists)

    return measure


REFERENCE = {
    "L1": on_tensors(l1),
    "L2": on_tensors(l2),
    "SquaredL2": on_tensors(squared_l2),
    "Cosine": on_tensors(cosine),
    "Angular": on_tensors(angular),
    "TotalVariation": on_tensors(total_variation, keeps_shape=True),
    "Jaccard": on_tensors(jaccard),
    "OSPA": on_tensors(ospa, keeps_shape=True),
    "Hamming": on_tensors(hamming, keeps_shape=True),
    "MaskJaccard": on_tensors(mask_jaccard, keeps_shape=True),
    "Levenshtein": on_tensors(levenshtein),
    "NormalisedLevenshtein": on_tensors(normalised_levenshtein),
}
