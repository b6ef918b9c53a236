"""Smoothing laws from their names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from centersmooth import GaussianNoise, Noise, RequestError
from centersmooth.noise import (
    Blur,
    Brightness,
    Contrast,
    ExponentialNoise,
    FoldedNormalNoise,
    Gamma,
    Transform,
    Transformed,
    Translation,
    UpperUniformNoise,
)
from csrun.errors import RunError
from csrun.registry import NOISES, require_known

_TRANSFORMS: dict[str, Transform] = {
    "blur": Blur(),
    "brightness": Brightness(),
    "contrast": Contrast(),
    "gamma": Gamma(),
    "translation": Translation(),
}

_LAWS: dict[str, Callable[[float], Noise]] = {"normal": GaussianNoise}
_LAWS_ABOVE_0: dict[str, Callable[[float], Noise]] = {
    "exponential": ExponentialNoise,
    "folded_normal": FoldedNormalNoise,
    "uniform": UpperUniformNoise,
}
"""Laws of parameters by name, the default first; the second are for transforms without an inverse."""


def noise_of(asked: Mapping[str, Any], scale: float) -> Noise:
    """The smoothing law of a name and parameters, at one scale.

    Parameters
    ----------
    asked : mapping
        ``name``, and what the law has beside its scale.

    Raises
    ------
    RunError
        The law has no such parameter, or refuses its value.
    """
    parameters = {key: math.inf if value == "inf" else value for key, value in asked.items() if key != "name"}
    entry = NOISES[asked["name"]]
    try:
        noise: Noise = entry.load()(scale, *entry.arguments, **parameters)
    except TypeError:
        unknown = ", ".join(parameters.keys() - entry.parameters.keys())
        raise RunError(f"noise has {unknown}: {asked['name']} noise has no such parameter") from None
    except RequestError as error:
        raise RunError(str(error)) from error
    return noise


def transformed(scale: float, name: str, *, law: str = "") -> Noise:
    """The noise on the parameter of a transform of this name.

    Parameters
    ----------
    law : str
        Of the parameter; by default a normal or, for a blur, an exponential one.
    """
    transform = _TRANSFORMS[name]
    laws = _LAWS_ABOVE_0 if transform.upward else _LAWS
    law = law or next(iter(laws))
    require_known("noise.law is", law, laws, more=f" for {name} noise")
    return Transformed(transform, laws[law](scale))


def noise_label(asked: Mapping[str, Any]) -> str:
    """Name of a law in rows, with the parameters that were set.

    >>> noise_label({"name": "gaussian"}), noise_label({"name": "uniform", "p": 2})
    ('gaussian', 'uniform[p=2]')
    """
    parameters = ",".join(f"{key}={value}" for key, value in asked.items() if key != "name")
    return f"{asked['name']}[{parameters}]" if parameters else str(asked["name"])
