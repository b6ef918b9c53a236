"""Certificates on a pretended CUDA device: no tensor is made on another, and every number is the CPU's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from plugins import CERTIFIERS, METRICS, NOISES, CertifierRow, NoiseRow, random_outputs
from pretended import MIXED, Pretended, pretended_device
from torch import Tensor

from centersmooth import Attack, Budget, Center, Certificate, GaussianNoise, Smoother, TotalVariation
from centersmooth.metrics.base import features_of
from centersmooth.sampling import RandomStream

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there: nothing to pretend"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match"),
]


def all_rows(table: dict[str, list]) -> list:
    return [pytest.param(row, id=f"{name}-{k}") for name, rows in table.items() for k, row in enumerate(rows)]


def test_the_device_refuses_what_cuda_refuses_and_computes_the_rest():
    with pretended_device():
        a = torch.arange(6.0).reshape(2, 3).to("cuda")
        b = torch.zeros(3, device="cuda")
        b[1] = 2.0
        assert isinstance(a, Pretended)
        assert (a.device.type, a.cpu().device.type) == ("cuda", "cpu")
        assert (a + b).tolist() == [[0.0, 3.0, 2.0], [3.0, 6.0, 5.0]]
        assert float((2 * a - torch.tensor(1.0)).sum()) == 24.0
        assert a[torch.tensor([1])].tolist() == [[3.0, 4.0, 5.0]]
        for wrong in (lambda: a + torch.zeros(3), lambda: torch.zeros(2)[b.long()], lambda: torch.cat([a, a.cpu()])):
            with pytest.raises(RuntimeError, match=MIXED):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            a.numpy()


@pytest.mark.parametrize("row", all_rows(NOISES))
def test_noise_and_perturbations_are_made_on_the_device_of_the_input(row: NoiseRow):
    def made(device: str) -> list[Tensor]:
        x = (torch.zeros(1, 2, 2) if row.x is None else row.x).to(device)
        draws, threat = RandomStream(0).draws("test", 0, x), row.noise.threat
        shift = threat.project(threat.start(x, row.eps, draws), row.eps)
        found = [row.noise.sample(x, 3, draws), row.noise.clean(x), threat.apply(x, shift)]
        found += [threat.perturbed(x, threat.propose(x, row.eps, draws), row.eps)]
        assert {one.device.type for one in found} == {device}
        return [one.cpu() for one in found]

    wanted = made("cpu")
    with pretended_device():
        found = made("cuda")
    assert all(map(torch.equal, wanted, found))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_distances_are_computed_on_the_device_of_the_outputs(metric):
    def computed(device: str) -> list[Tensor]:
        features = features_of(metric, random_outputs(metric, 7).to(device))
        found = [metric.pairwise(features[:3], features), *metric.self_rows(features)]
        assert {one.device.type for one in found} == {device}
        return [one.cpu() for one in found]

    wanted = computed("cpu")
    with pretended_device():
        found = computed("cuda")
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)  # l1 is summed in another order there


def either_of(a: Tensor, b: Tensor) -> Callable[[Tensor], Tensor]:
    """A model with these two outputs, the second where the first number of the input is large."""

    def model(x: Tensor) -> Tensor:
        second = x.reshape(len(x), -1)[:, 0] > 1.0
        return torch.where(second.reshape(-1, *[1] * a.ndim), b.to(x.device), a.to(x.device))

    return model


def certified(row: CertifierRow, device: str) -> list[Certificate]:
    """Certificates by every rule."""
    model, budget = either_of(*row.outputs), Budget(300, 700, 0.2)
    given = {key: value for key, value in row.details.items() if key == "output_range"}
    smoothers = [
        Smoother(model, GaussianNoise(1.0), row.certifier, budget, rule=rule, **given) for rule in row.certifier.rules
    ]
    return [one.certify(torch.zeros(2, device=device), 0.3, stream=RandomStream(0)) for one in smoothers]


@pytest.mark.parametrize("row", all_rows(CERTIFIERS))
def test_certificates_are_those_of_the_cpu(row: CertifierRow):
    wanted = certified(row, "cpu")
    with pretended_device():
        found = certified(row, "cuda")
    assert [str(one) for one in found] == [str(one) for one in wanted]
    assert [one.radius for one in found] == [pytest.approx(one.radius, rel=1e-6) for one in wanted]


def test_an_attack_by_queries_stays_on_the_device():
    """Gradients are taken by threads of the device, of which none can be pretended."""
    weights = torch.randn(18, 18, generator=torch.Generator().manual_seed(0))

    def found(device: str) -> Tensor:
        def network(x: Tensor) -> Tensor:
            return torch.sigmoid(x.flatten(1) @ weights.to(device)).unflatten(1, (2, 3, 3))

        smoother = Smoother(network, GaussianNoise(0.5), Center(TotalVariation()), Budget(300, 700, 0.2))
        x = torch.full((2, 3, 3), 0.5, device=device)
        certificate = smoother.certify(x, 0.3, stream=RandomStream(0))
        attacked = smoother.attack(
            x, certificate, Attack("search", steps=3, restarts=2, draws=8), stream=RandomStream(1)
        )
        return attacked.perturbed.cpu()

    wanted = found("cpu")
    with pretended_device():
        assert torch.allclose(found("cuda"), wanted, atol=1e-6)
