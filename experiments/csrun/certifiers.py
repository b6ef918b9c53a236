"""Certifiers from their names; ``package.module:factory`` names your own."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from centersmooth import Budget, Metric, Prototypes, RandomStream
from centersmooth.certifiers import Certifier, pack, unpack
from centersmooth.errors import CenterSmoothError, is_out_of_memory
from centersmooth.gathering import Setting, gather_one
from centersmooth.sampling import Sampler
from csrun.errors import RunError, first_line
from csrun.models import call_factory, import_own
from csrun.registry import CERTIFIERS

_EXPECTED = "expected a Certifier, or a function that makes one from nothing or from a metric"


def build_certifiers(name: str, metrics: Mapping[str, Metric]) -> dict[str, Certifier]:
    """Certifiers of one name, by the metric each measures in; by the empty name where it brings its own distance.

    Raises
    ------
    RunError
        A user's own cannot be imported or built.
    """
    if ":" in name:
        return _own(name, metrics)
    entry = CERTIFIERS[name]
    return {key: entry.build(metric) for key, metric in metrics.items()} if entry.measured else {"": entry.build()}


def prototypes(centers: Tensor | None = None) -> Prototypes:
    """The certifier of a model's prototypes.

    Before there is a model, that of two whose bisector only touches the unit ball, so that counts are refused only
    where they serve no prototypes at all.
    """
    return Prototypes(torch.tensor([[1.0], [-3.0]]) if centers is None else centers)


def _own(name: str, metrics: Mapping[str, Metric]) -> dict[str, Certifier]:
    """A user's own, from what ``package.module:factory`` names: a certifier, or a function or class that makes one."""
    found = import_own(name, "certifiers")
    if isinstance(found, Certifier):
        return {"": found}
    make: Callable[..., Certifier] = partial(
        call_factory, _factory(found, name), name, expected="a Certifier", kinds=(Certifier,)
    )
    if not _required(found):
        return {"": make()}
    return {key: make(metric) for key, metric in metrics.items()}


def _factory(found: object, name: str) -> Callable[..., Any]:
    """Check that what was imported can be called with nothing or with a metric.

    Raises
    ------
    RunError
    """
    if not callable(found):
        raise RunError(f"certifiers has '{name}', which is {type(found).__name__}: {_EXPECTED}")
    try:
        required = _required(found)
    except (TypeError, ValueError):
        raise RunError(f"certifiers has '{name}', whose arguments cannot be told: {_EXPECTED}") from None
    if len(required) > 1 or any(one.kind is one.KEYWORD_ONLY for one in required):
        raise RunError(f"certifiers has '{name}', which needs {', '.join(map(str, required))}: {_EXPECTED}")
    return found


def _required(factory: Any) -> list[inspect.Parameter]:
    """Arguments that a function or class cannot do without."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(factory).parameters.values()
    return [one for one in parameters if one.default is one.empty and one.kind not in several]


def tried(name: str, certifier: Certifier, sampler: Sampler, budget: Budget, x: Tensor, eps: float) -> str:
    """The identity of a user's own certifier: its source, and its evidence of a block of noisy outputs.

    It goes once all the way from draws to certificates, so that its faults are told before any work.

    Raises
    ------
    RunError
        It failed.
    """
    block = sampler.forward_block
    few = replace(budget, n=min(budget.n, block), m=min(budget.m, block), n0=min(budget.n0, block))
    setting, stream = Setting.of(sampler, few), RandomStream(0).named("fingerprint")
    try:
        arrays = pack(gather_one(sampler, certifier, few, x, stream))
        evidence = unpack(certifier.evidence, arrays)
        for rule in certifier.rules:
            certifier.answer(evidence, setting, rule)
            certifier.certificate(evidence, eps, rule, setting)
    except CenterSmoothError as error:  # it may be of this point, which is not for here to say
        arrays = {str(error): np.zeros(0)}
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise RunError(f"the certifier {name} failed: {type(error).__name__}: {first_line(error)}") from error
    sources = [source_of(name.partition(":")[0]), source_of(type(certifier).__module__)]
    content = hashlib.sha256(b"".join([name.encode(), *sources]))
    for key, array in arrays.items():
        content.update(key.encode() + array.tobytes())
    return content.hexdigest()[:16]


def source_of(module: str) -> bytes:
    """The file of a module; nothing where it has none."""
    path = getattr(sys.modules.get(module), "__file__", None)
    return Path(path).read_bytes() if path else b""
