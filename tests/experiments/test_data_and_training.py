"""Loaders say what is wrong in one line; a checkpoint is reused only for exactly its training."""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from csrun.config import TrainConfig
from csrun.data import load_data
from csrun.errors import RunError
from csrun.models import MODELS
from csrun.models.autoencoder import Reconstructor
from csrun.training.checkpoints import obtain, training_of


def idx(count: int, side: int = 28) -> bytes:
    header = np.array([2051, count, side, side], dtype=">i4").tobytes()
    return header + bytes(range(256)) * (count * side * side // 256) + bytes(count * side * side % 256)


@pytest.fixture
def mnist(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(20))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(5)))
    return tmp_path


def test_idx_files_plain_and_compressed(mnist):
    data = load_data("mnist", str(mnist))
    assert (len(data.train), len(data.test), data.shape) == (20, 5, (1, 28, 28))
    assert data.test.take([0]).flatten()[:3].tolist() == [0, 1, 2]
    assert float(data.images(data.test, range(5)).max()) == 1.0


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", idx(5)[:-1], gzip.compress(idx(5))[:-30]])
def test_a_damaged_file_is_named(mnist, content):
    path = mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(content if content[:2] == b"\x1f\x8b" else gzip.compress(content))
    with pytest.raises(RunError, match=r"t10k-images-idx3-ubyte\.gz .*fetch it again, or set data\.path") as error:
        load_data("mnist", str(mnist))
    assert "\n" not in str(error.value)


def test_real_mnist(data_folder):
    data = load_data("mnist", str(data_folder))
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.test.take([0]).sum() == 18_454  # the seven that opens the test set


def test_digits_split():
    data = load_data("digits", None)
    assert (len(data.train), len(data.test), data.shape) == (1297, 500, (1, 8, 8))


def training(seed: int = 0, sigma: float = 0.4, epochs: int = 2, model: str = "autoencoder", method: str = "augment"):
    data, schedule, law = load_data("digits", None), TrainConfig(epochs, 200, 50), {"name": "gaussian"}
    return training_of(model, data, schedule, method, law, sigma, seed, "cpu")


def test_a_checkpoint_is_found_again_and_training_is_repeatable(tmp_path):
    data, steps = load_data("digits", None), []
    first = obtain(training(), MODELS["autoencoder"], data, tmp_path, steps.append)
    assert sum(steps) == 2 * 200
    again = obtain(training(), MODELS["autoencoder"], data, tmp_path, steps.append)
    assert sum(steps) == 2 * 200  # nothing trained
    elsewhere = obtain(training(), MODELS["autoencoder"], data, tmp_path / "b", steps.append)
    assert first[1] == again[1] == elsewhere[1]
    assert not first[0].training


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"sigma": 0.5}, {"epochs": 3}, {"model": "reconstructor"}, {"method": "none"}]
)
def test_another_training_is_another_checkpoint(tmp_path, other):
    assert training().path(tmp_path) != training(**other).path(tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    data = load_data("digits", None)
    obtain(training(), MODELS["autoencoder"], data, tmp_path, lambda images: None)
    wrong = training(model="reconstructor").path(tmp_path)
    training().path(tmp_path).rename(wrong)
    with pytest.raises(RunError, match=r"does not fit .* delete it to train again"):
        obtain(training(model="reconstructor"), MODELS["reconstructor"], data, tmp_path, lambda images: None)


def test_training_lowers_the_loss(tmp_path):
    data, sigma = load_data("digits", None), 0.3
    clean = data.images(data.test, range(100))
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))

    def loss(epochs: int) -> float:
        model, _ = obtain(training(sigma=sigma, epochs=epochs), MODELS["autoencoder"], data, tmp_path, lambda i: None)
        return float((model(noisy) - clean).square().mean())

    assert loss(15) < 0.6 * loss(1)


