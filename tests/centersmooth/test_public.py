"""The names the library offers: what each of them looks like at a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import centersmooth
from centersmooth import (
    L1,
    L2,
    OSPA,
    AblationNoise,
    Angular,
    Attack,
    Attacked,
    BoxPercentile,
    Budget,
    Center,
    CenterSmoother,
    CenterSmoothError,
    Cosine,
    Direction,
    DistanceFunction,
    EllipsoidNoise,
    EnumeratedSplitting,
    GaussianNoise,
    Hamming,
    InfeasibleError,
    Jaccard,
    Label,
    LaplaceNoise,
    Levenshtein,
    MaskJaccard,
    Mean,
    MeanSmoother,
    Metric,
    ModelError,
    Nearest,
    Noise,
    NormalisedLevenshtein,
    Outcome,
    OutputBall,
    PatchNoise,
    Percentile,
    Prototypes,
    RandomStream,
    RequestError,
    Score,
    Segmentation,
    Smoothed,
    Smoother,
    SplittingNoise,
    SquaredL2,
    TotalVariation,
    UniformNoise,
)
from centersmooth.certificate import CenterCertificate
from centersmooth.certifiers import Certifier
from centersmooth.draws import Draws
from centersmooth.noise import L2Ball
from centersmooth.outputs import brief

BUDGET = Budget(n=200, m=600, delta=0.25)
NOISE = GaussianNoise(0.5)
SMOOTHER = Smoother(torch.sigmoid, NOISE, Center(L2()))
IMAGE = torch.rand(3, 32, 32)


class Weighted(Metric):
    """A metric of one's own, with a parameter."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def features(self, outputs: Tensor) -> Tensor:
        return outputs

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        return ((a[:, None] != b) * self.weight).sum(-1)


class Shaped(Noise):
    """A law of one's own, with a parameter."""

    threat = L2Ball()

    def __init__(self, scales: Tensor) -> None:
        self.scales = scales

    @property
    def scale(self) -> float:
        return float(self.scales.max())

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return x + self.scales * draws.normal((count, *x.shape))

    def required_mass(self, mass: float, eps: float) -> float:
        return 1.0


SETTING = (
    "noise=GaussianNoise(sigma=0.5), budget=Budget(n=200, m=600, delta=0.25, alpha1=0.005, alpha2=0.005, n0=0), rule="
)

