import numpy as np

from keras_comet.datasets import image_domains
from tests.datasets.image_cache import image_cache  # noqa: F401
from tests.datasets.image_cache import place_debian
from tests.datasets.image_cache import place_npm


def test_images_keep_their_label_and_domain(image_cache):  # noqa: F811
    place_npm(image_cache)
    place_debian(image_cache)
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
