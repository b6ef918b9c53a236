"""Adapters from the words of a configuration, such as ``key:out``; without torch until one is built."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from csrun.errors import RunError
from csrun.registry import ADAPTERS, require_known

_JOINED = "+"
_WORD = re.compile(r"[\w.-]+")
"""Names of models are names of folders too."""


def plain_adapter(asked: str) -> str:
    """A request for an adapter in one form, with its defaults filled in.

    Raises
    ------
    RunError
        There is no such adapter, or it takes something else.

    Examples
    --------
    >>> plain_adapter("boxes"), plain_adapter("boxes:0.50:8"), plain_adapter("key:out")
    ('boxes:0.5:8', 'boxes:0.5:8', 'key:out')
    """
    name, _ = _name_and_text(asked)
    return ":".join([name, *(repr(one) if isinstance(one, float) else str(one) for one in _values(asked))])


def build_adapter(asked: str) -> Any:
    """The adapter that a request asks for."""
    name, _ = _name_and_text(asked)
    return ADAPTERS[name].build(*_values(asked))


def adapted_name(model: str, adapters: Iterable[str]) -> str:
    """The name of a model with its adapters, by which its cells are known.

    >>> adapted_name("mine:model", ["key:out", "argmax"])
    'mine:model+key:out+argmax'
    """
    return _JOINED.join([model, *adapters])


def model_of(name: str) -> str:
    """The model of such a name.

    >>> model_of("mine:model+key:out+argmax"), model_of("mtcnn")
    ('mine:model', 'mtcnn')
    """
    return name.partition(_JOINED)[0]


def _values(asked: str) -> list[Any]:
    """Arguments that a request gives an adapter, converted."""
    name, text = _name_and_text(asked)
    entry = ADAPTERS[name]
    given = text.split(":") if text else list(entry.defaults)
    try:
        if not all(map(_WORD.fullmatch, given)):
            raise ValueError
        return [convert(one) for convert, one in zip(entry.parameters.values(), given, strict=True)]
    except ValueError as error:
        words = " in letters, digits, _ . and -" if entry.parameters else ""
        raise RunError(f"adapters has '{asked}': expected {entry.usage(name)}{words}") from error


def _name_and_text(asked: str) -> tuple[str, str]:
    name, _, text = asked.partition(":")
    require_known("adapters has", name, ADAPTERS)
    return name, text
