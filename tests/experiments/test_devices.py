"""Base models and LPIPS on a pretended CUDA device: their outputs are those of the CPU."""

from __future__ import annotations

import pytest
import torch
from pretended import pretended_device

from centersmooth import GaussianNoise
from centersmooth.draws import Draws
from csrun.data import load_data
from csrun.metrics.perceptual import LPIPS
from csrun.models import MODELS
from csrun.registry import MODELS as PACKAGES
from csrun.training.checkpoints import kind_of
from csrun.training.methods.denoise_mse import patches

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there: nothing to pretend")

DIGITS = ("autoencoder", "reconstructor", "lenet", "lenet_probabilities", "protonet", "lenet_dncnn", "lenet_ddpm")
PRETRAINED = {
    "mtcnn": "astronaut",
    "mtcnn_landmarks": "astronaut",
    "mtcnn_dncnn_small": "astronaut",
    "text_recogniser": "page",
    "text_detector": "page_blocks",
}
"""With data for each."""


@pytest.fixture(autouse=True)
def parameters_that_can_move():
    """Modules replace their parameters, which cannot become of another kind of tensor in place."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize("name", [*DIGITS, *PRETRAINED])
def test_outputs_of_a_model_are_those_of_the_cpu(name):
    for package in PACKAGES[name].packages:
        pytest.importorskip(package.replace("-", "_"), reason="pip install 'centersmooth[faces,ocr]'")
    data = load_data(PRETRAINED.get(name, "digits"), None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name].build(data, {}, None).eval().requires_grad_(False)
    x = model.inputs(data.images(data.test, [0])).repeat_interleave(2, dim=0)
    wanted = model(x)
    with pretended_device():
        found = model.to("cuda")(x.to("cuda"))
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["denoise_mse", "denoise_stability", "diffusion"])
def test_the_loss_of_a_denoiser_is_that_of_the_cpu(method):
    data = load_data("digits", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = MODELS["lenet_ddpm" if method == "diffusion" else "lenet_dncnn"]
        model = spec.build(data, {}, None).train().requires_grad_(False)
    x, noise, own = data.images(data.test, range(4)), GaussianNoise(0.5), kind_of(method)()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wanted = own.loss(model, x, x, noise, Draws(0, x), 0)
    model.load_state_dict(state)
    with pretended_device():
        there = x.to("cuda")
        found = own.loss(model.to("cuda"), there, there, noise, Draws(0, there), 0)
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-5)


def test_patches_are_those_of_the_cpu():
    images = torch.rand(4, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    with pretended_device():
        there = images.to("cuda")
        found = patches(there, 8, Draws(0, there))
        assert torch.equal(found.cpu(), patches(images, 8, Draws(0, images)))


def test_lpips_is_that_of_the_cpu(data_folder):
    pytest.importorskip("lpips", reason="pip install 'centersmooth[lpips]'")
    file = data_folder / "alexnet_features.pth"
    if not file.is_file():
        pytest.skip(f"no {file}: AlexNet's convolutions, as docs/data.md says")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def distances(device: str) -> torch.Tensor:
        metric = LPIPS(file, "alex", device)
        features = metric.features(images.to(device))
        rows = torch.cat(list(metric.self_rows(features)))
        assert rows.device.type == device
        return torch.cat([rows, metric.pairwise(features[:1], features)]).cpu()

    wanted = distances("cpu")
    with pretended_device():
        torch.testing.assert_close(distances("cuda"), wanted, rtol=1e-6, atol=1e-8)
