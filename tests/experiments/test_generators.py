"""Generators load exactly their weights or say why not; latents belong to their index."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import kstest, truncnorm
from support import small_biggan

from centersmooth import GaussianNoise
from centersmooth.sampling import Sampler
from csrun.data.sources import latents
from csrun.errors import RunError
from csrun.models import generators
from csrun.models.generators import (
    BigGANImages,
    FaceGenerator,
    imagenet_class,
    load_biggan,
    load_face_generator,
)
from csrun.models.weights import weights_digest


def assert_one_line(error) -> None:
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


# Latents


@pytest.mark.parametrize("truncation", [None, 0.5])
def test_a_latent_depends_on_its_index_only(truncation):
    many = latents(50, 16, seed=3, truncation=truncation)
    assert many.shape == (50, 16)
    assert many.dtype == torch.float32
    assert torch.equal(latents([40, 7], 16, 3, truncation), many[[40, 7]])
    assert torch.equal(latents(range(10, 12), 16, 3, truncation), many[10:12])
    assert not torch.equal(latents(50, 16, 4, truncation), many)
    assert latents(0, 16, 3, truncation).shape == (0, 16)


def test_latents_follow_their_laws():
    normal = latents(300, 100, seed=0).flatten().numpy()
    cut = latents(300, 100, seed=0, truncation=0.5).flatten().numpy()
    assert kstest(normal, "norm").pvalue > 1e-4
    assert kstest(cut / 0.5, truncnorm(-2, 2).cdf).pvalue > 1e-4
    assert kstest(cut / 0.5, "norm").pvalue < 1e-9  # uncut would be caught
    assert np.abs(cut).max() <= 1.0


# Faces


@pytest.fixture(scope="module")
def face_weights(tmp_path_factory):
    """A generator with random weights and batch statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FaceGenerator()
        model.train()(torch.randn(8, 100))
    path = tmp_path_factory.mktemp("dcgan") / "generator.pth"
    torch.save(dict(model.network.state_dict()), path)
    return path


def test_faces(face_weights):
    model = load_face_generator(face_weights)
    points = latents(3, model.latent_dim, seed=0)
    outputs = model(model.inputs(points))
    assert outputs.shape == (3, 3, 64, 64)
    assert model.output_range[0] <= float(outputs.min()) < float(outputs.max()) <= model.output_range[1]
    assert not model.training
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())
    plain = FaceGenerator()
    plain.network.load_state_dict(torch.load(face_weights, weights_only=True))
    assert torch.equal(plain.eval()(points), outputs)
    assert weights_digest(model) == weights_digest(plain)
    Sampler(model, GaussianNoise(0.1), 4, 4, model.output_range).check_model(points[0])


def test_loading_touches_no_random_state(face_weights):
    before = torch.get_rng_state()
    load_face_generator(face_weights)
    assert torch.equal(torch.get_rng_state(), before)


def test_real_faces(data_folder):
    path = data_folder / "dcgan_faces64_generator.pth"
    if not path.is_file():
        pytest.skip(f"no face generator: {path}")
    outputs = load_face_generator(path)(latents(8, 100, seed=0))
    # Faces vary smoothly: neighbouring pixels are far more alike than any two.
    steps, spread = outputs.diff(dim=3).abs().mean(), outputs.flatten(2).std(dim=2).mean()
    assert float(steps) < 0.3 * float(spread)
    assert float(outputs.std(dim=0).mean()) > 0.1


WRONG = {
    b"": "no complete file of PyTorch weights",
    b"<!DOCTYPE html><html>not found</html>": "web page",
    b"version https://git-lfs.github.com/spec/v1": "Git LFS pointer",
}


@pytest.mark.parametrize("content", WRONG)
def test_a_file_of_something_else(tmp_path, content):
    path = tmp_path / "generator.pth"
    path.write_bytes(content)
    with pytest.raises(RunError, match=rf"generator\.pth .*{WRONG[content]}.*weights\.dcgan=PATH") as error:
        load_face_generator(path)
    assert_one_line(error)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file(face_weights, tmp_path, share):
    content = face_weights.read_bytes()
    (tmp_path / "generator.pth").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(RunError, match=r"no complete file of PyTorch weights.*weights\.dcgan=PATH") as error:
        load_face_generator(tmp_path / "generator.pth")
    assert_one_line(error)


class Unexpected:
    """Something that is no tensor."""


@pytest.mark.parametrize("content", [{"a": torch.zeros(1)}, [1, 2], {"state": {}}, Unexpected()])
def test_other_content(tmp_path, content):
    torch.save(content, tmp_path / "generator.pth")
    with pytest.raises(RunError, match=r"weights\.dcgan=PATH") as error:
        load_face_generator(tmp_path / "generator.pth")
    assert_one_line(error)


@pytest.mark.parametrize("path", [None, "/nowhere/generator.pth", "/"])
def test_no_file(path):
    with pytest.raises(RunError, match=r"weights\.dcgan=PATH") as error:
        load_face_generator(path)
    assert_one_line(error)


# BigGAN


@pytest.fixture(scope="module")
def package():
    reason = "needs pytorch-pretrained-biggan: pip install 'centersmooth[gan]'"
    return pytest.importorskip("pytorch_pretrained_biggan", reason=reason)


@pytest.fixture
def folder(package, tmp_path):
    return small_biggan(tmp_path, z_dim=8)


