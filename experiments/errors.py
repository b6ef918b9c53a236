"""Errors of the runner; each is one line for the user and ends the run with exit code 2."""

from __future__ import annotations


class RunError(Exception):
    """A request the runner cannot serve: says what came, what was expected and what to do."""
