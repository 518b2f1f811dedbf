"""MNIST and Fashion-MNIST mixed: two domains under ten common labels."""

import numpy as np

from keras_comet.datasets import fetch
from keras_comet.datasets.image_files import load_images
from keras_comet.datasets.multitask_dataset import MultitaskDataset
from keras_comet.datasets.multitask_dataset import Split
from keras_comet.datasets.multitask_dataset import hold_out
from keras_comet.datasets.multitask_dataset import take_rows

_NAMES = ("mnist", "fashion_mnist")


def image_domains(
    *, seed: int = 0, cache_dir: fetch.PathLike | None = None
) -> MultitaskDataset:
    """Loads MNIST and Fashion-MNIST as one set of images.

    A digit and a piece of clothing may have the same label, from 0 to 9, and
    a model is not told which of the two an image is: it has to see it, and
    experts can specialize. Of the 120,000 training images a random tenth,
    stratified on domain and label, is the validation split; the 20,000 test
    images are those published.

    The data comes from `keras.datasets`, or from packages that ship it,
    which are read if they lie in the cache directory. It is verified and
    cached outside the repository.

    Reference:
    - [LeCun et al., 1998](http://yann.lecun.com/exdb/mnist/)
    - [Xiao et al., 2017](https://arxiv.org/abs/1708.07747)

    Args:
        seed: int. Fixes the validation rows, and the order of all rows.
            Defaults to `0`.
        cache_dir: Path of the cache directory. Defaults to the environment
            variable `KERAS_COMET_CACHE`, or else `~/.cache/keras_comet`.

    Returns:
        A `MultitaskDataset`. Features: `image`, uint8 `(rows, 28, 28, 1)`
        from 0 to 255, and `domain`, int64, 0 for MNIST and 1 for
        Fashion-MNIST, for looking at what a gate found. Label: `label`,
        int64.

    Raises:
        FetchError: If the data is neither cached nor can be fetched.

    Example:

    ```python
    from keras_comet import datasets

    data = datasets.image_domains()
    print(data.train.num_rows)  # 108001
    ```
    """
    rng = np.random.default_rng(seed)
    domains = [load_images(name, cache_dir) for name in _NAMES]
    train = _join(domains, "train")
    strata = 10 * train.features["domain"] + train.labels["label"]
    kept, held_out = hold_out(strata, 0.1, rng)
    test = _join(domains, "test")
    return MultitaskDataset(
        name="image_domains",
        train=take_rows(train, kept),
        validation=take_rows(train, held_out),
        test=take_rows(test, rng.permutation(test.num_rows)),
        vocabularies={"domain": np.arange(len(_NAMES))},
        descriptions={"domain": dict(enumerate(_NAMES))},
    )


def _join(domains: list[fetch.Arrays], split: str) -> Split:
    images = np.concatenate([each[f"{split}_images"] for each in domains])
    labels = np.concatenate([each[f"{split}_labels"] for each in domains])
    counts = [len(each[f"{split}_labels"]) for each in domains]
    return Split(
        {
            "image": images[..., np.newaxis],
            "domain": np.repeat(np.arange(len(domains)), counts),
        },
        {"label": labels.astype(np.int64)},
    )
