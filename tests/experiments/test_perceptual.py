"""LPIPS equals the package's own, keeps the contract of a metric and has its diameter; errors are one line."""

from __future__ import annotations

import sys
import warnings
from urllib.error import URLError

import pytest
import torch
from torch import nn

from centersmooth import Budget, CenterSmoother, GaussianNoise, Nearest, RandomStream, RequestError, Smoother
from centersmooth.contracts import check_metric
from csrun.data.sources import latents
from csrun.errors import RunError
from csrun.metrics import perceptual
from csrun.metrics.perceptual import LPIPS, min_max
from csrun.models.generators import load_face_generator

ALEXNET = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
"""Shapes of AlexNet's convolutions: outputs, inputs, kernel."""


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("lpips", reason="needs lpips: pip install 'centersmooth[lpips]'")


def random_state(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for index, (after, before, kernel) in ALEXNET.items():
        scale = (2 / (before * kernel**2)) ** 0.5
        state[f"features.{index}.weight"] = scale * torch.randn(after, before, kernel, kernel, generator=generator)
        state[f"features.{index}.bias"] = 0.1 * torch.randn(after, generator=generator)
    return state


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """AlexNet with random weights: LPIPS is a distance with any."""
    path = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    torch.save(random_state(), path)
    return path


@pytest.fixture(scope="module")
def metric(package, weights):
    return LPIPS(weights, "alex")


@pytest.fixture
def faces(data_folder):
    path = data_folder / "dcgan_faces64_generator.pth"
    if not path.is_file():
        pytest.skip(f"no face generator: {path}")
    generator = load_face_generator(path)
    return lambda latent: generator(latent)


@pytest.fixture
def vgg(package, data_folder):
    path = data_folder / "vgg16_features.pth"
    if not path.is_file():
        pytest.skip(f"no VGG-16 weights: {path}")
    return LPIPS(path)


def images(count: int, side: int = 40, seed: int = 0) -> torch.Tensor:
    return 7 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) - 2


def distances(metric, outputs):
    features = metric.features(outputs)
    return metric.pairwise(features, features)


def package_distances(package, metric, outputs):
    """By the package's own forward, pair by pair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = package.LPIPS(net=metric.backbone, pnet_rand=True, verbose=False)
    state = metric.network.layers.state_dict()
    renamed = {name: state[f"features.{name.partition('.')[2]}"] for name in original.net.state_dict()}
    original.net.load_state_dict(renamed, strict=True)
    scaled = min_max(outputs)
    columns = [original(scaled, other.expand_as(scaled)).flatten() for other in scaled]
    return torch.stack(columns, dim=1).detach().double()


def assert_one_line(error) -> None:
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_equals_the_package(package, metric):
    outputs = images(5)
    torch.testing.assert_close(
        distances(metric, outputs), package_distances(package, metric, outputs), rtol=1e-5, atol=0
    )


def test_equals_the_package_on_faces(package, vgg, faces, monkeypatch):
    monkeypatch.setattr(perceptual, "NETWORK_BLOCK", 3)  # fewer zeros beside the images
    outputs = faces(latents(3, 100, seed=0))
    expected = package_distances(package, vgg, outputs)
    torch.testing.assert_close(distances(vgg, outputs), expected, rtol=1e-5, atol=0)
    check_metric(vgg, outputs)


def test_order_of_magnitude_on_faces(vgg, faces, monkeypatch):
    monkeypatch.setattr(perceptual, "NETWORK_BLOCK", 2)
    latent = latents(1, 100, seed=0)
    noise = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    assert 0.03 < float(distances(vgg, faces(latent + 0.1 * noise))[0, 1]) < 0.3


def test_contract(metric):
    generic = images(8)
    near = generic[:2] + 1e-4 * images(2, seed=1)
    constant = torch.stack([torch.zeros(3, 40, 40), torch.full((3, 40, 40), 3.0)])
    check_metric(metric, torch.cat([generic, near, generic[:1], constant]))
    assert (metric.power, metric.gamma) == (2.0, 2.0)


def test_features_do_not_depend_on_company(metric):
    outputs = images(perceptual.NETWORK_BLOCK + 3)
    together = metric.features(outputs)
    alone = torch.cat([metric.features(output[None]) for output in outputs])
    assert torch.equal(together, alone)
    assert torch.equal(metric.features(outputs.flip(0)), together.flip(0))
    assert together.dtype == torch.float32
    assert metric.features(outputs[:0]).shape == (0, together.shape[1])


def test_an_entry_depends_on_its_two_rows(metric):
    features = metric.features(images(9))
    matrix = metric.pairwise(features, features)
    assert torch.equal(metric.pairwise(features[4:5], features[7:8]), matrix[4:5, 7:8])
    assert torch.equal(metric.pairwise(features[2:], features[:5]), matrix[2:, :5])
    assert torch.equal(matrix, matrix.T)
    assert bool((matrix.diagonal() == 0).all())


def test_pairwise_loses_no_digits(metric):
    """Small differences on large features, over a number of coordinates no chunk divides."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 300_001, generator=generator)
    b = a + 1e-3 * torch.randn(2, 300_001, generator=generator)
    exact = (a.double()[:, None] - b.double()).square().sum(2)
    torch.testing.assert_close(metric.pairwise(a, b), exact, rtol=1e-6, atol=0)
    once = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").double().square()
    assert float(((once - exact) / exact).abs().max()) > 1e-6  # one float32 sum would


