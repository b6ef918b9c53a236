"""Smoothing laws with a worst perturbation, and a number of each noisy input whose law is known there.

By the lemma of Neyman and Pearson the sets that lose most are half-lines of the likelihood ratio. The number is that
ratio or rises with it, so a model that is a step in it is a worst case of the law's bound. Where the bound is not
attained (translation, brightness with contrast, rotation, scaling, a folded normal law composed with another) the
half-lines lose less than it allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from centersmooth import (
    AblationNoise,
    EllipsoidNoise,
    EnumeratedSplitting,
    GaussianNoise,
    LaplaceNoise,
    Noise,
    PatchNoise,
    RandomStream,
    SplittingNoise,
    UniformNoise,
)
from centersmooth.draws import Draws
from centersmooth.noise import (
    Blur,
    Brightness,
    BrightnessContrastNoise,
    Composed,
    Contrast,
    ExponentialNoise,
    FoldedNormalNoise,
    Gamma,
    RayleighNoise,
    RotationNoise,
    ScalingNoise,
    Transformed,
    Translation,
    UpperUniformNoise,
)

Statistic = Callable[[Tensor], Tensor]
"""A number of each noisy input, ``(b, *noised) -> (b,)``, in float64."""

ONLY_AT_X, ONLY_AT_X_PRIME = -99.0, 99.0
"""Values of a statistic where a noisy input can come from ``x`` alone, or from ``x'`` alone."""

DRAWS, MARGIN = 100_000, 0.01
"""Draws from which a mass without a closed form is estimated, and six standard errors of it."""


@dataclass(frozen=True)
class NoiseWorld:
    """A law at an input and at a perturbed one.

    Attributes
    ----------
    noise : Noise
        With its bound for ``x``.
    eps : float
        Size of the perturbation.
    x, x_prime : Tensor, shape ``(*in)``
    statistic : callable
    mass_at_x_prime : callable, float -> float
        Mass of ``{statistic <= t}`` at ``x'``.
    margin : float
        Largest error of that; 0 where it has a closed form.
    """

    noise: Noise
    eps: float
    x: Tensor
    x_prime: Tensor
    statistic: Statistic
    mass_at_x_prime: Callable[[float], float]
    margin: float = 0.0

    def threshold(self, mass: float) -> float:
        """The largest threshold, to about 14 digits, at which ``{statistic <= t}`` has less than ``mass`` at ``x'``."""
        low, high = -98.0, 98.0
        while low < (middle := (low + high) / 2) < high:
            below = self.mass_at_x_prime(middle) < mass - 1e-9 - self.margin
            low, high = (middle, high) if below else (low, middle)
        return low


class UnderstatedNoise(GaussianNoise):
    """Noise 30% smaller than it states."""

    def sample(self, x: Tensor, count: int, draws: Draws) -> Tensor:
        return GaussianNoise(0.7 * self.sigma).sample(x, count, draws)


class UnderstatedPatch(PatchNoise):
    """A law that says of one noisy input fewer that it changes."""

    def changed(self, eps: float) -> int:
        return super().changed(eps) - 1


def laplace(t: float) -> float:
    return 0.5 * math.exp(t) if t < 0 else 1 - 0.5 * math.exp(-t)


def uniform(t: float) -> float:
    """The distribution function on [0, 1]."""
    return min(1.0, max(0.0, t))


def first_number(inputs: Tensor) -> Tensor:
    return inputs.flatten(1)[:, 0].double()


def shifted(noise: Noise, eps: float, shift: list[float], law: Callable[[float], float]) -> NoiseWorld:
    """Noise of this law that is added to 0, where the first number shifts."""
    x_prime = torch.tensor(shift, dtype=torch.float64)
    return NoiseWorld(noise, eps, torch.zeros_like(x_prime), x_prime, first_number, lambda t: law(t - shift[0]))


