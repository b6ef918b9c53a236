"""Balls of additive threats: shifts have the size asked for, and none leaves the ball, rounding included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from centersmooth import RandomStream, RequestError
from centersmooth.draws import Draws
from centersmooth.noise import Ball, Ellipsoid, L1Ball, L2Ball, LInfBall, LpBall, ball

BALL = L2Ball()
BALLS = [L1Ball(), L2Ball(), LInfBall(), LpBall(1.5), LpBall(3)]
UNEVEN = Ellipsoid(torch.tensor([0.5, 2.0, 1.0, 0.1, 1.0, 1.0, 3.0]))
EVERY = [*BALLS, UNEVEN]
ORDERS = {"l1": 1, "l2": 2, "l_inf": math.inf, "l1.5": 1.5, "l3": 3}
SHAPES = [(7,), (5, 7), (3, 5, 7)]
SIZES = [1e-7, 1e-3, 0.5, 40.0]


def norm_of(of: Ball, shift: Tensor) -> float:
    """The size of a shift, written without the library's own `Ball.norm`."""
    shift = shift.double()
    if isinstance(of, Ellipsoid):
        return float((shift / of.shape.double()).square().sum().sqrt())
    sizes, order = shift.abs().flatten(), ORDERS[of.unit]
    return float(sizes.max() if order == math.inf else (sizes**order).sum() ** (1 / order))


def draws_for(x: Tensor, seed: int = 0) -> Draws:
    return RandomStream(seed).draws("shifts", 0, x)


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("eps", [0.0, *SIZES])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("of", EVERY, ids=lambda of: of.unit)
@pytest.mark.parametrize("name", ["start", "propose"])
def test_random_shifts_have_the_size_and_the_type_of_the_input(
    name: str, of: Ball, shape: tuple[int, ...], eps: float, dtype: torch.dtype
) -> None:
    """Of full size, another at each call."""
    x = random(shape, dtype)
    draws, drawn = draws_for(x), getattr(of, name)
    shifts = [drawn(x, eps, draws) for _ in range(5)]
    for shift in shifts:
        assert (shift.shape, shift.dtype) == (x.shape, x.dtype)
        assert norm_of(of, shift) == pytest.approx(eps, rel=1e-5)
    assert eps == 0 or any(not torch.equal(shifts[0], shift) for shift in shifts)


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
@pytest.mark.parametrize("of", EVERY, ids=lambda of: of.unit)
def test_a_perturbed_input_is_within_eps_in_float64(of: Ball, eps: float, offset: float, dtype: torch.dtype) -> None:
    """After all rounding, at the surface where the numbers allow; the same input where they do not."""
    left = 0
    for seed in range(20):
        x = (offset + 50 * random((6, 7))).to(dtype)
        shift = of.start(x, eps, draws_for(x, seed))
        left += norm_of(of, (x + shift).double() - x.double()) > eps
        difference = of.perturbed(x, shift, eps).double() - x.double()
        moved = norm_of(of, difference)
        assert of.norm(difference) <= eps
        assert moved <= eps * (1 + 1e-12)
        if eps >= 0.5 and dtype is not torch.float16:
            assert moved >= 0.99 * eps
    if (eps, dtype) == (1e-3, torch.float32):
        assert left > 0  # a sum without care leaves the ball


def test_an_input_with_no_neighbour_within_eps_stays() -> None:
    x = torch.full((3,), 1e6)
    perturbed = BALL.perturbed(x, torch.full((3,), 0.05), 0.1)
    assert torch.equal(perturbed, x)
    assert perturbed is not x


@pytest.mark.parametrize("of", EVERY, ids=lambda of: of.unit)
@pytest.mark.parametrize("eps", [0.3, 2.0])
def test_what_lies_within_is_left_and_what_lies_outside_comes_to_the_surface(of: Ball, eps: float) -> None:
    shift = random((5, 7), torch.float64)
    inside = shift * (0.9 * eps / norm_of(of, shift))
    assert torch.equal(of.project(inside, eps), inside)
    assert norm_of(of, of.project(1.7 * inside, eps)) == pytest.approx(eps, rel=1e-9)
    assert torch.equal(of.project(inside, 0.0), torch.zeros_like(shift))
    assert torch.equal(of.project(torch.zeros_like(shift), eps), torch.zeros_like(shift))