def test_images_are_scaled_one_by_one(metric):
    outputs = images(2)
    rescaled = outputs * torch.tensor([1e-3, 1e3]).view(2, 1, 1, 1) + 5
    assert float(metric.pairwise(metric.features(outputs), metric.features(rescaled)).diagonal().max()) < 1e-4
    scaled = min_max(rescaled)
    assert scaled.amin((1, 2, 3)).tolist() == [-1, -1]
    assert scaled.amax((1, 2, 3)).tolist() == [1, 1]
    assert bool((min_max(torch.full((1, 3, 4, 4), 7.0)) == 0).all())
    assert bool(min_max(torch.full((1, 3, 4, 4), float("nan"))).isnan().all())
    extreme = torch.tensor([-3e38, 0.0, 3e38]).view(1, 3, 1, 1)
    assert min_max(extreme).flatten().tolist() == [-1, 0, 1]


def unit_features(metric, ranks: list[int]) -> torch.Tensor:
    """Features of a 1x1 activation a layer: all of it in the channel whose weight has the given rank."""
    parts = []
    for index, rank in enumerate(ranks):
        root = metric.network.get_buffer(f"root{index}").flatten()
        one = nn.functional.one_hot(root.argsort(descending=True)[rank], len(root))
        parts.append(root * one)
    return torch.cat(parts)[None]


def test_diameter_is_attained_and_no_smaller_one_holds(metric):
    diameter = metric.diameter((3, 40, 40), None)
    first, second = unit_features(metric, [0] * 5), unit_features(metric, [1] * 5)
    largest = float(metric.pairwise(first, second))
    assert largest <= diameter <= largest * (1 + 2 * perceptual.ROUNDING)
    # The largest weight alone is no bound: a broken variant is caught.
    alone = sum(float(metric.network.get_buffer(f"root{index}").square().max()) for index in range(5))
    assert largest > 1.2 * alone
    assert float(distances(metric, images(6)).max()) < diameter


def test_no_feature_is_beyond_the_reach_which_is_attained_at_right_angles(metric):
    first, second = (unit_features(metric, [rank] * 5).double() for rank in (0, 1))
    reach = metric.feature_reach(second[0], None)
    assert (first - second).norm() <= reach <= (first - second).norm() * (1 + 2 * perceptual.ROUNDING)
    outputs = images(6)
    features = metric.features(outputs).double()
    assert features.min() >= 0
    mean = features.mean(0)
    assert (features - mean).norm(dim=1).max() <= metric.feature_reach(mean, None)
    l2 = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(distances(metric, outputs), metric.of_l2(l2), rtol=1e-5, atol=1e-9)
    assert metric.to_l2(0.25) == 0.5


def test_the_output_nearest_to_the_mean_is_certified(metric):
    """Without a declared range; by second moments of more features than a matrix is formed for."""
    base, direction = images(2)
    model = lambda x: base + 0.1 * x[:, :1, None, None] * direction  # noqa: E731
    smoother = Smoother(model, GaussianNoise(1.0), Nearest(metric), Budget(n=40, m=400), forward_block=40)
    small, large = smoother.certify(torch.zeros(1), [0.01, 0.3], stream=RandomStream(0))
    assert 0 < small.radius < large.radius < metric.diameter((3, 40, 40), None)
    answer = smoother.smooth(torch.full((1,), 0.3), stream=RandomStream(1)).output
    assert 0 < smoother.distance(answer, small.answer) < large.radius