def test_equals_the_package(package, folder):
    model = load_biggan(folder)
    points = latents(3, model.latent_dim, seed=0, truncation=0.5)
    label = torch.zeros(3, 1000)
    label[:, 323] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = package.BigGAN.from_pretrained(str(folder)).eval()
    outputs = model(model.inputs(points))
    assert torch.equal(outputs, original(points, label, 0.5))
    assert outputs.shape == (3, 3, 32, 32)
    assert float(outputs.std()) > 0.01
    assert model.output_range[0] <= float(outputs.min()) < float(outputs.max()) <= model.output_range[1]


def test_a_stand_in_says_so(package, folder, monkeypatch):
    assert "stand-in weights: a BigGAN of 32x32 pixels" in load_biggan(folder).note
    files = (folder / "config.json", folder / "pytorch_model.bin")
    monkeypatch.setattr(generators, "_biggan_files", lambda package, source: files)
    assert load_biggan("biggan-deep-128").note == ""
    assert load_biggan("biggan-deep-256").note == "biggan-deep-256 in place of the paper's biggan-deep-128"


def test_the_papers_network_from_a_folder_is_not_vouched_for(package):
    with torch.device("meta"):
        gan = package.BigGAN(package.BigGANConfig())
    assert "not whether they are the released ones" in generators._biggan_note(package.model, "some/folder", gan)


def test_a_fixed_function_of_one_latent(folder):
    model = load_biggan(str(folder))
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())
    point = latents(1, model.latent_dim, 0, 0.5)[0]
    Sampler(model, GaussianNoise(0.1), 4, 4, model.output_range).check_model(point)


def test_loading_biggan_touches_no_random_state(folder):
    before = torch.get_rng_state()
    load_biggan(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_class_and_truncation_matter(folder):
    point = latents(1, 8, 0, 0.5)
    monarch, by_name, dog = load_biggan(folder), load_biggan(folder, "monarch"), load_biggan(folder, 207)
    assert torch.equal(monarch(point), by_name(point))
    assert not torch.equal(monarch(point), dog(point))
    assert weights_digest(monarch) == weights_digest(by_name) != weights_digest(dog)
    assert not torch.equal(BigGANImages(monarch.gan, 323, truncation=0.4)(point), monarch(point))
    for truncation in (0.0, 1.1, float("nan")):
        with pytest.raises(RunError, match="expected a number above 0, at most 1"):
            BigGANImages(monarch.gan, 323, truncation)


def test_class_names():
    assert imagenet_class("monarch") == imagenet_class("Monarch") == imagenet_class("323") == 323
    assert (imagenet_class("Cardigan"), imagenet_class("cardigan")) == (264, 474)  # a dog, and a garment
    with pytest.raises(RunError, match=r"'Butterfly' is no ImageNet class: .*'cabbage butterfly' \(324\)") as error:
        imagenet_class("Butterfly")
    assert_one_line(error)
    for category in (1000, -1, "1000", "-1", "xyz"):
        with pytest.raises(RunError, match=r"expected an index|expected one from 0 to 999") as error:
            imagenet_class(category)
        assert_one_line(error)


def test_a_checkpoint_that_does_not_fit_is_refused(folder):
    """The package's own loader takes it: its result is partly random."""
    path = folder / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    for changed in (dict(list(state.items())[:-3]), {**state, "extra": torch.zeros(1)}, {"a": torch.zeros(1)}):
        torch.save(changed, path)
        with pytest.raises(RunError, match=r"weights of another network .*weights\.biggan=FOLDER") as error:
            load_biggan(folder)
        assert_one_line(error)
    path.write_bytes(b"<html>")
    with pytest.raises(RunError, match=r"web page.*weights\.biggan=FOLDER"):
        load_biggan(folder)


def test_an_older_checkpoint_of_spectral_norm_is_read(folder):
    """Files of PyTorch before 1.0 hold the normalised weight instead of ``weight_v``."""
    path = folder / "pytorch_model.bin"
    expected = load_biggan(folder)(latents(1, 8, 0, 0.5))
    state = dict(torch.load(path, weights_only=True))
    for name in [name for name in state if name.endswith("weight_v")]:
        base = name.removesuffix("_v")
        original, right, left = state[f"{base}_orig"], state.pop(name), state[f"{base}_u"]
        state[base] = original / (left @ original.flatten(1) @ right)
    torch.save(state, path)
    torch.testing.assert_close(load_biggan(folder)(latents(1, 8, 0, 0.5)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("content", ["<html>", '{"layers": 3}', '{"channel_width": "x"}', "[]"])
def test_a_wrong_configuration(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json is no BigGAN configuration .*weights\.biggan=FOLDER") as error:
        load_biggan(folder)
    assert_one_line(error)


def test_a_folder_without_the_files(package, tmp_path):
    with pytest.raises(RunError, match=r"without config\.json and pytorch_model\.bin.*biggan-deep-128") as error:
        load_biggan(tmp_path)
    assert_one_line(error)
    with pytest.raises(RunError, match=r"weights\.biggan is 'biggan-deep-64'"):
        load_biggan("biggan-deep-64")


def test_a_failed_download(package, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(package.model, "cached_path", fail)
    with pytest.raises(RunError, match=r"could not be downloaded \(no network\): set weights\.biggan=FOLDER") as error:
        load_biggan("biggan-deep-128")
    assert_one_line(error)


def test_a_missing_package_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pytorch_pretrained_biggan")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch_pretrained_biggan", None)
    with pytest.raises(RunError, match=r"pip install 'centersmooth\[gan\]'") as error:
        load_biggan("biggan-deep-128")
    assert_one_line(error)
