"""Edit distances of texts and the Jaccard distance of masks: what they take, and that they certify."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from running import forked
from torch import Tensor

from centersmooth import (
    Attack,
    Budget,
    CenterSmoother,
    DistanceFunction,
    GaussianNoise,
    Hamming,
    Levenshtein,
    MaskJaccard,
    ModelError,
    NormalisedLevenshtein,
    RandomStream,
    RequestError,
)
from centersmooth.contracts import check_metric
from centersmooth.metrics import decode_texts, encode_texts
from centersmooth.sampling import Sampler

Independent = pytest.importorskip("rapidfuzz.distance").Levenshtein

WORDS = ["ab", "aba", "ba", "", "a", "b", "kitten", "sitting", "Grüße 字", "saturday", "sunday"]


def measure(metric, outputs: Tensor) -> Tensor:
    features = metric.features(outputs)
    return metric.pairwise(features, features)


# --- Texts ----------------------------------------------------------------------------------------------------------


def test_texts_go_into_code_points_and_back() -> None:
    codes = encode_texts(WORDS, 64)
    assert codes.dtype == torch.int32
    assert codes.shape == (len(WORDS), 64)
    assert decode_texts(codes) == WORDS
    assert decode_texts(codes.long()[:, :10][:, ::2]) == [word[:10][::2] for word in WORDS]
    assert encode_texts([], 3).shape == (0, 3)
    assert encode_texts(["abc"], 3).tolist() == [[97, 98, 99]]


@pytest.mark.parametrize(("text", "words"), [("four", "has 4 letters .*: expected 3 at most"), ("a\0", "code point 0")])
def test_a_text_that_does_not_fit_is_refused(text: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        encode_texts([text], 3)


def test_edits_of_known_words() -> None:
    distances = measure(Levenshtein(), encode_texts(WORDS, 16))
    edits = dict(zip(WORDS, distances[WORDS.index("sunday")].tolist(), strict=True))
    assert edits == {w: Independent.distance("sunday", w) for w in WORDS}
    assert (edits["saturday"], edits[""]) == (3, 6)
    quotients = measure(NormalisedLevenshtein(), encode_texts(["ab", "aba", "ba", ""], 16))
    assert quotients[0].tolist() == pytest.approx([0, 2 / 6, 4 / 6, 1])


def test_tokens_beyond_letters_are_compared_as_they_are() -> None:
    """Halves of surrogate pairs and the last code point among them."""
    tokens = torch.tensor([[0xD800, 0x10FFFF, 1], [0x10FFFF, 1, 0]])
    assert measure(Levenshtein(), tokens).tolist() == [[0, 1], [1, 0]]


def test_the_quotient_by_the_longer_length_is_caught_and_the_normalised_distance_passes() -> None:
    def quotient(a: Tensor, b: Tensor) -> Tensor:
        longer = torch.maximum((a != 0).sum(1), (b != 0).sum(1)).clamp(min=1)
        edits = [Independent.distance(*pair) for pair in zip(decode_texts(a), decode_texts(b), strict=True)]
        return torch.tensor(edits) / longer

    texts = encode_texts(WORDS, 16)
    with pytest.raises(ModelError, match=r"quotient: the triangle inequality fails, by 0\.333"):
        check_metric(DistanceFunction(quotient), texts)
    check_metric(NormalisedLevenshtein(), texts)
    check_metric(Levenshtein(), texts)


def test_a_subclass_with_distances_between_whole_numbers_is_caught() -> None:
    """Its radii would be rounded down."""

    class Weighted(Levenshtein):
        def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
            return 0.7 * super().pairwise(a, b)

    with pytest.raises(ModelError, match="Weighted: a distance is not a whole number, as its attribute whole says"):
        check_metric(Weighted(), encode_texts(WORDS, 16))


@pytest.mark.parametrize("metric", [Levenshtein(), NormalisedLevenshtein()])
@pytest.mark.parametrize(
    ("outputs", "error", "words"),
    [
        (torch.zeros(2, 4), RequestError, "torch.float32: expected texts"),
        (torch.zeros(2, 4, dtype=torch.bool), RequestError, "torch.bool: expected texts"),
        (torch.zeros(2, 4, 4, dtype=torch.int32), RequestError, r"shape \(2, 4, 4\)"),
        (torch.tensor([[-1, 0]]), RequestError, "from -1 to 0: expected code points from 1 to"),
        (torch.tensor([[0x110000, 0]]), RequestError, "from 0 to 1114112"),
        (torch.tensor([[1, 0, 2]]), ModelError, "a zero before its end"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(metric, outputs: Tensor, error, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        metric.features(outputs)
    assert "\n" not in str(caught.value)


def test_without_rapidfuzz_the_extra_is_named_and_the_library_still_imports(tmp_path) -> None:
    def ask() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("rapidfuzz", "centersmooth")]:
            del sys.modules[name]
        sys.modules["rapidfuzz"] = None  # type: ignore[assignment]
        library = importlib.import_module("centersmooth")
        with pytest.raises(library.RequestError) as caught:
            library.Levenshtein().features(torch.zeros(1, 2, dtype=torch.int32))
        (tmp_path / "said").write_text(str(caught.value))

    process = forked(ask)
    process.join(timeout=60)
    said = "edit distances need rapidfuzz, which is not installed: pip install 'centersmooth[ocr]'"
    assert (tmp_path / "said").read_text() == said


def reader(x: Tensor) -> Tensor:
    """Five letters, each the more advanced in the alphabet the larger its number; the last is left out below 0."""
    codes = (ord("m") + (4 * x).round()).clamp(ord("a"), ord("z")).int()
    return torch.where((x < 0) & (torch.arange(5) == 4), 0, codes)


SMOOTHED = {"noise": GaussianNoise(0.1), "budget": Budget(n=500, m=1_000, delta=0.15)}


def test_a_smoothed_text_stays_within_its_edits_under_attack() -> None:
    smoother, x = CenterSmoother(reader, Levenshtein(), **SMOOTHED), torch.tensor([0.0, 0.25, 0.5, -0.25, 1.0])
    certificate = smoother.certify(x, 0.05, stream=RandomStream(0))
    assert decode_texts(certificate.answer[None]) == ["mnolq"]
    assert certificate.radius in range(1, 6)
    found = smoother.attack(x, certificate, Attack("search", 20, 1, 16), stream=RandomStream(1))
    assert found.movements
    assert max(found.movements) <= certificate.radius


# --- Masks ----------------------------------------------------------------------------------------------------------


def test_masks_of_known_overlap() -> None:
    masks = torch.tensor([[[1, 1], [1, 0]], [[0, 1], [1, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]])
    expected = [[0, 0.5, 1, 1], [0.5, 0, 1, 2 / 3], [1, 1, 0, 1], [1, 2 / 3, 1, 0]]
    for outputs in (masks, masks.bool(), masks.to(torch.uint8)):
        assert measure(MaskJaccard(), outputs).tolist() == [pytest.approx(row) for row in expected]


def test_masks_of_many_pixels_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = torch.rand(9, 3, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    whole = measure(MaskJaccard(), masks)
    monkeypatch.setattr("centersmooth.metrics.labels._PIXELS_AT_ONCE", 4)
    assert torch.equal(measure(MaskJaccard(), masks), whole)
    assert float(whole[0, 1]) == 1 - int((masks[0] & masks[1]).sum()) / int((masks[0] | masks[1]).sum())


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (torch.rand(2, 3, 3), "torch.float32: expected booleans, or integers 0 and 1; compare scores with a threshold"),
        (torch.full((2, 3, 3), 255, dtype=torch.uint8), "from 255 to 255: .* Hamming is for several classes"),
    ],
)
def test_what_is_no_mask_is_refused_in_one_line(outputs: Tensor, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        MaskJaccard().features(outputs)
    assert "\n" not in str(caught.value)


def test_a_smoothed_mask_has_a_radius() -> None:
    smoother = CenterSmoother(lambda x: x[:, 0] > 0, MaskJaccard(), **SMOOTHED)
    certificate = smoother.certify(torch.linspace(-1, 1, 30).view(1, 5, 6), 0.05, stream=RandomStream(0))
    assert 0 < certificate.radius < 1


# --- Whether integer outputs depend on their batch ------------------------------------------------------------------


NOISE = GaussianNoise(0.25)


def at_a_tie(model, place: int):
    """The model with one letter more in front where an input stands at this place of its batch."""

    def moved(x: Tensor) -> Tensor:
        texts = decode_texts(model(x))
        texts[place] = "I" + texts[place]
        return encode_texts(texts, 8)

    return moved


def test_a_letter_decided_by_rounding_is_no_dependence_on_the_batch() -> None:
    """One more in front moves all that follow: coordinate by coordinate a text would differ in nearly all of them."""
    x, calls = torch.tensor([0.0, 0.25, 0.5, -0.25, 1.0]), iter([reader, reader, at_a_tie(reader, 3)])

    def model(inputs: Tensor) -> Tensor:
        return encode_texts(decode_texts(next(calls, reader)(inputs)), 8)

    outputs = Sampler(model, NOISE, 16, 16).check_model(x, [Levenshtein()])
    assert outputs.shape == (16, 8)


@pytest.mark.parametrize("metrics", [[Levenshtein()], [NormalisedLevenshtein(), Levenshtein()]])
def test_texts_that_depend_on_the_batch_are_refused(metrics) -> None:
    def padded_to_the_longest(x: Tensor) -> Tensor:
        texts = decode_texts(reader(x))
        return encode_texts([text.ljust(max(map(len, texts)), "_") for text in texts], 8)

    def by_place(x: Tensor) -> Tensor:
        return at_a_tie(reader, 8)(x)

    x = torch.tensor([0.0, 0.25, 0.5, -0.25, -0.3])
    for model in (padded_to_the_longest, by_place):
        with pytest.raises(ModelError, match="depends on the other inputs of its batch"):
            Sampler(model, NOISE, 16, 16).check_model(x, metrics)


def test_masks_of_which_some_pixels_are_random_are_refused() -> None:
    def random_pixels(x: Tensor) -> Tensor:
        return ((x > 0) ^ (torch.rand(x.shape) < 0.02)).long()

    torch.manual_seed(0)
    for metric in (MaskJaccard(), Hamming()):
        with pytest.raises(ModelError, match="two outputs for one input"):
            Sampler(random_pixels, NOISE, 16, 16).check_model(torch.linspace(-1, 1, 100).view(10, 10), [metric])
