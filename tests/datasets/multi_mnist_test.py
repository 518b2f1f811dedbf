import numpy as np
import pytest

from keras_comet.datasets import multi_mnist
from tests.datasets.image_cache import image_cache  # noqa: F401
from tests.datasets.image_cache import place_debian
from tests.datasets.image_cache import place_npm


@pytest.mark.parametrize(("fashion", "brightness"), [(0, 100), (1, 200)])
def test_two_images_are_added_at_opposite_corners(
    image_cache,  # noqa: F811
    fashion,
    brightness,
):
    place_npm(image_cache)
    place_debian(image_cache)
    data = multi_mnist(fashion=bool(fashion), seed=1)
    # Ten training images and two test images of each label; a sixth of ten is
    # held out, rounded; every image twice.
    sizes = [data.train.num_rows, data.validation.num_rows, data.test.num_rows]
    assert sum(sizes[:2]) == 200 and sizes[1] in (20, 40) and sizes[2] == 40
    for split in (data.train, data.validation, data.test):
        images = split.features["image"][..., 0]
        assert images.shape[1:] == (36, 36) and images.dtype == np.uint16
        # The first pixel of an image is its label, all others are equal.
        first, second = split.labels["top_left"], split.labels["bottom_right"]
        np.testing.assert_array_equal(images[:, 0, 0], first)
        np.testing.assert_array_equal(images[:, 8, 8], brightness + second)
        assert (images[:, 27, 27] == 2 * brightness).all()
        assert (images[:, 35, 35] == brightness).all()
        assert (images[:, 0, 35] == 0).all()
        assert (images[:, 35, 0] == 0).all()
        # Each image is twice at the top left, beside another one mostly.
        assert np.ptp(np.bincount(first)) == 0
        assert (first != second).any()
        assert not np.array_equal(first, np.sort(first))


def test_the_seed_fixes_the_rows(image_cache):  # noqa: F811
    place_npm(image_cache)
    first, again, other = (multi_mnist(seed=seed) for seed in (0, 0, 1))
    images = [each.train.features["image"] for each in (first, again, other)]
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
