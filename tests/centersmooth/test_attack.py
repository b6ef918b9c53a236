"""Attacks find the movement where it is known, stay in the ball, and break certificates that are wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plugins import CERTIFIERS, NOISES
from scipy.stats import binom

from centersmooth import (
    L1,
    L2,
    Angular,
    Attack,
    Budget,
    Center,
    CenterSmoother,
    Cosine,
    DistanceFunction,
    EnumeratedSplitting,
    GaussianNoise,
    Jaccard,
    Nearest,
    Percentile,
    RandomStream,
    RequestError,
    Score,
    Smoother,
    SplittingNoise,
    SquaredL2,
    TotalVariation,
)
from centersmooth.attack import GRADIENT_WEIGHT
from centersmooth.contracts import LinearModel, check_metric
from centersmooth.sampling import Sampler

X = torch.tensor([0.3, -1.0, 0.5, 2.0])
LINEAR = LinearModel(torch.tensor([2.0, -1.0, 0.5, 0.0]))
EPS, SIGMA = 0.5, 0.5
BUDGET = Budget(n=600, m=600, delta=0.15, alpha1=0.05, alpha2=0.05)
ATTACKS = [Attack("pgd", steps=10, restarts=1, draws=32), Attack("search", steps=200, restarts=1, draws=32)]


def smoother_of(model, metric, sigma=SIGMA) -> CenterSmoother:
    return CenterSmoother(model, metric, GaussianNoise(sigma), BUDGET)


def attacked(smoother, attack, x=X, eps=EPS, seed=0, runs=4):
    certificate = smoother.certify(x, eps, stream=RandomStream(seed))
    return certificate, smoother.attack(x, certificate, attack, runs=runs, stream=RandomStream(seed))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
@pytest.mark.parametrize("seed", range(3))
def test_the_largest_movement_of_a_linear_model_is_found(attack, seed):
    """From a center beside ``w x`` the farthest mean is ``eps |w|`` on the other side of it."""
    certificate, found = attacked(smoother_of(LINEAR, L2()), replace(attack, restarts=4, draws=1_000), seed=seed)
    beside = abs(float(certificate.answer) - float(LINEAR(X[None])))
    farthest = LINEAR.movement(EPS) + beside
    assert abs(float(LINEAR(found.perturbed[None])) - float(certificate.answer)) >= 0.97 * farthest
    assert found.abstained == 0
    assert all(abs(moved - farthest) < 0.25 * farthest for moved in found.movements)
    assert max(found.movements) <= certificate.radius


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
@pytest.mark.parametrize("eps", [1e-7, 1e-3, 0.5, 40.0])
def test_what_is_found_lies_within_eps(attack, eps):
    """Also where rounding the sum to float32 would carry it out, and where no sum but ``x`` itself is within."""
    x = 100 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(torch.nn.Flatten(), GaussianNoise(max(eps, 0.1)), 16, 64)
    quick = replace(attack, steps=5)
    found = quick.perturb(sampler, Center(L2()), x, x.flatten(), eps, RandomStream(0))
    norm = float((found.double() - x.double()).norm())
    assert norm <= eps
    assert norm >= 0.5 * eps or eps == 1e-7


def broken_runs(attack: Attack, factor: float) -> tuple[int, int]:
    """Runs of ten certified points beyond ``factor`` times their certificate, and the most a true one allows."""
    smoother, beyond = smoother_of(LINEAR, L2()), 0
    for seed in range(10):
        certificate, found = attacked(smoother, attack, seed=seed, runs=1)
        beyond += sum(moved > factor * certificate.radius for moved in found.movements)
    return beyond, int(binom.isf(1e-9, 10, 0.1))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
def test_a_certificate_holds_and_a_wrong_one_is_broken(attack):
    quick = replace(attack, steps=min(attack.steps, 60))
    beyond, allowed = broken_runs(quick, 1.0)
    assert beyond <= allowed
    beyond, allowed = broken_runs(quick, 0.1)
    assert beyond > allowed


def test_passes_are_those_of_every_step_and_a_last_look():
    assert Attack("search", steps=200, restarts=3, draws=32).passes == 3 * 32 * 201
    assert Attack("pgd", steps=10, restarts=2, draws=8).passes == 2 * 8 * (GRADIENT_WEIGHT * 10 + 1) > 2 * 8 * 11


def test_eps_and_sigma_in_two_units_are_caught():
    """The released code's slip: a certificate for 1/255 of the perturbation, attacked with all of it."""
    smoother = smoother_of(lambda x: 10 * torch.tanh(4 * (x - 0.3)), L2(), sigma=0.2)
    slipped, valid = smoother.certify(torch.zeros(1), [0.4 / 255, 0.4], stream=RandomStream(0))
    found = smoother.attack(torch.zeros(1), replace(slipped, eps=0.4), ATTACKS[0], stream=RandomStream(0))
    assert slipped.radius < min(found.movements)
    assert max(found.movements) <= valid.radius


