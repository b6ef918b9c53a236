"""Denoisers in front of a fixed model: steps of the diffusion, what moves in training and what does not, requests."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from killed import Killed, killing
from safetensors.torch import load
from support import ask, compose
from torch import nn

from centersmooth import GaussianNoise, RandomStream
from centersmooth.draws import Draws
from csrun.config import TrainConfig
from csrun.data import DataSet, load_data
from csrun.data.sources import ArraySource
from csrun.errors import RunError
from csrun.executors import tasks
from csrun.models import MODELS, builders
from csrun.models.base import BaseModel
from csrun.models.classifiers import ResNet20
from csrun.models.denoisers import Denoised, DnCNN
from csrun.models.diffusion import NoiseUNet, OneStepDiffusion, linear_schedule, step_of
from csrun.plan import make_plan
from csrun.report.published import request_at_any_version
from csrun.training import state as state_module
from csrun.training.checkpoints import Report, Training, fresh_model, obtain, train_checkpoint, training_of
from csrun.training.methods.denoise_mse import DenoiseMSE, patches
from csrun.training.methods.denoise_stability import DenoiseStability
from csrun.training.methods.diffusion import Diffusion

GAUSSIAN = {"name": "gaussian"}
METHODS = ["denoise_mse", "denoise_stability", "denoise_both", "diffusion"]


def training(method: str, scale: float = 0.25, **schedule) -> Training:
    model = "lenet_ddpm" if method == "diffusion" else "lenet_dncnn"
    asked = TrainConfig(**({"epochs": 1, "images": 64, "batch_size": 32} | schedule))
    return training_of(model, load_data("digits", None), asked, method, GAUSSIAN, scale, 0, "cpu")


def trained(asked: Training, out: Path, report: Report | None = None) -> tuple[BaseModel, bytes]:
    """The model of a training and its checkpoint, after those that it starts from."""
    for one in asked.chain:
        model, _ = obtain(one, MODELS[one.model], load_data("digits", None), out, lambda images: None, None, report)
    return model, asked.path(out).read_bytes()


# --- The diffusion ---------------------------------------------------------------------------------------------------


def cosine_schedule(steps: int) -> np.ndarray:
    """As in improved diffusion (Nichol and Dhariwal 2021): variances from ratios of ``cos^2``, at most 0.999."""
    kept = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - kept[1:] / kept[:-1], 0.999))


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [(linear_schedule(), [70, 145, 259, 396]), (cosine_schedule(4000), [573, 1158, 1984, 2809])],
)
def test_the_step_is_the_published_one_of_each_sigma(schedule, steps):
    """Carlini et al. 2022 at sigma of 0.12, 0.25, 0.5 and 1; without the factor of [-1, 1] none of them is right."""
    sigmas = (0.12, 0.25, 0.5, 1.0)
    assert [step_of(sigma, schedule) for sigma in sigmas] == steps
    assert all(step_of(sigma / 2, schedule) < step for sigma, step in zip(sigmas, steps, strict=True))
    for sigma, step in zip(sigmas, steps, strict=True):
        before, at = np.sqrt((1 - schedule) / schedule)[step - 1 : step + 1]
        assert before < 2 * sigma <= at


def test_noise_beyond_the_last_step_and_other_noise_are_refused_in_one_line():
    assert step_of(78.0, linear_schedule()) == 999
    with pytest.raises(RunError, match=r"^train.method has 'diffusion': the scale 80 of the noise is above 78.*"):
        training("diffusion", 80.0)
    data, asked = load_data("digits", None), TrainConfig(1, 20, 10)
    with pytest.raises(RunError, match=r"^train.method has 'diffusion': a diffusion model denoises Gaussian noise"):
        training_of("lenet_ddpm", data, asked, "diffusion", {"name": "laplace"}, 0.25, 0, "cpu")


class Oracle(nn.Module):
    """The best prediction of the noise at any step where all pixels of an image are 0 or 1, each as likely."""

    def forward(self, noisy: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        kept = torch.tensor(linear_schedule(), dtype=torch.float32)[step].view(-1, 1, 1, 1)
        image = torch.tanh(kept.sqrt() * noisy / (1 - kept))
        return (noisy - kept.sqrt() * image) / (1 - kept).sqrt()


def error_of_one_step(sigma: float, *, factor: float = 2.0, scaled: bool = True) -> float:
    """Mean squared error of the denoiser with the best network, or of one that is broken on purpose."""
    stream = Draws(3, torch.zeros(1))
    clean = (stream.uniform((64, 1, 8, 8)) < 0.5).float()
    noisy = clean + sigma * stream.normal((64, 1, 8, 8))
    denoiser = OneStepDiffusion(1, 8)
    denoiser.network = Oracle()
    denoiser.step = step_of(sigma * factor / 2, linear_schedule())
    if not scaled:  # the network gets 2 x - 1 itself
        kept = linear_schedule()[denoiser.step]
        noisy = ((2 * noisy - 1) / math.sqrt(kept) + 1) / 2
    return float((denoiser(noisy) - clean).square().mean())


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_one_step_has_the_least_error_there_is_and_broken_ones_have_more(sigma):
    """At the Bayes estimate of a pixel of 0 or 1, ``tanh(y/(2 sigma)^2)`` of ``y`` in [-1, 1]."""
    normal = Draws(4, torch.zeros(1, dtype=torch.float64)).normal((10**6,))
    best = float(((1 - torch.tanh((1 + 2 * sigma * normal) / (2 * sigma) ** 2)) / 2).square().mean())
    right = error_of_one_step(sigma)
    assert right == pytest.approx(best, abs=4 * 0.5 / math.sqrt(64 * 64))
    assert error_of_one_step(sigma, factor=1.0) > 1.15 * right
    assert error_of_one_step(sigma, scaled=False) > 1.005 * right


def test_the_cell_denoises_at_the_step_of_its_noise():
    data = load_data("digits", None)
    model = builders.lenet_ddpm(data, {}, None)
    assert model.denoiser.step == 0
    model.at_noise(GaussianNoise(0.5))
    assert model.denoiser.step == builders.lenet_ddpm(data, {}, GaussianNoise(0.5)).denoiser.step == 259
    with pytest.raises(RunError, match=r"^a diffusion model denoises Gaussian noise"):
        model.at_noise(None)


def test_the_diffusion_loss_is_that_of_its_formula():
    model, x = builders.lenet_ddpm(load_data("digits", None), {}, None), torch.rand(5, 1, 8, 8)
    draws = Draws(5, x)
    step = draws.integers((5,), 1000)
    error, kept = draws.normal((5, 1, 8, 8)), linear_schedule()[step.numpy()]
    inputs = [math.sqrt(k) * (2 * one - 1) + math.sqrt(1 - k) * e for k, one, e in zip(kept, x, error, strict=True)]
    with torch.no_grad():
        expected = (model.denoiser.network(torch.stack(inputs).float(), step) - error).square().mean()
        loss = Diffusion().loss(model, x, x, None, Draws(5, x), 0)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_the_network_is_told_the_step():
    torch.manual_seed(0)
    network, x = NoiseUNet(1, 8), torch.rand(2, 1, 8, 8)
    apart = (network(x, torch.tensor([10, 900])) - network(x, torch.tensor([10, 10]))).detach()
    assert float(apart[0].abs().max()) < 1e-6 < 1e-4 < float(apart[1].abs().max())


# --- DnCNN -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2])
def test_a_dncnn_returns_images_as_they_are_before_it_is_trained(factor):
    images = torch.rand(2, 3, 10, 12)
    assert torch.equal(DnCNN(3, layers=4, width=8, factor=factor)(images), images)


@pytest.mark.parametrize("factor", [1, 2])
def test_what_a_dncnn_predicts_is_subtracted(factor):
    denoiser, noise = DnCNN(1, layers=3, width=4, factor=factor), torch.rand(2, 1, 6, 6)
    denoiser.noise = nn.Identity()  # it takes the whole image for noise
    assert torch.equal(denoiser(noise), torch.zeros(2, 1, 6, 6))


def test_a_dncnn_has_the_layers_of_its_paper():
    """Without the weights of batch normalisation, of which the paper's table says nothing."""
    layers = [one for one in DnCNN(1, layers=17, width=64).noise if isinstance(one, nn.Conv2d)]
    assert len(layers) == 17
    assert sum(one.weight.numel() for one in layers) == 2 * 64 * 9 + 15 * 64 * 64 * 9
    norms = [one for one in DnCNN(1, layers=17, width=64).noise if isinstance(one, nn.BatchNorm2d)]
    assert [(one.eps, one.momentum) for one in norms] == [(1e-4, 0.95)] * 15
    flat = layers[3].weight.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(64), atol=1e-5)


