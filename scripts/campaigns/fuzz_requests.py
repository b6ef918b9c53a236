"""Ask `cs-run` for thousands of odd things: each ends in a result, or in one line and exit code 2.

Usage: python scripts/campaigns/fuzz_requests.py [EXAMPLES]

Hypothesis composes command lines from values that are right, nearly right and absurd, on top of a request of one
second. Never a traceback, never a half-written experiment: after a refusal no table of certificates is there, and the
plain request still gives its rows. The summary goes to `docs/campaigns/requests.json`.
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
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from csrun.cli import main as cs_run

SMALL = ["budget=smoke", "points.count=1", "grid.eps=[0.4]", "grid.h=[1]", "n=1000", "m=1100", "forward_block=64"]
SMALL += ["train.epochs=1", "train.images=100"]

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


requests = st.lists(st.one_of(_overrides(), st.sampled_from(["--dry-run", "n", "=", "", "~", "--", "-x"])), max_size=3)
"""What is asked besides `SMALL`."""


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


def judge(arguments: list[str]) -> Ending:
    """Ask in a fresh folder; AssertionError where the ending is not one a user may meet."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        out = Path(folder) / "runs"
        ending = ask(arguments, out)
        wrong = complaint(ending, out)
        assert not wrong, f"cs-run {' '.join(arguments)!r}: {wrong}"
        strays = [path.name for path in Path(folder).iterdir() if path.name not in ("runs", "x")]
        assert not strays or any(a.startswith("out=") for a in arguments), f"{arguments} left {strays}"
        return ending


def main(examples: int) -> int:
    codes: Counter[str] = Counter()
    started = time.monotonic()

    @seed(0)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(requests)
    def campaign(arguments: list[str]) -> None:
        codes[str(judge(arguments).code)] += 1

    campaign()
    summary = {"requests": sum(codes.values()), "by exit code": dict(sorted(codes.items())), "wrong endings": 0}
    summary |= {"seed": 0, "command": f"python scripts/campaigns/fuzz_requests.py {examples}"}
    target = Path(__file__).parents[2] / "docs" / "campaigns" / "requests.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary), f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    os.environ.pop("CENTERSMOOTH_DATA", None)
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
