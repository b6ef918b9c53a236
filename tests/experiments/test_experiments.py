"""Every experiment: its file composes under every budget, is feasible, and runs at ``smoke`` where its data is."""

from __future__ import annotations

import functools
import io
from unittest.mock import patch

import numpy as np
import pytest
import torch
from rich.console import Console
from support import compose, compose_raw, counts_of, own_problems, small_biggan

from centersmooth.bounds import EXACT
from centersmooth.certifiers.center.rules import center_problem, radius_problem
from csrun.config import grid_pairs
from csrun.data import load_data
from csrun.errors import RunError
from csrun.help import described, experiments
from csrun.models import MODELS
from csrun.noise import noise_of
from csrun.registry import entry_of
from csrun.report.tables import read_manifest, read_rows
from csrun.runner import run
from csrun.system.progress import Display

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "celeba": (3, 54, 44)}
"""Of faces a quarter of the side: a tenth of the time where the bound looks at the input."""


@pytest.mark.parametrize("budget", ["paper", "cpu", "smoke"])
@pytest.mark.parametrize("name", experiments())
def test_composes_and_is_feasible_under_exact_bounds(name, budget):
    own = ["model=package.module:factory"] if name == "custom" else []
    config = compose(f"experiment={name}", f"budget={budget}", *own)
    assert config.name == name
    if not any(entry_of(certifier).measured for certifier in config.certifiers):
        assert not any(problems := own_problems(config)), problems
        return
    counts = counts_of(config)
    assert not center_problem(counts, EXACT)
    x = torch.zeros(SHAPES.get(config.data.name, (1, 8, 8)))  # of its size alone, for laws whose bound depends on it
    pairs = grid_pairs(config.grid)
    if "score" in config.certifiers:  # which still says something where the others do not
        pairs = [pair for pair in pairs if pair.eps == min(config.grid.eps)]
    for pair in pairs:
        assert not radius_problem(counts, noise_of(config.noise, pair.scale).at(x), pair.eps, EXACT)


@pytest.mark.parametrize("name", experiments())
def test_what_is_said_of_an_experiment_is_what_it_asks_for(name):
    facts, own = described(name), ["model=mine:model"] if name == "custom" else []
    config, raw = compose(f"experiment={name}", *own), compose_raw(f"experiment={name}", *own)
    assert (facts["title"], facts["data"], facts["metrics"]) == (config.title, config.data.name, config.metrics)
    assert facts["models"] == ([] if own else config.models)
    assert {key: facts["grid"].get(key) for key in ("eps", "h", "scale")} == vars(config.grid)
    assert set(facts["budgets"]) == set(raw.budgets)


def test_the_command_line_wins_over_the_budget():
    config = compose("budget=smoke", "n=500", "train.epochs=7")
    assert (config.n, config.train.epochs, config.points.count) == (500, 7, 3)


FEW = ("n=75", "m=125", "delta=0.15", "alpha1=0.2", "alpha2=0.2", "forward_block=25")
"""About the fewest draws that serve every rule at h = 1, in blocks that divide them and those of LPIPS's network."""

AT_FOUR_TIMES_THE_EPS = ("grid.h=[0.25]", "n0=10", "n=30", "m=40", "delta=0.25", "forward_block=5")
"""Fewer draws do under noise of four times the eps."""


@pytest.mark.slow
def test_tv_mnist_at_smoke_on_the_real_files(tmp_path, data_folder, figures):
    rows = run_real("tv_mnist", data_folder, tmp_path, "grid.eps=[0.4]", *FEW)
    assert set(rows["model"]) == {"autoencoder", "reconstructor"}
    assert len(rows) == 2 * 2 * 3  # models, points, rules
    certified = rows[rows["outcome"] == "certified"]
    assert len(certified) >= len(rows) // 2
    assert (certified["radius"] > certified["error"]).mean() > 0.9


@functools.cache
def read_once(name: str, path: str | None, seed: int):
    """CIFAR-10's archives have 60,000 files, whose names alone take seconds."""
    return load_data(name, path, seed)


def run_real(name: str, data_folder, out, *overrides: str):
    """Rows of an experiment at ``smoke``, at one noise level and with little training unless asked for otherwise."""
    places = [f"data.path={data_folder}"] if not name.startswith("lpips") else []
    small = ("budget=smoke", "grid.h=[1]", "train.images=100", "train.batch_size=50", "workers=1", f"out={out}")
    config = compose(f"experiment={name}", *small, *places, *overrides)
    with patch("csrun.plan.load_data", read_once):
        result = run(config, Display(Console(file=io.StringIO())), "cs-run (test)")
    assert result.failed == 0
    return read_rows(result.folder)


@pytest.mark.slow
def test_figures_6_to_8_at_smoke_share_their_cells(tmp_path, data_folder):
    """On CIFAR-10; that they do so on MNIST is seen where `make full` computes them, in `test_publishing`."""
    small = ("models=[autoencoder]", "grid.eps=[0.4]", "points.count=1", *FEW)
    metrics = {"l2": "l2", "angular": "angular", "ablation": "tv"}
    rows = {kind: run_real(f"{kind}_cifar10", data_folder, tmp_path, *small) for kind in metrics}
    assert {kind: set(found["metric"]) for kind, found in rows.items()} == {k: {v} for k, v in metrics.items()}
    assert set(rows["ablation"]["train"]) == {"none", "augment@0.4"}
    assert len(list(tmp_path.glob("autoencoder-cifar10-*"))) == 2  # trained with and without noise; no third
    assert [line["h"] for line in read_manifest(tmp_path / "l2_cifar10")["baselines"]] == [1.0, 1.0]