def test_the_reconstructor_starts_with_the_pseudo_inverse():
    torch.manual_seed(0)
    model = Reconstructor(1, 28, width=4)
    product = model.matrix.double() @ model.inverse.double()
    assert torch.allclose(product, torch.eye(256, dtype=torch.float64), atol=1e-4)
    assert abs(float(model.matrix.var()) * 256 - 1) < 0.02
    assert {"matrix", "inverse"} <= set(model.state_dict())
    assert model.inputs(torch.rand(3, 1, 28, 28)).shape == (3, 256)


@pytest.fixture
def cifar(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for label in ("bird", "cat"):
            folder = tmp_path / f"cifar10_{split}" / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.full((32, 32, 3), 10 * index + (label == "cat"), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:04}.png")
    (tmp_path / "cifar10_test" / "notes.txt").write_text("not an image")
    return tmp_path


def test_image_folders_take_the_classes_in_turn(cifar):
    data = load_data("cifar10", str(cifar))
    assert [data.test.name(i) for i in range(4)] == ["bird/0000.png", "cat/0000.png", "bird/0001.png", "cat/0001.png"]
    assert data.test.take([1, 2])[:, 0, 0, 0].tolist() == [1, 10]
    assert data.shape == (3, 32, 32)
    assert "not equal" in data.note


def test_an_archive_and_its_folder_are_the_same_data(cifar):
    digest = load_data("cifar10", str(cifar)).digest
    folder = cifar / "cifar10_test"
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)
    assert load_data("cifar10", str(cifar)).digest == digest


@pytest.mark.parametrize("damage", ["no such split", "no archive", "no images", "no image in a file"])
def test_damaged_images_are_named(cifar, damage):
    folder = cifar / "cifar10_test"
    if damage == "no image in a file":
        (folder / "bird" / "0000.png").write_text("<html>")
    else:
        shutil.rmtree(folder)
    if damage == "no archive":
        (cifar / "cifar10_test.zip").write_text("<html>")
    if damage == "no images":
        folder.mkdir()
    with pytest.raises(RunError, match=r"data\.path|remove it") as error:
        load_data("cifar10", str(cifar)).images(load_data("cifar10", str(cifar)).test, [0])
    assert "\n" not in str(error.value)


def test_real_cifar10(data_folder):
    data = load_data("cifar10", str(data_folder))
    assert (len(data.train), len(data.test), data.shape) == (50_000, 10_000, (3, 32, 32))


def zip_of(path, *names):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)).save(buffer, "png")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, buffer.getvalue())
    return path


def test_the_list_of_an_archive_is_read_once_and_anew_where_it_was_replaced(tmp_path, monkeypatch):
    """It takes a quarter of a second for 50,000 files, and a batch of training asks for some of them."""
    archive = zip_of(tmp_path / "faces.zip", "a.png", "b.png")
    lists, read = [], zipfile.ZipFile._RealGetContents
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", lambda self: lists.append(self.filename) or read(self))
    source = load_data("files", str(archive)).test
    assert torch.equal(source.take([0, 1])[0], source.take([1])[0])
    assert lists == [str(archive)]
    zip_of(archive, "b.png", "a.png")
    assert source.take([1]).shape == (1, 3, 24, 24)
    assert lists == [str(archive)] * 2


def test_compressed_bytes_that_are_damaged(tmp_path, mnist):
    packed = mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:40] + b"\xff" * 200 + packed.read_bytes()[240:])
    with pytest.raises(RunError, match=r"t10k-images-idx3-ubyte.gz cannot be read .* fetch it again"):
        load_data("mnist", str(mnist))
    archive = zip_of(tmp_path / "faces.zip", "a.png")
    content = archive.read_bytes()
    archive.write_bytes(content[:40] + b"\xff" * 9 + content[49:])
    with pytest.raises(RunError, match=r"faces.zip is damaged"):
        load_data("files", str(archive))


