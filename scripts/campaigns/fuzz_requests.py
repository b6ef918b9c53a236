"""Ask `cs-run` for many things: each ends in a consistent table, or in one line and exit code 2.

Usage: python scripts/campaigns/fuzz_requests.py [EXAMPLES]

Hypothesis composes requests of a second on the digits. Three quarters are right (`Request`): their tables have to hold
the rows that were asked for, each once, with finite radii where certified; some are asked bit by bit and again, which
may change no byte. To the others something odd is added: right, nearly right or absurd. Never a traceback, never a
half-written experiment: after a refusal no table of certificates is there. The summary goes to
`docs/campaigns/requests.json`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from csrun.cli import main as cs_run
from csrun.registry import CERTIFIERS, MODELS
from csrun.report.tables import ATTACK_FILE, read_rows

SMALL = ["budget=smoke", "forward_block=64", "workers=1", "executor=local", "train.epochs=1", "train.images=100"]

_ALL = MODELS["autoencoder"].metrics
_SUITS: dict[str, tuple[str, ...]] = {
    "center": _ALL,
    "center_free": _ALL,
    "center_nearest": ("l2", "sql2", "cosine", "angular"),
    "mean": ("tv", "l1", "l2"),
    "direction": ("cosine", "angular"),
    "label": (),
    "segmentation": (),
    "percentile": (),
    "percentile_box": (),
    "score": (),
    "prototypes": (),
}
"""Metrics in which each certifier certifies images."""

_NOISES = ("gaussian", "brightness", "contrast", "gamma", "translation")
"""Laws in which all certifiers have certificates at these counts, in ``h`` as well as at a scale."""

_METHODS = {"augment": ("augment",), "none": ("none",), "ablation": ("augment", "none")}
_FOLDER = "tv_digits"


@dataclass(frozen=True)
class Request:
    """A request in the registry's names and in numbers of which all are right."""

    noise: str
    metrics: tuple[str, ...]
    certifiers: tuple[str, ...]
    rule: str | None
    eps: tuple[float, ...]
    sizes: tuple[float, ...]
    in_h: bool
    points: range
    seed: int
    n: int
    m: int
    train: str
    attack: str

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        sizes = ("grid.h", "grid.scale") if self.in_h else ("grid.scale", "grid.h")
        asked = {"noise": self.noise, "metrics": _list(self.metrics), "certifiers": _list(self.certifiers)}
        asked |= {"grid.eps": _list(self.eps), sizes[0]: _list(self.sizes), sizes[1]: "null"}
        asked |= {"points.start": self.points.start, "points.count": len(self.points), "seed": self.seed}
        asked |= {"n": self.n, "m": self.m, "train": self.train, "attack": self.attack}
        asked |= {"attacker.steps": 2, "attacker.restarts": 1, "attacker.draws": 8, "attacker.runs": 1}
        return [f"{key}={value}" for key, value in asked.items()] + ([f"rule={self.rule}"] if self.rule else [])

    @property
    def suited(self) -> bool:
        """Whether each certifier certifies something."""
        return all(set(self.metrics) & set(_SUITS[name]) for name in self.certifiers)

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Names of its rows; see `_named`."""
        for method, eps, size, point in product(_METHODS[self.train], self.eps, self.sizes, self.points):
            for name in self.certifiers:
                for metric, rule in product(self.metrics, CERTIFIERS[name].rules):
                    if metric in _SUITS[name]:
                        yield method, name, metric, rule, eps, size, point


def _list(values: tuple[object, ...]) -> str:
    return f"[{','.join(map(str, values))}]"


def _named(rows: pd.DataFrame, in_h: bool) -> list[tuple[object, ...]]:
    """Names of rows: training, certifier, metric, rule, eps, h or scale, point."""
    size = rows["h"] if in_h else rows["scale"]
    method = rows["train"].str.partition("@")[0]
    parts = (method, rows["certifier"], rows["metric"], rows["rule"], rows["eps"], size, rows["point"])
    return list(zip(*parts, strict=True))


def _some(values: tuple[object, ...], most: int) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True).map(tuple)


@st.composite
def right_requests(draw: st.DrawFn) -> Request:
    """Requests of a second; one in some asks for a certifier that suits none of its metrics."""
    certifiers = draw(_some(tuple(name for name, metrics in _SUITS.items() if metrics), 2))
    certifiers += ("label",) * (draw(st.integers(0, 9)) == 7)
    suited = [draw(st.sampled_from(_SUITS[name] or _ALL)) for name in certifiers]
    metrics = dict.fromkeys([*suited, *draw(_some(_ALL, 1))])
    in_h = draw(st.booleans())
    start = draw(st.integers(0, 40))
    return Request(
        noise=draw(st.sampled_from(_NOISES)),
        metrics=tuple(metrics),
        certifiers=certifiers,
        rule=draw(st.sampled_from((None, *CERTIFIERS[certifiers[0]].rules))),
        eps=draw(_some((0.05, 0.1, 0.2, 0.4), 2)),
        sizes=draw(_some((0.5, 0.8, 1.0), 2) if in_h else _some((0.5, 0.75), 2)),
        in_h=in_h,
        points=range(start, start + draw(st.integers(1, 2))),
        seed=draw(st.integers(0, 5)),
        n=draw(st.sampled_from((400, 700))),
        m=draw(st.sampled_from((500, 900))),
        train=draw(st.sampled_from(("augment", "none", "augment", "ablation"))),
        attack=draw(st.sampled_from(("none", "none", "none", "search", "pgd"))),
    )


_ODD = [
    "",
    "null",
    "''",
    "[]",
    "{}",
    "abc",
    "-1",
    "0",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "0x10",
    "1.5",
    "true",
    "???",
    "ä",
]
_ODD += [
    "[",
    "${n}",
    "${nope}",
    "${oc.env:HOME}",
    "[null]",
    "[a,b",
    "{a:1}",
    "1_000",
    "' '",
    "a=b",
    "../x",
    "/",
    "\\",
    "$",
]
_NUMBERS = ["1", "2", "3", "7", "64", "100", "0.05", "0.1", "0.4999", "0.5", "1e-300", "-0.0", "5e-324"]
_LISTS = [
    "[0.4]",
    "[0.2,0.4]",
    "[1,1]",
    "[0]",
    "[-1]",
    "[nan]",
    "[inf]",
    "[1e-300]",
    "[1e300]",
    "[abc]",
    "[[1]]",
    "[0.4,]",
]
_NAMES = [
    "tv",
    "l2",
    "[tv,l2]",
    "[tv,tv]",
    "[jaccard]",
    "[lpips]",
    "autoencoder",
    "[autoencoder,reconstructor]",
    "[mtcnn]",
    "mean",
    "[mean]",
    "[center_free,center]",
    "measured",
    "local",
    "augment",
    "[none,augment]",
    "gaussian",
]
_NAMES += [
    "[os:getcwd]",
    "os:nope",
    "nope:nope",
    ":",
    "a:",
    ":b",
    "[torch.nn:Identity]",
    "json:loads",
    "builtins:object",
]
_KEYS = (
    "n m n0 delta alpha1 alpha2 seed batch_size forward_block points.count points.start train.epochs train.images "
    "train.batch_size grid.eps grid.h grid.scale models metrics model metric certifiers certifier rule noise "
    "noise.name device budget data.name data.path train.method weights weights.dcgan name title experiment out "
    "nope train nope.nope hydra.run.dir +new ++n ~n ~grid +noise.new"
).split()
_CHEAP = {"train.epochs": ["1", "2"], "train.images": ["1", "50"], "points.count": ["1", "2"], "name": ["x", "a b"]}
"""Where a large right value would only cost time."""


def _overrides() -> st.SearchStrategy[str]:
    def of(key: str) -> st.SearchStrategy[str]:
        values = _CHEAP.get(key, _NUMBERS + _LISTS + _NAMES) + _ODD
        text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
        return st.one_of(st.sampled_from(values), text).map(lambda value: f"{key}={value}")

    return st.sampled_from(_KEYS).flatmap(of)


odd_requests = st.lists(
    st.one_of(_overrides(), st.sampled_from(["--dry-run", "n", "=", "", "~", "--", "-x"])), min_size=1, max_size=3
)
"""What may be added to a request, in full or in part absurd."""


class Ending(NamedTuple):
    """How a request ended."""

    code: object
    stderr: str


def ask(arguments: list[str], out: Path) -> Ending:
    """Run `cs-run` in this process; whatever escapes it escapes here."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            cs_run([*SMALL, f"out={out}", *arguments])
        except SystemExit as ending:
            return Ending(ending.code, stderr.getvalue())


