"""Draws that nothing but (seed, point, stage) changes, a model that is held fixed, and errors of one line."""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from centersmooth import (
    L2,
    Budget,
    CenterSmoother,
    GaussianNoise,
    ModelError,
    RandomStream,
    RequestError,
)
from centersmooth.adapters import Adapted, Key
from centersmooth.sampling import Model, Sampler, _Agreement, evaluating

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


def quantised() -> nn.Module:
    """In 8 bits, with scales from inputs seen before."""
    tools = torch.ao.quantization
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(tools.QuantStub(), nn.Linear(6, 3), tools.DeQuantStub()).eval()
        model.qconfig = tools.default_qconfig
        prepared = tools.prepare(model)
        prepared(torch.randn(99, 6))
    return tools.convert(prepared)


def modeless(kind: str) -> nn.Module:
    """A module that cannot switch modes, from `net` in eval mode."""
    inputs = torch.zeros(8, 6)
    if kind == "exported":
        return torch.export.export(net().eval(), (inputs,)).module()
    if kind == "frozen":
        return torch.jit.freeze(torch.jit.script(net().eval()))
    if kind == "traced":
        return torch.jit.trace(net().eval(), inputs)
    if kind == "quantised":
        return quantised()
    if kind == "compiled":
        return torch.compile(net(), backend="eager")
    if kind == "parallel":
        return nn.DataParallel(net())
    return torch.jit.script(net())


@pytest.mark.filterwarnings("ignore:.*(deprecat|torch.jit|torch.ao|Guards may run slower on Python)")
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["exported", "frozen", "traced", "scripted", "quantised", "compiled", "parallel"])
def test_modules_of_other_kinds_are_smoothed(kind: str, wrapped: bool) -> None:
    """As they are where they have no mode; what stands beside them is still switched."""
    model = modeless(kind)
    model = nn.Sequential(nn.Dropout(0.5), model, nn.BatchNorm1d(3)) if wrapped else model
    before = {m: m.training for m in model.modules() if hasattr(m, "training")}
    smoother = CenterSmoother(model, L2(), NOISE, Budget(n=100, m=300, delta=0.3), forward_block=8)
    certificate = smoother.certify(X, 0.1, stream=RandomStream(0))
    if kind == "quantised":  # which is another function
        assert certificate.radius > 0
    else:
        other = nn.Sequential(nn.Dropout(0.5), net(), nn.BatchNorm1d(3)) if wrapped else net()
        expected = CenterSmoother(other, L2(), NOISE, Budget(n=100, m=300, delta=0.3), forward_block=8)
        assert certificate.radius == pytest.approx(expected.certify(X, 0.1, stream=RandomStream(0)).radius, rel=1e-4)
    assert {m: m.training for m in before} == before


@pytest.mark.filterwarnings("ignore:.*(deprecat|torch.ao)")
def test_dynamic_quantisation_is_refused() -> None:
    """Its scales come from the largest number of the batch."""
    model = torch.ao.quantization.quantize_dynamic(net().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ModelError, match=r"depends on the other inputs.*dynamic quantisation"):
        Sampler(model, NOISE, 8, 8).check_model(X)


def test_a_program_exported_in_train_mode_is_refused() -> None:
    """It cannot be switched, and its dropout or its batch norm shows."""
    program = torch.export.export(net().train(), (torch.zeros(8, 6),)).module()
    with pytest.raises(ModelError, match=r"two outputs|the other inputs"), evaluating(program):
        Sampler(program, NOISE, 8, 8).check_model(X)


def test_a_module_that_fails_to_switch_is_one_line_and_left_as_it_was() -> None:
    """Its own error, by its type."""

    class Stubborn(nn.Dropout):
        def train(self, mode: bool = True) -> nn.Module:
            raise KeyError("no\nmode")

    model = nn.Sequential(nn.Dropout(), Stubborn())
    with pytest.raises(RequestError, match="could not be put in eval mode: KeyError") as caught, evaluating(model):
        raise AssertionError
    assert "\n" not in str(caught.value)
    assert all(m.training for m in model.modules())