def in_all_numbers(p: float, numbers: int, size: float) -> NoiseWorld:
    """Gaussian noise against a shift of all numbers by ``size`` each."""
    x_prime, root = torch.full((numbers,), size, dtype=torch.float64), math.sqrt(numbers)
    eps = size * (1 if p == math.inf else numbers ** (1 / p))
    return NoiseWorld(
        noise=(noise := GaussianNoise(1.0, p=p).at(x_prime)),
        eps=eps,
        x=torch.zeros_like(x_prime),
        x_prime=noise.threat.apply(torch.zeros_like(x_prime), x_prime),
        statistic=lambda inputs: inputs.double().sum(1) / root,
        mass_at_x_prime=lambda t: float(ndtr(t - root * size)),
    )


def uniform_square(p: float, eps: float) -> NoiseWorld:
    """Uniform noise of two numbers that shift equally: squares that overlap."""
    each = eps if p == math.inf else eps / math.sqrt(2)
    x = torch.zeros(2, dtype=torch.float64)

    def statistic(inputs: Tensor) -> Tensor:
        only_at_x, only_at_x_prime = (inputs < each - 1).any(1), (inputs > 1).any(1)
        return first_number(inputs).where(~only_at_x, ONLY_AT_X).where(~only_at_x_prime, ONLY_AT_X_PRIME)

    def mass(t: float) -> float:
        return (1 - each / 2) * min(1 - each / 2, max(0.0, (t + 1 - each) / 2))

    return NoiseWorld(UniformNoise(1.0, p=p).at(x), eps, x, x + each, statistic, mass)


def splitting(eps: float) -> NoiseWorld:
    """A number in [0, 1] with one split point ``u`` in it: ``u/2`` below it, else ``(1 + u)/2``."""
    x = torch.zeros(1, dtype=torch.float64)

    def mass(t: float) -> float:
        return max(0.0, 2 * min(t, 0.5) - eps) + 2 * max(0.0, min(t, (1 + eps) / 2) - 0.5)

    return NoiseWorld(SplittingNoise(0.5), eps, x, x + eps, first_number, mass)


def finite(
    noise: Noise, eps: float, x: Tensor, x_prime: Tensor, statistic: Statistic, at_x_prime: Tensor
) -> NoiseWorld:
    """A law whose noisy inputs at ``x'`` are these, equally likely."""
    values = statistic(at_x_prime)
    return NoiseWorld(noise.at(x), eps, x, x_prime, statistic, lambda t: float((values <= t).double().mean()))


def splitting_8bit(steps: int) -> NoiseWorld:
    noise, x = EnumeratedSplitting(0.5), torch.zeros(1, dtype=torch.float64)
    x_prime = x + steps / 255
    return finite(noise, steps / 255, x, x_prime, first_number, torch.cat(list(noise.support(x_prime, 1_000))))


def changed_pixels(inputs: Tensor) -> Tensor:
    """A number of the pixels that are kept; extreme where one of them changes from 0 at ``x`` to 1 at ``x'``.

    Pixels of a changing image are those in the corner `CORNER`.
    """
    values, kept = inputs[:, 0].flatten(1), inputs[:, 1].flatten(1).bool()
    at = (kept.double() @ _WEIGHTS).where(~(kept & _CORNER).any(1), ONLY_AT_X)
    return at.where(~(values == 1).any(1), ONLY_AT_X_PRIME)


_SIDE = 10
_CORNER = (torch.arange(_SIDE)[:, None].maximum(torch.arange(_SIDE)) < 3).flatten()
_WEIGHTS = torch.arange(1, _SIDE**2 + 1, dtype=torch.float64).sqrt()


def hidden_pixels(noise: AblationNoise | PatchNoise, eps: float) -> NoiseWorld:
    """An image of zeros of which a square of nine pixels becomes 1."""
    x = torch.zeros(1, _SIDE, _SIDE, dtype=torch.float64)
    x_prime = _CORNER.double().reshape(x.shape)
    if isinstance(noise, PatchNoise):
        noisy = torch.cat(list(noise.at(x).support(x_prime, 1_000)))
    else:
        sets = torch.combinations(torch.arange(_SIDE**2), noise.keep)
        kept = torch.zeros(len(sets), _SIDE**2, dtype=torch.float64).scatter_(1, sets, 1.0).view(-1, 1, _SIDE, _SIDE)
        noisy = torch.cat([kept * x_prime, kept], dim=1)
    return finite(noise, eps, x, x_prime, changed_pixels, noisy)


