"""Every registered name can be imported and built, and is told to users; misspelt ones are refused by name."""

from __future__ import annotations

import re

import numpy as np
import plugins
import pytest
import torch
from support import ask, compose, small_biggan

from centersmooth import Metric, Noise, TotalVariation
from centersmooth.certifiers import Certifier
from csrun import registry
from csrun.config import KEYS
from csrun.data import load_data
from csrun.errors import RunError
from csrun.metrics import build_metrics
from csrun.models import build_model, model_spec
from csrun.models.base import BaseModel
from csrun.models.generators import FaceGenerator
from csrun.training.checkpoints import kind_of
from csrun.training.methods import Method
from csrun.training.names import complete

CHOICES = {
    "device": registry.DEVICES,
    "attack": registry.ATTACKS,
    "executor": registry.EXECUTORS,
    "precision": registry.PRECISIONS,
}
DEFAULTS = {"none"}
"""What a setting is without a word from the user."""


@pytest.mark.parametrize("kind", ["MODELS", "METRICS", "DATA", "CERTIFIERS", "NOISES", "METHODS"])
def test_every_entry_can_be_imported_and_is_told_in_one_line(kind):
    for entry in getattr(registry, kind).values():
        assert callable(entry.load())
        assert 0 < len(entry.help) < 70
        assert "\n" not in entry.help


def test_every_plug_in_has_a_row_of_contract_tests():
    """LPIPS needs weights; its contract is in test_perceptual."""
    in_python = {"ellipsoid", "composed"}  # made of a tensor, or of two laws, which no request can hold
    assert set(plugins.NOISES) == {*registry.NOISES, *in_python}
    assert set(plugins.CERTIFIERS) == set(registry.CERTIFIERS)
    assert {*plugins.METRICS, "lpips"} == set(registry.METRICS)


@pytest.mark.parametrize("name", ["autoencoder", "reconstructor"])
def test_every_model_trained_here_is_built_for_a_data_set(name):
    data = load_data("digits", None)
    model = build_model(model_spec(name), data, {}, None, "cpu").eval()
    images = data.images(data.test, range(2))
    assert isinstance(model, BaseModel)
    assert model(model.inputs(images)).shape == images.shape


def test_every_pretrained_model_is_built_from_its_weights(tmp_path):
    for package in ("facenet_pytorch", "numba", "pytorch_pretrained_biggan", "rapidocr", "onnxruntime"):
        pytest.importorskip(package)
    torch.save(FaceGenerator().network.state_dict(), tmp_path / "dcgan.pth")
    weights = {"dcgan": str(tmp_path / "dcgan.pth"), "biggan": str(small_biggan(tmp_path, 128))}
    data = {"dcgan": "latents100", "biggan": "latents128", "text_recogniser": "page", "text_detector": "page_blocks"}
    data |= dict.fromkeys(("mtcnn", "mtcnn_boxes", "mtcnn_landmarks"), "digits")
    assert set(data) == {name for name, entry in registry.MODELS.items() if not entry.trained}
    for name, examples in data.items():
        model = build_model(model_spec(name), load_data(examples, None), weights, None, "cpu")
        assert isinstance(model, BaseModel)


@pytest.mark.parametrize("name", [name for name in registry.METRICS if name != "lpips"])
def test_every_metric_is_built(name):
    assert isinstance(build_metrics([name], {}, "cpu")[name], Metric)


def test_lpips_is_built_from_its_weights(data_folder):
    pytest.importorskip("lpips")
    path = data_folder / "vgg16_features.pth"
    if not path.is_file():
        pytest.skip(f"no VGG-16 weights: {path}")
    assert isinstance(build_metrics(["lpips"], {"vgg": str(path)}, "cpu")["lpips"], Metric)


@pytest.mark.parametrize("name", ["digits", "astronaut", "page", "page_blocks", "latents100", "latents128"])
def test_data_sets_that_need_no_files_are_built_under_their_names(name):
    if registry.DATA[name].packages:
        pytest.importorskip("skimage")
    assert load_data(name, None).name == name