@pytest.mark.parametrize("seed", range(3))
def test_diameter_covers_extreme_activations(metric, seed):
    """Sparse non-negative activations of norm at most 1, as a network after ReLU could give."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for index in range(5):
        root = metric.network.get_buffer(f"root{index}").flatten()
        sparse = torch.rand(40, len(root), generator=generator) ** 40 * (1 + 99 * (root >= root.sort().values[-4]))
        parts.append(root * sparse / sparse.norm(dim=1, keepdim=True))
    features = torch.cat(parts, dim=1)
    assert float(metric.pairwise(features, features).max()) <= metric.diameter((3, 40, 40), None)


def test_digest_is_of_all_weights(metric, weights, tmp_path):
    assert LPIPS(weights, "alex").weights_digest() == metric.weights_digest()
    assert len(metric.weights_digest()) == 16
    state = random_state()
    state["features.10.bias"][0] += 1e-6
    torch.save(state, tmp_path / "other.pth")
    assert LPIPS(tmp_path / "other.pth", "alex").weights_digest() != metric.weights_digest()


def test_construction_touches_no_random_state_and_leaves_nothing_to_train(package, weights):
    before = torch.get_rng_state()
    metric = LPIPS(weights, "alex")
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in metric.network.parameters())
    assert not any(module.training for module in metric.network.modules())


def test_the_distance_can_be_attacked(metric):
    outputs = images(2).requires_grad_()
    distances(metric, outputs)[0, 1].backward()
    assert bool(torch.isfinite(outputs.grad).all())
    assert float(outputs.grad.abs().max()) > 0


def test_a_whole_torchvision_checkpoint_is_accepted(metric, tmp_path):
    torch.save(random_state() | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "alexnet-owt-7be5be79.pth")
    assert LPIPS(tmp_path / "alexnet-owt-7be5be79.pth", "alex").weights_digest() == metric.weights_digest()


def test_torchvisions_cache_is_the_default(metric, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(weights.read_bytes())
    assert LPIPS(backbone="alex").weights_digest() == metric.weights_digest()


def test_a_failed_download_names_file_place_and_option(package, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise URLError("no network\nat all")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(
        RunError, match=r"put vgg16-397923af\.pth into .*checkpoints, or set weights\.vgg=PATH"
    ) as error:
        LPIPS()
    assert_one_line(error)


def test_a_missing_package_names_the_extra(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(RunError, match=r"pip install 'centersmooth\[lpips\]'") as error:
        LPIPS(weights, "alex")
    assert_one_line(error)


def without_one() -> dict[str, torch.Tensor]:
    return {name: value for name, value in random_state().items() if name != "features.8.weight"}


BROKEN = {
    "another network": (random_state() | {"features.0.weight": torch.zeros(64, 3, 3, 3)}, "another network"),
    "one too many": (random_state() | {"features.12.weight": torch.zeros(1)}, "another network"),
    "one too few": (without_one(), "another network"),
    "a list": ([torch.zeros(1)], "no state dict"),
}


@pytest.mark.parametrize("content", BROKEN)
def test_weights_that_do_not_fit(package, tmp_path, content):
    state, expected = BROKEN[content]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(RunError, match=rf"weights\.pth .*{expected}.*weights\.alex=PATH") as error:
        LPIPS(tmp_path / "weights.pth", "alex")
    assert_one_line(error)


def test_bad_requests(package, metric, tmp_path):
    with pytest.raises(RunError, match=r"set weights\.vgg=PATH"):
        LPIPS(tmp_path / "absent.pth")
    with pytest.raises(RunError, match="expected one of vgg, alex"):
        LPIPS(backbone="squeeze")
    for shape in ((2, 1, 64, 64), (3, 64, 64), (2, 3, 30, 64)):
        with pytest.raises(RequestError, match=r"expected colour images \(n, 3, H, W\) of at least 31 x 31") as error:
            metric.features(torch.zeros(shape))
        assert_one_line(error)
    assert metric.features(torch.rand(1, 3, 31, 31)).shape[0] == 1


def test_negative_heads_are_refused(package, weights, monkeypatch):
    load = torch.load

    def negated(*arguments, **options):
        return {name: -value for name, value in load(*arguments, **options).items()}

    monkeypatch.setattr(torch, "load", negated)
    with pytest.raises(RunError, match="negative or NaN weights") as error:
        LPIPS(weights, "alex")
    assert_one_line(error)


def test_center_smoothing_under_it(metric):
    """Smooth-HD of a small linear generator: a certificate below the diameter."""
    basis = torch.randn(4, 3 * 31 * 31, generator=torch.Generator().manual_seed(0))
    smoother = CenterSmoother(
        lambda z: torch.tanh(z @ basis).unflatten(1, (3, 31, 31)),
        metric,
        GaussianNoise(0.1),
        Budget(n=60, m=60, delta=0.3, n0=5),
        output_range=(-1.0, 1.0),
        forward_block=32,
    )
    certificate = smoother.certify(torch.ones(4), 0.05, stream=RandomStream(0))
    assert certificate.outcome.value == "certified"
    assert 0 < certificate.radius < metric.diameter((3, 31, 31), None)