@pytest.mark.parametrize("of", BALLS, ids=lambda of: of.unit)
def test_a_projection_is_nearer_than_any_other_point_of_the_ball(of: Ball) -> None:
    """The angle to every point of a convex set is obtuse at the nearest one, which no other point has."""
    shift, eps = random((7,), torch.float64), 0.8
    nearest = of.project(shift, eps)
    x = torch.zeros(7, dtype=torch.float64)
    draws = draws_for(x)
    others = [of.start(x, eps, draws) for _ in range(500)] + [of.project(shift + of.start(x, 0.1, draws), eps)]
    others += [eps * of.steepest(shift - nearest)]  # the farthest point of the ball in this direction
    assert max(float((shift - nearest) @ (other - nearest)) for other in others) <= 1e-9


def test_a_projection_onto_the_l1_ball_is_that_of_a_general_solver() -> None:
    shift = random((5,), torch.float64)
    found = L1Ball().project(shift, 1.0)
    assert 0 < int((found == 0).sum()) < 5
    target = shift.numpy()
    solved = minimize(  # in positive and negative parts, where the ball is a simplex
        lambda parts: ((parts[:5] - parts[5:] - target) ** 2).sum(),
        np.full(10, 0.1),
        bounds=[(0, None)] * 10,
        constraints={"type": "ineq", "fun": lambda parts: 1 - parts.sum()},
        tol=1e-12,
    ).x
    assert found.tolist() == pytest.approx((solved[:5] - solved[5:]).tolist(), abs=1e-5)


def test_a_projection_onto_an_ellipsoid_is_nearest_in_its_own_distance() -> None:
    """It keeps the direction, as a ball of l2 does in units of the shape."""
    shift = random((7,), torch.float64)
    projected = UNEVEN.project(shift, 0.25)
    assert (projected / shift).tolist() == pytest.approx([0.25 / norm_of(UNEVEN, shift)] * 7)


@pytest.mark.parametrize("of", EVERY, ids=lambda of: of.unit)
def test_the_steepest_shift_has_size_1_and_the_largest_slope(of: Ball) -> None:
    gradient = random((7,), torch.float64)
    gradient[2] = 0
    steepest = of.steepest(gradient)
    assert norm_of(of, steepest) == pytest.approx(1, rel=1e-12)
    x = torch.zeros(7, dtype=torch.float64)
    draws = draws_for(x)
    slopes = [float(of.start(x, 1.0, draws) @ gradient) for _ in range(100)]
    near = [float(of.project(steepest + 0.1 * of.start(x, 1.0, draws), 1.0) @ gradient) for _ in range(100)]
    slope = float(steepest @ gradient)
    assert max(slopes + near) <= slope * (1 + 1e-12)
    order = ORDERS.get(of.unit)
    if order is not None:
        dual = 1 if order == math.inf else math.inf if order == 1 else order / (order - 1)
        assert slope == pytest.approx(float(torch.linalg.vector_norm(gradient, dual)), rel=1e-12)
    assert torch.equal(of.steepest(torch.zeros(7)), torch.zeros(7))
    assert of.steepest(gradient.float()).dtype is torch.float32


def test_a_ball_says_what_eps_is() -> None:
    assert (BALL.unit, BALL.meaning) == ("l2", "an l2 radius of at least 0, in the unit of the model's input")
    assert ball(2) == BALL
    assert ball(1) == L1Ball()
    assert ball(math.inf) == LInfBall()
    assert (LInfBall().unit, LpBall(3).unit, UNEVEN.unit) == ("l_inf", "l3", "mahalanobis")
    for of in EVERY:
        with pytest.raises(RequestError, match=rf"^eps is -1: expected an? ({of.unit}|Mahalanobis) radius of at least"):
            of.require(-1)


@pytest.mark.parametrize("shape", [torch.tensor([1.0, 0.0]), torch.tensor([math.inf]), torch.tensor([1, 2]), [1.0]])
def test_an_ellipsoid_without_positive_half_axes_is_refused(shape) -> None:
    with pytest.raises(RequestError, match=r"^shape is .*: expected a tensor of positive numbers, one a coordinate$"):
        Ellipsoid(shape)
