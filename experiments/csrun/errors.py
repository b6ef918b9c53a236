"""Errors of the runner; each is one line for the user and ends the run with exit code 2."""

from __future__ import annotations


class RunError(Exception):
    """A request the runner cannot serve: says what came, what was expected and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