def parameter(
    noise: Noise, eps: float, value: float, recovered: Callable[[Tensor], Tensor], law: Callable[[float], float]
) -> NoiseWorld:
    """Noise on the parameter of a transform of one number, which is ``recovered`` from noisy copies."""
    x = torch.full((1,), value, dtype=torch.float64)
    x_prime = noise.threat.apply(x, torch.full((1,), eps, dtype=torch.float64))
    return NoiseWorld(noise, eps, x, x_prime, lambda inputs: recovered(first_number(inputs)), lambda t: law(t - eps))


def log_exponent(values: Tensor) -> Tensor:
    """``log gamma`` of ``0.5^gamma``."""
    return (values.log() / math.log(0.5)).log()


def rayleigh(t: float) -> float:
    """Distribution function of the logarithm of a Rayleigh variable of mean 1."""
    return -math.expm1(-math.pi / 4 * math.exp(2 * t)) if t < 20 else 1.0


_DOT = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
_COSINES = torch.cos(math.pi / 3 * (torch.arange(3, dtype=torch.float64) + 0.5))


def variance(inputs: Tensor) -> Tensor:
    """The variance by which `_DOT` was blurred, from its first cosine coefficient."""
    return -2 * (3 / math.pi) ** 2 * (inputs[:, 0] @ _COSINES / _COSINES[0]).log()


def blurred(law: Noise, eps: float, distribution: Callable[[float], float]) -> NoiseWorld:
    noise = Transformed(Blur(), law)
    x_prime = noise.threat.apply(_DOT, torch.full((1,), eps, dtype=torch.float64))
    return NoiseWorld(noise, eps, _DOT, x_prime, variance, lambda t: distribution(t - eps))


_RISING = torch.arange(60.0, dtype=torch.float64)[None]


def moved_to(inputs: Tensor) -> Tensor:
    """By how many pixels `_RISING` was moved cyclically, of both signs."""
    places = inputs[:, 0].argmin(1)
    return (places - 60 * (places >= 30)).double()


def translated(sigma: float, pixels: int) -> NoiseWorld:
    return NoiseWorld(
        noise=Transformed(Translation(), GaussianNoise(sigma)),
        eps=float(pixels),
        x=_RISING,
        x_prime=_RISING.roll(pixels, 1),
        statistic=moved_to,
        mass_at_x_prime=lambda t: float(ndtr((math.floor(t) + 0.5 - pixels) / sigma)),
    )


def brightness_contrast(sigma: float, eps: float) -> NoiseWorld:
    """``e^k (x + b)``, of which both parameters are recovered; at ``x'`` their sum is normal again."""
    noise, x = BrightnessContrastNoise(sigma), torch.tensor([1.0, 2.0], dtype=torch.float64)

    def statistic(inputs: Tensor) -> Tensor:
        contrast = (inputs[:, 1] - inputs[:, 0]).log()
        return (contrast + inputs[:, 0] * torch.exp(-contrast) - 1) / sigma

    def mass(t: float) -> float:
        return float(ndtr((t - 2 * eps / sigma) / math.sqrt(1 + math.exp(-2 * eps))))

    x_prime = noise.threat.apply(x, torch.tensor([eps, eps], dtype=torch.float64))
    return NoiseWorld(noise, eps, x, x_prime, statistic, mass)


_SIGMA = 0.2
_BRIGHTER = Transformed(Brightness(), GaussianNoise(_SIGMA))


def brightness_of(inputs: Tensor) -> Tensor:
    """The brightness that was added to `_DOT`, blurred or not, in its standard deviations."""
    return (inputs.flatten(1).mean(1) - 1 / 3) / _SIGMA