PUBLIC: dict[str, tuple[object, str]] = {
    "L1": (L1(), "L1()"),
    "L2": (L2(), "L2()"),
    "OSPA": (OSPA(), "OSPA()"),
    "Angular": (Angular(), "Angular()"),
    "Attack": (Attack(), "Attack(kind='pgd', steps=20, restarts=2, draws=64)"),
    "Attacked": (
        Attacked(IMAGE, (0.25, 0.5), 1),
        "Attacked(perturbed=<Tensor (3, 32, 32), torch.float32>, movements=(0.25, 0.5), abstained=1)",
    ),
    "Budget": (BUDGET, "Budget(n=200, m=600, delta=0.25, alpha1=0.005, alpha2=0.005, n0=0)"),
    "Center": (Center(L2()), "Center(metric=L2(), kind='sample')"),
    "CenterSmoothError": (CenterSmoothError("why"), "CenterSmoothError('why')"),
    "CenterSmoother": (
        CenterSmoother(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), L2(), NOISE, BUDGET),
        f"CenterSmoother(model=Sequential, certifier=Center(metric=L2(), kind='sample'), {SETTING}'measured')",
    ),
    "Certificate": (
        CenterCertificate(
            0.1,
            Outcome.CERTIFIED,
            0.25,
            False,
            IMAGE,
            0.01,
            "center",
            "measured",
            "run",
            "l2",
            "why",
            4_000,
            0.1,
            0.2,
            0.3,
            None,
        ),
        "CenterCertificate(eps=0.1, outcome=<Outcome.CERTIFIED: 'certified'>, radius=0.25, vacuous=False, "
        "answer=<Tensor (3, 32, 32), torch.float32>, alpha=0.01, certifier='center', rule='measured', about='run', "
        "threat='l2', reason='why', m=4000, r_center=0.1, r_hat=0.2, r_far=0.3)",
    ),
    "Cosine": (Cosine(), "Cosine()"),
    "Direction": (Direction(Angular()), "Direction(metric=Angular(), n=None)"),
    "Nearest": (Nearest(Angular()), "Nearest(metric=Angular())"),
    "DistanceFunction": (
        DistanceFunction(lambda a, b: (a - b).norm(dim=1)),
        "DistanceFunction(distance=<lambda>, power=1.0, diameter=inf)",
    ),
    "AblationNoise": (AblationNoise(45), "AblationNoise(keep=45)"),
    "EnumeratedSplitting": (EnumeratedSplitting(0.5), "EnumeratedSplitting(scale=0.5)"),
    "PatchNoise": (PatchNoise(8, (28, 28)), "PatchNoise(size=8)"),
    "SplittingNoise": (SplittingNoise(0.5), "SplittingNoise(scale=0.5)"),
    "GaussianNoise": (NOISE, "GaussianNoise(sigma=0.5)"),
    "EllipsoidNoise": (
        EllipsoidNoise(0.5, torch.ones(3, 1, 1)),
        "EllipsoidNoise(scale=0.5, shape=<Tensor (3, 1, 1), torch.float32>)",
    ),
    "LaplaceNoise": (LaplaceNoise(0.5), "LaplaceNoise(scale=0.5)"),
    "UniformNoise": (UniformNoise(0.5, p=2), "UniformNoise(scale=0.5, p=2)"),
    "Hamming": (Hamming(), "Hamming()"),
    "Levenshtein": (Levenshtein(), "Levenshtein()"),
    "MaskJaccard": (MaskJaccard(), "MaskJaccard()"),
    "NormalisedLevenshtein": (NormalisedLevenshtein(), "NormalisedLevenshtein()"),
    "InfeasibleError": (InfeasibleError("why"), "InfeasibleError('why')"),
    "Jaccard": (Jaccard(), "Jaccard()"),
    "BoxPercentile": (BoxPercentile(), "BoxPercentile(q=0.5, metric=Jaccard())"),
    "Label": (Label(), "Label()"),
    "Prototypes": (Prototypes(torch.eye(2)), "Prototypes(centers=<Tensor (2, 2), torch.float64>)"),
    "Score": (Score(), "Score()"),
    "Percentile": (Percentile(q=0.9), "Percentile(q=0.9)"),
    "OutputBall": (OutputBall(torch.zeros(3), 2.0), "OutputBall(center=<Tensor (3,), torch.float32>, radius=2.0)"),
    "Mean": (Mean(TotalVariation()), "Mean(metric=TotalVariation(), n=None, ball=None)"),
    "MeanSmoother": (
        MeanSmoother(torch.sigmoid, L1(), NOISE, BUDGET, output_range=(0.0, 1.0)),
        f"MeanSmoother(model=sigmoid, certifier=Mean(metric=L1(), n=None, ball=None), {SETTING}'spectral')",
    ),
    "Metric": (Weighted(torch.rand(99, 99)), "Weighted(weight=<Tensor (99, 99), torch.float32>)"),
    "ModelError": (ModelError("why"), "ModelError('why')"),
    "Noise": (Shaped(torch.rand(99, 99)), "Shaped(scales=<Tensor (99, 99), torch.float32>)"),
    "Outcome": (Outcome.CERTIFIED, "<Outcome.CERTIFIED: 'certified'>"),
    "RandomStream": (RandomStream(3), "RandomStream(seed=3, point=0)"),
    "RequestError": (RequestError("why"), "RequestError('why')"),
    "Smoothed": (
        Smoothed(IMAGE, False, IMAGE, 0.5),
        "Smoothed(answer=<Tensor (3, 32, 32), torch.float32>, abstained=False, "
        "base=<Tensor (3, 32, 32), torch.float32>, error=0.5)",
    ),
    "Smoother": (
        Smoother(torch.sigmoid, NOISE, Center(L2(), "free"), BUDGET),
        f"Smoother(model=sigmoid, certifier=Center(metric=L2(), kind='free'), {SETTING}'measured')",
    ),
    "Segmentation": (Segmentation(), "Segmentation()"),
    "SquaredL2": (SquaredL2(), "SquaredL2()"),
    "TotalVariation": (TotalVariation(), "TotalVariation()"),
    "__version__": (centersmooth.__version__, repr(centersmooth.__version__)),
}