@pytest.mark.parametrize("name", ["mnist", "cifar10", "celeba"])
def test_data_sets_are_built_from_their_files(name, data_folder):
    assert load_data(name, str(data_folder)).name == name


def test_files_are_built_from_an_array(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    assert load_data("files", str(tmp_path / "x.npy")).name == "files"


@pytest.mark.parametrize("name", registry.CERTIFIERS)
def test_every_certifier_is_built_under_its_own_name_with_the_rules_it_is_said_to_have(name):
    entry = registry.CERTIFIERS[name]
    certifier = entry.build(TotalVariation()) if entry.measured else entry.build()
    assert isinstance(certifier, Certifier)
    assert certifier.name == name
    assert certifier.rules == entry.rules
    assert tuple(certifier.siblings) == entry.apart
    assert {one.name for one in certifier.siblings.values()} <= {name}


@pytest.mark.parametrize("name", registry.NOISES)
def test_every_noise_is_built_from_its_scale_and_answers_the_threat_it_is_said_to(name):
    noise = registry.NOISES[name].build(2.0)
    assert isinstance(noise, Noise)
    assert noise.scale == 2
    assert noise.threat.unit == registry.NOISES[name].threat


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_training_method_is_built(name):
    built = kind_of(name)(**dict(complete(name, {}, scale=0.5)))
    assert isinstance(built, Method)
    assert built.chunks >= 1
    assert built.passes >= 3


def test_models_offer_registered_metrics_only():
    assert all(set(model.metrics) <= set(registry.METRICS) for model in registry.MODELS.values())


@pytest.mark.parametrize("setting", CHOICES)
def test_help_names_every_choice(setting):
    told = next(text for keys, text in KEYS.items() if setting in re.split(r",? ", keys))
    missing = [name for name in CHOICES[setting] if name not in told and name not in DEFAULTS]
    assert missing == []


def test_help_names_every_certifier_with_its_rules(tmp_path):
    told = ask("--help", "certifiers", cwd=tmp_path).stdout.splitlines()
    for name, entry in registry.CERTIFIERS.items():
        rules = told[told.index(f"  {name:<14} {entry.help}") + 1]
        assert re.findall(r"(\w+)\*? \((?:run|map)\)", rules) == list(entry.every_rule)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "models=[autoencodr]",
            r"models has 'autoencodr': expected one of autoen.*; did you mean autoencoder\?",
        ),
        ("metrics=[lpips]", "metrics has 'lpips': expected one of tv, .*, angular for the model autoencoder"),
        ("data.name=mnsit", r"data.name is 'mnsit': expected one of digits, mnist, .*; did you mean mnist\?"),
        ("attack=nothing", "attack is 'nothing': expected none, pgd or search"),
        (
            "rule=exat",
            r"rule is 'exat': expected one of paper, .*, enumerated for the certifier center, or null; .* exact\?",
        ),
        (
            "rule=local",
            "rule is 'local': expected one of paper, .*, enumerated for the certifier center, or null$",
        ),
        ("certifiers=[center,men]", r"certifiers has 'men': expected one of center, .*; did you mean mean\?"),
        ("certifiers=[]", "certifiers is empty: expected at least one name, or certifier="),
        ("data.name=${name}", "data.name is 'tv_digits': expected one of digits"),
    ],
)
def test_a_misspelt_name_is_answered_with_those_there_are(override, message):
    with pytest.raises(RunError, match=f"^{message}"):
        compose(override)


def test_a_name_is_refused_also_where_the_request_refers_to_its_budget():
    with pytest.raises(RunError, match="rule is 'exat': expected one of paper, exact, measured, enumerated"):
        compose("attacker.points=${points.count}", "rule=exat")
    assert compose("attacker.points=${points.count}", "budget=smoke").attacker.points == 3


def test_packages_of_a_run_are_those_of_its_names():
    assert registry.packages_of(["mtcnn", "lpips", "astronaut", "own:model", "tv"]) == [
        "facenet-pytorch",
        "lpips",
        "scikit-image",
    ]