def blurred_and_brighter(
    law: Noise, eps: float, statistic: Statistic, mass_at_x_prime: Callable[[float], float]
) -> NoiseWorld:
    """Blur by up to ``eps`` and brightness by up to half a standard deviation."""
    noise = Composed(Transformed(Blur(), law), _BRIGHTER, 0.5 * _SIGMA / eps)
    shift = torch.tensor([eps, 0.5 * _SIGMA], dtype=torch.float64)
    return NoiseWorld(noise, eps, _DOT, noise.threat.apply(_DOT, shift), statistic, mass_at_x_prime)


def exponential_and_brighter(eps: float) -> NoiseWorld:
    def statistic(inputs: Tensor) -> Tensor:
        return brightness_of(inputs).where(variance(inputs) >= eps - 1e-9, ONLY_AT_X)

    return blurred_and_brighter(ExponentialNoise(1.0), eps, statistic, lambda t: float(ndtr(t - 0.5)))


def uniform_and_brighter(eps: float) -> NoiseWorld:
    def statistic(inputs: Tensor) -> Tensor:
        blur = variance(inputs)
        both = brightness_of(inputs).where(blur >= eps - 1e-9, ONLY_AT_X)
        return both.where(blur <= 2.0, ONLY_AT_X_PRIME)

    return blurred_and_brighter(UpperUniformNoise(2.0), eps, statistic, lambda t: (1 - eps / 2) * float(ndtr(t - 0.5)))


def folded_and_brighter(eps: float) -> NoiseWorld:
    """The logarithm of the likelihood ratio is linear in both parameters where the variance can be that of ``x'``."""
    halves = ndtri(0.5 + (np.arange(4_000) + 0.5) / 8_000)

    def statistic(inputs: Tensor) -> Tensor:
        blur = variance(inputs)
        return (eps * blur + 0.5 * brightness_of(inputs)).where(blur >= eps - 1e-9, ONLY_AT_X)

    def mass(t: float) -> float:
        return float(ndtr((t - eps * (eps + halves)) / 0.5 - 0.5).mean())

    return blurred_and_brighter(FoldedNormalNoise(1.0), eps, statistic, mass)


def brighter_and_translated(pixels: int) -> NoiseWorld:
    """Both shift by one standard deviation."""
    eps, places = _SIGMA * 0.7, np.arange(-29, 30)
    moves = Transformed(Translation(), GaussianNoise(pixels / 0.7))
    noise = Composed(_BRIGHTER, moves, pixels / eps)
    of_place = np.diff(ndtr((np.append(places, 30) - 0.5 - pixels) * 0.7 / pixels))

    def statistic(inputs: Tensor) -> Tensor:
        return inputs.flatten(1).amin(1) / _SIGMA + moved_to(inputs) * 0.7 / pixels

    def mass(t: float) -> float:
        return float((of_place * ndtr(t - places * 0.7 / pixels - 0.7)).sum())

    x_prime = noise.threat.apply(_RISING, torch.tensor([eps, 0.0, float(pixels)], dtype=torch.float64))
    return NoiseWorld(noise, eps, _RISING, x_prime, statistic, mass)


_HALVES = torch.cat([torch.ones(3, 7), torch.zeros(4, 7)]).double()
"""An image whose upper half is bright: its first pixel gets darker when it is turned one way or made smaller."""


