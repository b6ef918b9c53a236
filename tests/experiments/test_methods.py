"""Training methods: a method is one class, and the paper's is the same to the last digit, however it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load
from torch import nn

from centersmooth import Noise, RandomStream
from centersmooth.draws import Draws
from centersmooth.noise import L2Ball
from csrun import registry
from csrun.config import TrainConfig
from csrun.data import DataSet, load_data
from csrun.data.sources import ArraySource
from csrun.errors import RunError
from csrun.executors import tasks
from csrun.models import MODELS, ModelSpec
from csrun.models.base import BaseModel
from csrun.training.checkpoints import Training, obtain, train_checkpoint, training_of
from csrun.training.methods import Method, with_noise

GAUSSIAN = {"name": "gaussian"}


def written_out(model: str, sigma: float, epochs: int, images: int, batch: int, seed: int) -> dict[str, torch.Tensor]:
    """Section 5 of the paper, without the runner's training: the trained weights."""
    data = load_data("digits", None)
    torch.manual_seed(seed)
    net = MODELS[model].build(data, {}, None).train()
    clean = data.images(data.train, range(images))
    x = net.inputs(clean)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for epoch in range(epochs):
        stream = RandomStream(seed, epoch)
        order = stream.draws("order", 0, clean).permutation(images)
        for step, chosen in enumerate(order.split(batch)):
            normal = stream.draws("training noise", step, x).normal(tuple(x[chosen].shape))
            loss = (net(x[chosen] + sigma * normal) - clean[chosen]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.state_dict()


@pytest.mark.parametrize("model", ["autoencoder", "reconstructor"])
@pytest.mark.parametrize(("method", "sigma", "label"), [("augment", 0.4, "augment@0.4"), ("none", 0.0, "none")])
def test_training_of_the_paper_is_the_same_to_the_last_digit(tmp_path, model, method, sigma, label):
    data = load_data("digits", None)
    training = training_of(model, data, TrainConfig(2, 110, 50), method, GAUSSIAN, 0.4, 3, "cpu")
    assert (training.method, training.scale, training.label) == (method, sigma, label)
    trained = obtain(training, MODELS[model], data, tmp_path, lambda images: None)[0].state_dict()
    for name, expected in written_out(model, sigma, 2, 110, 50, 3).items():
        assert torch.equal(trained[name], expected), name


def test_trainings_without_noise_are_one_at_every_scale():
    data, schedule = load_data("digits", None), TrainConfig(1, 100, 50)
    first, second = (training_of("autoencoder", data, schedule, "none", GAUSSIAN, s, 0, "cpu") for s in (0.1, 0.2))
    assert first == second


def test_gaussian_noise_of_a_batch_is_that_of_its_inputs_in_turn():
    x = torch.rand(5, 2, 3)
    noise, draws = registry.NOISES["gaussian"].build(0.3), Draws(7, x)
    in_turn = torch.cat([noise.sample(example, 1, draws) for example in x])
    assert torch.equal(with_noise(x, noise, Draws(7, x)), in_turn)


class OneShift(Noise):
    """A law whose draws move all coordinates of an input together."""

    scale = 1.0
    threat = L2Ball()

    def sample(self, x, count, draws):
        return x + draws.normal((count,) + (1,) * x.ndim)

    def required_mass(self, mass, eps):
        return 1.0


def test_every_input_of_a_batch_has_noise_of_its_own_under_any_law():
    shifts = with_noise(torch.zeros(50, 2, 3), OneShift(), Draws(0, torch.zeros(1))).flatten(1)
    assert torch.equal(shifts, shifts[:, :1].expand(50, 6))
    assert len(shifts[:, 0].unique()) == 50


class Classifier(BaseModel):
    """One linear layer from digits to the logits of their classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, images):
        return self.layer(images.flatten(1))


class Classify(Method):
    """Cross entropy of the labels at noisy inputs."""

    target = "labels"
    steps: ClassVar[list[tuple[int, float, bool]]] = []

    def loss(self, model, x, y, noise, draws, epoch):
        self.steps.append((epoch, noise.scale, model.training))
        return nn.functional.cross_entropy(model(with_noise(x, noise, draws)), y)


CLASSIFIER = ModelSpec(lambda data, weights, noise: Classifier(len(data.classes)), ("l2",))


@pytest.fixture
def classify(monkeypatch):
    """A user's method is registered by one line."""
    Classify.steps.clear()
    monkeypatch.setitem(registry.METHODS, "classify", registry.MethodEntry(f"{__name__}:Classify", "cross entropy"))


def classifier_training(data: DataSet, epochs: int = 20) -> Training:
    return training_of("classifier", data, TrainConfig(epochs, 1200, 50), "classify", GAUSSIAN, 0.1, 0, "cpu")


def test_a_method_that_uses_labels_trains_a_classifier(tmp_path, classify):
    data = load_data("digits", None)
    model, _ = obtain(classifier_training(data), CLASSIFIER, data, tmp_path, lambda images: None)
    labels = data.targets(data.test, range(500))
    assert float((model(data.images(data.test, range(500))).argmax(1) == labels).float().mean()) > 0.85


def test_a_method_is_given_the_epoch_the_law_and_a_model_that_trains(tmp_path, classify):
    data = load_data("digits", None)
    obtain(classifier_training(data, epochs=3), CLASSIFIER, data, tmp_path, lambda images: None)
    assert Classify.steps == [(epoch, 0.1, True) for epoch in range(3) for _ in range(1200 // 50)]


def test_workers_train_with_the_same_labels(classify):
    data = load_data("digits", None)
    training = classifier_training(data, epochs=1)
    plain = training_of("autoencoder", data, TrainConfig(1, 1200, 50), "none", GAUSSIAN, 0.1, 0, "cpu")

    @dataclass(frozen=True)
    class Stored:
        content: bytes

        def fetch(self) -> bytes:
            return self.content

    package = Stored(tasks.pack(tasks._for_training(data, [plain, training])))
    there, _, _ = tasks.train(training, CLASSIFIER, package, None)
    here, _ = train_checkpoint(training, CLASSIFIER, data, lambda images: None)
    assert there == here
    assert float(load(here)["layer.weight"].abs().sum()) > 0


def relabelled(data: DataSet, labels: torch.Tensor) -> DataSet:
    return DataSet(data.name, data.test, ArraySource("train", data.train.images, labels.clone), classes=data.classes)


def test_labels_are_in_the_digest_of_what_learns_from_them_only(classify):
    data = load_data("digits", None)
    labels = data.train.labels.clone()
    labels[1199] = (labels[1199] + 1) % 10
    other, schedule = relabelled(data, labels), TrainConfig(1, 1200, 50)
    assert classifier_training(data) == classifier_training(relabelled(data, data.train.labels))
    assert classifier_training(data).digest != classifier_training(other).digest
    augment, same = (training_of("autoencoder", d, schedule, "augment", GAUSSIAN, 0.1, 0, "cpu") for d in (data, other))
    assert augment == same


def test_a_method_that_uses_labels_refuses_data_without_any_before_any_work(classify):
    data = load_data("digits", None)
    unlabelled = DataSet("pictures", data.test, ArraySource("train", data.train.images))
    with pytest.raises(RunError, match=r"^pictures has no class labels: set data\.name to a data set that has them$"):
        classifier_training(unlabelled)
