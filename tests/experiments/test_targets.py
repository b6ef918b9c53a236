"""Class labels belong to their images, are read only when asked for, and are refused in one line if they do not fit."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from csrun.data import CIFAR10_CLASSES, load_data, sources
from csrun.errors import RunError

LABELS = {"train": [5, 0, 4, 9], "t10k": [7, 2, 1]}


def idx(magic: int, *shape: int, content: bytes) -> bytes:
    return np.array([magic, *shape], dtype=">i4").tobytes() + content


@pytest.fixture
def mnist(tmp_path):
    """The images of a split are as bright as their labels."""
    for prefix, labels in LABELS.items():
        pixels = bytes(value for label in labels for value in [label] * 28 * 28)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(2051, len(labels), 28, 28, content=pixels))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(idx(2049, len(labels), content=bytes(labels)))
        )
    return tmp_path


@pytest.fixture(params=["folder", "archive"])
def cifar(request, tmp_path):
    """Two images of each of three classes, as bright as their labels."""
    for split in ("train", "test"):
        with zipfile.ZipFile(tmp_path / f"cifar10_{split}.zip", "w") as archive:
            for label in (9, 0, 3):
                for index in range(2):
                    buffer = io.BytesIO()
                    Image.new("RGB", (32, 32), (label,) * 3).save(buffer, "png")
                    archive.writestr(f"{split}/{CIFAR10_CLASSES[label]}/{index:04}.png", buffer.getvalue())
        if request.param == "folder":
            with zipfile.ZipFile(tmp_path / f"cifar10_{split}.zip") as archive:
                archive.extractall(tmp_path / f"cifar10_{split}")
    return tmp_path


def test_labels_of_digits_are_those_of_their_images():
    data, labels = load_data("digits", None), load_digits().target
    assert data.targets(data.train, range(1297)).tolist() == labels[:1297].tolist()
    assert data.targets(data.test, [499, 0]).tolist() == labels[[1796, 1297]].tolist()
    assert data.targets(data.test, [0]).dtype == torch.int64


def test_labels_of_idx_files_are_those_of_their_images(mnist):
    data = load_data("mnist", str(mnist))
    for source, labels in ((data.train, LABELS["train"]), (data.test, LABELS["t10k"])):
        order = [2, 0, 1]
        assert data.targets(source, order).tolist() == [labels[i] for i in order]
        assert torch.equal(source.take(order)[:, 0, 0, 0].long(), data.targets(source, order))


def test_labels_of_image_files_are_the_numbers_of_their_folders(cifar):
    data = load_data("cifar10", str(cifar))
    assert data.targets(data.test, range(6)).tolist() == [0, 3, 9, 0, 3, 9]  # the classes in turn, as the images
    assert torch.equal(data.train.take([5, 1, 2])[:, 0, 0, 0].long(), data.targets(data.train, [5, 1, 2]))


def test_labels_of_the_original_cifar10_batches(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {"data": np.full((2, 3072), number, dtype=np.uint8), "labels": [number, number]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CIFAR10_CLASSES)}))
    data = load_data("cifar10", str(tmp_path))
    assert data.targets(data.train, [0, 2, 9]).tolist() == [0, 1, 4]
    assert data.targets(data.test, range(2)).tolist() == [5, 5]


def test_real_labels(data_folder):
    mnist, cifar10 = load_data("mnist", str(data_folder)), load_data("cifar10", str(data_folder))
    assert mnist.targets(mnist.test, range(5)).tolist() == [7, 2, 1, 0, 4]
    assert mnist.targets(mnist.train, range(5)).tolist() == [5, 0, 4, 1, 9]
    assert cifar10.targets(cifar10.train, range(50_000)).bincount().tolist() == [5000] * 10


def test_labels_that_nobody_asks_for_are_not_read(mnist):
    for path in mnist.glob("*labels*"):
        path.unlink()
    data = load_data("mnist", str(mnist))
    assert data.images(data.test, [0]).shape == (1, 1, 28, 28)
    with pytest.raises(RunError, match=r"^no MNIST file t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz in "):
        data.targets(data.test, [0])


def test_labels_do_not_change_the_identity_of_images(mnist):
    before = load_data("mnist", str(mnist)).digest
    (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(2049, 3, content=bytes([1, 1, 1])))
    data = load_data("mnist", str(mnist))
    assert data.targets(data.test, [0]).tolist() == [1]
    assert data.digest == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no complete IDX file of labels: fetch it again, or set data.path"),
        (idx(2049, 3, content=b"\1\2"), "is no complete IDX file of labels"),
        (idx(2051, 3, 1, 1, content=b"\1\2\3"), "is no complete IDX file of labels"),
        (idx(2049, 4, content=b"\1\2\3\4"), "holds 4 labels for 3 examples: fetch it again, or set data.path"),
        (idx(2049, 2, content=b"\1\2"), "holds 2 labels for 3 examples"),
        (idx(2049, 3, content=b"\1\12\3"), "holds the label 10: expected 0 to 9; fetch it again, or set data.path"),
    ],
    ids=["empty", "cut off", "images", "too many", "too few", "out of range"],
)
def test_labels_that_do_not_fit_are_refused_by_file(mnist, content, words):
    (mnist / "t10k-labels-idx1-ubyte").write_bytes(content)
    data = load_data("mnist", str(mnist))
    with pytest.raises(RunError, match=f"t10k-labels-idx1-ubyte {words}") as error:
        data.targets(data.test, [0])
    assert "\n" not in str(error.value)


def test_label_files_have_the_cap_of_all_files(mnist, monkeypatch):
    data = load_data("mnist", str(mnist))
    monkeypatch.setattr(sources, "MOST_BYTES", 10)
    with pytest.raises(RunError, match=r"labels-idx1-ubyte\.gz unpacks to more than 10 bytes"):
        data.targets(data.test, [0])


def test_images_as_labels_and_negative_sizes_are_no_idx_images(mnist):
    path = mnist / "t10k-images-idx3-ubyte"
    for content in (idx(2049, 3, content=b"\1\2\3"), idx(2051, -1, -1, 3, content=b"\1\2\3")):
        path.write_bytes(content)
        with pytest.raises(RunError, match="t10k-images-idx3-ubyte is no complete IDX file of images"):
            load_data("mnist", str(mnist))


@pytest.mark.parametrize("name", ["0009.png", "zebra/0009.png"])
def test_an_image_outside_the_classes_has_no_label(tmp_path, name):
    for split in ("train", "test"):
        path = tmp_path / f"cifar10_{split}" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(path)
    data = load_data("cifar10", str(tmp_path))
    assert data.images(data.test, [0]).shape == (1, 3, 32, 32)
    with pytest.raises(RunError, match=rf"^{name} in .*cifar10_test has no label: expected images in .*airplane, auto"):
        data.targets(data.test, [0])


@pytest.mark.parametrize("name", ["latents100", "latents128", "files", "celeba"])
def test_data_without_labels_say_so(tmp_path, name):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (24, 24)).save(tmp_path / "a" / "a.png")
    data = load_data(name, str(tmp_path))
    assert data.classes == ()
    with pytest.raises(RunError, match=f"^{name} has no class labels: set data.name to a data set that has them$"):
        data.targets(data.test, [0])
