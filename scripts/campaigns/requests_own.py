"""Models, metrics and certifiers of a user's own, which the requests of `fuzz_requests.py` name by import path.

Every model takes inputs of any shape with four numbers or more, as float32 or float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from centersmooth import Center, Label, Metric
from centersmooth.certifiers import Certifier


def numbers(inputs: Tensor) -> Tensor:
    """Four numbers of each input, the means of its quarters, ``(b, *in) -> (b, 4)``."""
    return torch.stack([part.mean(dim=1) for part in inputs.flatten(1).tensor_split(4, dim=1)], dim=1)


class Ranged:
    """A function of an input's numbers, with what a model may declare."""

    def __init__(self, function: Callable[[Tensor], Any], prototypes: Tensor | None = None, ranged: bool = True):
        self.function, self.prototypes, self.output_range = function, prototypes, (0.0, 1.0) if ranged else None

    def __call__(self, inputs: Tensor) -> Any:
        return self.function(numbers(inputs))


def scores() -> Ranged:
    return Ranged(lambda found: (4 * found).softmax(dim=1))


def images() -> Ranged:
    return Ranged(lambda found: found.clamp(0, 1).reshape(-1, 1, 2, 2))


def embeddings() -> Ranged:
    return Ranged(lambda found: nn.functional.normalize(found + 0.3), torch.eye(4), ranged=False)


def boxes() -> Ranged:
    return Ranged(lambda found: found.abs().cumsum(dim=1), ranged=False)


def detections() -> Ranged:
    """Two boxes of each input, as torchvision's detectors return them."""

    def of_one(found: Tensor) -> dict[str, Tensor]:
        corners = found.abs().cumsum(dim=0)
        return {"boxes": torch.stack([corners, 2 * corners]), "scores": found[:2].sigmoid()}

    return Ranged(lambda found: list(map(of_one, found)), ranged=False)


def segmented() -> Ranged:
    """Scores of two classes of four pixels, as torchvision's segmenters return them."""
    return Ranged(lambda found: {"out": torch.stack([found, 0.4 - found], dim=1).reshape(-1, 2, 2, 2)}, ranged=False)


def masks() -> Ranged:
    return Ranged(lambda found: (found > 0.1).reshape(-1, 2, 2), ranged=False)


def texts() -> Ranged:
    return Ranged(lambda found: 97 + (3 * found).round().clamp(0, 20).int(), ranged=False)


def classes() -> Ranged:
    return Ranged(lambda found: found.argmax(dim=1), ranged=False)


