"""Losses of the training methods against the formulas of their papers, written out image by image, with gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from centersmooth.draws import Draws
from centersmooth.noise import GaussianNoise
from csrun.config import TrainConfig
from csrun.data import load_data
from csrun.errors import RunError
from csrun.models import MODELS
from csrun.models.base import BaseModel
from csrun.registry import METHODS
from csrun.training.checkpoints import fresh_model, kind_of, train_checkpoint, training_of
from csrun.training.gradients import Tape
from csrun.training.methods.adversaries import SameDraws, fixed_layers, norms, other_draws
from csrun.training.methods.output_adversary import OutputAdversary
from csrun.training.methods.spectral import top_eigenvalue
from csrun.training.names import complete, method_named

SIGMA, KEY, IMAGES, CLASSES = 0.5, 11, 3, 4


class Scores(BaseModel):
    """Smooth scores of classes of 2x2 images, in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.layer = nn.Linear(4, 6).double()
        self.last = nn.Linear(6, CLASSES).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.tanh(self.layer(images.flatten(1))))


class Pictures(Scores):
    """The same numbers as an image."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).unflatten(1, (1, 2, 2))


class Pixels(Scores):
    """Scores of two classes for each of two pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).unflatten(1, (2, 1, 2))


def images() -> Tensor:
    return torch.rand(IMAGES, 1, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


LABELS = torch.tensor([0, 3, 1])


def noises(count: int) -> Tensor:
    """``(count, images, 1, 2, 2)``."""
    return SIGMA * Draws(KEY, images()).normal((count, IMAGES, 1, 2, 2))


def loss_of(asked: str, model: BaseModel, y: Tensor, epoch: int = 99, scale: float = SIGMA) -> Tensor:
    name, given = method_named(asked)
    method = kind_of(name)(**dict(complete(name, given, scale)))
    return method.loss(model, images(), y, GaussianNoise(SIGMA), Draws(KEY, images()), epoch)


def gradients(loss: Tensor, model: nn.Module) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def require_same(asked: str, written_out: Callable[..., Tensor], model: BaseModel, y: Tensor, **options) -> None:
    """Value and gradient."""
    expected, loss = written_out(model, y), loss_of(asked, model, y, **options)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(gradients(loss, model), gradients(expected, model), rtol=1e-7, atol=1e-10)


def probabilities(model: nn.Module, image: Tensor) -> Tensor:
    scores = model(image[None])[0]
    return scores.exp() / scores.exp().sum()


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def stability(model, y):
    total = 0
    for x, label, d in zip(images(), y, noises(1)[0], strict=True):
        clean, noisy = probabilities(model, x), probabilities(model, x + d)
        total = total - clean[label].log() - 2 * (clean * noisy.log()).sum()
    return total / IMAGES


def consistency(model, y):
    total, d = 0, noises(3)
    for index, (x, label) in enumerate(zip(images(), y, strict=True)):
        each = [probabilities(model, x + d[i, index]) for i in range(3)]
        mean = sum(each) / 3
        total = total + sum(-p[label].log() + 5 * kl(mean, p) for p in each) / 3 - 0.5 * (mean * mean.log()).sum()
    return total / IMAGES


def mean_at(model: nn.Module, x: Tensor, d: Tensor) -> Tensor:
    return sum(probabilities(model, x + one) for one in d) / len(d)


def uphill(model: nn.Module, x: Tensor, d: Tensor, label: int, length: float) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(-mean_at(model, x, d)[label].log(), x)
    return (x + length * gradient / gradient.norm()).detach()


def smoothadv(ramp: float):
    def written_out(model, y):
        total, eps = 0, 0.8 * ramp
        for index, (x, label) in enumerate(zip(images(), y, strict=True)):
            d, adversary = noises(2)[:, index], x
            for _ in range(3):
                shift = uphill(model, adversary, d, label, 2 * eps / 3).clamp(0, 1) - x
                adversary = x + shift * min(1.0, eps / float(shift.norm()))
            total = total - sum(probabilities(model, adversary + one)[label].log() for one in d) / 2
        return total / IMAGES

    return written_out


def smoothmix(ramp: float, *, one_step: bool, detached: bool = False):
    def written_out(model, y):
        total = 0
        shares = other_draws(Draws(KEY, images())).uniform((IMAGES,)) / 2
        for index, (x, label) in enumerate(zip(images(), y, strict=True)):
            d, path = noises(2)[:, index], [x]
            for _ in range(3):
                path.append(uphill(model, path[-1], d, label, 0.4).clamp(0, 1))
            start = x
            if one_step:
                shift = path[1] - x
                start = x + shift * min(1.0, ramp * 0.4 / float(shift.norm()))
            share, mean = shares[index], mean_at(model, start, d)
            target = (1 - share) * mean + share / CLASSES
            target = target.detach() if detached else target
            mix = (1 - share) * start + share * path[-1]
            apart = sum(kl(target, probabilities(model, mix + one)) for one in d) / 2
            correct = float(mean.argmax() == label)
            total = total - sum(probabilities(model, start + one)[label].log() for one in d) / 2
            total = total + 7 * ramp * correct * apart
        return total / IMAGES

    return written_out


def macer(model, y):
    """Of images that count: the right class, and a gap of at most 8."""
    total, d, normal = 0, noises(3), torch.distributions.Normal(0.0, 1.0)
    for index, (x, label) in enumerate(zip(images(), y, strict=True)):
        total = total - mean_at(model, x, d[:, index])[label].log()
        sharp = sum((16 * model((x + one)[None])[0]).softmax(0) for one in d[:, index]) / 3
        (first, second), (top, _) = sharp.topk(2)
        gap = normal.icdf(first) - normal.icdf(second)
        if top == label and bool(gap.isfinite()) and gap <= 8:
            total = total + 3 * SIGMA / 2 * (8 - gap)
    return total / IMAGES


def right_labels() -> Tensor:
    """The class of the mean, of the first two images; another one of the last."""
    model, d = Scores(), noises(2)
    best = torch.stack([mean_at(model, x, d[:, index]).argmax() for index, x in enumerate(images())])
    best[2] = (best[2] + 1) % CLASSES
    return best


MIX = "smoothmix[weight=7,size=0.4,steps=3,draws=2,one_step={}]"


@pytest.mark.parametrize(
    ("asked", "written_out", "options"),
    [
        ("stability", stability, {}),
        ("consistency[draws=3]", consistency, {}),
        ("smoothadv[eps=0.8,steps=3,draws=2]", smoothadv(1.0), {}),
        ("smoothadv[eps=0.8,steps=3,draws=2]", smoothadv(0.2), {"epoch": 1}),
        (MIX.format(0), smoothmix(1.0, one_step=False), {}),
        (MIX.format(0), smoothmix(0.1, one_step=False), {"epoch": 0}),
        (MIX.format(1), smoothmix(1.0, one_step=True), {}),
        (MIX.format(1), smoothmix(0.3, one_step=True), {"epoch": 2}),
        ("macer[weight=3,draws=3,deferred=30]", macer, {"epoch": 30}),
    ],
)
def test_the_loss_of_classes_and_its_gradient_are_those_of_the_paper(asked, written_out, options):
    require_same(asked, written_out, Scores(), right_labels(), **options)


def test_the_target_of_smoothmix_is_not_detached():
    """The value is the same, the gradient another."""
    model, y = Scores(), right_labels()
    loss, detached = loss_of(MIX.format(0), model, y), smoothmix(1.0, one_step=False, detached=True)(model, y)
    assert loss.item() == pytest.approx(detached.item())
    assert not torch.allclose(gradients(loss, model), gradients(detached, model), rtol=1e-3)


def test_smoothmix_mixes_only_what_is_classified_well():
    model, y = Scores(), (right_labels() + 1) % CLASSES
    y[2] = (y[2] + 1) % CLASSES
    with_mix, without = loss_of(MIX.format(0), model, y), loss_of(MIX.format(0).replace("=7", "=0"), model, y)
    assert with_mix.item() == without.item()


def test_macer_counts_the_radius_after_the_deferred_epochs_and_where_it_is_small():
    model, y = Scores(), right_labels()
    early, late = (loss_of("macer[weight=3,draws=3,deferred=30]", model, y, epoch=epoch) for epoch in (29, 30))
    assert early.item() < late.item()
    assert bool(gradients(late, model).isfinite().all())


def test_macer_has_a_finite_gradient_where_a_class_is_certain():
    model = Scores()
    with torch.no_grad():
        model.last.weight.mul_(1e4)
    assert bool(gradients(loss_of("macer[deferred=0]", model, right_labels()), model).isfinite().all())


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        ("consistency", 0.25, {"weight": 10.0}),
        ("consistency", 0.5, {"weight": 5.0}),
        ("consistency", 1.0, {"weight": 5.0}),
        ("smoothmix", 0.25, {"steps": 2}),
        ("smoothmix", 0.5, {"steps": 4}),
        ("smoothmix", 1.0, {"steps": 8, "weight": 5.0, "size": 1.0, "draws": 4}),
        ("smoothadv", 1.0, {"eps": 255 / 256, "steps": 10, "draws": 4}),
        ("macer", 0.5, {"weight": 16.0, "draws": 16}),
        ("macer", 1.0, {"weight": 6.0}),
        ("stability", 1.0, {"weight": 2.0}),
    ],
)
def test_defaults_are_those_published_for_mnist_at_each_scale(name, scale, expected):
    assert expected.items() <= dict(complete(name, {}, scale)).items()