def test_queries_move_a_model_without_gradients():
    """A step; with pgd one line says what to use instead."""
    smoother = smoother_of(lambda x: (x > 0.4).float(), L1())
    x = torch.zeros(1)
    certificate, found = attacked(smoother, ATTACKS[1], x)
    assert float(found.perturbed) == pytest.approx(EPS, rel=1e-5)
    assert min(found.movements) == 1.0 <= certificate.radius
    with pytest.raises(RequestError, match=r"needs gradients .* search needs none"):
        smoother.attack(x, certificate, ATTACKS[0])


def test_queries_move_boxes():
    """A box found at the brightest column: the attack has to move pixels, and knows nothing of the model."""

    def detect(images):
        place = images.mean(1).softmax(1) @ torch.arange(8.0)
        return torch.stack([place, place * 0, place + 2, place * 0 + 2], dim=1)

    x = torch.zeros(4, 8)
    x[:, 3] = 1.0
    smoother = smoother_of(detect, Jaccard(), sigma=0.2)
    certificate, found = attacked(smoother, Attack("search", steps=60, restarts=2, draws=16), x, eps=0.4)
    still = smoother.smooth(x, stream=RandomStream(9))
    assert min(found.movements) > 5 * smoother.distance(still.answer, certificate.answer)
    assert max(found.movements) <= certificate.radius


def own(a, b):
    return (a - b).abs().amax(1)


@pytest.mark.parametrize(
    "metric", [L1(), L2(), SquaredL2(), Cosine(), Angular(), DistanceFunction(own)], ids=lambda metric: metric.name
)
def test_gradients_pass_through_every_metric(metric):
    """Against differences of the score itself, with the same noise."""
    from centersmooth.attack import _Target

    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh()).double()
    x = X.double()
    sampler = Sampler(model, GaussianNoise(0.3), 16, 16)
    with torch.no_grad():
        objective = Center(metric).objective(model(x[None] + 1)[0])
        target = _Target(sampler, objective, x, 1.0, RandomStream(0), draws=40)
        shift = 0.3 * torch.ones(4, dtype=torch.float64)
        gradient = target.steepest(shift, "s")
        steps = 1e-5 * torch.eye(4, dtype=torch.float64)
        slopes = torch.tensor([target.score(shift + d, "s") - target.score(shift - d, "s") for d in steps])
    assert gradient.tolist() == pytest.approx((slopes / slopes.norm()).tolist(), abs=1e-3)


@pytest.mark.parametrize("name", CERTIFIERS)
def test_what_is_climbed_is_the_distance_to_the_answer_or_rises_with_it(name):
    for row in CERTIFIERS[name]:
        answer, other = row.outputs
        away = row.certifier.objective(answer)
        here, there = (away(torch.stack([one] * 3)).double().mean() for one in (answer, other))
        assert here < there
        if isinstance(row.certifier, Center | Nearest | Percentile | Score):
            assert float(here) == pytest.approx(0, abs=1e-7)
            assert float(there) == pytest.approx(row.certifier.distance(answer, other))


def test_gradients_pass_through_total_variation():
    x = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)  # weights under which the run at x answers
    smoother = smoother_of(torch.nn.Conv2d(1, 2, 3), TotalVariation())
    certificate, found = attacked(smoother, ATTACKS[0], x)
    assert max(found.movements) <= certificate.radius


@pytest.mark.parametrize("metric", [Cosine(), Angular()])
def test_directions_are_the_same_with_and_without_gradients(metric):
    outputs = torch.cat([torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 3)])
    with_gradients = metric.features(outputs.clone().requires_grad_())
    assert torch.allclose(with_gradients.detach(), metric.features(outputs), rtol=0, atol=1e-15)
    check_metric(metric, outputs)


class Listening(GaussianNoise):
    """Remembers the key of every block it drew."""

    seen: list[int]

    def sample(self, x, count, draws):
        self.seen.append(draws.key)
        return super().sample(x, count, draws)


