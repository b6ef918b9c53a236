"""Counts of the campaign of `fuzz_requests.py`, and the page that tells them."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
from requests_right import OWN

import centersmooth

DOCS = Path(__file__).parents[2] / "docs" / "campaigns"


@dataclass
class Counts:
    """Counts of requests by how they ended, and of the names in right ones."""

    endings: Counter[tuple[str, str]] = field(default_factory=Counter)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    served: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: int = 0
    wrong: list[str] = field(default_factory=list)

    def __add__(self, other: Counts) -> Counts:
        totals = [getattr(self, key) + getattr(other, key) for key in self.__dataclass_fields__]
        return Counts(*totals)

    def note(self, served_: bool, noise: Any, certifiers: Any, metrics: Any) -> None:
        """Count names of a right request."""
        for kind, names in (("noise", [dict(noise)["name"]]), ("certifier", certifiers), ("metric", metrics)):
            for name in names:
                self.asked[kind, name] += 1
                self.served[kind, name] += served_


_MEANING = {
    "python": "calls of the library: nine in ten right, the others with an odd input or argument",
    "cs-run": "names of the registry and a user's own, as far as they suit each other",
    "cs-run, with figures": "the same, and figures drawn",
    "again": "the same, asked for bit by bit and once more: no byte may change",
    "paths": "results and inputs in folders and files of odd names and kinds",
    "odd": "right requests with an absurd setting more",
    "packages": "faces and pages of text, once each experiment whose model and data come with packages",
    "own": "models, metrics, certifiers, adapters and weights that are none",
}
_ENDINGS = ("0", "certificates", "1", "2", "an error", "wrong")

FOUND = """
- `Segmentation` of a model that gives one class an input ended in an `IndexError`, as did an attack on it: a class is a
  map of one pixel.
- An input that has a gradient made PyTorch warn under splitting noise: gradients of inputs are left behind at the door.
- Inputs without a number, of shape (1, 0, 8) say, ended in a `RuntimeError` of PyTorch under gamma noise: refused, in
  Python and in `.npy` files.
- A `progress` that cannot be called ended in a `TypeError` after the first draws: refused before them.
- Arrays and other long values in the place of numbers and names made messages of several lines, or comparisons of
  arrays that raise: every message says what came in one line.
- A module of a user's own that is no Python, or raises or exits when it is imported, ended in a traceback or without a
  word, as did relative names (`model=..a:b`): one line says which error it was.
- What Hydra cannot read as `KEY=VALUE`, such as `model=ä:b`, was refused in the words of its grammar
  (`LexerNoViableAltException`).
- Lists within lists, such as `"grid.eps=[[1]]"` or `"train.method=[[none]]"`, and budgets without counts, such as
  `budgets.paper=null`, ended in a traceback, some of them after the work: refused by the key.
- Integers beyond all floats, as 10**400, ended in an `OverflowError` in the place of `eps`, a scale or a probability.
"""
"""Faults that this campaign found, all mended, each with a test."""


def publish(counts: Counts, seconds: float, command: str) -> None:
    """Write the summary and its page."""
    endings = {kind: {end: n for end in _ENDINGS if (n := counts.endings[kind, end])} for kind in _MEANING}
    of_ending = {end: sum(number for (_, one), number in counts.endings.items() if one == end) for end in _ENDINGS}
    requests = counts.endings.total()
    summary: dict[str, Any] = {"requests": requests, "served": sum(of_ending[end] for end in _ENDINGS[:2])}
    summary |= {"by ending": of_ending, "wrong endings": of_ending["wrong"], "by kind": endings}
    for kind in ("noise", "certifier", "metric"):
        names = sorted((name for one, name in counts.asked if one == kind), key=lambda name: -counts.asked[kind, name])
        summary |= {f"by {kind}": {name: [counts.served[kind, name], counts.asked[kind, name]] for name in names}}
    made = f"Python {platform.python_version()}, centersmooth {centersmooth.__version__}, torch {torch.__version__}"
    summary |= {"rows looked at": counts.rows, "minutes": round(seconds / 60), "command": command, "made": made}
    summary["date"] = date.today().isoformat()
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "requests.json").write_text(json.dumps(summary, indent=2) + "\n")
    (DOCS / "requests.md").write_text(page(summary))


def page(summary: dict[str, Any]) -> str:
    """`docs/campaigns/requests.md`, of what is in `docs/campaigns/requests.json`."""
    requests, share = summary["requests"], summary["served"] / summary["requests"]
    lines = ["# Requests", "", "Requests of `cs-run` and calls of the library, right, odd and absurd, by"]
    lines += [f"`{summary['command']}`, whose text says how. {summary['made']};"]
    lines += [
        f"{summary['minutes']} minutes, on {summary['date']}. What changed after that has tests of its own, and was"
    ]
    lines += ["not asked for again.", ""]
    lines += [f"**Result.** Of {requests:,} requests {summary['served']:,} ({share:.0%}) were served, with"]
    lines += [f"certificates and tables that hold what they have to ({summary['rows looked at']:,} rows), and"]
    lines += [f"{requests - summary['served'] - summary['wrong endings']:,} refused in one line;"]
    lines += [f"{summary['wrong endings']} ended otherwise.", ""]
    lines += ["| kind | asked | served | refused | what |", "|---|---|---|---|---|"]
    for kind, endings in summary["by kind"].items():
        served_ = sum(endings.get(end, 0) for end in _ENDINGS[:2])
        refused = endings.get("2", 0) + endings.get("an error", 0)
        lines += [f"| {kind} | {sum(endings.values()):,} | {served_:,} | {refused:,} | {_MEANING[kind]} |"]
    lines += ["", "What is to be served is known beforehand, by the library's own checks of law, counts, metric and a"]
    lines += ["few outputs, for the runner as for calls; a right request that is refused although it suits, or served"]
    lines += ["although it does not, is a wrong ending, as is a traceback, a warning, a second line, or a row too"]
    lines += ["many.", "", "## What was asked for", ""]
    lines += ["Right requests with each name, and how many of them were served; the others"]
    lines += ["ask for what does not go together, such as means under noise that is not Gaussian.", ""]
    for kind in ("noise", "certifier", "metric"):
        said = [f"{name} {served_:,} of {asked:,}" for name, (served_, asked) in summary[f"by {kind}"].items()]
        lines += [f"**By {kind}.** {', '.join(said)}.".replace(OWN, "own:"), ""]
    lines += ["## What was found", "", "All of it is mended, and has a test:", "", FOUND.strip()]
    return "\n".join(lines) + "\n"