class Logits(nn.Module):
    """A network, with a dropout that only training has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.layers(numbers(inputs).to(next(self.parameters())))
        return result


def logits() -> Logits:
    return Logits()


def double() -> Logits:
    return Logits().double()


def largest() -> Callable[[Tensor, Tensor], Tensor]:
    """A metric: the largest difference."""
    return lambda a, b: (a - b).abs().flatten(1).amax(dim=1)


def free(metric: Metric) -> Certifier:
    """A certifier of each metric."""
    return Center(metric, "free")


label = Label()


@dataclass(frozen=True)
class World:
    """A model of a user's own, and what its outputs can be measured in.

    Attributes
    ----------
    adapters : tuple of str
        As a request names them.
    metrics : tuple of str
    """

    model: str
    metrics: tuple[str, ...]
    adapters: tuple[str, ...] = ()


_VECTORS = ("l1", "l2", "sql2", "cosine", "angular", "requests_own:largest")

WORLDS = [
    World("scores", _VECTORS),
    World("images", ("tv", *_VECTORS)),
    World("embeddings", _VECTORS),
    World("logits", _VECTORS),
    World("double", _VECTORS),
    World("boxes", ("jaccard",)),
    World("detections", ("boxes",), ("boxes:0.5:3",)),
    World("segmented", ("hamming",), ("key:out", "argmax")),
    World("segmented", ("hamming",), ("key:out",)),
    World("masks", ("mask_jaccard",)),
    World("texts", ("edit", "edit_normalised")),
    World("classes", ("hamming",)),
]

constant = 3


def fails() -> None:
    raise KeyError("of the\nfactory")


def needs(argument: object) -> object:
    return argument


def nothing() -> None:
    return None


def _returning(made: Callable[[Tensor], Any]) -> Callable[[], Callable[[Tensor], Any]]:
    return lambda: made


def _raising(inputs: Tensor) -> Tensor:
    raise RuntimeError("of the model\nin two lines")


_random = torch.Generator()

raises = _returning(_raising)
returns_none = _returning(lambda inputs: None)
returns_a_list = _returning(lambda inputs: numbers(inputs).tolist())
returns_an_array = _returning(lambda inputs: numbers(inputs).numpy())
returns_a_dict = _returning(lambda inputs: {"a": numbers(inputs), "b": "text"})
returns_a_pair = _returning(lambda inputs: (numbers(inputs), numbers(inputs)))
returns_texts = _returning(lambda inputs: ["a"] * len(inputs))
returns_one_row = _returning(lambda inputs: numbers(inputs)[:1])
returns_one_number = _returning(lambda inputs: inputs.sum())
returns_no_numbers = _returning(lambda inputs: numbers(inputs)[:, :0])
returns_nan = _returning(lambda inputs: numbers(inputs) * torch.nan)
returns_infinity = _returning(lambda inputs: numbers(inputs) + torch.inf)
returns_huge = _returning(lambda inputs: numbers(inputs).float() * 3e38)
returns_complex = _returning(lambda inputs: numbers(inputs) + 1j)
returns_sparse = _returning(lambda inputs: numbers(inputs).to_sparse())
returns_halves = _returning(lambda inputs: numbers(inputs).half())
returns_bfloat16 = _returning(lambda inputs: numbers(inputs).bfloat16())
returns_meta = _returning(lambda inputs: numbers(inputs).to("meta"))
returns_bytes = _returning(lambda inputs: (100 * numbers(inputs)).clamp(0, 255).byte())
is_random = _returning(lambda inputs: torch.rand(len(inputs), 4, generator=_random))
depends_on_its_batch = _returning(lambda inputs: numbers(inputs) - numbers(inputs).mean(dim=0))
writes_into_its_input = _returning(lambda inputs: numbers(inputs.mul_(2)))
nan_at_times = _returning(lambda inputs: torch.where(numbers(inputs) > 0.4, torch.nan, 0.0))
has_gradients = _returning(lambda inputs: numbers(inputs).requires_grad_())

_NO_MODELS = ("numbers", "free", "label", "largest", "needs", "fails", "nothing", "constant", "nope", "Logits.nope")
_PREFIXES = ("returns_", "is_", "depends_", "writes_", "nan_", "has_", "raises")
MADE = [name for name in list(globals()) if name.startswith(_PREFIXES)]
"""Names of factories of models, most of which cannot be certified."""

ODD_MODELS = [*MADE, *_NO_MODELS]
"""Those, and names of what is no model."""

measures_nan = _returning(lambda a, b: (a - b).flatten(1).sum(dim=1) * torch.nan)  # type: ignore[arg-type, misc]
measures_one = _returning(lambda a, b: (a - b).abs().sum())  # type: ignore[arg-type, misc]
measures_less = _returning(lambda a, b: -(a - b).abs().flatten(1).sum(dim=1))  # type: ignore[arg-type, misc]
measures_nothing = _returning(lambda a, b: None)  # type: ignore[arg-type, misc]
measures_alone = _returning(lambda a: a)
ODD_METRICS = [name for name in list(globals()) if name.startswith("measures_")] + ["raises", *_NO_MODELS]
ODD_CERTIFIERS = ["scores", "raises", "Label", "Certifier", *_NO_MODELS]
