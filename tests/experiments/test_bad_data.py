"""Image folders as people have them: what is in them is read rightly, or refused in one line before any work."""

from __future__ import annotations

import gzip
import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from support import compose

from csrun.data import load_data, sources
from csrun.errors import RunError
from csrun.plan import make_plan

RAMP = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=100, subsampling=0, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(Image.fromarray(RAMP), exif=exif)


@pytest.fixture(params=["folder", "archive"])
def place(request, tmp_path):
    """Puts files into a folder or a zip archive of it, and returns its path."""

    def of(**files: bytes) -> str:
        names = {name.replace("_png", ".png").replace("_jpg", ".jpg"): content for name, content in files.items()}
        if request.param == "archive":
            with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
                for name, content in names.items():
                    archive.writestr(name, content)
            return str(tmp_path / "a.zip")
        (tmp_path / "a").mkdir()
        for name, content in names.items():
            (tmp_path / "a" / name).write_bytes(content)
        return str(tmp_path / "a")

    return of


def pixels(path: str, index: int = 0, data: str = "files") -> np.ndarray:
    """Of one image, ``(H, W, C)``."""
    return load_data(data, path).test.take([index])[0].permute(1, 2, 0).numpy()


def palette() -> Image.Image:
    return Image.fromarray(RAMP).quantize(16)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(Image.fromarray(RAMP)), RAMP),
        (png(Image.fromarray(RAMP[:, :, 0])), np.repeat(RAMP[:, :, :1], 3, axis=2)),
        (png(Image.fromarray(RAMP[:, :, 0] > 99)), np.repeat(255 * (RAMP[:, :, :1] > 99), 3, axis=2)),
        (png(palette()), np.array(palette().convert("RGB"))),
        (png(palette(), transparency=bytes(range(16))), np.array(palette().convert("RGB"))),
        (png(Image.fromarray(np.dstack([RAMP, 0 * RAMP[:, :, :1]]), "RGBA")), RAMP),
        (jpeg(Image.new("CMYK", (24, 24), (0, 255, 255, 0))), np.broadcast_to([255, 0, 0], (24, 24, 3))),
        (turned(1), None),
    ],
    ids=["colour", "grey", "black and white", "palette", "transparent palette", "transparent", "cmyk", "upright"],
)
@pytest.mark.filterwarnings("ignore:.*'mode' parameter:DeprecationWarning")
def test_every_kind_of_image_is_read_as_colour(place, content, expected):
    expected = np.array(Image.open(io.BytesIO(turned(1)))) if expected is None else expected
    path = place(x_png=content)
    assert np.array_equal(pixels(path, data="celeba"), expected)
    own = pixels(path)
    assert np.array_equal(np.broadcast_to(own, expected.shape), expected)
    assert own.shape[2] == (1 if Image.open(io.BytesIO(content)).mode in ("1", "L") else 3)


def grey(offset: int, mode: str = "L") -> bytes:
    return png(Image.fromarray(RAMP[:, :, 0] + np.uint8(offset)).convert(mode))


def test_images_that_are_all_stored_grey_have_one_channel(place):
    path = place(a_png=grey(0), b_png=grey(1, "LA"), c_png=b"damaged, and never used")
    data = load_data("files", path)
    assert data.images(data.test, [0, 1]).shape == (2, 1, 24, 24)
    assert np.array_equal(data.images(data.test, [1])[0, 0], (RAMP[:, :, 0] + np.uint8(1)) / np.float32(255))
    assert data.digest != load_data("celeba", path).digest  # the same bytes, which stand for other inputs


def test_one_image_in_colour_makes_all_of_them_colour(place):
    path = place(a_png=grey(0), b_png=png(Image.fromarray(RAMP)))
    data = load_data("files", path)
    assert data.images(data.test, [0, 1]).shape == (2, 3, 24, 24)
    assert data.digest == load_data("celeba", path).digest