def test_patches_are_parts_of_their_images_at_random_places():
    count, height, width = 300, 9, 12
    x = torch.arange(count * 2 * height * width, dtype=torch.float32).view(count, 2, height, width)
    found = patches(x, 8, Draws(0, x))
    assert found.shape == (count, 2, 8, 8)
    corners = set()
    for image, patch in zip(x, found, strict=True):
        ((row, column),) = (image[0] == patch[0, 0, 0]).nonzero().tolist()
        assert torch.equal(patch, image[:, row : row + 8, column : column + 8])
        corners.add((row, column))
    assert corners == {(row, column) for row in range(2) for column in range(5)}
    assert patches(x, 12, Draws(0, x)) is x
    assert patches(x, 10, Draws(0, x)).shape == (count, 2, 9, 10)


# --- Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_fixed_classifier_is_the_one_trained_without_noise_to_the_last_bit(tmp_path, method):
    asked = training(method, optimizer="adam_stages", epochs=3)
    after = load(trained(asked, tmp_path)[1])
    fixed = load(asked.chain[0].path(tmp_path).read_bytes())
    assert (asked.chain[0].model, asked.chain[0].label) == ("lenet", "none")
    for name, weights in fixed.items():
        assert torch.equal(after[f"model.{name}"], weights), name
    before = fresh_model(asked, MODELS[asked.model], load_data("digits", None)).state_dict()
    moved = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
    assert {name for name in after if name.startswith("denoiser.")} <= set(moved)


