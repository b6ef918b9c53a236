"""Smoothing laws from their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from centersmooth import Noise, RequestError
from csrun.errors import RunError
from csrun.registry import NOISES


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
    parameters = {key: value for key, value in asked.items() if key != "name"}
    law = NOISES[asked["name"]].load()
    try:
        noise: Noise = law(scale, **parameters)
    except TypeError:
        raise RunError(f"noise has {', '.join(parameters)}: {asked['name']} noise has no such parameter") from None
    except RequestError as error:
        raise RunError(str(error)) from error
    return noise


def noise_label(asked: Mapping[str, Any]) -> str:
    """Name of a law in rows, with the parameters that were set.

    >>> noise_label({"name": "gaussian"}), noise_label({"name": "uniform", "p": 2})
    ('gaussian', 'uniform[p=2]')
    """
    parameters = ",".join(f"{key}={value}" for key, value in asked.items() if key != "name")
    return f"{asked['name']}[{parameters}]" if parameters else str(asked["name"])
