"""The base class of certifiers, and evidence as arrays.

A certifier holds its own parameters (a metric, say) and knows how to turn draws of ``f(x + noise)`` into evidence, and
evidence into an answer and certificates. Which draws are made, and for how many certifiers at once, is for
`centersmooth.gathering` to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from centersmooth.certificate import About, Certificate, Outcome, Smoothed
from centersmooth.errors import RequestError
from centersmooth.gathering import Collector, Collects, Setting, Shared
from centersmooth.outputs import brief


class Certifier(ABC):
    """One kind of smoothed model with its certificates.

    Attributes
    ----------
    name : str
        How rows and registries call it.
    version : int
        Raised whenever its evidence of the same draws changes.
    rules : tuple of str
        Its ways from evidence to a certificate, the default last.
    sampled : bool
        Whether its evidence is of draws, so that certificates have counts and failure probabilities.
    evidence : type
        A frozen dataclass of tensors, arrays, numbers and further dataclasses; has ``base`` and ``error``.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    rules: ClassVar[tuple[str, ...]]
    sampled: ClassVar[bool] = True
    evidence: ClassVar[type]

    @property
    def siblings(self) -> Mapping[str, Certifier]:
        """Certifiers of the same name with other evidence and other answers, by their rules; by default none."""
        return {}

    def of_rule(self, rule: str) -> Certifier:
        """The certifier of a rule: itself, or one of its `siblings`.

        Raises
        ------
        RequestError
            There is no such rule.
        """
        if isinstance(rule, str) and rule in self.rules:
            return self
        if not isinstance(rule, str) or rule not in self.siblings:
            there_are = ", ".join(map(repr, (*self.rules, *self.siblings)))
            raise RequestError(f"rule is {brief(rule)}: expected one of {there_are} for {self.name}")
        return self.siblings[rule]

    @abstractmethod
    def unsuited(self, setting: Setting) -> str:
        """The reason why no counts give a certificate for this metric, noise and kind of budget; empty if some do.

        Said when a smoother is made, with what would do.
        """

    @abstractmethod
    def problem(self, setting: Setting, rule: str, eps: float | None = None) -> str:
        """The reason why these counts give no answer, or with ``eps`` no radius; empty if they do.

        Said before any draw, with the counts that would do.
        """

    @abstractmethod
    def check(self, setting: Setting, outputs: Tensor) -> None:
        """Refuse outputs that cannot be certified, from a few of them.

        Raises
        ------
        RequestError, ModelError
        """

    @abstractmethod
    def collector(self, setting: Setting, shared: Shared, *, radius: bool) -> Collector:
        """An accumulator of draws; without ``radius`` it wants no more than an answer takes."""

    def until(self, rule: str, radii: Sequence[float]) -> Collects:
        """The source of collectors for certificates by one rule at these ``eps`` and no others.

        By default the certifier itself; another where that rule may stop the draws once it has its answers.
        """
        return self

    def about(self, rule: str) -> About:
        """Which answer a rule's certificates speak of; by default that of a fresh run."""
        return "run"

    @abstractmethod
    def answer(self, evidence: Any, setting: Setting, rule: str) -> Smoothed:
        """The smoothed output."""

    @abstractmethod
    def certificate(self, evidence: Any, eps: float, rule: str, setting: Setting) -> Certificate:
        """The certificate at one ``eps``: a function of evidence gathered with a radius."""

    def certified(
        self, eps: float, rule: str, answer: Tensor, bound: float, diameter: float, setting: Setting, reason: str = ""
    ) -> Certificate:
        """The certificate of an answer that moves by at most ``bound``; the diameter stands in for a larger bound."""
        return Certificate(
            eps=eps,
            outcome=Outcome.CERTIFIED,
            radius=min(bound, diameter),
            vacuous=bound >= diameter,
            answer=answer,
            alpha=setting.budget.alpha,
            certifier=self.name,
            rule=rule,
            about=self.about(rule),
            threat=setting.noise.threat.unit,
            reason=reason,
        )

    @abstractmethod
    def distance(self, a: Tensor, b: Tensor) -> float:
        """The distance in which ``radius`` is measured, between two answers, or outputs ``(*out)`` of the model."""

    @abstractmethod
    def objective(self, answer: Tensor) -> Callable[[Tensor], Tensor]:
        """A function that an attack climbs: of noisy outputs ``(b, *out)``, their distances to the answer at ``x``.

        Differentiable where the distance is.
        """


def pack(evidence: Any, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Evidence as arrays by dotted names; nothing stands for None.

    Numbers that 32 bits hold are kept in those.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for field in fields(evidence):
        value, key = getattr(evidence, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            arrays |= pack(value, f"{key}.")
        elif value is not None:
            arrays[key] = value.cpu().numpy() if isinstance(value, Tensor) else _shortest(np.asarray(value))
    return arrays


def unpack(kind: type, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Any:
    """Evidence of this type from what `pack` made of it.

    Raises
    ------
    KeyError
        An array is missing that may not be None.
    """
    values: dict[str, Any] = {}
    for name, hint in _hints_of(kind).items():
        key, options = f"{prefix}{name}", (hint, *get_args(hint))
        nested = next((option for option in options if is_dataclass(option)), None)
        if nested is not None and any(other.startswith(f"{key}.") for other in arrays):
            values[name] = unpack(nested, arrays, f"{key}.")  # type: ignore[arg-type]
        elif key in arrays:
            values[name] = _value(arrays[key], options)
        elif type(None) in options:
            values[name] = None
        else:
            raise KeyError(key)
    return kind(**values)


# Python evaluates the annotations anew each time, and a cell reads the evidence of each of its points.
_hints_of = cache(get_type_hints)


def _value(array: NDArray[Any], options: tuple[Any, ...]) -> Any:
    if Tensor in options:
        return torch.from_numpy(array)
    if array.ndim == 0:
        return array.item()
    return array.astype(np.float64 if NDArray[np.float64] in options else _integers(array, options))


def _integers(array: NDArray[Any], options: tuple[Any, ...]) -> np.dtype[Any]:
    return np.dtype(np.int64) if NDArray[np.int64] in options else array.dtype


def _shortest(values: NDArray[Any]) -> NDArray[Any]:
    """Cast to 32 bits where no value changes."""
    smaller = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}.get(values.dtype)
    if smaller is None or values.ndim == 0:
        return values
    with np.errstate(over="ignore"):
        single = values.astype(smaller)
    return single if np.array_equal(single.astype(values.dtype), values) else values
