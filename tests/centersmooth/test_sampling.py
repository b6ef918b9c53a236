"""Draws that nothing but (seed, point, stage) changes, a model that is held fixed, and errors of one line."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from centersmooth import CenterSmoothError, GaussianNoise, ModelError, RandomStream, RequestError
from centersmooth.sampling import Sampler, evaluating

X = torch.linspace(-1, 1, 6)
NOISE = GaussianNoise(0.5)


def net() -> nn.Module:
    """Batch norm with statistics of its own, and dropout: both have to be switched off."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
        model(torch.randn(64, 6) * 3 + 1)
    return model


def draws(count: int = 20, stream: RandomStream | None = None, stage: str = "center", **sizes: int) -> Tensor:
    sampler = Sampler(net().eval(), NOISE, **{"forward_block": 8, "batch_size": 16, **sizes})
    with torch.no_grad():
        return torch.cat(list(sampler.draw(X, count, stream or RandomStream(0), stage)))


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_batch_size_changes_no_digit(batch_size: int) -> None:
    """The same model calls, grouped in another way."""
    assert torch.equal(draws(batch_size=batch_size), draws())


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_draws_are_prefixes_of_each_other(count: int) -> None:
    """More draws extend a run; none of the earlier ones changes."""
    assert torch.equal(draws(count), draws(100)[:count])