@pytest.mark.slow
def test_jaccard_celeba_at_smoke_on_a_real_face(tmp_path, data_folder, figures):
    pytest.importorskip("facenet_pytorch", reason="pip install 'centersmooth[faces]'")
    rows = run_real("jaccard_celeba", data_folder, tmp_path, "grid.eps=[0.1]", *FEW, *AT_FOUR_TIMES_THE_EPS)
    assert set(rows["metric"]) == {"jaccard"}
    assert set(rows["outcome"]) == {"certified"}
    assert rows["radius"].between(0, 1).all()
    assert rows["source"].str.endswith(".jpg").all()


@pytest.mark.slow
def test_lpips_dcgan_at_smoke_with_the_real_weights(tmp_path, data_folder):
    pytest.importorskip("lpips", reason="pip install 'centersmooth[lpips]'")
    small = ("grid.eps=[0.03]", "points.count=1", *FEW, *AT_FOUR_TIMES_THE_EPS, "n=50", "m=50", "forward_block=25")
    rows = run_real("lpips_dcgan", data_folder, tmp_path, *small)
    assert set(rows["outcome"]) == {"certified"}
    by_rule = rows.set_index("rule")
    paper, exact, measured = (by_rule.loc[rule] for rule in ("paper", "exact", "measured"))
    assert paper["radius"] == pytest.approx(10 * paper["r_hat"])
    assert exact["radius"] == pytest.approx(9 * exact["r_hat"], rel=1e-3)
    assert measured["radius"] < 0.5 * paper["radius"]
    assert exact["alpha"] > exact["alpha1"] + exact["alpha2"]  # what missing all candidates may cost comes on top


@pytest.mark.slow
def test_lpips_biggan_at_smoke_with_a_small_generator_and_the_real_vgg(tmp_path, data_folder):
    for package, extra in (("pytorch_pretrained_biggan", "gan"), ("lpips", "lpips")):
        pytest.importorskip(package, reason=f"pip install 'centersmooth[{extra}]'")
    vgg = data_folder / "vgg16_features.pth"
    if not vgg.is_file():
        pytest.skip(f"no {vgg}: VGG-16's convolutions, as docs/data.md says")
    (tmp_path / "biggan").mkdir()
    folder = small_biggan(tmp_path / "biggan", z_dim=128)
    overrides = [f"weights.biggan={folder}", f"weights.vgg={vgg}", "grid.eps=[0.03]", *FEW]
    rows = run_real("lpips_biggan", data_folder, tmp_path, *overrides)
    assert set(rows["model"]) == {"biggan"}
    assert set(rows["outcome"]) == {"certified"}
    assert (rows["n0"] == 30).all()
    manifest = read_manifest(tmp_path / "lpips_biggan")
    assert manifest["notes"] == ["stand-in weights: a BigGAN of 32x32 pixels from a folder in place of biggan-deep-128"]
    (cell,) = manifest["cells"]
    assert cell["metrics"]["lpips"] == {"backbone": "vgg", "version": "0.1", "weights": cell["metric_weights"]}
    assert {"pytorch-pretrained-biggan", "lpips"} <= set(manifest["versions"])
    assert manifest["data"]["unit"] == "latent coordinates"
    with np.load(tmp_path / "lpips_biggan" / manifest["panels"][0]["data"]) as kept:
        assert kept["base"].shape == kept["smoothed"].shape == (1, 3, 32, 32)
        assert len(np.unique(kept["base"])) > 50


def test_a_generator_of_other_latents_is_refused_in_one_line(tmp_path):
    pytest.importorskip("pytorch_pretrained_biggan", reason="pip install 'centersmooth[gan]'")
    folder = small_biggan(tmp_path, z_dim=8)
    with pytest.raises(RunError, match="generator of 8 latents: expected 128, as latents128 has"):
        MODELS["biggan"].build(load_data("latents128", None), {"biggan": str(folder)}, None)


@pytest.mark.slow
def test_tv_cifar10_at_smoke_on_the_real_files(tmp_path, data_folder):
    small = ("models=[reconstructor]", "grid.eps=[0.4]", *FEW)
    rows = run_real("tv_cifar10", data_folder, tmp_path, *small)
    assert (rows["outcome"] == "certified").any()


@pytest.mark.parametrize(
    ("overrides", "curve"),
    [
        (["grid.eps=[0.4]", "grid.h=[1]"], "h"),
        (["grid.eps=[0.4]", "grid.h=[1,2]"], "eps"),
        (["grid.eps=[0.4,0.6]", "grid.h=[1,1.5,2]"], "h"),
        (["grid.eps=[0.4]", "grid.h=null", "grid.scale=[0.2]"], "scale"),
        (["train.method=[augment,none]"], "training"),
    ],
)
def test_what_the_curves_stand_for_follows_from_the_grid(overrides, curve):
    from csrun.runner import _curve

    assert _curve(compose("budget=smoke", *overrides)) == curve


@pytest.mark.slow
def test_label_cifar10_at_smoke_on_the_real_images(tmp_path, data_folder):
    small = ("points.count=1", "n=100", "m=300", "forward_block=20")
    rows = run_real(
        "label_cifar10", data_folder, tmp_path, "grid.h=null", "grid.scale=[0.25]", "grid.eps=[0.25]", *small
    )
    assert rows["target"].tolist()[:3] == [0.0] * 3  # the first test image of image files is an airplane
    assert set(rows["rule"]) == {"counts_run", "betting", "counts"}
    assert set(rows["outcome"]) <= {"certified", "bad_center"}
