"""Ask for many things: each ends in a consistent result, or in one line.

Usage: python scripts/campaigns/fuzz_requests.py [REQUESTS [PROCESSES]]

Most are right, in the registry's names and a user's own: every noise, certifier, metric and adapter, of which the
library's own checks say what is served (`requests_right.py`). A part goes to `cs-run`: its tables have to hold the
rows that were asked for, each once, with finite radii where certified, and some are asked bit by bit and again, which
may change no byte. The others are calls of the library (`requests_python.py`). To others something odd is added
(`requests_odd.py`): names, numbers, folders and files (`requests_inputs.py`), models that are none
(`requests_own.py`). Never a traceback, never a half-written experiment: after a refusal there is no table of
certificates. The summary goes to `docs/campaigns/requests.json` and `docs/campaigns/requests.md`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from requests_inputs import DATA, MODULES, NAMES, OUT, Place
from requests_odd import odd_requests
from requests_own import ODD_CERTIFIERS, ODD_METRICS, ODD_MODELS
from requests_page import Counts, publish
from requests_python import ODD_INPUTS, calls, judge_call
from requests_right import BLOCK, BUDGETS, MODELS_ASKED, OWN, Request, Served, right_requests, served

import csrun.runner
from csrun import registry
from csrun.cli import main as cs_run
from csrun.help import described, options
from csrun.registry import CERTIFIERS, NOISES
from csrun.report.tables import ATTACK_FILE, read_rows

SMALL = ["budget=smoke", f"forward_block={BLOCK}", "workers=1", "executor=local", "train.epochs=1"]
SMALL += ["train.images=100", "train.batch_size=100"]


def _named(rows: pd.DataFrame, in_h: bool) -> list[tuple[object, ...]]:
    """Names of rows: training, certifier, metric, rule, eps, h or scale, point."""
    size = rows["h"] if in_h else rows["scale"]
    method = rows["train"].fillna("").str.partition("@")[0]
    metric = rows["metric"].fillna("").where(rows["metric"] != rows["certifier"], "")  # of one with its own distance
    parts = (method, rows["certifier"], metric, rows["rule"], rows["eps"], size, rows["point"])
    return list(zip(*parts, strict=True))


class Ending(NamedTuple):
    """How a request ended."""

    code: object
    stderr: str


def ask(arguments: list[str], out: Path | str, figures: bool = False) -> Ending:
    """Run `cs-run` in this process; whatever escapes it escapes here."""
    stderr, run = io.StringIO(), csrun.runner.run
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(stderr))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not figures:  # which take longer than all else
            stack.enter_context(mock.patch.object(csrun.runner, "run", partial(run, figures=False)))
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
    if ending.code == 2 and os.path.isdir(out) and list(out.glob("*/manifest.json")):
        return "refused, but an experiment's folder is there"
    return ""


def inconsistency(folder: Path, request: Request, wanted: Counter[tuple[object, ...]]) -> str:
    """What is wrong with the table of a request that was served; empty if nothing is."""
    try:
        rows = read_rows(folder)
    except ValueError as error:
        return str(error)
    there = Counter(_named(rows, request.in_h))
    if wanted != there:
        missing, more = wanted - there, there - wanted
        example = next(iter([*missing, *more]))
        return f"{missing.total()} rows are missing, {more.total()} were not asked for, as {example}"
    certified = rows["outcome"] == "certified"
    if not (np.isfinite(rows["radius"]) == certified).all() or (rows["radius"] < 0).any():
        return "a certified radius is not a number, or another one is"
    if set(rows["seed"]) != {request.seed}:
        return f"seed is {sorted(map(int, set(rows['seed'])))} in rows"
    centers = rows[rows["rule"].isin(("paper", "exact", "measured"))]
    for key in ("n", "m"):
        if len(centers) and set(centers[key]) != {getattr(request.budget, key)}:
            return f"{key} is {sorted(map(int, set(centers[key])))} in rows"
    if (rows["outcome"] == "failed").any():
        return f"a point failed: {rows['reason'][rows['outcome'] == 'failed'].iloc[0]}"
    attacked = folder / ATTACK_FILE
    attacks = len(pd.read_csv(attacked)) if attacked.is_file() else 0
    expected = int((certified & (rows["about"] == "run")).sum()) if request.attack != "none" else 0
    return "" if attacks == expected else f"{attacks} rows of attacks instead of {expected}"


def judge(request: Request, bit_by_bit: bool = False, figures: bool = False) -> tuple[Ending, int]:
    """Ask for what the registry has; AssertionError where it does not end as it has to. Returns the rows' number too.

    Parameters
    ----------
    bit_by_bit : bool
        Ask for the first point alone, then for all, then for all once more.
    """
    expected = served(request)
    said = f"cs-run {' '.join([*SMALL, *request.arguments])}"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "runs"
        table = out / request.folder / "certificates.csv"
        first = replace(request, points=request.points[:1])
        if bit_by_bit and isinstance(expected, Served):
            assert ask(first.arguments, out).code == 0, said
            before = set(table.read_bytes().splitlines())
        ending = ask(request.arguments, out, figures)
        wrong = complaint(ending, out)
        assert not wrong, f"{said}: {wrong}"
        if isinstance(expected, str):
            assert ending.code == 2, f"{said}: exit code {ending.code}, though {expected}"
            return ending, 0
        assert ending.code == 0, f"{said}: {ending}"
        wrong = inconsistency(out / request.folder, request, Counter(expected.rows))
        assert not wrong, f"{said}: {wrong}"
        if bit_by_bit:
            assert before <= set(table.read_bytes().splitlines()), f"{said}: rows of the first point changed"
            files = _contents(out)
            assert ask(request.arguments, out).code == 0, said
            assert _contents(out) == files, f"{said}: asking again changed results"
        return ending, len(expected.rows)


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


SIMPLE = Request(
    model=MODELS_ASKED[0],
    noise=(("name", "gaussian"),),
    metrics=("l2",),
    certifiers=("center",),
    rule="measured",
    eps=(0.25,),
    sizes=(0.5,),
    in_h=False,
    points=range(2),
    seed=0,
    budget=BUDGETS[0],
)
"""A request that is served, of a user's own model."""