def test_certificate_attack_and_judges_share_no_draw():
    noise = Listening(SIGMA)
    object.__setattr__(noise, "seen", [])
    smoother = CenterSmoother(LINEAR, L2(), noise, BUDGET)
    certificate = smoother.certify(X, EPS, stream=RandomStream(0))
    certified = set(noise.seen)
    noise.seen.clear()
    smoother.attack(X, certificate, replace(ATTACKS[0], restarts=2), runs=3, stream=RandomStream(0))
    blocks = 2 * -(-BUDGET.n // 128)
    judged = noise.seen[-3 * blocks :]
    assert len(set(judged)) == 3 * blocks
    assert not set(judged) & set(noise.seen[: -3 * blocks])
    assert not certified & set(noise.seen)


def test_an_attack_repeats_itself_and_leaves_the_model_as_it_came():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).train()
    smoother = smoother_of(model, L2())
    _, first = attacked(smoother, ATTACKS[0])
    _, again = attacked(smoother, ATTACKS[0])
    assert first.movements == again.movements
    assert torch.equal(first.perturbed, again.perturbed)
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_runs_that_abstain_are_counted_and_have_not_moved():
    """Two far atoms of equal mass at every input: no ball is trusted, so the certificate is made up."""
    smoother = smoother_of(LINEAR, L2())
    certificate = smoother.certify(X, EPS, stream=RandomStream(0))
    smoother.budget = replace(BUDGET, delta=1e-9)
    found = smoother.attack(X, certificate, ATTACKS[0], stream=RandomStream(0))
    assert (found.abstained, found.movements) == (4, ())


def test_what_cannot_be_attacked_is_refused():
    smoother = smoother_of(LINEAR, L2())
    certificate = smoother.certify(X, EPS, stream=RandomStream(0))
    with pytest.raises(RequestError, match="nothing to attack"):
        smoother.attack(X, replace(certificate, radius=None))
    for wrong in ({"kind": "fgsm"}, {"steps": 0}, {"draws": 0}, {"restarts": -1}):
        with pytest.raises(RequestError, match="expected"):
            Attack(**wrong)


def test_an_input_that_the_model_cannot_take_is_refused_before_the_attack():
    smoother = smoother_of(LINEAR, L2())
    certificate = smoother.certify(X, EPS, stream=RandomStream(0))
    with pytest.raises(RequestError, match=r"the model failed on a batch of shape \(128, 5\)"):
        smoother.attack(torch.zeros(5), certificate, ATTACKS[1])


@pytest.mark.parametrize("kind", ["pgd", "search"])
def test_a_model_of_one_batch_size_is_attacked_in_its_blocks(kind):
    """Other draws are refused with the numbers that will do; a copy of the buffer it answers in keeps gradients."""

    def engine(x):
        if len(x) != 128:
            raise ValueError("built for 128 inputs")
        return LINEAR(x)

    smoother = smoother_of(engine, L2())
    certificate = smoother.certify(X, EPS, stream=RandomStream(0))
    with pytest.raises(RequestError, match=r"built for 128 inputs; .* multiple of forward_block, 128$"):
        smoother.attack(X, certificate, Attack(kind, steps=2, draws=64))
    found = smoother.attack(X, certificate, Attack(kind, steps=2, draws=256), runs=1, stream=RandomStream(1))
    assert max(found.movements) <= certificate.radius


def test_a_model_without_gradients_is_sent_to_search():
    smoother = smoother_of(lambda x: torch.from_numpy(x.numpy().copy()), L2())
    certificate = smoother.certify(X, EPS, stream=RandomStream(0))
    with pytest.raises(RequestError, match=r"needs gradients .* search needs none"):
        smoother.attack(X, certificate, Attack("pgd", steps=2))


@pytest.mark.parametrize("noise", [SplittingNoise(0.5), EnumeratedSplitting(0.5)], ids=str)
def test_a_noise_that_passes_no_gradient_is_named(noise):
    """It is not the model's fault, which has gradients."""
    smoother = Smoother(LINEAR, noise, Center(L2()), BUDGET)
    x = (255 * X.clamp(0, 1)).round() / 255
    certificate = smoother.certify(x, 0.1, stream=RandomStream(0))
    with pytest.raises(RequestError, match=rf"attack is 'pgd', and {type(noise).__name__}.*: use attack=search$"):
        smoother.attack(x, certificate, Attack("pgd", steps=2))
    found = smoother.attack(x, certificate, Attack("search", steps=2), runs=1, stream=RandomStream(1))
    assert len(found.movements) == 1


@pytest.mark.parametrize("name", NOISES)
def test_noises_pass_gradients_on_or_say_that_they_do_not(name):
    """No law of the table passes zeros on everywhere, with which gradients would climb nothing."""
    for row in NOISES[name]:
        x = torch.full((1, 3, 3), 0.4) if row.x is None or row.x.ndim < 2 else row.x
        noise, draws = row.noise.at(x), RandomStream(0).draws("test", 0, x)
        try:
            Attack("pgd").require_gradients(noise, x)
        except RequestError:
            assert name in ("translation", "splitting", "splitting_8bit")
            continue
        shift = noise.threat.start(x, 0.1, draws).requires_grad_()
        noisy = noise.sample(noise.threat.apply(x, shift), 64, draws)
        slope = torch.autograd.grad((noisy * (1 + torch.arange(noisy.numel())).view_as(noisy)).sum(), shift)[0]
        assert float(slope.abs().max()) > 0