def test_threads_that_share_a_module_keep_it_in_eval_mode_until_the_last_leaves() -> None:
    """One leaves while another is inside, over a part of the model and over the whole."""
    model = net().train()
    model[1].eval()
    before = [m.training for m in model.modules()]
    inside, left = threading.Event(), threading.Event()

    def first() -> None:
        with evaluating(model[:4]):
            inside.wait(10)
        left.set()

    thread = threading.Thread(target=first)
    thread.start()
    with evaluating(model), evaluating(model):
        inside.set()
        assert left.wait(10)
        assert not any(m.training for m in model.modules())
    thread.join()
    assert [m.training for m in model.modules()] == before


def test_no_pass_of_any_thread_sees_a_module_in_train_mode() -> None:
    """Many short passes by three threads over one module handed over in train mode."""
    model, seen = net().train(), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(any(m.training for m in module.modules())))
    smoother = CenterSmoother(model, L2(), NOISE, Budget(n=100, m=300, delta=0.3), forward_block=8)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda seed: smoother.certify(X, 0.1, stream=RandomStream(seed % 2)), range(24)))
    assert len(seen) > 1_000
    assert not any(seen)
    assert all(m.training for m in model.modules())
    assert {c.radius for c in found[::2]} == {found[0].radius}
    assert {c.radius for c in found[1::2]} == {found[1].radius}


def test_autocast_around_a_call_is_refused_and_within_the_model_is_not() -> None:
    """In bfloat16 a map of 10,007 pixels is at the Hamming distance 0.002 from itself."""
    layer = torch.nn.Linear(3, 4)

    def model(inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(inputs)

    for of in (layer, model):
        smoother = CenterSmoother(of, L2(), GaussianNoise(1.0), Budget.quick())
        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            pytest.raises(RequestError, match=r"^torch\.autocast is on around the call.*: put it into the model$"),
        ):
            smoother(torch.zeros(3))
    assert smoother(torch.zeros(3)) is not None


def test_evaluating_accepts_a_plain_callable() -> None:
    """There is nothing to switch, but gradients are still off."""
    with evaluating(torch.sign):
        assert not torch.is_grad_enabled()


# --- models that break the contract --------------------------------------------------------------------------------


def pads_to_the_largest(x: Tensor) -> Tensor:
    """As many outputs as the largest in the batch needs."""
    return torch.ones(len(x), 1 + int(40 * x.abs().max()))