def test_an_incomplete_cifar_folder(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(RunError, match=r"cifar-10-batches-py is incomplete or damaged"):
        load_data("cifar10", str(tmp_path))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array(3.0), "expected real numbers of shape"),
        (np.ones(3), "expected real numbers of shape"),
        (np.ones((3, 2), dtype=complex), "holds complex128"),
        (np.array([[1.0, np.nan]]), "holds NaN"),
        (np.array(["a text", "another"]), r"holds texts, of shape \(2,\): expected real numbers, .* the embeddings of"),
        (np.array([b"bytes"]), "holds texts"),
        (
            np.array(["a text", None], dtype=object),
            r"is no readable array .*: of texts and tokens save the embed",
        ),
        (np.array([[np.longdouble("1e400"), 1.0]]), "beyond torch.float64"),
    ],
)
def test_arrays_that_are_no_inputs(tmp_path, array, words):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(RunError, match=words):
        load_data("files", str(tmp_path / "x.npy"))


@pytest.mark.parametrize(
    ("array", "dtype", "expected", "unit"),
    [
        (np.array([[0, 51, 255]], dtype=np.uint8), torch.float32, [0.0, 0.2, 1.0], "pixels in [0, 1]"),
        (np.array([[0, 51, 255]]), torch.float32, [0.0, 51.0, 255.0], "numbers as they stand in the file"),
        (np.array([[False, True]]), torch.float32, [0.0, 1.0], "numbers as they stand in the file"),
        (np.array([[0.5, 2.0]], dtype=np.float16), torch.float32, [0.5, 2.0], "numbers as they stand in the file"),
        (np.array([[0.1, 1e300]], dtype=">f8"), torch.float64, [0.1, 1e300], "numbers as they stand in the file"),
    ],
)
def test_bytes_of_an_array_are_pixels_and_all_else_numbers(tmp_path, array, dtype, expected, unit):
    np.save(tmp_path / "x.npy", array)
    data = load_data("files", str(tmp_path / "x.npy"))
    examples = data.images(data.test, [0])
    assert torch.equal(examples, torch.tensor([expected], dtype=dtype))
    assert (examples.dtype, data.unit) == (dtype, unit)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.npz", r"x\.npz is not read: .*numpy\.save\('inputs\.npy', numpy\.load\('x\.npz'\)\['NAME'\]\)"),
        ("x.CSV", r"x\.CSV is not read: .*numpy\.loadtxt\('x\.CSV', delimiter=',', ndmin=2\)"),
        ("x.txt", r"x\.txt is not read: .*numpy\.save\('inputs\.npy', numpy\.loadtxt\('x\.txt', ndmin=2\)\)"),
        ("x.pt", r"x\.pt is not read: .*torch\.load\('x\.pt', weights_only=True\)"),
        ("x.png", r"x\.png is not read: .*put x\.png into a folder"),
        ("x.dat", r"x\.dat cannot be read as a folder or zip archive of images .*or to a \.npy array of inputs"),
    ],
)
def test_another_kind_of_file_is_one_line_that_says_how_to_convert_it(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"1,2\n")
    with pytest.raises(RunError, match=words) as error:
        load_data("files", str(tmp_path / name))
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match="No such file"):
        load_data("files", str(tmp_path / f"not_there_{name}"))


def test_faces_from_a_folder_of_any_images(tmp_path):
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (24, 24)).save(tmp_path / "deep" / "a.png")
    assert len(load_data("celeba", str(tmp_path)).test) == 1
    with pytest.raises(RunError, match="nowhere cannot be read as a folder or zip archive"):
        load_data("celeba", str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="empty holds no image"):
        load_data("celeba", str(tmp_path / "empty"))
    whole = tmp_path / "root" / "celeba" / "img_align_celeba"
    whole.mkdir(parents=True)
    Image.new("RGB", (24, 24)).save(whole / "000001.jpg")
    with pytest.raises(RunError, match="holds no image of CelebA's test split"):
        load_data("celeba", str(tmp_path / "root"))
