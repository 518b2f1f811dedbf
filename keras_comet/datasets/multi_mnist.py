"""Two overlaid images, two tasks: MultiMNIST and MultiFashionMNIST."""

import numpy as np

from keras_comet.datasets import fetch
from keras_comet.datasets.image_files import load_images
from keras_comet.datasets.multitask_dataset import MultitaskDataset
from keras_comet.datasets.multitask_dataset import Split
from keras_comet.datasets.multitask_dataset import hold_out

_SIDE = 36
_PARTNERS = 2  # of each image


def multi_mnist(
    *,
    fashion: bool = False,
    seed: int = 0,
    cache_dir: fetch.PathLike | None = None,
) -> MultitaskDataset:
    """Loads MultiMNIST, or MultiFashionMNIST: which two images are overlaid?

    As in the COMET paper: an image of 28 x 28 at the top left of 36 x 36
    pixels, another at the bottom right, each 4 pixels from the middle, and
    their sum; every image is at the top left twice. Of the 60,000 training
    images a sixth, stratified on the label, makes the validation split: there
    are 100,000, 20,000 and 20,000 rows. Which images meet is ours, not the
    published draw.

    The images come from where `image_domains` has them.

    Reference:
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824), supplement
    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829)

    Args:
        fashion: bool. Whether the images are those of Fashion-MNIST. Defaults
            to `False`.
        seed: int. Fixes the splits, the pairs and the order of the rows.
            Defaults to `0`.
        cache_dir: Path of the cache directory. Defaults to the environment
            variable `KERAS_COMET_CACHE`, or else `~/.cache/keras_comet`.

    Returns:
        A `MultitaskDataset`. Feature: `image`, uint16 `(rows, 36, 36, 1)`
        from 0 to 510. Labels: `top_left` and `bottom_right`, int64 from 0 to
        9.

    Raises:
        FetchError: If the data is neither cached nor can be fetched.

    Example:

    ```python
    from keras_comet import datasets

    data = datasets.multi_mnist()
    print(data.train.features["image"].shape)  # (100000, 36, 36, 1)
    ```
    """
    arrays = load_images("fashion_mnist" if fashion else "mnist", cache_dir)
    rng = np.random.default_rng(seed)
    images, labels = arrays["train_images"], arrays["train_labels"]
    kept, held_out = hold_out(labels, 1 / 6, rng)
    return MultitaskDataset(
        name="multi_fashion_mnist" if fashion else "multi_mnist",
        train=_overlay(images[kept], labels[kept], rng),
        validation=_overlay(images[held_out], labels[held_out], rng),
        test=_overlay(arrays["test_images"], arrays["test_labels"], rng),
        vocabularies={},
    )


def _overlay(
    images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> Split:
    """Puts each image at the top left of two others, in random order."""
    top_left = rng.permutation(np.repeat(np.arange(len(images)), _PARTNERS))
    bottom_right = rng.integers(len(images), size=len(top_left))
    side = images.shape[1]
    sums = np.zeros((len(top_left), _SIDE, _SIDE), np.uint16)
    sums[:, :side, :side] = images[top_left]
    sums[:, -side:, -side:] += images[bottom_right]
    return Split(
        {"image": sums[..., np.newaxis]},
        {
            "top_left": labels[top_left].astype(np.int64),
            "bottom_right": labels[bottom_right].astype(np.int64),
        },
    )