def warped(noise: RotationNoise | ScalingNoise, eps: float, shift: float) -> NoiseWorld:
    """Masses at ``x'`` are those among `DRAWS` noisy copies; the statistic is minus or plus the first pixel."""
    x_prime = noise.threat.apply(_HALVES, torch.tensor([shift], dtype=torch.float64))
    blocks = [noise.sample(x_prime, 2_000, RandomStream(1).draws("masses", i, _HALVES)) for i in range(DRAWS // 2_000)]
    values = torch.cat([-first_number(block) for block in blocks]).sort().values

    def mass(t: float) -> float:
        return int(torch.searchsorted(values, t, right=True)) / DRAWS

    return NoiseWorld(noise.at(_HALVES), eps, _HALVES, x_prime, lambda inputs: -first_number(inputs), mass, MARGIN)


def normal(scale: float) -> Callable[[float], float]:
    return lambda t: float(ndtr(t / scale))


WORLDS: dict[str, Callable[[], NoiseWorld]] = {
    "gaussian": lambda: shifted(GaussianNoise(1.0), 1.0, [1.0], normal(1.0)),
    "gaussian[p=1]": lambda: shifted(GaussianNoise(1.0, p=1), 1.0, [1.0, 0.0], normal(1.0)),
    "gaussian[p=3]": lambda: in_all_numbers(3, 4, 0.5),
    "gaussian[p=inf]": lambda: in_all_numbers(math.inf, 4, 0.5),
    "ellipsoid": lambda: shifted(EllipsoidNoise(0.5, torch.tensor([2.0, 1.0]).double()), 0.5, [1.0, 0.0], normal(1.0)),
    "laplace": lambda: shifted(LaplaceNoise(1.0), 0.8, [0.8, 0.0], laplace),
    "uniform": lambda: shifted(UniformNoise(1.0), 0.4, [0.4, 0.0], lambda t: uniform((t + 1) / 2)),
    "uniform[p=2]": lambda: uniform_square(2, 0.3),
    "uniform[p=inf]": lambda: uniform_square(math.inf, 0.2),
    "splitting": lambda: splitting(0.2),
    "splitting_8bit": lambda: splitting_8bit(51),
    "ablation": lambda: hidden_pixels(AblationNoise(2), 9.0),
    "patch": lambda: hidden_pixels(PatchNoise(2), 3.0),
    "brightness": lambda: parameter(_BRIGHTER, 0.2, 0.0, lambda values: values, normal(_SIGMA)),
    "contrast": lambda: parameter(
        Transformed(Contrast(), GaussianNoise(0.2)), 0.2, 1.0, lambda values: values.log(), normal(0.2)
    ),
    "gamma": lambda: parameter(Transformed(Gamma(), GaussianNoise(0.4)), 0.4, 0.5, log_exponent, normal(0.4)),
    "rayleigh": lambda: parameter(RayleighNoise(), 0.3, 0.5, log_exponent, rayleigh),
    "blur": lambda: blurred(ExponentialNoise(1.0), 0.4, lambda t: -math.expm1(-max(0.0, t))),
    "blur[law=folded_normal]": lambda: blurred(FoldedNormalNoise(1.0), 0.4, lambda t: 2 * float(ndtr(max(0.0, t))) - 1),
    "blur[law=uniform]": lambda: blurred(UpperUniformNoise(2.0), 0.4, lambda t: uniform(t / 2)),
    "translation": lambda: translated(3.0, 3),
    "brightness_contrast": lambda: brightness_contrast(0.2, 0.1),
    "rotation": lambda: warped(RotationNoise(20.0, 0.5), 15.0, 15.0),
    "scaling": lambda: warped(ScalingNoise(0.1, 3.0), 0.1, -0.1),
    "composed[brightness, gaussian]": lambda: shifted(
        Composed(_BRIGHTER, GaussianNoise(_SIGMA)), 0.7 * _SIGMA, [1.4 * _SIGMA], normal(_SIGMA * math.sqrt(2))
    ),
    "composed[brightness, translation]": lambda: brighter_and_translated(3),
    "composed[blur, brightness]": lambda: exponential_and_brighter(0.3),
    "composed[blur[law=uniform], brightness]": lambda: uniform_and_brighter(0.3),
    "composed[blur[law=folded_normal], brightness]": lambda: folded_and_brighter(0.3),
}
"""By name, as rows have them; each is built when it is asked for."""

BROKEN_WORLD = NoiseWorld(
    UnderstatedNoise(1.0),
    1.0,
    torch.zeros(1, dtype=torch.float64),
    torch.ones(1, dtype=torch.float64),
    first_number,
    lambda t: float(ndtr((t - 1) / 0.7)),
)
"""The Gaussian world, with noise 30% smaller than stated."""


def understated_patch() -> NoiseWorld:
    return hidden_pixels(UnderstatedPatch(2), 3.0)
