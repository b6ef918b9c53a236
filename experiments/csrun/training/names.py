"""Training methods as requests name them, ``consistency`` or ``consistency[weight=5]``; without torch.

Parameters that a request leaves out have their defaults, which may depend on the scale of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from csrun.errors import RunError
from csrun.registry import METHODS, MethodParameter, listed, meant, require_known

Parameters = tuple[tuple[str, float], ...]
"""Every parameter of a method with its value, in the order of the registry."""


def method_named(asked: str) -> tuple[str, dict[str, float]]:
    """The name of a method and the parameters that a request gives it.

    Raises
    ------
    RunError
        One line: a method, a parameter or a value that there is not.

    Examples
    --------
    >>> method_named("smoothmix"), method_named("smoothmix[weight=1,steps=3]")
    (('smoothmix', {}), ('smoothmix', {'weight': 1.0, 'steps': 3}))
    """
    name, bracket, inside = asked.partition("[")
    require_known("train.method has", name, METHODS)
    if bracket and not inside.endswith("]"):
        raise RunError(f"train.method has '{asked}': expected {name}, or {name}[PARAMETER=NUMBER,...]")
    given = {}
    for pair in inside.removesuffix("]").split(",") if bracket else []:
        key, _, text = pair.partition("=")
        given[key.strip()] = _value(asked, key.strip(), text)
    return name, given


def _value(asked: str, key: str, text: str) -> float:
    name = asked.partition("[")[0]
    parameters = METHODS[name].parameters
    if key not in parameters:
        known = f"a parameter among {listed(list(parameters))}" if parameters else f"{name}, which has no parameters"
        raise RunError(f"train.method has '{asked}': expected {known}{meant(key, parameters)}")
    one = parameters[key]
    try:
        value = int(text) if one.integer else float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= one.least):
        kind = "an integer" if one.integer else "a number"
        raise RunError(f"train.method has '{asked}': expected {key} to be {kind} of at least {one.least:g}")
    return value


def complete(name: str, given: Mapping[str, float], scale: float) -> Parameters:
    """All parameters of a method at a scale of the noise.

    >>> complete("smoothmix", {"weight": 1.0}, 0.5)[:3]
    (('weight', 1.0), ('size', 1.0), ('steps', 4))
    """
    return tuple((key, given.get(key, one.default(scale))) for key, one in METHODS[name].parameters.items())


def labelled(name: str, parameters: Parameters, scale: float) -> str:
    """A method as rows name it: with the parameters that are not the defaults at the scale.

    >>> labelled("smoothmix", complete("smoothmix", {"weight": 1.0, "steps": 4}, 0.5), 0.5)
    'smoothmix[weight=1]'
    """
    known: Mapping[str, MethodParameter] = METHODS[name].parameters
    other = [f"{key}={_short(value)}" for key, value in parameters if value != known[key].default(scale)]
    return f"{name}[{','.join(other)}]" if other else name


def _short(value: float) -> str:
    return repr(value).removesuffix(".0")