@pytest.mark.parametrize("name", centersmooth.__all__)
def test_a_public_object_is_shown_in_one_short_line(name: str) -> None:
    """Tensors by shape and type: an image would fill the screen."""
    shown, expected = PUBLIC[name]
    assert isinstance(shown, getattr(centersmooth, name) if name != "__version__" else str)
    assert repr(shown) == expected
    assert len(expected) < 300


@pytest.mark.parametrize(
    "certifier",
    [Center(L2()), Mean(L2()), Direction(Cosine()), Nearest(L2()), Label(), Segmentation(), Percentile()],
    ids=lambda certifier: certifier.name,
)
def test_a_certificate_of_any_kind_is_shown_in_one_line(certifier: Certifier) -> None:
    """With every number and all of the reason."""
    shape = (2, 1, 2) if isinstance(certifier, Segmentation) else (4,)
    smoother = Smoother(lambda x: x.sigmoid().view(-1, *shape), NOISE, certifier, BUDGET, output_range=(0.0, 1.0))
    certificate = smoother.certify(torch.arange(4.0), 0.1, stream=RandomStream(0))
    certificate = replace(certificate, reason="why not " * 15)
    shown = repr(certificate)
    assert shown.startswith(f"{type(certificate).__name__}(eps=0.1, outcome=<Outcome.CERTIFIED: 'certified'>, radius=")
    assert "\n" not in shown
    assert f"answer=<Tensor {tuple(certificate.answer.shape)}" in shown
    assert certificate.reason in shown
    stated = {name: value for name, value in certificate.details.items() if value is not None}
    assert all(f", {name}={brief(value)}" in shown for name, value in stated.items())
    assert "=None" not in shown


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (nn.Linear(2, 2), "Linear"),
        (lambda x: x, "<lambda>"),
        (nn.functional.relu, "relu"),
        (nn.Linear(2, 2).forward, "forward"),
    ],
    ids=["module", "lambda", "function", "method"],
)
def test_a_smoother_names_its_model(model: Callable, name: str) -> None:
    assert repr(Smoother(model, NOISE, Center(L2()))).startswith(f"Smoother(model={name}, ")


TALL = torch.rand(3, 3)
NESTED = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("call", "came"),
    [
        (lambda: SMOOTHER.certify(torch.zeros(2), TALL), "eps is <Tensor (3, 3), torch.float32>"),
        (lambda: SMOOTHER.certify(torch.zeros(2), 0.1, stream=TALL), "stream is <Tensor (3, 3), torch.float32>"),
        (lambda: Smoother(NESTED, NESTED, Center(L2())), "noise is Sequential"),
        (lambda: Smoother(NESTED, NOISE, NESTED), "certifier is Sequential"),
        (lambda: Smoother(NESTED, NOISE, Center(L2()), TALL), "budget is <Tensor (3, 3), torch.float32>"),
        (lambda: Smoother(TALL, NOISE, Center(L2())), "model is <Tensor (3, 3), torch.float32>"),
        (lambda: CenterSmoother(NESTED, NESTED, NOISE, BUDGET), "metric is Sequential"),
        (lambda: CenterSmoother(NESTED, L2, NOISE, BUDGET), "metric is <class 'centersmooth.metrics.vectors.L2'>"),
        (lambda: DistanceFunction(TALL), "distance is <Tensor (3, 3), torch.float32>"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(call: Callable[[], object], came: str) -> None:
    """Tensors and modules, which take many lines, are what is at hand when arguments are mixed up."""
    with pytest.raises(RequestError, match="expected") as caught:
        call()
    assert str(caught.value).startswith(f"{came}: expected")
    assert "\n" not in str(caught.value)


def test_a_long_attack_is_abbreviated() -> None:
    attacked = Attacked(torch.zeros(2), (0.5,) * 10_000, 0)
    assert repr(attacked) == (
        "Attacked(perturbed=<Tensor (2,), torch.float32>, movements=(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ...), abstained=0)"
    )