def test_the_classifier_of_every_denoiser_is_one():
    first = [training(method, scale).chain[0] for method in METHODS for scale in (0.25, 0.5)]
    assert len(set(first)) == 1
    assert len({training("diffusion", scale).digest for scale in (0.25, 0.5)}) == 1  # one model for all noise
    others = [training(method, scale).digest for method in METHODS[:3] for scale in (0.25, 0.5)]
    assert len(set(others)) == 6


def test_both_goes_on_from_the_denoiser_of_squared_error(tmp_path):
    """By no step: an epoch of learning rate 0 leaves the weights, though not what batches were normalised by."""
    asked = training("denoise_both")
    start = asked.start.path(tmp_path)
    trained(asked.start, tmp_path)
    data, spec = load_data("digits", None), MODELS["lenet_dncnn"]
    still = Training(**{**vars(asked), "learning_rate": 0.0})
    weights = load(train_checkpoint(still, spec, data, lambda images: None, None, None, start.read_bytes())[0])
    expected = load(start.read_bytes())
    assert [one.method for one in asked.chain] == ["none", "denoise_mse", "denoise_both"]
    assert all(
        torch.equal(weights[name], expected[name])
        for name in weights
        if "running" not in name and "num_batches" not in name
    )
    assert not torch.equal(expected["denoiser.noise.0.weight"], fresh_model(asked, spec, data).denoiser.noise[0].weight)


