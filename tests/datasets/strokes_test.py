import numpy as np
import pytest

from keras_comet.datasets import synthetic_strokes


def _nearest_mean_accuracy(data, by_domain):
    """Classifies test images by the nearest mean of training images."""

    def groups(split):
        labels = split.labels["shape"]
        return labels + 10 * split.features["domain"] * by_domain

    train, test = (
        split.features["image"].reshape(split.num_rows, -1)
        for split in (data.train, data.test)
    )
    means = np.stack(
        [
            train[groups(data.train) == group].mean(axis=0)
            for group in range(30 if by_domain else 10)
        ]
    )
    distances = ((test[:, np.newaxis] - means) ** 2).sum(axis=-1)
    found = distances.argmin(axis=-1) % 10
    return float(np.mean(found == data.test.labels["shape"]))


def test_strokes_shapes_types_and_splits():
    data = synthetic_strokes(2105)
    sizes = [data.train.num_rows, data.validation.num_rows, data.test.num_rows]
    assert sizes == [1685, 210, 210]
    images = data.train.features["image"]
    assert images.shape == (1685, 16, 16)
    assert images.dtype == np.float32
    assert set(np.unique(data.train.labels["shape"])) == set(range(10))
    assert set(np.unique(data.train.features["domain"])) == {0, 1, 2}


def test_strokes_domains_differ_by_their_paper():
    data = synthetic_strokes(500, noise=0.0)
    domains = data.train.features["domain"]
    for domain, paper in enumerate((0.0, 0.5, 1.0)):
        images = data.train.features["image"][domains == domain]
        assert np.median(images) == pytest.approx(paper, abs=0.05)
        assert images.min() >= 0.0
        assert images.max() <= 1.0


def test_strokes_mean_other_classes_in_other_domains():
    data = synthetic_strokes(6000)
    apart = _nearest_mean_accuracy(data, by_domain=True)
    assert apart > 0.5
    assert _nearest_mean_accuracy(data, by_domain=False) < apart - 0.1


def test_strokes_same_seed_repeats_other_seed_differs():
    first, second, other = (synthetic_strokes(50, seed=s) for s in (3, 3, 4))
    image = first.train.features["image"]
    np.testing.assert_array_equal(image, second.train.features["image"])
    assert not np.array_equal(image, other.train.features["image"])


def test_strokes_other_shapes_keep_domains_and_labels():
    first, other = (synthetic_strokes(50, shapes_seed=s) for s in (0, 1))
    np.testing.assert_array_equal(
        first.train.labels["shape"], other.train.labels["shape"]
    )
    assert not np.array_equal(
        first.train.features["image"], other.train.features["image"]
    )


def test_strokes_noise_has_the_given_deviation():
    silent, noisy = (synthetic_strokes(500, noise=n) for n in (0.0, 0.5))
    difference = noisy.train.features["image"] - silent.train.features["image"]
    assert difference.std() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": 9}, "num_rows=9"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"noise": float("nan")}, "noise=nan"),
    ],
)
def test_strokes_argument_out_of_range_raises(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_strokes(**arguments)