def trained_statistics(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


BROKEN_MODELS = {
    "batch norm in train mode": (trained_statistics, ModelError, "depends on the other inputs"),
    "mean of the batch": (lambda x: x - x.mean(0), ModelError, "depends on the other inputs"),
    "pads to the largest": (pads_to_the_largest, ModelError, "depends on the other inputs"),
    "dropout": (lambda x: F.dropout(x, 0.5, training=True), ModelError, "two outputs for one input"),
    "NaN": (lambda x: x / 0 * 0, ModelError, "NaN or infinity"),
    "infinity": (lambda x: x / 0, ModelError, "NaN or infinity"),
    "other device": (lambda x: torch.empty(x.shape, device="meta"), RequestError, "output is on meta"),
    "wrong input shape": (nn.Linear(5, 2), RequestError, "failed on a batch of shape"),
    "no batch": (lambda x: x.sum(), RequestError, "expected one output each"),
    "wrong batch": (lambda x: x[:-1], RequestError, "expected one output each"),
    "shared score": (lambda x: 300 + 0.1 * torch.tanh(x.mean()).expand(len(x), 1), ModelError, "the other inputs"),
    "a small part of a mean": (lambda x: 300 + x + 0.1 * x.mean(0), ModelError, "depends on the other inputs"),
    "one small coordinate": (
        lambda x: torch.cat([1e4 * x, x[:, :1] - x[:, :1].mean()], 1),
        ModelError,
        "depends on the other inputs",
    ),
    "tiny outputs": (lambda x: 1e-12 * (x - x.mean(0)), ModelError, "depends on the other inputs"),
    "place in the batch": (lambda x: x + torch.arange(len(x))[:, None], ModelError, "depends on the other inputs"),
    "next class": (lambda x: (100 * x + x.max()).round().long(), ModelError, "depends on the other inputs"),
    "noise on an offset": (lambda x: 300 + 0.1 * x + 0.01 * torch.rand_like(x), ModelError, "two outputs"),
    "shape of the content": (
        lambda x: torch.ones(len(x), 1 + int(x[0, 0] > -1)),
        ModelError,
        "depends on the other inputs|expected one shape",
    ),
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
        assert len(Sampler(model, NOISE, forward_block, 16).check_model(X)) >= 16


def ragged_rounding(x: Tensor) -> Tensor:
    """An offset that makes rounding of one digit visible, in digits that depend on the row of the batch."""
    digit = 2**-15 * (torch.arange(len(x)) % 3 - 1)[:, None]
    return 300 + 0.1 * x + digit


def large_class_map(x: Tensor) -> Tensor:
    """Classes of 3,000 pixels, of which rounding moves the last in one place of the batch."""
    classes = (x.repeat(1, 500) > 0).long()
    classes[-1, -1] = 1 - classes[-1, -1]
    return classes


FIXED_MODELS = {
    "an offset": lambda x: 300 + 0.1 * x,
    "rounding": ragged_rounding,
    "a constant": lambda x: torch.full((len(x), 3), 7.0),
    "zeros": lambda x: torch.zeros(len(x), 3),
    "classes": lambda x: x.argmax(1),
    "a class map": large_class_map,
    "truth values": lambda x: x > 0,
    "bytes": lambda x: (x * 20 + 100).clamp(0, 255).byte(),
    "half precision": lambda x: (300 + x).bfloat16(),
    "a block of fixed size": lambda x: x.reshape(8, 6),
    "writes into its input": lambda x: x.mul_(2).tanh_(),
}


@pytest.mark.parametrize("name", FIXED_MODELS)
def test_check_model_accepts_outputs_of_any_kind(name: str) -> None:
    """Small on an offset, whole numbers, constants; a call is never of another size than the block."""
    Sampler(FIXED_MODELS[name], NOISE, 8, 16).check_model(X)


@pytest.mark.parametrize(
    "model", [lambda x: x[:, :1].squeeze(), lambda x: x.squeeze(), lambda x: x.squeeze(0)[:, :2]], ids=["", "x", "[]"]
)
def test_squeeze_is_found_where_a_block_is_one_input(model) -> None:
    """In larger blocks it does nothing, and no smaller ones are called."""
    Sampler(model, NOISE, 8, 16).check_model(X)
    with pytest.raises(RequestError, match=r"look for squeeze\(\)|failed on a batch of shape \(1, 6\)"):
        Sampler(model, NOISE, 1, 16).check_model(X)


def test_a_shape_that_changes_between_draws_is_one_line() -> None:
    """In the block where it does, whatever the batch."""
    model = lambda x: torch.ones(len(x), 1 + int(x.max() > 2))  # noqa: E731
    for batch_size in (1, 64):
        with pytest.raises(ModelError, match=r"shapes \(1,\) and \(2,\) for a draw of stage 'fresh'"):
            list(Sampler(model, NOISE, 1, batch_size).draw(X, 5_000, RandomStream(0), "fresh"))


# --- answers in memory that is used again --------------------------------------------------------------------------


def through_numpy(shape: tuple[int, ...]):
    """An engine with a bound output, of which each call returns a view made anew."""
    bound = np.zeros(shape, dtype=np.float32)

    def model(x: Tensor) -> Tensor:
        np.copyto(bound, x.numpy())
        return torch.from_numpy(bound)

    return model


def with_out(shape: tuple[int, ...]):
    buffer = torch.zeros(shape)
    return lambda x: torch.add(x, 0, out=buffer)


def within_a_pool(shape: tuple[int, ...]):
    """Views of one storage at other places in turn, of which every second one is overwritten."""
    pool, calls = torch.zeros(2, *shape), itertools.count()
    return lambda x: pool[next(calls) % 2].copy_(x)


ENGINES = [through_numpy, with_out, within_a_pool, lambda shape: lambda x: x]


@pytest.mark.parametrize("forward_block", [1, 8])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_buffer_that_is_used_again_changes_no_draw(engine, forward_block: int) -> None:
    """Kept by reference, all of them would be the last."""
    sampler = Sampler(engine((forward_block, 6)), NOISE, forward_block, 64)
    plain = Sampler(torch.clone, NOISE, forward_block, 64)
    drawn, expected = (torch.cat(list(s.draw(X, 40, RandomStream(0), "fresh"))) for s in (sampler, plain))
    assert torch.equal(drawn, expected)
    base = sampler.base_output(X)
    outputs = sampler.check_model(X)
    assert torch.equal(base, X)
    assert torch.equal(outputs, plain.check_model(X))


def test_a_random_model_that_overwrites_its_answers_is_refused() -> None:
    """Its two answers are compared, not its buffer with itself."""
    buffer = torch.zeros(8, 6)
    with pytest.raises(ModelError, match="two outputs"):
        Sampler(lambda x: torch.add(x, torch.rand_like(x), out=buffer), NOISE, 8, 8).check_model(X)


def test_a_buffer_that_is_used_again_moves_no_certificate() -> None:
    """At a step of height 2, at which half of the draws are on each side: no radius of 0."""

    def step(x: Tensor) -> Tensor:
        return 2 * (x > 0).float()

    buffer = torch.zeros(1, 1)
    noise, budget = GaussianNoise(0.5), Budget(n=300, m=600, delta=0.3)
    for model in (step, lambda x: buffer.copy_(step(x))):
        smoother = CenterSmoother(model, L2(), noise, budget, forward_block=1)
        radii = [smoother.certify(torch.tensor([0.1]), 0.1, stream=RandomStream(s)).radius for s in range(5)]
        assert all(radius is None or radius >= 2 for radius in radii)
        assert not all(radius is None for radius in radii)


def test_a_model_that_writes_into_its_input_moves_nothing() -> None:
    """Neither the input that was handed in nor any draw."""
    x = X.clone()
    written, plain = (Sampler(f, NOISE, 8, 16) for f in (lambda x: x.mul_(2).add_(1), lambda x: 2 * x + 1))
    for sampler in (written, plain):
        sampler.check_model(x)
    assert torch.equal(written.base_output(x), plain.base_output(x))
    drawn = [torch.cat(list(s.draw(x, 40, RandomStream(0), "fresh"))) for s in (written, plain)]
    assert torch.equal(*drawn)
    assert torch.equal(x, X)


# --- what is not one tensor ----------------------------------------------------------------------------------------


class Answer:
    def __init__(self, sample: Tensor) -> None:
        self.sample = sample


class Pair(NamedTuple):
    logits: Tensor
    loss: None = None


def ragged(x: Tensor) -> list[Tensor]:
    return [row[: 1 + index % 2] for index, row in enumerate(x)]


UNPLAIN = {
    "dict": (
        lambda x: {"out": x, "aux": None},
        "dict with keys 'out', 'aux'",
        'Adapted(model, Key("out")), adapter=key:out in cs-run',
    ),
    "dict, loss first": (lambda x: {"loss": None, "logits": x}, "'loss', 'logits'", "adapter=key:logits"),
    "ordered dict": (lambda x: OrderedDict({1: x}), "OrderedDict with keys 1", "model(x)[1]"),
    "empty dict": (lambda x: {}, "empty dict", "expected one tensor"),
    "tuple": (lambda x: (x, None), "tuple of 2 (Tensor of shape (8, 6), NoneType)", "adapter=key:0"),
    "named tuple": (Pair, "Pair of 2", 'Adapted(model, Key("0"))'),
    "list": (list, "list of 8 (Tensor of shape (6,), ", "torch.stack(model(x))"),
    "list of texts": (lambda x: ["a"] * len(x), "list of 8 (str, ", "encode_texts(model(x), length=64)"),
    "list of one": (lambda x: [x], "list of 1 (Tensor of shape (8, 6))", "adapter=key:0"),
    "ragged list": (ragged, "Tensor of shape (1,), Tensor of shape (2,)", "one fixed size"),
    "list of dicts": (
        lambda x: [{"boxes": row, "scores": row} for row in x],
        "list of 8 (dict with keys 'boxes', 'scores')",
        "Adapted(model, PaddedBoxes()), adapter=boxes in cs-run",
    ),
    "dict of odd keys": (lambda x: {"a b": x}, "dict with keys 'a b'", 'Adapted(model, Key("a b"))'),
    "array": (lambda x: x.double().numpy(), "ndarray of shape (8, 6), float64", "torch.from_numpy(model(x))"),
    "list of nested": (
        lambda x: [torch.nested.nested_tensor(ragged(x))],
        "list of 1 (a nested tensor)",
        "adapter=key:0",
    ),
    "object": (Answer, "Answer with tensors in sample", "adapter=key:sample"),
    "None": (lambda x: None, "NoneType", "missing return"),
    "number": (lambda x: 3.0, "float", "expected one tensor"),
    "nested": (lambda x: torch.nested.nested_tensor(ragged(x)), "a nested tensor", ".to_padded_tensor"),
    "jagged": (
        lambda x: torch.nested.nested_tensor(ragged(x), layout=torch.jagged),
        "a nested tensor",
        ".to_padded_tensor",
    ),
    "sparse": (torch.Tensor.to_sparse, "a sparse tensor (torch.sparse_coo)", ".to_dense()"),
    "sparse rows": (torch.Tensor.to_sparse_csr, "a sparse tensor (torch.sparse_csr)", ".to_dense()"),
    "MKL-DNN": (torch.Tensor.to_mkldnn, "an MKL-DNN tensor", ".to_dense()"),
    "quantised": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "a quantised tensor", ".dequantize()"),
    "complex": (lambda x: x * 1j, "a tensor of torch.complex64", "view_as_real"),
    "8-bit floats": (lambda x: x.to(torch.float8_e4m3fn), "a tensor of torch.float8_e4m3fn", ".float()"),
    "masked": (lambda x: torch.masked.masked_tensor(x, x > 0), "a masked tensor", ".to_tensor"),
}


@pytest.mark.filterwarnings("ignore:.*(prototype|beta|deprecat)")
@pytest.mark.parametrize("kind", UNPLAIN)
def test_what_is_not_one_plain_tensor_is_named_with_the_way_out(kind: str) -> None:
    """What came, its keys or elements, and the expression to wrap it in."""
    model, came, hint = UNPLAIN[kind]
    with pytest.raises(RequestError) as caught:
        Sampler(model, NOISE, 8, 16).check_model(X)
    assert f"the model returned {came}" in str(caught.value) or came in str(caught.value)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


WAYS_OUT = {
    "dict": Adapted(UNPLAIN["dict"][0], Key("out")),
    "ordered dict": lambda x: UNPLAIN["ordered dict"][0](x)[1],
    "dict of odd keys": Adapted(UNPLAIN["dict of odd keys"][0], Key("a b")),
    "tuple": Adapted(UNPLAIN["tuple"][0], Key("0")),
    "named tuple": Adapted(Pair, Key("0")),
    "list of one": Adapted(lambda x: [x], Key("0")),
    "list": lambda x: torch.stack(list(x)),
    "array": lambda x: torch.from_numpy(UNPLAIN["array"][0](x)),
    "object": Adapted(Answer, Key("sample")),
    "nested": lambda x: torch.nested.nested_tensor(ragged(x)).to_padded_tensor(0.0, (8, 2)),
    "sparse": lambda x: x.to_sparse().to_dense(),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize(),
    "complex": lambda x: torch.view_as_real(x * 1j),
    "8-bit floats": lambda x: x.to(torch.float8_e4m3fn).float(),
}


@pytest.mark.filterwarnings("ignore:.*(prototype|beta|deprecat)")
@pytest.mark.parametrize("kind", WAYS_OUT)
def test_the_way_out_leads_out(kind: str) -> None:
    """What the line says to do is then accepted; a nested row of another place is padded to another length."""
    if kind == "nested":
        assert Sampler(WAYS_OUT[kind], NOISE, 8, 8).call(X.repeat(8, 1)).shape == (8, 2)
    else:
        Sampler(WAYS_OUT[kind], NOISE, 8, 8).check_model(X)


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


LINEAR_3 = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]])


