"""Bring published folders to published cells; no number changes. Used once.

Usage: python scripts/convert_results.py RESULTS NEW_RESULTS
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from csrun.cells.attacks import COLUMNS as ATTACK_COLUMNS
from csrun.cells.rows import csv_lines
from csrun.papers.unit_slip import COLUMNS as SLIP_COLUMNS
from csrun.publishing import publish
from csrun.report.panels import draw_panels
from csrun.report.plots import draw

BLOCKS = {"mtcnn": 16, "dcgan": 50}
CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "experiment"
BASES = {"digits": "tv_digits", "mnist": "tv_mnist", "cifar10": "tv_cifar10", "celeba": "jaccard_celeba"}
BASES |= {"latents100": "lpips_dcgan", "astronaut": "jaccard_celeba"}
STAND_INS = ("stands in", "re-compressed")


def paper_of(dataset: str) -> dict[str, int]:
    paper = yaml.safe_load((CONFIGS / f"{BASES[dataset]}.yaml").read_text())["budgets"]["paper"]
    points = 1 if dataset == "astronaut" else paper["points"]["count"]
    training = {key: value for key, value in paper.get("train", {}).items() if key in ("epochs", "images")}
    return {"n": paper["n"], "m": paper["m"], "points": points} | training


def convert(old: Path, runs: Path, results: Path) -> None:
    manifest = json.loads((old / "manifest.json").read_text())
    run = runs / manifest["experiment"]
    shutil.copytree(old, run)
    trainings = manifest.pop("training")
    assert len(trainings) in (0, len(manifest["cells"]))
    data = manifest["data"]["name"]
    for index, cell in enumerate(manifest["cells"]):
        training = trainings[index] if trainings else None
        assert training is None or (training["model"] == cell["model"] and training["dataset"] == data)
        assert training is None or not training["noise"] or training["scale"] == cell["scale"]
        cell |= {"dataset": data, "training": training, "counts": manifest["counts"], "seed": manifest["seed"]}
        cell |= {"forward_block": BLOCKS.get(cell["model"], 128), "device": manifest["device"]}
        cell["notes"] = [note for note in manifest["notes"] if any(part in note for part in STAND_INS)]
    manifest["paper"] = paper_of(data)
    manifest.setdefault("units", {})
    (run / "manifest.json").write_text(json.dumps(manifest))
    for name, columns in (("attack.csv", ATTACK_COLUMNS), ("unit_slip.csv", SLIP_COLUMNS)):
        if (run / name).is_file():
            rows = list(csv.DictReader((run / name).open(newline="")))
            for row in rows:
                keys = [key for key in ("model", "train", "scale") if key in row]
                (row["cell"],) = {
                    cell["folder"].rpartition("-")[2]
                    for cell in manifest["cells"]
                    if all(str(cell[key]) == row[key] for key in keys)
                }
            (run / name).write_bytes(csv_lines(rows, header=True, columns=columns))
    compare(old, publish(manifest["experiment"], runs, results))


def compare(old: Path, new: Path) -> None:
    """Every row of every table is there, with the same text, and no other; figures are the same bytes."""
    for name in ("certificates.csv", "attack.csv", "unit_slip.csv"):
        before, after = read([old / name]), read(sorted(new.glob(f"cells/*/{name}")))
        keys = list(before[0]) if before else []
        assert texts(before, keys) == texts(after, keys), (old, name)
    redrawn = new.with_name("redrawn")
    shutil.copytree(old, redrawn)
    for path in (*draw(redrawn), *draw_panels(redrawn)):
        if path.read_bytes() != (old / path.name).read_bytes():
            print(f"{old / path.name} was drawn by an earlier version")
    for path in redrawn.iterdir():
        if path.suffix in (".png", ".pdf", ".npz") or path.name == "summary.csv":
            assert path.read_bytes() == (new / path.name).read_bytes(), path
    before, after = (json.loads((folder / "manifest.json").read_text()) for folder in (old, new))
    shutil.rmtree(redrawn)
    kept = {"units": {}} | {key: value for key, value in before.items() if key not in ("cells", "training")}
    assert kept == {key: value for key, value in after.items() if key != "paper"}, old
    print(f"{new}: the same rows, summary, figures and panels")


def read(paths: list[Path]) -> list[dict[str, str]]:
    return [row for path in paths if path.is_file() for row in csv.DictReader(path.open(newline=""))]


def texts(rows: list[dict[str, str]], keys: list[str]) -> list[tuple[str, ...]]:
    return sorted(tuple(row[key] for key in keys) for row in rows)


def main(results: Path, converted: Path) -> None:
    with tempfile.TemporaryDirectory() as runs:
        for manifest in sorted(results.glob("*/*/manifest.json")):
            convert(manifest.parent, Path(runs), converted)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
