"""Adapters make the tensor that a certifier takes of what torchvision's models return, and hide nothing."""

from __future__ import annotations

import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from centersmooth import (
    OSPA,
    Budget,
    Center,
    GaussianNoise,
    Hamming,
    ModelError,
    RandomStream,
    RequestError,
    Segmentation,
    Smoother,
)
from centersmooth.adapters import Adapted, Argmax, Key, PaddedBoxes
from centersmooth.sampling import Sampler, evaluating

FEW = Budget(n=60, m=80, delta=0.25, alpha1=0.1, alpha2=0.1)


@pytest.mark.parametrize(
    ("key", "output"),
    [
        ("out", {"aux": 0, "out": 1}),
        ("out", OrderedDict(out=1)),
        ("out", SimpleNamespace(out=1)),
        ("1", (0, 1)),
        ("0", [1, 0]),
        ("1", {"1": 1, "0": 0}),
    ],
)
def test_one_of_several_outputs(key: str, output: Any) -> None:
    assert Key(key)(output) == 1


@pytest.mark.parametrize(
    ("key", "output", "came"),
    [
        ("out", {"logits": 1}, "dict with keys 'logits'"),
        ("2", (0, 1), "tuple of 2"),
        ("-1", (0, 1), "tuple of 2"),
        ("keys", {"logits": 1}, "dict with keys 'logits'"),
        ("mean", torch.zeros(2), "a tensor of torch.float32"),
    ],
)
def test_an_output_that_is_not_there_is_one_line(key: str, output: Any, came: str) -> None:
    """Methods of dicts and tensors are no outputs."""
    with pytest.raises(RequestError, match=f"the model returned {came}") as caught:
        Key(key)(output)
    assert str(caught.value).endswith(f"expected an output of the name '{key}'")


def test_the_class_of_highest_score() -> None:
    scores = torch.tensor([[[0.1, 0.5, -math.inf], [0.7, 0.5, -1.0]]])  # one image, two classes, three pixels
    assert Argmax()(scores).tolist() == [[1, 0, 1]]
    assert Argmax()(torch.eye(3)).tolist() == [0, 1, 2]


def test_a_score_that_is_nan_is_an_error_and_not_a_class() -> None:
    scores = torch.zeros(2, 3, 4)
    scores[1, 2, 3] = math.nan
    with pytest.raises(ModelError, match="a score is NaN"):
        Argmax()(scores)


@pytest.mark.parametrize("output", [torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64), {"out": torch.zeros(2, 3)}])
def test_what_is_no_scores_is_one_line(output: Any) -> None:
    with pytest.raises(RequestError, match=r"expected scores \(batch, classes, ...\) in floating point"):
        Argmax()(output)


def detection(scores: list[float]) -> dict[str, Tensor]:
    """A box for each score, which its corners tell."""
    numbers = torch.tensor(scores)
    corners = torch.stack([numbers, numbers, numbers + 1, numbers + 2], dim=1).reshape(-1, 4)
    return {"boxes": corners, "scores": numbers, "labels": torch.ones(len(scores), dtype=torch.int64)}


def test_boxes_of_some_score_best_first_and_zeros_after() -> None:
    padded = PaddedBoxes(score=0.5, count=3)([detection([0.4, 0.9, 0.5]), detection([]), detection([0.6] * 5)])
    assert padded.shape == (3, 3, 4)
    assert padded[0, :, 0].tolist() == pytest.approx([0.9, 0.5, 0.0])
    assert not padded[1].any()
    assert padded[2, :, 3].tolist() == pytest.approx([2.6] * 3)


def test_of_too_many_boxes_the_best_are_kept() -> None:
    assert PaddedBoxes(score=0.0, count=2)([detection([0.1, 0.3, 0.2])])[0, :, 0].tolist() == pytest.approx([0.3, 0.2])


def test_a_box_whose_score_is_nan_is_an_error() -> None:
    with pytest.raises(ModelError, match="the score of a box is NaN"):
        PaddedBoxes()([detection([0.9]), detection([math.nan])])


@pytest.mark.parametrize(
    "output",
    [
        {"boxes": torch.zeros(1, 4)},
        [],
        [torch.zeros(1, 4)],
        [{"boxes": torch.zeros(1, 4)}],
        [{"boxes": torch.zeros(1, 5), "scores": torch.zeros(1)}],
        [{"boxes": torch.zeros(2, 4), "scores": torch.zeros(1)}],
    ],
)
def test_what_is_no_list_of_detections_is_one_line(output: Any) -> None:
    with pytest.raises(
        RequestError, match=r"expected a list with a dict for each image, with boxes \(k, 4\)"
    ) as caught:
        PaddedBoxes()(output)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"score": math.nan}, {"score": "0.5"}, {"count": 0}, {"count": 2.5}])
def test_bad_numbers_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="expected"):
        PaddedBoxes(**given)


def test_the_error_of_an_adapter_is_told_as_it_stands() -> None:
    sampler = Sampler(Adapted(lambda x: {"out": x}, Key("logits")), GaussianNoise(0.5), 8, 8)
    with pytest.raises(RequestError) as caught:
        sampler.check_model(torch.zeros(3))
    assert str(caught.value).startswith("the model returned dict with keys 'out': expected an output")


def test_a_module_behind_an_adapter_is_held_in_eval_mode() -> None:
    """As behind a lambda it would not be: dropout stays on, and the model has two outputs for an input."""
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    model = Adapted(network, Argmax())
    assert {name.partition(".")[0] for name in model.state_dict()} == {"model"}
    with evaluating(model):
        assert not network[1].training
    assert network[1].training


def test_an_adapter_that_is_a_module_is_held_in_eval_mode_too() -> None:
    model = Adapted(nn.Linear(3, 4), Key("0"), nn.BatchNorm1d(4))
    assert {name.partition(".")[0] for name in model.state_dict()} == {"model", "adapter1"}
    with evaluating(model):
        assert not model.adapters[1].training


@pytest.fixture(scope="module")
def segmenter() -> nn.Module:
    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    with torch.no_grad():
        network(torch.rand(8, 3, 64, 64))  # gives batch normalisation its statistics
    return network


def test_a_torchvision_segmenter_is_certified(segmenter: nn.Module) -> None:
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    radii = []
    for adapters in ([Key("out")], [Key("out"), Argmax()]):
        model = Adapted(segmenter, *adapters)
        smoother = Smoother(model, GaussianNoise(0.25), Center(Hamming()), FEW, forward_block=20)
        radii.append(smoother.certify(image, 0.1, stream=RandomStream(0)).radius)
    assert radii[0] == radii[1]  # scores have the classes that argmax takes of them
    assert 0 <= radii[0] < 1
    classes = Smoother(model, GaussianNoise(0.25), Segmentation(), FEW, forward_block=20)
    assert classes.certify(image, 0.1, stream=RandomStream(0)).answer.shape == (64, 64)


def test_a_torchvision_detector_is_certified() -> None:
    """With random weights, whose scores are all low."""
    torch.manual_seed(0)
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    model = Adapted(network, PaddedBoxes(score=0.0, count=2))
    smoother = Smoother(
        model, GaussianNoise(0.25), Center(OSPA()), Budget(20, 30, 0.45, 0.3, 0.3, n0=8), forward_block=4
    )
    certificate = smoother.certify(torch.rand(3, 32, 32), 0.01, stream=RandomStream(0))
    assert certificate.answer.shape == (2, 4)
    assert (certificate.answer[:, 2:] >= certificate.answer[:, :2]).all()