def complaint(ending: Ending, out: Path) -> str:
    """What is wrong with how a request ended; empty if nothing is."""
    if ending.code not in (0, 1, 2):
        return f"exit code {ending.code}: {ending.stderr}"
    lines = ending.stderr.strip().splitlines()
    if ending.code == 2 and len(lines) != 1:
        return f"{len(lines)} lines instead of one: {ending.stderr}"
    if ending.code == 2 and list(out.glob("*/manifest.json")):
        return "refused, but an experiment's folder is there"
    return ""


def inconsistency(folder: Path, request: Request) -> str:
    """What is wrong with the table of a request that was served; empty if nothing is."""
    try:
        rows = read_rows(folder)
    except ValueError as error:
        return str(error)
    wanted, there = Counter(request.rows()), Counter(_named(rows, request.in_h))
    if wanted != there:
        return f"{(wanted - there).total()} rows are missing, {(there - wanted).total()} were not asked for"
    certified = rows["outcome"] == "certified"
    if not (np.isfinite(rows["radius"]) == certified).all() or (rows["radius"] < 0).any():
        return "a certified radius is not a number, or another one is"
    for key in ("n", "m", "seed"):
        if set(rows[key]) != {getattr(request, key)}:
            return f"{key} is {sorted(map(int, set(rows[key])))} in rows"
    if (rows["outcome"] == "failed").any():
        return f"a point failed: {rows['reason'][rows['outcome'] == 'failed'].iloc[0]}"
    attacked = folder / ATTACK_FILE
    attacks = len(pd.read_csv(attacked)) if attacked.is_file() else 0
    expected = int((certified & (rows["about"] == "run")).sum()) if request.attack != "none" else 0
    return "" if attacks == expected else f"{attacks} rows of attacks instead of {expected}"