class Fixed(BaseModel):
    """A classifier with everything that a mode or a gradient could move."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(ResNet20(1, 10), nn.Dropout(0.5))

    def forward(self, images):
        return self.layers(images)


def test_a_classifier_with_batch_normalisation_and_dropout_stays_as_it_is():
    torch.manual_seed(0)
    model = Denoised(DnCNN(1, layers=3, width=4), Fixed())
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    model.train()
    assert model.denoiser.training
    assert not any(part.training for part in model.model.modules())
    x = torch.rand(8, 1, 8, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=1.0)
    DenoiseStability().loss(model, x, x, GaussianNoise(0.5), Draws(0, x), 0).backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.model.parameters())
    assert model.denoiser.noise[-1].weight.abs().max() > 0.05


def test_the_losses_of_a_denoiser_are_their_formulas():
    torch.manual_seed(0)
    model, x = Denoised(DnCNN(1, layers=3, width=4), Fixed()).train(), torch.rand(8, 1, 8, 8)
    nn.init.normal_(model.denoiser.noise[-1].weight, std=0.1)
    noisy = x + 0.5 * Draws(1, x).normal((8, 1, 8, 8))
    error = (model.denoiser(noisy) - x).square().mean()
    classes = model.model(x).argmax(dim=1)
    entropy = -model.model(model.denoiser(noisy)).log_softmax(dim=1)[range(8), classes].mean()
    y, noise = torch.zeros(8, 1, 8, 8), GaussianNoise(0.5)  # targets are not looked at
    assert torch.equal(DenoiseMSE().loss(model, x, y, noise, Draws(1, x), 0), error)
    assert torch.allclose(DenoiseStability().loss(model, x, y, noise, Draws(1, x), 0), entropy, rtol=1e-5)


def test_training_by_squared_error_takes_noise_away(tmp_path):
    model, _ = trained(training("denoise_mse", epochs=4, images=1000), tmp_path)
    data = load_data("digits", None)
    clean = data.images(data.test, range(100))
    noisy = clean + 0.25 * RandomStream(1).draws("noise", 0, clean).normal(tuple(clean.shape))
    assert float((model.denoiser(noisy) - clean).square().mean()) < 0.6 * 0.25**2


@pytest.mark.parametrize("method", ["denoise_both", "diffusion"])
def test_a_killed_training_of_a_denoiser_goes_on_to_the_same_bytes(tmp_path, monkeypatch, method):
    monkeypatch.setattr(state_module, "SECONDS_BETWEEN", 0.0)
    asked = training(method, epochs=3, optimizer="adam_stages")
    _, whole = trained(asked, tmp_path / "whole")
    for one in asked.chain[:-1]:
        trained(one, tmp_path / "killed")

    data, lines = load_data("digits", None), []
    arguments = asked, MODELS[asked.model], data, tmp_path / "killed", lambda images: None, None
    with pytest.raises(Killed):
        obtain(*arguments, killing(after=2))
    obtain(*arguments, Report(lines.append))
    assert lines == [f"training goes on after epoch 2, from {asked.path(tmp_path).with_suffix('.state').name}"]
    assert asked.path(tmp_path / "killed").read_bytes() == whole


def test_a_worker_without_files_trains_from_the_start_it_is_sent(tmp_path):
    asked, data = training("denoise_both"), load_data("digits", None)
    _, whole = trained(asked, tmp_path)

    class Stored:
        def fetch(self) -> bytes:
            return tasks.pack(tasks._for_training(data, [asked]))

    start = asked.start.path(tmp_path).read_bytes()
    assert tasks.train(asked, MODELS[asked.model], Stored(), None, start)[0] == whole


def test_published_requests_of_other_versions_are_told_without_the_version_of_the_start_too():
    one = dict.fromkeys(("model", "dataset", "data", "noise", "scale", "counts", "seed", "forward_block"), "")
    one |= {"precision": "", "device": "", "method": 6, "training": training("denoise_both").request}
    older = json.loads(json.dumps(one))
    older["training"]["version"] = older["training"]["start"]["start"]["version"] = 1
    assert request_at_any_version(one) == request_at_any_version(older)
    older["training"]["start"]["method"] = "denoise_stability"
    assert request_at_any_version(one) != request_at_any_version(older)


def test_adam_in_stages_has_the_schedule_of_denoised_smoothing():
    from csrun.training.checkpoints import _learning_rate, _optimizer

    asked = training("denoise_mse", epochs=90, optimizer="adam_stages")
    rates = [_learning_rate(asked, epoch) for epoch in (0, 29, 30, 59, 60, 89)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    optimizer = _optimizer(nn.Linear(1, 1), asked)
    assert (type(optimizer), optimizer.defaults["weight_decay"]) == (torch.optim.Adam, 1e-4)


# --- Requests --------------------------------------------------------------------------------------------------------

SMALL = ["experiment=denoised_mnist", "data=digits", "budget=smoke", "n=20", "m=100", "forward_block=20"]


def test_each_model_takes_the_methods_that_fit():
    plan = make_plan(compose(*SMALL, "grid.scale=[0.25]"))
    assert [(cell.model, cell.training.label) for cell in plan.cells] == [
        ("lenet", "none"),
        ("lenet_dncnn", "denoise_mse@0.25"),
        ("lenet_dncnn", "denoise_stability@0.25"),
        ("lenet_dncnn", "denoise_both@0.25"),
        ("lenet_ddpm", "diffusion"),
    ]
    only_both = make_plan(compose(*SMALL, "grid.scale=[0.25]", "models=[lenet_dncnn]", "train.method=[denoise_both]"))
    assert [one.label for one in only_both.to_train()] == ["none", "denoise_mse@0.25", "denoise_both@0.25"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["models=[lenet_dncnn]", "train.method=[none]"],
            "train.method has 'none', which learns examples or labels: expected denoise_mse, denoise_stability or "
            "denoise_both for the model lenet_dncnn, which learns denoising",
        ),
        (
            ["models=[mtcnn_dncnn_small]", "metrics=[jaccard]", "train.method=[denoise_stability]", "data=astronaut"],
            "train.method has 'denoise_stability', which learns denoising: expected denoise_mse for the model "
            "mtcnn_dncnn_small, which learns image denoising",
        ),
        (
            ["models=[lenet_ddpm]", "train.method=[diffusion,denoise_mse]"],
            "train.method has 'denoise_mse', which learns denoising: expected diffusion for the model lenet_ddpm, "
            "which learns diffusion",
        ),
        (
            ["models=[lenet_dncnn]", "train.method=[denoise_mse]", "noise=translation"],
            "train.method has 'denoise_mse': a denoiser needs noise that is added to each pixel by itself, and the "
            "noise is .*; choose another method or noise",
        ),
    ],
)
def test_what_a_denoiser_cannot_be_trained_by_is_refused_in_one_line(arguments, message):
    with pytest.raises(RunError, match=f"^{message}$"):
        make_plan(compose(*SMALL, *arguments))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_compares_the_classifier_with_and_without_denoisers(tmp_path, one_worker, workers):
    answer = ask(*SMALL, "grid.scale=[0.25]", f"workers={workers}", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    rows = (tmp_path / "runs" / "denoised_mnist" / "certificates.csv").read_text()
    for train in ("none", "denoise_mse@0.25", "denoise_stability@0.25", "denoise_both@0.25", "diffusion"):
        assert f",{train}," in rows
    checkpoints = sorted(path.name for path in (tmp_path / "runs" / "checkpoints").glob("*.safetensors"))
    assert len(checkpoints) == 5
    assert "by denoise_both" in answer.stdout


@pytest.mark.slow
def test_denoised_mnist_at_smoke_on_the_real_files(tmp_path, data_folder):
    settings = ("experiment=denoised_mnist", "budget=smoke", f"data.path={data_folder}", "workers=1")
    few = (
        "n=20",
        "m=80",
        "forward_block=20",
        "train.images=20",
        "train.batch_size=10",
    )  # at both scales: one diffusion
    answer = ask(*settings, *few, "grid.eps=[0.25]", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert len(list((tmp_path / "runs" / "checkpoints").glob("lenet_ddpm-*.safetensors"))) == 1


@pytest.mark.slow
def test_denoised_celeba_at_smoke_on_real_faces(tmp_path, data_folder):
    pytest.importorskip("facenet_pytorch", reason="pip install 'centersmooth[faces]'")
    if not (data_folder / "celeba_train.zip").is_file():
        pytest.skip(f"no training images of CelebA: {data_folder / 'celeba_train.zip'}")
    settings = ("experiment=denoised_celeba", "budget=smoke", f"data.path={data_folder}", "workers=1")
    fewer = ("grid.eps=[0.1]", "certifiers=[percentile_box]", "n=20", "m=40", "alpha1=0.1", "alpha2=0.1")
    fewer += ("delta=0.3", "forward_block=10", "train.images=4", "train.batch_size=2")
    answer = ask(*settings, *fewer, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    rows = (tmp_path / "runs" / "denoised_celeba" / "certificates.csv").read_text()
    assert ",denoise_mse@0.25," in rows


def faces(folder: Path, names: list[str], side: int = 24) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / name)


def test_training_faces_are_celebas_own_training_split(tmp_path):
    faces(tmp_path / "celeba" / "img_align_celeba", ["000001.jpg", "162770.jpg", "162771.jpg", "182638.jpg"])
    data = load_data("celeba", str(tmp_path))
    assert (data.train.names, data.test.names) == (("000001.jpg", "162770.jpg"), ("182638.jpg",))


def test_training_faces_may_lie_beside_the_test_faces(tmp_path):
    faces(tmp_path / "celeba_test", ["182638.jpg"])
    assert load_data("celeba", str(tmp_path)).train is None
    faces(tmp_path / "celeba_train", ["000001.jpg"])
    data = load_data("celeba", str(tmp_path))
    assert (data.train.names, data.test.names) == (("000001.jpg",), ("182638.jpg",))


def test_the_detector_is_behind_its_denoiser():
    pytest.importorskip("facenet_pytorch", reason="pip install 'centersmooth[faces]'")
    pytest.importorskip("skimage", reason="pip install 'centersmooth[faces]'")
    data = load_data("astronaut", None)
    image = data.images(data.test, [0])
    for build in (builders.mtcnn_dncnn, builders.mtcnn_dncnn_small):
        model = build(data, {}, None).eval()
        with torch.no_grad():
            assert torch.equal(model(image), model.model(image))  # before training it returns what it is given
            model.denoiser = nn.Conv2d(3, 3, 1)
            nn.init.zeros_(model.denoiser.weight)
            assert not model(image).any()  # no face in an image of one colour
    odd = DataSet("odd", ArraySource("odd", torch.zeros(1, 3, 41, 50, dtype=torch.uint8)))
    with pytest.raises(RunError, match="has images of 41x50: expected even sides, or"):
        builders.mtcnn_dncnn_small(odd, {}, None)