def beside(model: Model, value: float) -> Model:
    """With one constant coordinate more, such as a masked logit."""
    return lambda x: torch.cat([model(x), torch.full((len(x), 1), value)], dim=1)


BATCH_MEAN: dict[str, Model] = {
    "a masked logit": beside(lambda x: 1_000 * x[:, :1].mean().expand(len(x), 1), -1e9),
    "the least float32": beside(lambda x: 1_000 * x[:, :1].mean().expand(len(x), 1), torch.finfo(torch.float32).min),
    "an offset": lambda x: 1e6 + x @ LINEAR_3 - (x @ LINEAR_3).mean(0),
    "a small mean on an offset": lambda x: (300 + 1e-3 * x[:, :1].mean()).expand(len(x), 1),
    "large ids": lambda x: 10**6 + (6 * x[:, :1].mean()).round().long().expand(len(x), 1),
    "the middle of the batch": lambda x: x @ LINEAR_3 + (torch.arange(len(x)) == len(x) // 2)[:, None] * x.sum(),
}


@pytest.mark.parametrize("name", BATCH_MEAN)
def test_dependence_on_the_batch_shows_beside_large_numbers(name: str) -> None:
    sampler = Sampler(BATCH_MEAN[name], GaussianNoise(0.5), 128, 128)
    with pytest.raises(ModelError, match="depends on the other inputs of its batch"):
        sampler.check_model(torch.zeros(2))


def test_randomness_shows_beside_large_numbers_and_at_a_block_of_one() -> None:
    drop = torch.nn.functional.dropout
    for model, block in ((beside(lambda x: drop(x, 0.5, True), -1e9), 128), (lambda x: drop(x + 1, 0.1, True), 1)):
        for seed in range(10):
            torch.manual_seed(seed)
            with pytest.raises(ModelError, match="two outputs for one input"):
                Sampler(model, GaussianNoise(0.5), block, 128).check_model(torch.zeros(6))


FUNCTIONS: dict[str, Model] = {
    "offset": lambda x: 1e6 + x @ LINEAR_3,
    "half": lambda x: (x @ LINEAR_3).half(),
    "saturated": lambda x: torch.sigmoid(50 * x @ LINEAR_3),
    "constant": lambda x: torch.ones(len(x), 3),
    "classes": lambda x: (x @ LINEAR_3).argmax(1, keepdim=True),
    "masked": beside(lambda x: x @ LINEAR_3, -1e9),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_input_pass(name: str) -> None:
    for block in (1, 8, 128):
        Sampler(FUNCTIONS[name], GaussianNoise(0.5), block, 128).check_model(torch.zeros(2))


def test_empty_outputs_are_refused() -> None:
    with pytest.raises(RequestError, match=r"empty outputs, shape \(128, 0\): expected numbers"):
        Sampler(lambda x: x[:, :0], GaussianNoise(0.5), 128, 128).check_model(torch.zeros(2))


@pytest.mark.parametrize(("wrong", "agrees"), [(1, True), (2, False)])
def test_classes_of_pixels_may_differ_in_one_of_a_thousand_of_each_output(wrong: int, agrees: bool) -> None:
    """Not of all outputs together."""
    classes = torch.arange(8_000).reshape(8, 1_000) % 3
    other = classes.clone()
    other[5, :wrong] += 1
    assert _Agreement.of(classes).between(classes, other) is agrees