def pictures_target() -> Tensor:
    return torch.rand(IMAGES, 1, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def outputs_at(model: nn.Module, x: Tensor, d: Tensor) -> Tensor:
    """``(draws, *out)`` at one image."""
    return torch.stack([model((x + one)[None])[0] for one in d])


def squared_error(model, y, d):
    each = [(outputs_at(model, x, d[:, i]) - y[i]).square().mean() for i, x in enumerate(images())]
    return sum(each) / IMAGES


def output_consistency(model, y):
    d, variance = noises(3), 0
    for index, x in enumerate(images()):
        a = outputs_at(model, x, d[:, index])
        variance = variance + (a - a.mean(0)).square().sum() / 2 / 4
    return squared_error(model, y, d) + 3 * variance / IMAGES


def spectral(model, y):
    d, top = noises(5), 0
    for index, x in enumerate(images()):
        a = outputs_at(model, x, d[:, index]).flatten(1)
        top = top + torch.linalg.eigvalsh(torch.cov(a.T))[-1] / 4
    return squared_error(model, y, d) + 3 * top / IMAGES


def moving_adversary(model: nn.Module, others: Draws, d: Tensor, h: float) -> Tensor:
    radius = h * SIGMA
    directions = others.normal((IMAGES, 1, 2, 2))
    found = []
    for index, x in enumerate(images()):
        own, direction = d[:, index], directions[index]
        before = outputs_at(model, x, own).mean(0).detach()
        adversary = x + radius / 3 * direction / direction.norm()
        for _ in range(3):
            adversary = adversary.detach().requires_grad_()
            moved = (outputs_at(model, adversary, own).mean(0) - before).square().sum()
            (gradient,) = torch.autograd.grad(moved, adversary)
            shift = adversary.detach() + 2 * radius / 3 * gradient / gradient.norm() - x
            adversary = x + shift * min(1.0, radius / float(shift.norm()))
        found.append(adversary)
    return torch.stack(found)


def output_adversary(model, y):
    d = noises(2)
    adversary = moving_adversary(model, other_draws(Draws(KEY, images())), d, 1.5)
    at_adversary = [(outputs_at(model, x, d[:, i]) - y[i]).square().mean() for i, x in enumerate(adversary)]
    return squared_error(model, y, d) + 3 * sum(at_adversary) / IMAGES


def output_mix(model, y):
    d, others = noises(2), other_draws(Draws(KEY, images()))
    adversary = moving_adversary(model, others, d, 1.5)
    shares, apart = others.uniform((IMAGES,)) / 2, 0
    for index, x in enumerate(images()):
        share, own = shares[index], d[:, index]
        target = (1 - share) * outputs_at(model, x, own).mean(0) + share * y.mean(0)
        mix = (1 - share) * x + share * adversary[index]
        apart = apart + (outputs_at(model, mix, own) - target).square().mean()
    return squared_error(model, y, d) + 3 * apart / IMAGES


@pytest.mark.parametrize(
    ("asked", "written_out"),
    [
        ("output_consistency[weight=3,draws=3]", output_consistency),
        ("spectral[weight=3,draws=5]", spectral),
        ("output_adversary[weight=3,h=1.5,steps=3]", output_adversary),
        ("output_mix[weight=3,h=1.5,steps=3]", output_mix),
    ],
)
def test_the_loss_of_images_and_its_gradient_are_their_formula(asked, written_out):
    model = Pictures()
    with torch.no_grad():  # a gap between eigenvalues, so that power iteration has converged
        model.last.weight[0].mul_(4)
    require_same(asked, written_out, model, pictures_target())


def test_the_loss_of_maps_is_cross_entropy_and_the_variance_of_class_probabilities():
    y = torch.tensor([[[0, 1]], [[1, 1]], [[0, 0]]])

    def written_out(model, y):
        d, total = noises(3), 0
        for index, x in enumerate(images()):
            p = outputs_at(model, x, d[:, index]).softmax(1)  # (draws, classes, 1, 2)
            for pixel in range(2):
                total = total - p[:, y[index, 0, pixel], 0, pixel].log().mean() / 2
            total = total + 3 * p.var(0).mean()
        return total / IMAGES

    require_same("output_consistency[weight=3,draws=3]", written_out, Pixels(), y)


def test_the_mix_of_maps_is_with_equal_probabilities():
    y = torch.tensor([[[0, 1]], [[1, 1]], [[0, 0]]])
    d = noises(2)

    def written_out(model, y):
        others, total = other_draws(Draws(KEY, images())), 0
        directions = others.normal((IMAGES, 1, 2, 2))
        shares = others.uniform((IMAGES,)) / 2
        for index, x in enumerate(images()):
            own, share = d[:, index], shares[index]
            before = outputs_at(model, x, own).softmax(1).mean(0).detach()
            adversary = (x + SIGMA * directions[index] / directions[index].norm()).requires_grad_()
            moved = (outputs_at(model, adversary, own).softmax(1).mean(0) - before).square().sum()
            (gradient,) = torch.autograd.grad(moved, adversary)
            shift = adversary.detach() + 2 * SIGMA * gradient / gradient.norm() - x
            adversary = x + shift * min(1.0, SIGMA / float(shift.norm()))
            p = outputs_at(model, x, own).softmax(1)
            target = (1 - share) * p.mean(0) + share / 2
            q = outputs_at(model, (1 - share) * x + share * adversary, own).softmax(1)
            for pixel in range(2):
                total = total - p[:, y[index, 0, pixel], 0, pixel].log().mean() / 2
            total = total + 3 * (target * (target / q).log()).sum(1).mean()
        return total / IMAGES

    require_same("output_mix[weight=3,h=1,steps=1]", written_out, Pixels(), y)


def test_adversaries_move_the_smoothed_output_more_than_most_random_shifts_of_their_length():
    model, method = Pictures(), OutputAdversary(weight=1.0, h=0.5, steps=8, draws=2)
    outputs = SameDraws(model, GaussianNoise(SIGMA), Draws(KEY, images()), 2)
    adversary = method.adversary(outputs, images(), pictures_target(), Draws(1, images()))
    lengths = norms(adversary - images())
    assert torch.allclose(lengths, torch.full_like(lengths, 0.5 * SIGMA))
    with torch.no_grad():
        before = outputs(images()).mean(0)
        moved = norms(outputs(adversary).mean(0) - before).flatten()
        random = torch.randn(300, *images().shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        shifts = [images() + 0.5 * SIGMA * shift / norms(shift) for shift in random]
        others = torch.stack([norms(outputs(x).mean(0) - before).flatten() for x in shifts])
    assert bool((moved > others.quantile(0.8, dim=0)).all())


def test_the_top_eigenvalue_is_that_of_the_covariance():
    samples = torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples[..., 0] *= 20
    found = top_eigenvalue(samples, Draws(0, samples))
    expected = torch.stack([torch.linalg.eigvalsh(torch.cov(one.T))[-1] for one in samples])
    assert torch.allclose(found, expected, rtol=1e-6)


def test_layers_are_in_eval_mode_under_attack_and_the_model_answers_as_in_training():
    model = BaseModel()
    model.norm = nn.BatchNorm1d(2)
    model.train()
    with fixed_layers(model):
        assert (model.training, model.norm.training) == (True, False)
    assert model.norm.training


@pytest.mark.parametrize("asked", ["consistency", "smoothadv", "smoothmix", "macer", "stability", "cross_entropy"])
def test_a_step_that_reads_its_numbers_from_a_tape_has_the_loss_of_one_that_draws_them(asked):
    model, method, tape = Scores(), kind_of(asked)(**dict(complete(asked, {}, SIGMA))), Tape()

    def loss(draws: Draws) -> float:
        return method.loss(model, images(), LABELS, GaussianNoise(SIGMA), draws, 99).item()

    assert loss(tape.record(Draws(KEY, images()))) == loss(Draws(KEY, images()))
    before = [one.numbers.data_ptr() for taken in tape.taken.values() for one in taken]
    assert loss(tape.read(images())) == loss(Draws(KEY, images()))
    tape.fill(Draws(KEY + 7, images()))
    assert loss(tape.read(images())) == loss(Draws(KEY + 7, images()))
    assert [one.numbers.data_ptr() for taken in tape.taken.values() for one in taken] == before  # what a graph reads


def test_a_step_that_asks_a_tape_for_other_numbers_than_the_recorded_one_is_caught():
    tape = Tape()
    tape.record(Draws(KEY, images())).normal((2,))
    with pytest.raises(AssertionError, match="asked"):
        tape.read(images()).normal((3,))
    read = tape.read(images())
    read.normal((2,))
    with pytest.raises(AssertionError, match="asked"):
        read.normal((2,))


OF_WHOLE_MODELS = [name for name in METHODS if kind_of(name).target not in ("denoising", "diffusion")]


@pytest.mark.parametrize("name", [one for one in OF_WHOLE_MODELS if one not in ("none", "augment", "cross_entropy")])
def test_a_step_of_each_method_moves_the_weights_and_a_batch_has_as_many_steps_as_chunks(name):
    data, model = load_data("digits", None), "lenet" if kind_of(name).target == "labels" else "autoencoder"
    asked, done = "macer[deferred=0]" if name == "macer" else name, list[int]()
    training = training_of(model, data, TrainConfig(1, 32, 16), asked, {"name": "gaussian"}, 0.5, 0, "cpu")
    state, _ = train_checkpoint(training, MODELS[model], data, done.append)
    assert done == [16 // training.objective.chunks] * (2 * training.objective.chunks)
    before, after = fresh_model(training, MODELS[model], data).state_dict(), load(state)
    moved = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
    assert len(moved) == len(after)
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())


@pytest.mark.parametrize(
    ("asked", "noise", "message"),
    [
        (
            "smoothmix",
            {"name": "splitting"},
            r"train.method has 'smoothmix': an adversary needs gradients, and Splitting.*",
        ),
        ("output_mix", {"name": "splitting"}, r"train.method has 'output_mix': an adversary needs gradients.*"),
        (
            "macer[draws=4]",
            {"name": "laplace"},
            r"train.method has 'macer\[draws=4\]': its radius is that of Gaussian .*",
        ),
    ],
)
def test_a_law_that_a_method_cannot_train_with_is_refused_in_one_line(asked, noise, message):
    model = "autoencoder" if asked == "output_mix" else "lenet"
    with pytest.raises(RunError, match=f"^{message}; choose another method or noise$"):
        training_of(model, load_data("digits", None), TrainConfig(1, 20, 10), asked, noise, 0.5, 0, "cpu")


def test_epochs_in_which_a_part_of_the_loss_never_counts_are_refused():
    few = ("lenet", load_data("digits", None), TrainConfig(30, 20, 10))
    said = (
        r"^train.epochs is 30: expected more than the first 30, in which a part of the loss of 'macer' does not count.*"
    )
    with pytest.raises(RunError, match=said):
        training_of(*few, "macer", {"name": "gaussian"}, 0.5, 0, "cpu")
    assert training_of(*few, "macer[deferred=29]", {"name": "gaussian"}, 0.5, 0, "cpu").epochs == 30