def test_seed_point_stage_and_block_give_different_draws() -> None:
    """Seed 0 is a seed like any other, and (1, 0) is not (0, 1)."""
    streams = [RandomStream(0), RandomStream(1), RandomStream(0, 1), RandomStream(11, 0), RandomStream(1, 10)]
    drawn = [draws(8, stream, stage) for stream in streams for stage in ("center", "candidates", "fresh")]
    drawn += [draws(16)[8:]]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_draws_do_not_touch_the_global_generator() -> None:
    """Neither read nor advanced: somebody else's experiment stays as it was."""
    torch.manual_seed(1)
    first, state = draws(), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(draws(), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_fresh_streams_differ() -> None:
    """Entropy, not a default seed."""
    assert RandomStream.fresh() != RandomStream.fresh()


def test_noise_is_gaussian_of_the_stated_sigma() -> None:
    """Mean, spread and fourth moment of 40,000 draws, each within 6 standard errors."""
    z = (GaussianNoise(0.25).sample(X, 8_000, RandomStream(0).draws("center", 0, X)) - X) / 0.25
    count = z.numel()
    assert abs(float(z.mean())) < 6 / math.sqrt(count)
    assert abs(float(z.square().mean()) - 1) < 6 * math.sqrt(2 / count)
    assert abs(float(z.pow(4).mean()) - 3) < 6 * math.sqrt(96 / count)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_gets_the_sum_in_float32_rounded_once(dtype: torch.dtype) -> None:
    noisy, exact = (
        NOISE.sample(x, 5, RandomStream(0).draws("center", 0, x)) for x in (X.to(dtype), X.to(dtype).float())
    )
    assert torch.equal(noisy, exact.to(dtype))


def test_the_model_is_only_called_on_full_blocks() -> None:
    """An output depends on its batch in the last digits, so the size of a call is part of the function."""
    sizes: list[int] = []

    def model(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    sampler = Sampler(model, NOISE, 8, 16)
    list(sampler.draw(X, 19, RandomStream(0), "fresh"))
    assert torch.equal(sampler.base_output(X), X)
    assert sizes == [8] * 4


def test_progress_counts_every_draw_once() -> None:
    """Also in the last, partial batch."""
    seen: list[int] = []
    list(Sampler(lambda x: x, NOISE, 4, 8).draw(X, 19, RandomStream(0), "fresh", progress=seen.append))
    assert seen == [8, 8, 3]


# --- evaluating ----------------------------------------------------------------------------------------------------


def test_evaluating_restores_each_flag() -> None:
    """A frozen batch norm inside a model in training stays frozen."""
    model = net().train()
    model[1].eval()
    before = [m.training for m in model.modules()]
    with evaluating(model):
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
    assert [m.training for m in model.modules()] == before
    assert torch.is_grad_enabled()


def test_evaluating_restores_flags_after_an_exception() -> None:
    """A failed point must not leave the model in another mode."""
    model = net().train()
    model[3].eval()
    before = [m.training for m in model.modules()]
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert [m.training for m in model.modules()] == before


def test_evaluating_accepts_a_plain_callable() -> None:
    """There is nothing to switch, but gradients are still off."""
    with evaluating(torch.sign):
        assert not torch.is_grad_enabled()


# --- models that break the contract --------------------------------------------------------------------------------


def pads_to_the_largest(x: Tensor) -> Tensor:
    """As many outputs as the largest in the batch needs."""
    return torch.ones(len(x), 1 + int(40 * x.abs().max()))


def fails_alone(x: Tensor) -> Tensor:
    return x.squeeze(0)[:, :2]


def trained_statistics(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


BROKEN_MODELS = {
    "batch norm in train mode": (trained_statistics, ModelError, "depends on the other inputs"),
    "mean of the batch": (lambda x: x - x.mean(0), ModelError, "depends on the other inputs"),
    "pads to the largest": (pads_to_the_largest, ModelError, "depends on the other inputs"),
    "dropout": (lambda x: F.dropout(x, 0.5, training=True), ModelError, "two outputs for one input"),
    "squeeze": (lambda x: x[:, :1].squeeze(), CenterSmoothError, r"shape \(\)"),
    "other values alone": (lambda x: x + (len(x) == 1), ModelError, "batch of 1"),
    "fails alone": (fails_alone, CenterSmoothError, "batch of"),
    "no tensor alone": (lambda x: x if len(x) > 1 else None, CenterSmoothError, "NoneType|batch of 1"),
    "NaN": (lambda x: x / 0 * 0, ModelError, "NaN or infinity"),
    "infinity": (lambda x: x / 0, ModelError, "NaN or infinity"),
    "other device": (lambda x: torch.empty(x.shape, device="meta"), RequestError, "output is on meta"),
    "wrong input shape": (nn.Linear(5, 2), RequestError, "failed on a batch of shape"),
    "no batch": (lambda x: x.sum(), RequestError, "expected one output each"),
    "wrong batch": (lambda x: x[:-1], RequestError, "expected one output each"),
    "no tensor": (lambda x: [x], RequestError, "returned list"),
}


@pytest.mark.parametrize("fault", BROKEN_MODELS)
def test_check_model_refuses(fault: str) -> None:
    """In one line that says what to look for."""
    model, error, message = BROKEN_MODELS[fault]
    with pytest.raises(error, match=message) as caught, torch.no_grad():
        Sampler(model, NOISE, 8, 16).check_model(X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("forward_block", [1, 2, 128])
def test_check_model_accepts(forward_block: int) -> None:
    """A fixed function of one input, at any block size."""
    model = net()
    with evaluating(model):
        Sampler(model, NOISE, forward_block, 16).check_model(X)


def test_a_nan_that_comes_late_is_still_refused() -> None:
    """The check of the model may see none; every draw is looked at."""
    sampler = Sampler(lambda x: torch.where(x > 1.8, torch.nan, x), NOISE, 8, 8)
    with pytest.raises(ModelError, match=r"NaN or infinity for a draw of stage 'fresh'") as caught:
        list(sampler.draw(X, 5_000, RandomStream(0), "fresh"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("block", [0, 1, 3])
def test_one_bad_number_in_any_block_of_a_batch_is_refused(value: float, block: int) -> None:
    """A batch is looked at once, by its extremes."""
    calls = iter(range(100))

    def model(x: Tensor) -> Tensor:
        outputs = x.clone()
        outputs[3] = value if next(calls) == block else outputs[3]
        return outputs

    with pytest.raises(ModelError, match="NaN or infinity"):
        list(Sampler(model, NOISE, 8, 32, output_range=(-9.0, 9.0)).draw(X, 32, RandomStream(0), "fresh"))


def test_declared_range_is_checked_on_every_draw() -> None:
    """A diameter taken from a wrong range would cap certificates that it must not."""
    sampler = Sampler(lambda x: x, NOISE, 8, 8, output_range=(-1.0, 1.0))
    with pytest.raises(ModelError, match="outside the declared output_range") as caught:
        list(sampler.draw(X, 100, RandomStream(0), "fresh"))
    assert "\n" not in str(caught.value)
    assert torch.equal(sampler.base_output(X), X)


@pytest.mark.parametrize("name", ["forward_block", "batch_size"])
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_below_one_are_refused(name: str, value: int) -> None:
    """By their name."""
    with pytest.raises(RequestError, match=f"{name} is {value}: expected"):
        Sampler(torch.sign, NOISE, **{"forward_block": 8, "batch_size": 8, name: value})


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_sigma_has_to_be_positive(sigma: float) -> None:
    """And says in which unit it is expected."""
    with pytest.raises(RequestError, match=r"sigma is .* unit of the model's input"):
        GaussianNoise(sigma)