DEEP = png(Image.fromarray(np.full((24, 24), 40_000, dtype=np.uint16)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "x.png in .* is no readable image"),
        (b"<html>", "x.png in .* is no readable image"),
        (DEEP, r"x.png in .* has more than 8 bits a channel \(mode I;16\)"),
        (turned(6), r"x.png in .* is stored turned \(EXIF orientation 6\)"),
        (png(Image.new("RGB", (30, 24))), r"x.png in .* is 30x24 and a.png 24x24: expected images of one size"),
    ],
    ids=["empty", "html", "16 bits", "turned", "another size"],
)
def test_what_cannot_be_read_rightly_is_refused_before_any_work(place, content, words):
    path = place(a_png=png(Image.fromarray(RAMP)), x_png=content)
    request = ["experiment=custom", "budget=smoke", "model=torch.nn:Identity", "metric=l2", f"data.path={path}"]
    assert len(make_plan(compose(*request, "points.count=1")).points) == 1
    with pytest.raises(RunError, match=words) as error:
        make_plan(compose(*request, "points.count=2"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("write", [png, jpeg])
def test_truncated_images_are_named(tmp_path, write):
    content, checksums = write(Image.fromarray(RAMP)), 24  # what follows the last pixel of a PNG
    for length in range(0, len(content) - checksums, 7):
        (tmp_path / "x.png").write_bytes(content[:length])
        with pytest.raises(RunError, match=r"x\.png in .* is no readable image"):
            pixels(str(tmp_path))


@pytest.mark.parametrize("factor", [1.5, 3])
def test_huge_images_are_refused_before_they_are_decoded(place, monkeypatch, factor):
    """Pillow warns above its limit and refuses above twice of it; here the limit is small, not the image large."""
    path = place(x_png=png(Image.fromarray(RAMP)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(24 * 24 / factor))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(RunError, match=r"x\.png in .* has more than [0-9]+ pixels: make it smaller"):
        pixels(path)


def test_what_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", bytes(10**6))
    with pytest.raises(RunError, match=r"x\.png in .* unpacks to 1,000,000 bytes: expected 1,000 at most"):
        pixels(str(tmp_path / "bomb.zip"))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(RunError, match=r"idx3-ubyte\.gz unpacks to more than 1,000 bytes"):
        load_data("mnist", str(tmp_path))


def test_the_cap_lets_every_real_file_pass():
    assert sources.MOST_BYTES / 5 > 16 + 60_000 * 28 * 28


def test_names_that_point_outside_an_archive_unpack_nothing(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    with zipfile.ZipFile(inside / "a.zip", "w") as archive:
        for name in ("../escaped.png", "/escaped.png", "a.png"):
            archive.writestr(name, png(Image.fromarray(RAMP)))
    assert np.array_equal(pixels(str(inside / "a.zip"), 1), RAMP)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "a.zip"]


def test_other_files_are_passed_over(place):
    image = png(Image.fromarray(RAMP))
    others = {"notes.txt": b"x", "._a.png": b"\0\5\x16\7", ".DS_Store": b"", "Thumbs.db": b"", "list.csv": b"1"}
    assert load_data("files", place(**others, a_png=image, **{"b.PNG": image})).test.names == ("a.png", "b.PNG")


def test_fewer_images_than_points_is_one_line(place):
    path = place(a_png=png(Image.fromarray(RAMP)), b_png=png(Image.fromarray(RAMP)))
    request = ["experiment=custom", "budget=smoke", "model=torch.nn:Identity", "metric=l2", f"data.path={path}"]
    with pytest.raises(RunError, match=r"points 0 to 2 were asked for, but the test split of files has 2: lower"):
        make_plan(compose(*request, "points.count=3"))


def test_an_archive_of_arrays_under_the_name_of_one(tmp_path):
    with open(tmp_path / "x.npy", "wb") as file:
        np.savez(file, a=np.ones((2, 3)))
    with pytest.raises(RunError, match=r"x\.npy is an archive of arrays: expected one array"):
        load_data("files", str(tmp_path / "x.npy"))


def test_a_name_that_begins_with_a_tilde_need_not_be_a_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("~nobody-of-that-name.npy", np.zeros((2, 3), dtype=np.float32))
    assert load_data("files", "~nobody-of-that-name.npy").shape == (3,)
    with pytest.raises(RunError, match="~nobody-else"):
        load_data("files", "~nobody-else")


def test_inputs_without_a_number_are_refused(tmp_path):
    path = tmp_path / "inputs.npy"
    np.save(path, np.zeros((3, 0), np.float32))
    with pytest.raises(RunError, match=r"inputs of shape \(0,\), without a number: expected some in each"):
        load_data("files", str(path))
