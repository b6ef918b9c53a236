"""Trainings as requests name them, with their digests and labels; the schedule of SGD; trainings that are killed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from killed import Killed, killing
from rich.console import Console
from safetensors.torch import load
from support import SMALL, ask, compose

from centersmooth import RandomStream
from csrun.config import TrainConfig
from csrun.data import load_data
from csrun.errors import RunError
from csrun.executors import tasks
from csrun.models import MODELS
from csrun.plan import make_plan
from csrun.system.progress import Display
from csrun.training import state as state_module
from csrun.training.checkpoints import Report, Training, obtain, train_checkpoint, training_of
from csrun.training.names import complete, labelled, method_named

GAUSSIAN = {"name": "gaussian"}


def training(model: str = "autoencoder", method: str = "augment", scale: float = 0.4, **schedule) -> Training:
    asked = TrainConfig(**({"epochs": 2, "images": 200, "batch_size": 50} | schedule))
    return training_of(model, load_data("digits", None), asked, method, GAUSSIAN, scale, 0, "cpu")


@pytest.mark.parametrize(
    ("model", "method", "digest"),
    [
        ("autoencoder", "augment", "7792ff85428c"),
        ("autoencoder", "none", "166a0e867798"),
        ("lenet", "cross_entropy", "77e308d9f70e"),
    ],
)
def test_digests_from_before_there_were_parameters_and_optimizers_hold(model, method, digest):
    """Published cells have the request of their training in their key."""
    assert training(model, method).digest == digest
    assert {"parameters", "optimizer"}.isdisjoint(training(model, method).request)


def test_each_parameter_and_the_optimizer_are_in_the_digest_and_defaults_are_one():
    trainings = [
        training("lenet", method, **schedule)
        for method in ("smoothmix", "smoothmix[weight=1]", "smoothmix[steps=3]", "smoothmix[draws=2]", "consistency")
        for schedule in ({}, {"optimizer": "sgd"})
    ]
    assert len({one.digest for one in trainings}) == len(trainings)
    assert training("lenet", "smoothmix[steps=2,weight=5]") == training("lenet", "smoothmix")
    assert json.loads(json.dumps(training("lenet", "smoothmix").request))["parameters"][0] == ["weight", 5.0]


@pytest.mark.parametrize(
    ("method", "scale", "label"),
    [
        ("output_consistency", 0.4, "output_consistency@0.4"),
        ("output_consistency[weight=1]", 0.4, "output_consistency@0.4"),
        ("output_consistency[weight=3]", 0.4, "output_consistency[weight=3]@0.4"),
        ("spectral[draws=8,weight=0.5]", 0.25, "spectral[weight=0.5,draws=8]@0.25"),
        ("augment", 0.4, "augment@0.4"),
        ("none", 0.4, "none"),
    ],
)
def test_rows_name_the_parameters_that_are_not_the_defaults(method, scale, label):
    assert training(method=method, scale=scale).label == label


def test_a_default_depends_on_the_scale_and_so_does_the_label():
    name, given = method_named("consistency[weight=10]")
    labels = [labelled(name, complete(name, given, scale), scale) for scale in (0.25, 0.5)]
    assert labels == ["consistency", "consistency[weight=10]"]


REFUSED = {
    "spectrl": "train.method has 'spectrl': expected one of none, .*; did you mean spectral?",
    "spectral[wieght=3]": "train.method has 'spectral[wieght=3]': expected a parameter among weight or draws; "
    "did you mean weight?",
    "spectral[weight=much]": "train.method has 'spectral[weight=much]': expected weight to be a number of at least 0",
    "spectral[weight=-1]": "train.method has 'spectral[weight=-1]': expected weight to be a number of at least 0",
    "spectral[weight=inf]": "train.method has 'spectral[weight=inf]': expected weight to be a number of at least 0",
    "spectral[draws=1]": "train.method has 'spectral[draws=1]': expected draws to be an integer of at least 2",
    "spectral[draws=2.5]": "train.method has 'spectral[draws=2.5]': expected draws to be an integer of at least 2",
    "spectral[weight=3": "train.method has 'spectral[weight=3': expected spectral, or spectral[PARAMETER=NUMBER,...]",
    "augment[weight=3]": "train.method has 'augment[weight=3]': expected augment, which has no parameters",
}


@pytest.mark.parametrize("asked", REFUSED)
def test_what_no_method_has_is_refused_in_one_line(tmp_path, asked):
    answer = ask(f'train.method=["{asked}"]', cwd=tmp_path)
    start, _, end = REFUSED[asked].partition(".*")
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1)
    assert answer.stderr.startswith(f"cs-run: {start}")
    assert answer.stderr.endswith(f"{end}\n")


def test_an_optimizer_that_is_none_is_refused_in_one_line(tmp_path):
    answer = ask("train.optimizer=sdg", cwd=tmp_path)
    assert answer.stderr == "cs-run: train.optimizer is 'sdg': expected adam, adam_stages or sgd; did you mean sgd?\n"


def test_one_training_asked_for_twice_is_one_cell():
    plan = make_plan(compose(*SMALL, 'train.method=["spectral", "spectral[weight=1]", "spectral[weight=2]"]'))
    assert [cell.training.label for cell in plan.cells] == ["spectral@0.4", "spectral[weight=2]@0.4"]


def test_sgd_has_momentum_decay_and_three_stages_of_falling_rates():
    data = load_data("digits", None)
    asked = training("lenet", "cross_entropy", epochs=5, images=100, optimizer="sgd")
    torch.manual_seed(0)
    model = MODELS["lenet"].build(data, {}, None).train()
    x, y = data.images(data.train, range(100)), data.targets(data.train, range(100))
    velocity = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for epoch, rate in enumerate([0.01, 0.01, 0.001, 0.001, 0.0001]):
        stream = RandomStream(0, epoch)
        order = stream.draws("order", 0, x).permutation(100)
        for step, chosen in enumerate(order.split(50)):
            noise = 0.4 * stream.draws("training noise", step, x).normal((50, 1, 8, 8))
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(x[chosen] + noise), y[chosen]).backward()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    velocity[name] = 0.9 * velocity[name] + parameter.grad + 1e-4 * parameter
                    parameter -= rate * velocity[name]
    trained = load(train_checkpoint(asked, MODELS["lenet"], data, lambda images: None)[0])
    for name, expected in model.state_dict().items():
        assert torch.allclose(trained[name], expected, atol=1e-5), name


def test_ninety_epochs_fall_after_thirty_and_sixty():
    from csrun.training.checkpoints import _learning_rate

    asked = training("lenet", "smoothmix", epochs=90, optimizer="sgd")
    rates = [_learning_rate(asked, epoch) for epoch in (0, 29, 30, 59, 60, 89)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


@pytest.fixture
def every_epoch(monkeypatch):
    """A state after each epoch, however fast they are."""
    monkeypatch.setattr(state_module, "SECONDS_BETWEEN", 0.0)


def trained(asked: Training, out: Path, report: Report | None = None, steps: list[int] | None = None) -> bytes:
    """The checkpoint of a training, killed or not, in a folder."""
    done = [] if steps is None else steps
    obtain(asked, MODELS[asked.model], load_data("digits", None), out, done.append, None, report)
    return asked.path(out).read_bytes()


@pytest.mark.parametrize(
    ("model", "method", "optimizer"),
    [("autoencoder", "spectral", "adam"), ("lenet", "smoothmix", "sgd"), ("lenet", "cross_entropy", "adam")],
)
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path, every_epoch, model, method, optimizer):
    asked = training(model, method, epochs=4, images=64, batch_size=32, optimizer=optimizer)
    whole = trained(asked, tmp_path / "whole")
    for kill_after in (1, 3):
        with pytest.raises(Killed):
            trained(asked, tmp_path / "killed", killing(kill_after))
    lines, steps, before = [], [], []
    assert trained(asked, tmp_path / "killed", Report(lines.append, resumed=before.append), steps) == whole
    state = asked.path(tmp_path / "killed").with_suffix(".state")
    assert lines == [f"training goes on after epoch 3, from {state.name}"]
    assert before == [3 * 64]
    assert sum(steps) == 64
    assert not state.exists()


def test_the_weights_differ_without_what_the_optimizer_remembers(tmp_path, every_epoch, monkeypatch):
    """So that the test above can fail."""
    asked = training(epochs=3, images=64, batch_size=32)
    whole = trained(asked, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(asked, tmp_path / "killed", killing(2))
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", lambda self, state: None)
    assert trained(asked, tmp_path / "killed") != whole


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "is damaged"),
        (lambda content: content[:40] + b"?" + content[41:], "is damaged"),
        (lambda content: b"", "is damaged"),
    ],
)
def test_a_damaged_state_is_ignored_with_a_line(tmp_path, every_epoch, damage, message):
    asked, lines = training(epochs=3, images=64, batch_size=32), []
    whole = trained(asked, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(asked, tmp_path / "killed", killing(2))
    state = asked.path(tmp_path / "killed").with_suffix(".state")
    state.write_bytes(damage(state.read_bytes()))
    assert trained(asked, tmp_path / "killed", Report(lines.append)) == whole
    assert len(lines) == 1
    assert lines[0].startswith(f"{state.name} is ignored, for it {message}")


@pytest.mark.parametrize("other", ["version", "training", "torch"])
def test_a_state_of_another_version_or_training_is_ignored_with_a_line(tmp_path, every_epoch, monkeypatch, other):
    asked, lines = training(epochs=3, images=64, batch_size=32), []
    whole = trained(asked, tmp_path / "whole")
    written = training(epochs=3, images=64, batch_size=32, method="none") if other == "training" else asked
    with monkeypatch.context() as patch:
        if other == "version":
            patch.setattr(state_module, "_VERSION", 0)
        if other == "torch":
            patch.setattr(torch, "__version__", "1.0")
        with pytest.raises(Killed):
            trained(written, tmp_path / "killed", killing(2))
    state = asked.path(tmp_path / "killed").with_suffix(".state")
    written.path(tmp_path / "killed").with_suffix(".state").rename(state)
    assert trained(asked, tmp_path / "killed", Report(lines.append)) == whole
    assert lines == [f"{state.name} is ignored, for it is of another version or training: training starts anew"]


def test_states_are_a_while_apart(tmp_path):
    asked = training(epochs=3, images=64, batch_size=32)
    with pytest.raises(Killed):
        trained(asked, tmp_path, killing(2))
    assert not asked.path(tmp_path).with_suffix(".state").exists()


class Stored:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def fetch(self) -> bytes:
        return self.content


def test_a_worker_goes_on_from_the_state_of_a_killed_training(tmp_path, every_epoch):
    data, asked = load_data("digits", None), training(epochs=3, images=64, batch_size=32)
    whole = trained(asked, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(asked, tmp_path / "killed", killing(2))
    package = Stored(tasks.pack(tasks._for_training(data, [asked])))
    path = asked.path(tmp_path / "killed")
    weights, _, lines = tasks.train(asked, MODELS["autoencoder"], package, path)
    assert weights == whole
    assert lines == [f"training goes on after epoch 2, from {path.with_suffix('.state').name}"]
    assert tasks.train(asked, MODELS["autoencoder"], package, None)[0] == whole


def test_a_training_that_diverges_is_said_with_its_scale(tmp_path, monkeypatch):
    monkeypatch.setattr("csrun.training.checkpoints.LEARNING_RATES", {"adam": 1e30, "sgd": 0.01})
    with pytest.raises(RunError, match=r"^training autoencoder at scale 0.4 diverged \(loss nan\)$"):
        trained(training(images=64, batch_size=32), tmp_path)


@pytest.mark.parametrize(
    ("train", "epochs"), [("stability", 1), ("consistency", 1), ("smoothadv", 1), ("smoothmix", 1), ("macer", 31)]
)
def test_each_method_of_classes_is_chosen_by_its_file(tmp_path, train, epochs):
    folder = ("experiment=label_digits", "budget=smoke", "grid.scale=[0.5]", "points.count=2", "m=200")
    answer = ask(*folder, f"train={train}", "train.images=40", f"train.epochs={epochs}", "workers=1", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    rows = (tmp_path / "runs" / "label_digits" / "certificates.csv").read_text()
    assert f",{train}@0.5," in rows
    manifest = json.loads((tmp_path / "runs" / "label_digits" / "manifest.json").read_text())
    assert manifest["cells"][0]["training"]["optimizer"] == "sgd"
    assert manifest["cells"][0]["training"]["learning_rate"] == 0.01


def test_progress_says_epoch_and_loss(monkeypatch):
    monkeypatch.setattr("csrun.system.progress._SECONDS_BETWEEN_LINES", -1)
    said = io.StringIO()
    display = Display(Console(file=said, width=200))
    with display.running(100):
        display.stage("train lenet on digits, smoothmix@0.5", 90)
        display.detail("epoch 3 of 9, loss 0.25")
        display.advance(30)
        display.stage("certify lenet on digits, scale 0.5", 10)
        display.advance(60)
    lines = said.getvalue().splitlines()
    assert lines[1].startswith("train lenet on digits, smoothmix@0.5, epoch 3 of 9, loss 0.25: 30% of the run")
    assert lines[3].startswith("certify lenet on digits, scale 0.5: 90% of the run")


def test_what_earlier_runs_trained_says_nothing_about_the_time_left(monkeypatch):
    now, said = 0.0, io.StringIO()
    monkeypatch.setattr("csrun.system.progress.time.monotonic", lambda: now)
    display = Display(Console(file=said, width=200))
    with display.running(100):
        display.stage("train lenet", 90)
        display.skip_of_stage(80)
        now = 20.0
        display.advance(5)
    assert said.getvalue().splitlines()[1] == "train lenet: 25% of the run, 20 s so far, about 1 min 0 s left"


def test_a_run_reports_the_mean_loss_of_each_epoch():
    data, asked, said = load_data("digits", None), training(epochs=3, images=64, batch_size=32), []
    report = Report(epoch=lambda done, epochs, loss: said.append((done, epochs, loss)))
    record = train_checkpoint(asked, MODELS["autoencoder"], data, lambda images: None, None, report)[1]
    assert [one[:2] for one in said] == [(1, 3), (2, 3), (3, 3)]
    assert said[0][2] > said[2][2] == json.loads(record)["final_loss"]