def judge_paths(out: str, data: str, names: tuple[str, str]) -> Ending:
    """Write to one place and read from another, of `OUT` and `DATA`, under odd names in a fresh working folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        (here := Path(folder) / "here").mkdir()
        os.chdir(here)
        path = DATA[data].make(here, f"data {names[1]}")
        target = OUT[out].make(here, names[0])
        ending = ask(replace(SIMPLE, path=path).arguments, target)
        wrong = complaint(ending, Path(target))
        assert not wrong, f"out={target!r}, {out}, data.path={path!r}, {data}: {wrong}"
        usable = OUT[out].served and DATA[data].served
        assert ending.code == (0 if usable else 2), f"out={target!r}, {out}, data.path={path!r}, {data}: {ending}"
        table = Path(target, "custom", "certificates.csv")
        assert not usable or table.is_file(), f"no table in {table}"
        return ending


def judge_own(setting: str) -> Ending:
    """Name something of a user's own that is not what it should be."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, content in MODULES.items():
            Path(f"no_{name}.py").write_bytes(content)
        importlib.invalidate_caches()
        out = Path(folder) / "runs"
        ending = ask([*SIMPLE.arguments, "certifier=center", "rule=measured", setting], out)
        for name in MODULES:
            sys.modules.pop(f"no_{name}", None)
        wrong = complaint(ending, out)
        assert not wrong, f"{setting}: {wrong}"
        assert ending.code == 2 or not setting.partition("=")[2].startswith("no_"), f"{setting}: {ending}"
        return ending


_ODD_SETTINGS = [f"model={OWN}{name}" for name in ODD_MODELS] + [f"metric={OWN}{name}" for name in ODD_METRICS]
_ODD_SETTINGS += [f"certifier={OWN}{name}" for name in ODD_CERTIFIERS]
_ODD_SETTINGS += [f"{kind}=no_{name}:model" for kind in ("model", "metric", "certifier") for name in MODULES]
_ODD_SETTINGS += [f"model={name}" for name in ("..a:b", ".:b", "a b:c", "a:b:c", "os:", ":b", "os.path:join", "ä:b")]
_ODD_SETTINGS += [f"noise={OWN}scores", f"data={OWN}scores", f"adapter={OWN}scores", "adapter=boxes", "adapter=argmax"]
_ODD_SETTINGS += [
    "adapter=key",
    "adapter=key:a:b",
    "adapter=boxes:x:1",
    "adapter=boxes:0.5:0",
]
_ODD_SETTINGS += ["adapters=[argmax,argmax]"]
_ODD_SETTINGS += [f"weights.{name}={path}" for name in ("vgg", "dcgan") for path in ("nope", "/", "/dev/null", "ä b")]
"""Settings that name something of a user's own, or of a package, that is not what it should be."""

_KINDS = {"python": 240, "cs-run": 13, "cs-run, with figures": 1, "again": 2, "paths": 4, "odd": 2, "own": 2}
"""Shares of requests."""


def _kinds() -> st.SearchStrategy[str]:
    return st.sampled_from([kind for kind, share in _KINDS.items() for _ in range(share)])