def judge(request: Request, bit_by_bit: bool = False) -> tuple[Ending, int]:
    """Ask for what is right; AssertionError where it does not end as it has to. Returns the number of rows too.

    Parameters
    ----------
    bit_by_bit : bool
        Ask for the first point alone, then for all, then for all once more.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "runs"
        table = out / _FOLDER / "certificates.csv"
        first = replace(request, points=request.points[:1])
        if bit_by_bit and request.suited:
            assert ask(first.arguments, out).code == 0, first
            before = set(table.read_bytes().splitlines())
        ending = ask(request.arguments, out)
        wrong = complaint(ending, out)
        assert not wrong, f"cs-run {' '.join(request.arguments)}: {wrong}"
        assert ending.code == (0 if request.suited else 2), f"{request}: {ending}"
        if not request.suited:
            return ending, 0
        wrong = inconsistency(out / _FOLDER, request)
        assert not wrong, f"cs-run {' '.join(request.arguments)}: {wrong}"
        if bit_by_bit:
            assert before <= set(table.read_bytes().splitlines()), f"{request}: rows of the first point changed"
            files = _contents(out)
            assert ask(request.arguments, out).code == 0, request
            assert _contents(out) == files, f"{request}: asking again changed results"
        return ending, len(read_rows(out / _FOLDER))


def _contents(out: Path) -> dict[Path, bytes]:
    """Tables and evidence under a folder."""
    return {path: path.read_bytes() for pattern in ("**/*.csv", "**/*.npz") for path in out.glob(pattern)}


def judge_odd(request: Request, odd: list[str]) -> Ending:
    """Ask for something odd besides, in a fresh folder; AssertionError where the ending is not one a user may meet."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        out, arguments = Path(folder) / "runs", [*request.arguments, *odd]
        ending = ask(arguments, out)
        wrong = complaint(ending, out)
        assert not wrong, f"cs-run {' '.join(arguments)!r}: {wrong}"
        strays = [path.name for path in Path(folder).iterdir() if path.name not in ("runs", "x")]
        assert not strays or any(a.startswith("out=") for a in odd), f"{arguments} left {strays}"
        return ending


def main(examples: int) -> int:
    codes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    started = time.monotonic()

    @seed(0)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(right_requests(), st.sampled_from(("right", "again", "odd", "right")), odd_requests)
    def campaign(request: Request, kind: str, odd: list[str]) -> None:
        if kind == "odd":
            ending = judge_odd(request, odd)
        else:
            ending, rows = judge(request, bit_by_bit=kind == "again")
            counts["rows"] += rows
        counts[kind] += 1
        codes[str(ending.code)] += 1

    campaign()
    requests = sum(codes.values())
    summary = {"requests": requests, "by exit code": dict(sorted(codes.items())), "wrong endings": 0}
    summary |= {"with something odd": counts["odd"], "asked bit by bit and again": counts["again"]}
    summary |= {"rows looked at": counts["rows"], "seed": 0}
    summary |= {"command": f"python scripts/campaigns/fuzz_requests.py {examples}"}
    assert codes["0"] >= 2 / 3 * requests, f"most requests are to be served: {summary}"
    target = Path(__file__).parents[2] / "docs" / "campaigns" / "requests.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary), f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    os.environ.pop("CENTERSMOOTH_DATA", None)
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
