"""The l2 ball: shifts have the size asked for, and none leaves the ball, rounding included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from centersmooth import RandomStream
from centersmooth.draws import Draws
from centersmooth.noise import L2Ball

BALL = L2Ball()
SHAPES = [(4,), (5, 7), (3, 5, 7)]
SIZES = [1e-7, 1e-3, 0.5, 40.0]


def draws_for(x: Tensor, seed: int = 0) -> Draws:
    return RandomStream(seed).draws("shifts", 0, x)


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("eps", [0.0, *SIZES])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("drawn", [BALL.start, BALL.propose], ids=["start", "propose"])
def test_random_shifts_have_the_size_and_the_type_of_the_input(
    drawn, shape: tuple[int, ...], eps: float, dtype: torch.dtype
) -> None:
    """Of full size, another at each call."""
    x = random(shape, dtype)
    draws = draws_for(x)
    first, second = drawn(x, eps, draws), drawn(x, eps, draws)
    for shift in (first, second):
        assert (shift.shape, shift.dtype) == (x.shape, x.dtype)
        assert float(shift.double().norm()) == pytest.approx(eps, rel=1e-5)
    assert eps == 0 or not torch.equal(first, second)


def test_a_random_direction_is_not_drawn_coordinate_by_coordinate() -> None:
    """A normal vector on the sphere: mean 0 and variance ``1/d`` in each coordinate, within five standard errors."""
    x = torch.zeros(5)
    draws = draws_for(x)
    found = torch.stack([BALL.start(x, 1.0, draws) for _ in range(4_000)]).double()
    assert float(found.mean(0).abs().max()) < 5 * (1 / 5 / 4_000) ** 0.5
    assert float((5 * found.square().mean(0) - 1).abs().max()) < 5 * (8 / 7 / 4_000) ** 0.5


def test_patches_are_unit_vectors_of_one_value() -> None:
    """A rectangle, of one sign in each channel."""
    x = torch.zeros(3, 5, 7)
    draws = draws_for(x)
    for _ in range(50):
        patch = BALL.propose(x, 1.0, draws)
        assert float(patch.norm()) == pytest.approx(1, rel=1e-5)
        assert len(patch.abs().unique()) <= 2
        rows, columns = patch[0].nonzero().T
        assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert all(len(channel[channel != 0].unique()) == 1 for channel in patch)


@pytest.mark.parametrize("eps", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_projection_is_the_nearest_shift_within_eps(shape: tuple[int, ...], eps: float) -> None:
    """What lies inside stays as it is, what lies outside keeps its direction."""
    shift = random(shape, torch.float64)
    inside = shift * (0.9 * eps / shift.norm())
    assert torch.equal(BALL.project(inside, eps), inside)
    projected = BALL.project(1.7 * inside, eps)
    assert float(projected.norm()) == pytest.approx(eps, rel=1e-12)
    assert torch.allclose(projected / eps, shift / shift.norm(), rtol=1e-12)


def test_nothing_is_projected_onto_nothing() -> None:
    """Zeros stay zeros, also at eps = 0, where all else becomes zeros."""
    zeros = torch.zeros(3)
    assert torch.equal(BALL.project(zeros, 0.5), zeros)
    assert torch.equal(BALL.project(zeros, 0.0), zeros)
    assert torch.equal(BALL.project(torch.ones(3), 0.0), zeros)


def test_the_steepest_shift_is_that_of_the_gradient() -> None:
    gradient = torch.tensor([3.0, 0.0, -4.0])
    assert BALL.steepest(gradient).tolist() == pytest.approx([0.6, 0.0, -0.8])
    assert torch.equal(BALL.steepest(torch.zeros(3)), torch.zeros(3))


def test_a_shift_is_applied_by_adding_it() -> None:
    """With gradients."""
    x, shift = random((5,)), random((5,)).requires_grad_()
    assert torch.equal(BALL.apply(x, shift), x + shift)
    BALL.apply(x, shift).sum().backward()
    assert torch.equal(shift.grad, torch.ones(5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("eps", SIZES)
def test_a_perturbed_input_is_within_eps_in_float64(eps: float, offset: float, dtype: torch.dtype) -> None:
    """After all rounding, at the surface where the numbers allow; the same input where they do not."""
    left = 0
    for seed in range(20):
        x = (offset + 50 * random((6, 5))).to(dtype)
        shift = BALL.start(x, eps, draws_for(x, seed))
        left += float((x + shift).double().sub(x.double()).norm()) > eps
        moved = float((BALL.perturbed(x, shift, eps).double() - x.double()).norm())
        assert moved <= eps
        if eps >= 0.5 and dtype is not torch.float16:
            assert moved >= 0.99 * eps
    if (eps, dtype) == (1e-3, torch.float32):
        assert left > 0  # a sum without care leaves the ball


def test_an_input_with_no_neighbour_within_eps_stays() -> None:
    x = torch.full((3,), 1e6)
    perturbed = BALL.perturbed(x, torch.full((3,), 0.05), 0.1)
    assert torch.equal(perturbed, x)
    assert perturbed is not x


def test_a_ball_says_what_eps_is() -> None:
    assert (BALL.unit, BALL.meaning) == ("l2", "an l2 radius of at least 0, in the unit of the model's input")
    assert L2Ball() == BALL