def _places(places: dict[str, Place]) -> st.SearchStrategy[str]:
    """Mostly such as can be used."""
    usable = [name for name, place in places.items() if place.served]
    return st.one_of(*[st.sampled_from(usable)] * 2, st.sampled_from(list(places)))


def judge_packaged() -> Counts:
    """Ask once for each experiment whose data and model come with packages: faces and pages, seconds each."""
    torch.set_num_threads(1)
    counts = Counts()
    few = [f"{key}={getattr(BUDGETS[0], key)}" for key in ("n", "m", "delta", "alpha1", "alpha2")]
    for name in options("experiment"):
        if "scikit-image" not in registry.DATA[described(name)["data"]].packages:
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "runs"
            ending = ask([f"experiment={name}", *few, "points.count=1", "grid.eps=[0.02]"], out)
            rows = read_rows(out / name) if ending.code == 0 else []
        counts.rows += len(rows)
        counts.endings["packages", "0" if len(rows) else "wrong"] += 1
        counts.wrong += [] if len(rows) else [f"experiment={name}: {ending}"]
    return counts


def one_request(kind: str, data: st.DataObject, counts: Counts) -> str:
    """Ask for something of a kind; how it ended."""
    if kind == "python":
        call = data.draw(calls())
        ending = judge_call(call)
        if call.odd is None and call.x not in ODD_INPUTS:
            counts.note(ending == "certificates", call.noise, [call.certifier], [call.metric])
        return ending
    if kind == "paths":
        places = data.draw(st.tuples(_places(OUT), _places(DATA)))
        names = data.draw(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)))
        return str(judge_paths(*places, names).code)
    if kind == "own":
        return str(judge_own(data.draw(st.sampled_from(_ODD_SETTINGS))).code)
    request = data.draw(right_requests())
    if kind == "odd":
        return str(judge_odd(request, data.draw(odd_requests)).code)
    ending, rows = judge(request, bit_by_bit=kind == "again", figures="figures" in kind)
    counts.rows += rows
    counts.note(ending.code == 0, request.noise, request.certifiers, request.metrics)
    return str(ending.code)


def campaign(requests: int, number: int) -> Counts:
    """Ask for so many things, from a seed; what ends wrong is noted, and the next is asked."""
    torch.set_num_threads(1)
    counts = Counts()
    for few in range(requests // _FEW):
        _ask_few(1000 * number + few, counts)
        if few % 10 == 9:
            print(f"{number}: {counts.endings.total()} of {requests}, {len(counts.wrong)} wrong", flush=True)
    return counts


_FEW = 10
"""Requests that Hypothesis composes at a time: of more it makes most by small changes of those before."""


def _ask_few(number: int, counts: Counts) -> None:
    composed = 0

    @seed(number)
    @settings(
        max_examples=_FEW + 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(_kinds(), st.data())
    def asking(kind: str, data: st.DataObject) -> None:
        nonlocal composed
        composed += 1
        if composed == 1:  # always the same
            return
        here = os.getcwd()
        try:
            with warnings.catch_warnings():
                ending = one_request(kind, data, counts)
        except (Exception, SystemExit) as error:  # a defect: noted, and shown at once
            if type(error).__module__.startswith("hypothesis"):
                raise
            ending, line = "wrong", traceback.format_exc(limit=-3)
            counts.wrong.append(f"{kind}: {type(error).__name__}: {error}")
            print(f"{kind}: {line}", file=sys.stderr, flush=True)
        finally:
            os.chdir(here)
        counts.endings[kind, ending] += 1

    asking()


def main(requests: int = 10_000, processes: int = 2) -> int:
    """Run the campaign; its page is written anew with each part that is done."""
    command = " ".join(["python", "scripts/campaigns/fuzz_requests.py", *sys.argv[1:]])
    started, total, parts = time.monotonic(), Counts(), max(1, requests // 500)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        packaged = pool.apply_async(judge_packaged)
        for counts in pool.imap_unordered(partial(campaign, requests // parts), range(parts)):
            total += counts
            publish(total, time.monotonic() - started, command)
        total += packaged.get()
        publish(total, time.monotonic() - started, command)
        pool.close()
        pool.join()
    missing = {name for kind in (NOISES, CERTIFIERS) for name in kind} - {name for _, name in +total.served}
    print(f"{total.endings.total()} requests, {len(total.wrong)} wrong endings, never served: {sorted(missing)}")
    print("\n".join(total.wrong))
    return 1 if total.wrong else 0


if __name__ == "__main__":
    os.environ.pop("CENTERSMOOTH_DATA", None)
    sys.exit(main(*map(int, sys.argv[1:])))
